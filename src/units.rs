//! The few quantities that every part of the engine speaks of.

use std::fmt;

pub use nix::unistd::Pid;

/// Bytes in one page of the image format (CRIU images on x86-64 know no other).
pub const PAGE_SIZE: u64 = 4096;

/// An address in *another* process, or an offset in a shared segment; never a pointer of ours.
pub type Vaddr = u64;

/// A half-open, page-aligned range of addresses, in bytes: `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    /// First byte.
    pub start: Vaddr,
    /// One past the last byte.
    pub end: Vaddr,
}

impl PageRange {
    /// The range `[start, end)`; an end before the start gives an empty range.
    pub fn new(start: Vaddr, end: Vaddr) -> Self {
        Self {
            start,
            end: end.max(start),
        }
    }

    /// The range of `pages` pages from `start` on.
    pub fn of_pages(start: Vaddr, pages: u64) -> Self {
        Self::new(start, start + pages * PAGE_SIZE)
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// Length in pages.
    pub fn pages(self) -> u64 {
        self.bytes() / PAGE_SIZE
    }

    /// True when the range holds nothing.
    pub fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// True when `addr` lies inside.
    pub fn contains(self, addr: Vaddr) -> bool {
        self.start <= addr && addr < self.end
    }

    /// The part that both ranges share (possibly empty).
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }
}

/// In JSON a range is text, as in `/proc/PID/maps`: addresses do not fit every reader's numbers.
impl serde::Serialize for PageRange {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.end)
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start, self.end)
    }
}
