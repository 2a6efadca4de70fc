//! PAGEMAP_SCAN (Linux 6.7): which pages of a process are there, written, file-backed, …
//! (Documentation/admin-guide/mm/pagemap.rst). With it, write-protection for tracking is renewed
//! in the same step.
#![expect(unsafe_code, reason = "ioctl(2) has no safe interface")]

use std::fs::File;
use std::os::fd::AsRawFd as _;

use bitflags::bitflags;
use linux_raw_sys::general::{page_region, pm_scan_arg};
use nix::errno::Errno;

use crate::units::{PageRange, Pid};

bitflags! {
    /// What is true of a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Category: u64 {
        /// Lies in a range where write-protection is asynchronous.
        const WPALLOWED = 1;
        /// Written since it was last protected, or never protected.
        const WRITTEN = 1 << 1;
        /// Backed by a file or shared memory.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// Swapped out.
        const SWAPPED = 1 << 4;
        /// The shared zero page.
        const PFNZERO = 1 << 5;
        /// Part of a huge page.
        const HUGE = 1 << 6;
        /// Soft-dirty.
        const SOFT_DIRTY = 1 << 7;
        /// A guard page (madvise(2) MADV_GUARD_INSTALL).
        const GUARD = 1 << 8;
    }
}

/// A question to PAGEMAP_SCAN: a page matches when, after inverting `inverted`, all of `all` and at
/// least one of `any` (unless empty) are true.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Categories that must all be true.
    pub all: Category,
    /// Categories of which one must be true; empty for none.
    pub any: Category,
    /// Categories whose meaning is inverted first.
    pub inverted: Category,
    /// Categories to tell of each run.
    pub report: Category,
    /// Write-protect the matching pages again, and fail with EPERM outside of ranges where that can
    /// be done.
    pub protect: bool,
    /// Fail with EPERM outside of tracked ranges, without protecting.
    pub tracked_only: bool,
}

mod ioctl {
    use linux_raw_sys::general::pm_scan_arg;

    nix::ioctl_readwrite!(pagemap_scan, b'f', 16, pm_scan_arg);
}

const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;

/// `/proc/PID/pagemap`, opened once for many questions.
#[derive(Debug)]
pub struct Pagemap(File);

impl Pagemap {
    /// Opens the pagemap of `pid`.
    ///
    /// # Errors
    /// Without the right to trace, or when it is gone.
    pub fn open(pid: Pid) -> std::io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// Runs `query` over `range`; calls `found` for each run of pages with the same report.
    ///
    /// # Errors
    /// ENOTTY on kernels without PAGEMAP_SCAN; EPERM as [`Query`] says.
    pub fn scan(
        &self,
        range: PageRange,
        query: &Query,
        mut found: impl FnMut(PageRange, Category),
    ) -> nix::Result<()> {
        const LEN: usize = 512;
        let mut regions = [page_region {
            start: 0,
            end: 0,
            categories: 0,
        }; LEN];
        let mut start = range.start;
        while start < range.end {
            let mut arg = pm_scan_arg {
                size: size_of::<pm_scan_arg>() as u64,
                flags: if query.protect {
                    WP_MATCHING | CHECK_WPASYNC
                } else {
                    0
                } | if query.tracked_only { CHECK_WPASYNC } else { 0 },
                start,
                end: range.end,
                walk_end: 0,
                vec: regions.as_mut_ptr().expose_provenance() as u64,
                vec_len: LEN as u64,
                max_pages: 0,
                category_inverted: query.inverted.bits(),
                category_mask: query.all.bits(),
                category_anyof_mask: query.any.bits(),
                return_mask: query.report.bits(),
            };
            // SAFETY: `arg` is a complete pm_scan_arg whose `vec` points to `LEN` regions of ours
            // that outlive the call; the kernel writes no more than `vec_len` of them.
            let got = unsafe { ioctl::pagemap_scan(self.0.as_raw_fd(), &raw mut arg) }?;
            let got = usize::try_from(got).unwrap_or(0);
            for region in &regions[..got] {
                found(
                    PageRange::new(region.start, region.end),
                    Category::from_bits_truncate(region.categories),
                );
            }
            if arg.walk_end <= start {
                return Err(Errno::EIO);
            }
            start = arg.walk_end;
        }
        Ok(())
    }
}
