//! Digests of the files of a layer (BLAKE3), noted in the sidecar.
//!
//! Small files have one digest. A pages file has one for each block of [`BLOCK_PAGES`] pages, in the
//! order of the file, so that a restore can check what it reads and a check can say what is damaged.
//! Pages that dedup freed count as zeros in the digest of their block, whether the disk has taken
//! them back or not: the mark, which is written first, and the holes need not be made at one instant.

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;

use super::proto::icecore::{Extent, FileDigest, PagesDigest};
use crate::error::{Error, Result};
use crate::units::PAGE_SIZE;

/// Pages in a block: small enough that a restore reads little more than it needs, large enough that
/// the digests of a layer take 1/2000 of it.
const BLOCK_PAGES: u32 = 16;

/// Larger blocks are not believed: they would only cost memory.
const MOST_PAGES: u32 = 4096;

/// Bytes of a digest.
const LEN: usize = blake3::OUT_LEN;

/// Files with fewer blocks than this are not worth a second thread.
const FEW: u64 = 64;

impl FileDigest {
    /// The digest of the file `name` in `dir`.
    pub(super) fn of(dir: &Path, name: &str) -> Result<Self> {
        let path = dir.join(name);
        let cannot = |e| Error::path("read", &path, e);
        let mut file = File::open(&path).map_err(cannot)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 16];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(cannot(e)),
            }
        }
        Ok(Self {
            name: name.to_owned(),
            bytes,
            blake3: hasher.finalize().as_bytes().to_vec(),
        })
    }

    /// True when the file in `dir` still has this content; an absent one has not.
    pub fn matches(&self, dir: &Path) -> Result<bool> {
        // What grew endlessly need not be read to its end.
        let same_length = dir
            .join(&self.name)
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.len() == self.bytes);
        Ok(same_length && Self::of(dir, &self.name)? == *self)
    }
}

impl PagesDigest {
    /// The digest of a pages file as it is, nothing freed.
    pub fn of(path: &Path, pages_id: u32) -> Result<Self> {
        let cannot = |e| Error::path("read", path, e);
        let file = File::open(path).map_err(cannot)?;
        let mut digest = Self {
            pages_id,
            bytes: file.metadata().map_err(cannot)?.len(),
            block_pages: BLOCK_PAGES,
            ..Self::default()
        };
        digest.blake3 = digest.of_blocks(&file).map_err(cannot)?;
        Ok(digest)
    }

    /// Bytes of a whole block; at least one page, whatever an image says.
    pub fn block_bytes(&self) -> u64 {
        u64::from(self.block_pages.max(1)) * PAGE_SIZE
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.bytes.div_ceil(self.block_bytes())
    }

    /// True when there is a digest of every block (and blocks are of a size that can be read).
    pub fn is_known(&self) -> bool {
        self.block_pages <= MOST_PAGES
            && self.blocks().checked_mul(LEN as u64) == Some(self.blake3.len() as u64)
            && !self.blake3.is_empty()
    }

    /// Offset and length of a block in the file.
    pub fn block(&self, index: u64) -> (u64, usize) {
        let start = index.saturating_mul(self.block_bytes());
        let len = self.bytes.saturating_sub(start).min(self.block_bytes());
        (start, usize::try_from(len).unwrap_or(0))
    }

    /// The digest of a block of these `bytes`; the freed parts of them are overwritten with zeros.
    fn of_block(&self, index: u64, bytes: &mut [u8]) -> [u8; LEN] {
        let (start, _) = self.block(index);
        blank(&self.freed, start, bytes);
        *blake3::hash(bytes).as_bytes()
    }

    /// True when `bytes` are the content of block `index`. Freed parts of them become zeros.
    pub fn block_matches(&self, index: u64, bytes: &mut [u8]) -> bool {
        let at = usize::try_from(index).ok().and_then(|i| i.checked_mul(LEN));
        let wanted = at.and_then(|at| self.blake3.get(at..at.checked_add(LEN)?));
        wanted == Some(&self.of_block(index, bytes)[..])
    }

