//! Kernel structures in the memory of another task, as rows of little-endian words. Every structure
//! that the resources here exchange with the kernel is such a row (x86-64 and arm64 alike).

use crate::error::Result;
use crate::inject::Remote;

/// 64-bit words as bytes.
pub(super) fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// 32-bit words as bytes.
pub(super) fn halves(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// Two 32-bit words as one 64-bit word, `low` at the lower address.
pub(super) fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The 32-bit word at the lower address.
pub(super) fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// The 32-bit word at the higher address.
pub(super) fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Bytes as 64-bit words; an incomplete last word is left out.
pub(super) fn to_words(bytes: &[u8]) -> Vec<u64> {
    let (chunks, _) = bytes.as_chunks::<8>();
    chunks.iter().map(|c| u64::from_le_bytes(*c)).collect()
}

/// Reads `N` 64-bit words at `offset` of the scratch area.
pub(super) fn get<const N: usize>(remote: &Remote, offset: u64) -> Result<[u64; N]> {
    let mut bytes = vec![0u8; N * 8];
    remote.get(offset, &mut bytes)?;
    let mut values = [0; N];
    for (value, word) in values.iter_mut().zip(to_words(&bytes)) {
        *value = word;
    }
    Ok(values)
}

/// The address of `offset` bytes into the scratch area.
pub(super) fn at(remote: &Remote, offset: u64) -> u64 {
    remote.scratch().start + offset
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_survive_the_way_through_bytes(values: Vec<u64>) {
            prop_assert_eq!(to_words(&words(&values)), values);
        }

        #[test]
        fn a_pair_is_its_two_halves_in_memory_order(a: u32, b: u32) {
            prop_assert_eq!(words(&[pair(a, b)]), halves(&[a, b]));
            prop_assert_eq!((low(pair(a, b)), high(pair(a, b))), (a, b));
        }
    }
}
