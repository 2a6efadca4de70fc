//! Contents of pages that are a function of a seed, so that they can be checked without a copy.

use crate::kernel::Region;

/// Words of a page.
pub const WORDS: usize = 512;

/// Word `index` of a page with `seed`. Seed 0 is the page of zeros.
pub fn word(seed: u64, index: usize) -> u64 {
    if seed == 0 {
        return 0;
    }
    (seed ^ (index as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Writes one page of a region.
pub fn fill(region: &Region, page: usize, seed: u64) {
    for index in 0..WORDS {
        region.set_word(page * WORDS + index, word(seed, index));
    }
}

/// Compares one page of a region.
pub fn check(what: &str, region: &Region, page: usize, seed: u64) -> Result<(), String> {
    for index in 0..WORDS {
        let is = region.word(page * WORDS + index);
        let should = word(seed, index);
        if is != should {
            return Err(format!(
                "{what}: word {index} of page {page} is {is:#x}, should be {should:#x}"
            ));
        }
    }
    Ok(())
}
