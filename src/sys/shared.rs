//! A file or memfd mapped shared (mmap(2), MAP_SHARED), as words that several processes may touch.
#![expect(unsafe_code, reason = "mmap(2) has no safe interface")]

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Shared words; unmapped on drop.
#[derive(Debug)]
pub struct SharedWords {
    start: NonNull<AtomicU64>,
    len: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is touched only by atomics.
unsafe impl Send for SharedWords {}
// SAFETY: as above: every access is atomic.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Maps the first `len` words of `file`, which must be that long.
    ///
    /// # Errors
    /// As mmap(2); EINVAL for no words.
    pub fn map(file: impl AsFd, len: usize) -> nix::Result<Self> {
        let bytes = NonZeroUsize::new(len * size_of::<u64>()).ok_or(nix::errno::Errno::EINVAL)?;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory of ours.
        let start = unsafe { mmap(None, bytes, prot, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    /// All words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping holds `len` words, page-aligned, until drop; other processes change
        // them only atomically as far as the hardware is concerned, and AtomicU64 allows that.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Reads a word.
    pub fn get(&self, index: usize) -> u64 {
        self.words()[index].load(Ordering::SeqCst)
    }

    /// Writes a word.
    pub fn set(&self, index: usize, value: u64) {
        self.words()[index].store(value, Ordering::SeqCst);
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: the range is the one that mmap gave, and nobody refers to it any more.
        let _unmapped = unsafe { munmap(self.start.cast(), self.len * size_of::<u64>()) };
    }
}
