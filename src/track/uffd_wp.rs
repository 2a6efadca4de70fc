//! Tracking by userfaultfd write-protection in asynchronous mode and PAGEMAP_SCAN (Linux 6.7).
//!
//! The userfaultfd must be made inside the process, because it belongs to the address space of its
//! maker. We fetch it, close it there, and from then on register and protect from outside. Memory
//! that moves, grows or comes anew loses its protection, and then reads as written.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;

use super::{Armed, DirtyTracker};
use crate::error::{Error, Result};
use crate::inject::{Call, Remote};
use crate::memory::Mapping;
use crate::sys::pagemap::{Category, Pagemap, Query};
use crate::sys::scratch::Scratch;
use crate::sys::{pidfd, uffd};
use crate::units::{PAGE_SIZE, PageRange, Pid};

/// See the module.
#[derive(Debug)]
pub(super) struct UffdWp;

/// Present pages that were written since they were last protected; unpopulated ones are left alone,
/// or a sparse mapping would fill up with markers.
const PROTECT: Query = Query {
    all: Category::WRITTEN,
    any: Category::PRESENT.union(Category::SWAPPED),
    inverted: Category::empty(),
    report: Category::empty(),
    protect: true,
    tracked_only: false,
};

/// Pages that were written since they were last protected.
const LOOK: Query = Query {
    protect: false,
    ..PROTECT
};

impl DirtyTracker for UffdWp {
    fn name(&self) -> &'static str {
        "uffd-wp"
    }

    fn probe(&self) -> Result<(), String> {
        let uffd = uffd::create().map_err(|e| format!("userfaultfd with WP_ASYNC: {e}"))?;
        let pagemap = Pagemap::open(Pid::this()).map_err(|e| format!("pagemap: {e}"))?;
        let scan = |range, query: &Query| {
            let mut pages = 0;
            pagemap
                .scan(range, query, |found, _| pages += found.pages())
                .map(|()| pages)
                .map_err(|e| format!("PAGEMAP_SCAN: {e}"))
        };
        let mut scratch = Scratch::map(2).map_err(|e| format!("mmap: {e}"))?;
        let arm_and_write = |scratch: &Scratch, page| {
            uffd::register(uffd.as_fd(), scratch.range())
                .map_err(|e| format!("write-protection: {e}"))?;
            scan(scratch.range(), &PROTECT)?;
            scratch.write(page, 2);
            scan(scratch.range(), &LOOK)
        };
        scratch.write(0, 1);
        scratch.write(1, 1);
        if arm_and_write(&scratch, 0)? != 1 {
            return Err("the kernel does not note exactly the pages that are written".into());
        }
        // Kernels without "mm: clear uffd-wp PTE/PMD state on mremap()" leave traces of the protection
        // that a move ends, because of which later writes are not noted.
        scratch.move_away().map_err(|e| format!("mremap: {e}"))?;
        scratch.write(1, 3);
        if arm_and_write(&scratch, 1)? != 1 {
            return Err("the kernel loses track of memory that moves".into());
        }
        Ok(())
    }

    fn written(&self) -> Option<Category> {
        Some(Category::WRITTEN)
    }

    fn vouches(&self, pagemap: &Pagemap, range: PageRange, kept: Option<&OwnedFd>) -> bool {
        let query = Query {
            tracked_only: true,
            ..LOOK
        };
        // Somebody's write-protection is on, and it is ours: another one may have been renewed since.
        kept.is_some_and(|uffd| {
            pagemap.scan(range, &query, |_, _| {}).is_ok()
                && uffd::register(uffd.as_fd(), range).is_ok()
        })
    }

    fn covers(&self, pagemap: &Pagemap, range: PageRange) -> bool {
        let query = Query {
            tracked_only: true,
            ..LOOK
        };
        // Protection is a matter of the whole mapping: its first page tells.
        let first = PageRange::new(range.start, range.start + PAGE_SIZE);
        pagemap.scan(first, &query, |_, _| {}).is_ok()
    }

    fn is_attached(&self, kept: Option<&OwnedFd>) -> bool {
        kept.is_some_and(|uffd| uffd::has_memory(uffd.as_fd()))
    }

    fn attach(&self, pid: Pid, remote: &mut Remote) -> Result<Option<OwnedFd>> {
        let number = remote.call("userfaultfd", libc::SYS_userfaultfd, &[uffd::CREATE_FLAGS])?;
        let argument = remote.put(0, &uffd::api_argument())?;
        let mut api = [Call::new(
            libc::SYS_ioctl,
            &[number, uffd::UFFDIO_API, argument],
        )];
        remote.run(&mut api)?;
        let fetched = pidfd::open(pid)
            .and_then(|p| pidfd::get_fd(p, i32::try_from(number).unwrap_or(-1)))
            .map_err(|e| Error::os(format!("Cannot fetch a descriptor of process {pid}"), e));
        // Closed there in any case: nothing of ours stays.
        remote.run(&mut [Call::new(libc::SYS_close, &[number])])?;
        api[0]
            .value()
            .map_err(|e| Error::os(format!("Process {pid} gets no write-protection"), e))?;
        fetched.map(Some)
    }

    fn arm(&self, pid: Pid, mappings: &[Mapping], kept: Option<&OwnedFd>) -> Result<Armed> {
        let mut armed = Armed::default();
        let Some(uffd) = kept else {
            return Ok(armed);
        };
        let pagemap = Pagemap::open(pid)
            .map_err(|e| Error::io(format!("Cannot open the pagemap of process {pid}"), e))?;
        for mapping in mappings.iter().filter(|m| m.is_private_memory()) {
            match uffd::register(uffd.as_fd(), mapping.range) {
                // Where it cannot be registered, pages read as written and are stored: memory of the
                // kernel, or of a userfaultfd of the program's own, or of another keeper's.
                Err(Errno::EINVAL) => continue,
                Err(Errno::EBUSY) => {
                    armed.others += mapping.range.bytes();
                    continue;
                }
                Err(e) => {
                    let what = format!("Cannot track {} of process {pid}", mapping.range);
                    return Err(Error::os(what, e));
                }
                Ok(()) => armed.ours += mapping.range.bytes(),
            }
            match pagemap.scan(mapping.range, &PROTECT, |_, _| {}) {
                Ok(()) | Err(Errno::EPERM) => {}
                Err(e) => {
                    let what = format!("Cannot protect {} of process {pid}", mapping.range);
                    return Err(Error::os(what, e));
                }
            }
        }
        Ok(armed)
    }
}