    /// Digests the blocks of `file` anew.
    fn of_blocks(&self, file: &File) -> io::Result<Vec<u8>> {
        let digests = |blocks: std::ops::Range<u64>| -> io::Result<Vec<u8>> {
            let mut out = Vec::new();
            let mut buffer = vec![0; usize::try_from(self.block_bytes()).unwrap_or(0)];
            for index in blocks {
                let (start, len) = self.block(index);
                let bytes = &mut buffer[..len];
                file.read_exact_at(bytes, start)?;
                out.extend(self.of_block(index, bytes));
            }
            Ok(out)
        };
        let parts = self.parts(digests);
        let mut out = Vec::new();
        for part in parts {
            out.extend(part?);
        }
        Ok(out)
    }

    /// The blocks of `file` that are not what they were. One that cannot be read is one of them.
    pub fn damaged(&self, file: &File) -> Vec<u64> {
        let damaged = |blocks: std::ops::Range<u64>| {
            let mut found = Vec::new();
            let mut buffer = vec![0; usize::try_from(self.block_bytes()).unwrap_or(0)];
            for index in blocks {
                let (start, len) = self.block(index);
                let bytes = &mut buffer[..len];
                if file.read_exact_at(bytes, start).is_err() || !self.block_matches(index, bytes) {
                    found.push(index);
                }
            }
            found
        };
        self.parts(damaged).concat()
    }

    /// Lets several threads work on a part of the blocks each; the results are in order.
    fn parts<T: Send>(&self, work: impl Fn(std::ops::Range<u64>) -> T + Sync) -> Vec<T> {
        let blocks = self.blocks();
        let cores = thread::available_parallelism().map_or(1, NonZero::get) as u64;
        let share = blocks.div_ceil(cores.min(blocks / FEW).max(1)).max(1);
        let ranges: Vec<_> = (0..blocks)
            .step_by(usize::try_from(share).unwrap_or(usize::MAX))
            .map(|from| from..blocks.min(from + share))
            .collect();
        let [ranges @ .., last] = ranges.as_slice() else {
            return Vec::new();
        };
        let work = &work;
        thread::scope(|scope| {
            let others: Vec<_> = ranges
                .iter()
                .map(|range| {
                    let range = range.clone();
                    scope.spawn(move || work(range))
                })
                .collect();
            let last = work(last.clone());
            let mut results: Vec<T> = Vec::with_capacity(others.len() + 1);
            for other in others {
                match other.join() {
                    Ok(result) => results.push(result),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            results.push(last);
            results
        })
    }

    /// Notes that `extents` are about to be freed. Fails when a block that loses some of its pages
    /// is not what it was: its damage must not get a digest that fits.
    pub fn free(&mut self, file: &File, extents: &[Extent]) -> Result<()> {
        let cannot = |e| Error::io(format!("Cannot read pages-{}.img", self.pages_id), e);
        if !self.is_known() {
            self.freed = united(&self.freed, extents);
            return Ok(());
        }
        let size = self.block_bytes();
        let mut blocks: Vec<u64> = extents
            .iter()
            .filter(|extent| extent.bytes > 0)
            .flat_map(|extent| {
                extent.offset / size..=extent.offset.saturating_add(extent.bytes - 1) / size
            })
            .filter(|index| *index < self.blocks())
            .collect();
        blocks.dedup();
        let mut after = Self {
            freed: united(&self.freed, extents),
            ..self.clone()
        };
        for index in blocks {
            let (start, len) = self.block(index);
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, start).map_err(cannot)?;
            if !self.block_matches(index, &mut bytes) {
                let what = format!(
                    "pages-{}.img is damaged: bytes {start:x}-{:x} are not what was written",
                    self.pages_id,
                    start + len as u64
                );
                return Err(Error::corrupt(what).hint("icecore verify tells what is affected"));
            }
            let digest = after.of_block(index, &mut bytes);
            let at = usize::try_from(index)
                .unwrap_or(usize::MAX)
                .saturating_mul(LEN);
            if let Some(slot) = after.blake3.get_mut(at..at.saturating_add(LEN)) {
                slot.copy_from_slice(&digest);
            }
        }
        *self = after;
        Ok(())
    }

    /// Notes that `extents` are zeros and may become holes.
    pub fn zero(&mut self, extents: &[Extent]) {
        self.zeros = united(&self.zeros, extents);
    }
}

/// Overwrites with zeros the parts of `bytes` (which begin at `start` in the file) that were freed.
fn blank(freed: &[Extent], start: u64, bytes: &mut [u8]) {
    let end = start + bytes.len() as u64;
    let first = freed.partition_point(|extent| extent.offset.saturating_add(extent.bytes) <= start);
    for extent in freed.iter().skip(first).take_while(|e| e.offset < end) {
        let to = extent.offset.saturating_add(extent.bytes).min(end) - start;
        let from = extent.offset.saturating_sub(start);
        if let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) {
            bytes[from..to].fill(0);
        }
    }
}

