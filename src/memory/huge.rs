//! Huge pages (hugetlbfs): how images name their size, whether there are enough, and segments of them,
//! which behave unlike other memory files: they are written through a mapping only, and do not tell
//! their holes.
//!
//! Sources: Documentation/admin-guide/mm/hugetlbpage.rst, mmap(2) and memfd_create(2) (`MAP_HUGETLB`,
//! `MFD_HUGETLB`, the size in the bits from 26 on), `/sys/kernel/mm/hugepages`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};

use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{IpcShmEntry, MemfdInodeEntry, VmaEntry};
use crate::sys::shared::SharedWords;

/// The bits of a size.
const SHIFT: u32 = 26;
const MASK: u32 = 0x3f;
const MFD_HUGETLB: u32 = 4;
/// What a machine has when no size is said.
const USUAL: u64 = 2 << 20;

/// `bytes` in the flags of mmap(2) or memfd_create(2).
pub fn size_flags(bytes: u64) -> u32 {
    bytes.checked_ilog2().unwrap_or(0) << SHIFT
}

/// The flags of a memfd of pages of so many bytes.
pub fn memfd_flags(bytes: u64) -> u32 {
    MFD_HUGETLB | size_flags(bytes)
}

/// Bytes of a page, from flags of mmap(2) or memfd_create(2).
fn size(flags: u32) -> u64 {
    match flags >> SHIFT & MASK {
        0 => USUAL,
        bits => 1 << bits,
    }
}

/// Bytes of a page of a segment, when they are huge.
pub fn of_segment(entry: &MemfdInodeEntry) -> Option<u64> {
    entry.hugetlb_flag.map(size)
}

/// Bytes of a page of a segment of System V shared memory, when they are huge.
pub fn of_system_v(entry: &IpcShmEntry) -> Option<u64> {
    entry.hugetlb_flag.map(size)
}

/// Bytes of a page of an open file, when it is on a hugetlbfs.
///
/// # Errors
/// As fstatfs(2).
pub fn of_file(file: &File) -> Result<Option<u64>> {
    let found = fstatfs(file).map_err(|e| Error::os("Cannot find the file system of memory", e))?;
    let huge = found.filesystem_type() == HUGETLBFS_MAGIC;
    Ok(huge.then(|| found.block_size().unsigned_abs()))
}

/// Bytes of a page of a mapping that takes huge pages of its own.
fn of_mapping(vma: &VmaEntry) -> Option<u64> {
    let own = libc::MAP_HUGETLB | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let own = own.cast_unsigned();
    (vma.flags & own == own).then(|| size(vma.flags))
}

/// Pages that are missing here for these mappings and segments, by their size.
pub fn missing<'a>(
    vmas: impl IntoIterator<Item = &'a VmaEntry>,
    segments: impl IntoIterator<Item = &'a MemfdInodeEntry>,
    system_v: impl IntoIterator<Item = &'a IpcShmEntry>,
) -> Vec<Obstacle> {
    let mut needed: BTreeMap<u64, u64> = BTreeMap::new();
    let mapped = vmas
        .into_iter()
        .filter_map(|vma| Some((of_mapping(vma)?, vma.end - vma.start)));
    let shared = segments
        .into_iter()
        .filter_map(|entry| Some((of_segment(entry)?, entry.size)));
    let system_v = system_v
        .into_iter()
        .filter_map(|entry| Some((of_system_v(entry)?, entry.size)));
    for (size, bytes) in mapped.chain(shared).chain(system_v) {
        *needed.entry(size).or_default() += bytes.div_ceil(size);
    }
    needed
        .into_iter()
        .filter_map(|(size, needed)| {
            let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size / 1024);
            let number = |name: &str| -> u64 {
                let text = fs::read_to_string(format!("{dir}/{name}")).unwrap_or_default();
                text.trim().parse().unwrap_or(0)
            };
            let more =
                number("nr_overcommit_hugepages").saturating_sub(number("surplus_hugepages"));
            let free = number("free_hugepages").saturating_sub(number("resv_hugepages")) + more;
            let total = number("nr_hugepages") + needed.saturating_sub(free);
            (needed > free).then(|| {
                let what = format!(
                    "The layer needs {needed} huge pages of {} KiB, {free} are free",
                    size / 1024
                );
                let hint = format!("have more of them: echo {total} > {dir}/nr_hugepages");
                Obstacle::new(Kind::Busy, what, hint)
            })
        })
        .collect()
}

/// A segment being filled.
#[derive(Debug)]
pub struct Filling(SharedWords);

impl Filling {
    /// Maps all `bytes` of a segment.
    ///
    /// # Errors
    /// When there are not enough huge pages.
    pub fn new(file: &OwnedFd, bytes: u64) -> Result<Self> {
        let words = usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        let mapped = SharedWords::map(file, words);
        mapped.map(Self).map_err(|e| {
            Error::os("Cannot map a segment of huge pages", e)
                .hint("there may be too few: see HugePages_Free in /proc/meminfo")
        })
    }

    /// Writes `bytes` (whole words) at `at`.
    pub fn write(&self, bytes: &[u8], at: u64) {
        let first = usize::try_from(at / 8).unwrap_or(usize::MAX);
        let words = bytes.as_chunks::<8>().0.iter();
        for (slot, word) in self.0.words().iter().skip(first).zip(words) {
            slot.store(u64::from_le_bytes(*word), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_as_mmap_has_them() {
        assert_eq!(size_flags(2 << 20), 21 << 26);
        assert_eq!(memfd_flags(2 << 20), 0x5400_0004);
        assert_eq!(size(0x5404_0022), 2 << 20);
        assert_eq!(size(0x7800_0004), 1 << 30);
        assert_eq!(size(0x4_0022), 2 << 20);
    }

    #[test]
    fn what_no_machine_has_is_missing() {
        let vma = VmaEntry {
            end: 1 << 60,
            flags: 0x5404_0022,
            ..VmaEntry::default()
        };
        let found = missing([&vma], [], []);
        assert_eq!(found.len(), 1);
        assert!(found[0].hint.contains("hugepages-2048kB/nr_hugepages"));
        assert!(missing([], [], []).is_empty());
    }
}
