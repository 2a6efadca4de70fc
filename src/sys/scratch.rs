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

/// What else can happen to memory.
#[cfg(test)]
impl Scratch {
    /// Maps pages at an address where nothing is.
    pub(crate) fn map_at(range: PageRange) -> nix::Result<Self> {
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
        );
        let (start, bytes) = (range.start as usize, range.bytes() as usize);
        let start = ptr::with_exposed_provenance_mut::<libc::c_void>(start);
        // SAFETY: where something is, the kernel refuses: nothing is replaced.
        let start = unsafe { libc::mmap(start, bytes, prot, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let pages = bytes / PAGE;
        let start = start.cast();
        Ok(Self { start, pages })
    }

    /// madvise(2) on one page.
    pub(crate) fn advise(&self, page: usize, pages: usize, advice: i32) -> nix::Result<()> {
        assert!(page + pages <= self.pages);
        // SAFETY: in bounds by the assertion.
        let place = unsafe { self.start.add(page * PAGE) };
        // SAFETY: our own mapping, without references into it.
        Errno::result(unsafe { libc::madvise(place.cast(), pages * PAGE, advice) }).map(drop)
    }

    /// mprotect(2) on all of it.
    pub(crate) fn protect(&self, prot: i32) -> nix::Result<()> {
        // SAFETY: our own mapping, without references into it.
        let done = unsafe { libc::mprotect(self.start.cast(), self.pages * PAGE, prot) };
        Errno::result(done).map(drop)
    }

    /// read(2) of one byte into a page: the kernel writes it.
    pub(crate) fn read_into(&self, page: usize, from: impl std::os::fd::AsFd) -> nix::Result<()> {
        use std::os::fd::AsRawFd as _;
        assert!(page < self.pages);
        // SAFETY: in bounds by the assertion.
        let place = unsafe { self.start.add(page * PAGE) };
        let from = from.as_fd().as_raw_fd();
        // SAFETY: one byte of our own mapping, which has no references into it.
        let got = unsafe { libc::read(from, place.cast(), 1) };
        Errno::result(got).map(drop)
    }

    /// mremap(2) to another size, moving when needed.
    pub(crate) fn resize(&mut self, pages: usize) -> nix::Result<()> {
        let (old, new) = (self.pages * PAGE, pages * PAGE);
        // SAFETY: our own mapping, without references into it.
        let moved = unsafe { libc::mremap(self.start.cast(), old, new, libc::MREMAP_MAYMOVE) };
        if moved == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        (self.start, self.pages) = (moved.cast(), pages);
        Ok(())
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
        vm::read_many(
            Pid::this(),
            &[(scratch.range().start + PAGE_SIZE, 1)],
            &mut byte,
        )
        .unwrap();
        assert_eq!(byte, [7]);
    }
}