/// Both sets of extents as one, ascending.
fn united(a: &[Extent], b: &[Extent]) -> Vec<Extent> {
    let mut all: Vec<Extent> = [a, b].concat();
    all.sort_unstable_by_key(|extent| extent.offset);
    let mut out: Vec<Extent> = Vec::new();
    for extent in all.into_iter().filter(|extent| extent.bytes > 0) {
        let end = extent.offset.saturating_add(extent.bytes);
        match out.last_mut() {
            Some(last) if extent.offset <= last.offset.saturating_add(last.bytes) => {
                last.bytes = last.bytes.max(end - last.offset);
            }
            _ => out.push(extent),
        }
    }
    out
}

/// N of `pages-N.img`.
pub fn pages_id(name: &str) -> Option<u32> {
    let id = name.strip_prefix("pages-")?.strip_suffix(".img")?;
    id.parse()
        .ok()
        .filter(|id: &u32| id.to_string().len() == name.len() - "pages-.img".len())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn pages(pages: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pages-1.img");
        let bytes: Vec<u8> = (0..pages * PAGE_SIZE).map(|i| (i / 7) as u8).collect();
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    fn extent(page: u64, pages: u64) -> Extent {
        Extent {
            offset: page * PAGE_SIZE,
            bytes: pages * PAGE_SIZE,
        }
    }

    #[test]
    fn each_block_has_its_digest_however_many_threads_made_them() {
        let (_dir, path) = pages(16 * 300 + 3);
        let digest = PagesDigest::of(&path, 1).unwrap();
        assert_eq!((digest.blocks(), digest.is_known()), (301, true));
        let file = File::options().read(true).write(true).open(&path).unwrap();
        assert!(digest.damaged(&file).is_empty());
        file.write_all_at(b"x", 16 * 200 * PAGE_SIZE + 5).unwrap();
        file.write_all_at(b"x", (16 * 300 + 3) * PAGE_SIZE - 1)
            .unwrap();
        assert_eq!(digest.damaged(&file), [200, 300]);
        file.set_len(16 * PAGE_SIZE).unwrap();
        assert_eq!(digest.damaged(&file).len(), 300);
    }

    #[test]
    fn freed_pages_may_be_there_or_gone_and_all_others_are_still_known() {
        let (_dir, path) = pages(40);
        let mut digest = PagesDigest::of(&path, 1).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        digest.free(&file, &[extent(3, 2), extent(15, 2)]).unwrap();
        assert!(digest.damaged(&file).is_empty());
        file.write_all_at(&[0; 8192], 3 * PAGE_SIZE).unwrap();
        assert!(digest.damaged(&file).is_empty());
        digest.free(&file, &[extent(5, 1)]).unwrap();
        assert_eq!(digest.freed, [extent(3, 3), extent(15, 2)]);
        file.write_all_at(b"x", 6 * PAGE_SIZE).unwrap();
        assert_eq!(digest.damaged(&file), [0]);
        // Damage does not get a digest that fits.
        assert!(digest.free(&file, &[extent(7, 1)]).is_err());
        assert_eq!(digest.damaged(&file), [0]);
    }

    #[test]
    fn digests_that_no_image_could_hold_are_no_reason_to_panic() {
        let odd = PagesDigest {
            bytes: u64::MAX,
            block_pages: u32::MAX,
            blake3: vec![1; 7],
            freed: vec![Extent {
                offset: u64::MAX,
                bytes: u64::MAX,
            }],
            ..PagesDigest::default()
        };
        assert!(!odd.is_known());
        let huge = PagesDigest {
            bytes: PAGE_SIZE,
            block_pages: u32::MAX,
            blake3: vec![1; LEN],
            ..PagesDigest::default()
        };
        assert!(!huge.is_known());
        assert!(!odd.block_matches(u64::MAX, &mut []));
    }
}
