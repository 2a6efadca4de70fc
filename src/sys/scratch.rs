//! Memory of our own to try things on (mmap(2), mremap(2)). Nobody has references into it: bytes go
//! in and come out through volatile accesses.
#![expect(unsafe_code, reason = "mmap(2) has no safe interface")]

use std::ptr;

use nix::errno::Errno;

use crate::units::{PAGE_SIZE, PageRange};

/// Some pages of anonymous private memory; unmapped when dropped.
#[derive(Debug)]
pub struct Scratch {
    start: *mut u8,
    pages: usize,
}

const PAGE: usize = PAGE_SIZE as usize;

impl Scratch {
    /// Maps `pages` pages that are not populated yet.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn map(pages: usize) -> nix::Result<Self> {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping wherever the kernel likes: nothing of ours is replaced.
        let start = unsafe { libc::mmap(ptr::null_mut(), pages * PAGE, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            start: start.cast(),
            pages,
        })
    }

    /// Where it is.
    pub fn range(&self) -> PageRange {
        PageRange::of_pages(self.start.addr() as u64, self.pages as u64)
    }

    /// Writes one byte at the start of page `page`.
    ///
    /// # Panics
    /// When there is no such page.
    pub fn write(&self, page: usize, byte: u8) {
        assert!(page < self.pages, "page {page} of {}", self.pages);
        // SAFETY: in bounds by the assertion.
        let place = unsafe { self.start.add(page * PAGE) };
        // SAFETY: `place` lies in our mapping, which is writable and has no references into it.
        unsafe { place.write_volatile(byte) };
    }

    /// Moves it to another place (mremap(2)); the contents go along.
    ///
    /// # Errors
    /// As mremap(2); then it stays where it is.
    pub fn move_away(&mut self) -> nix::Result<()> {
        let goal = Self::map(self.pages)?;
        let bytes = self.pages * PAGE;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: both ranges are mappings of ours without references into them; the one at `goal`
        // is replaced by this one.
        let moved = unsafe { libc::mremap(self.start.cast(), bytes, bytes, flags, goal.start) };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        self.start = moved.cast();
        // Its place is this one's now.
        std::mem::forget(goal);
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: our own mapping, without references into it.
        unsafe { libc::munmap(self.start.cast(), self.pages * PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::vm;
    use crate::units::Pid;

    #[test]
    fn what_was_written_goes_along_when_it_moves() {
        let mut scratch = Scratch::map(3).unwrap();
        scratch.write(1, 7);
        let before = scratch.range();
        scratch.move_away().unwrap();
        assert_ne!(scratch.range().start, before.start);
        let mut byte = [0];
        vm::read(Pid::this(), scratch.range().start + PAGE_SIZE, &mut byte).unwrap();
        assert_eq!(byte, [7]);
    }
}
