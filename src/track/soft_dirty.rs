//! Tracking by soft-dirty bits (`/proc/PID/clear_refs`, Documentation/admin-guide/mm/soft-dirty.rst):
//! what CRIU uses. New mappings count as dirty. Kernels without CONFIG_MEM_SOFT_DIRTY accept the
//! write and do nothing, so the probe looks whether a page really turns dirty.

use std::fs;
use std::os::fd::OwnedFd;

use super::{Armed, DirtyTracker};
use crate::error::{Error, Result};
use crate::memory::Mapping;
use crate::sys::pagemap::{Category, Pagemap, Query};
use crate::units::{PageRange, Pid};

/// See the module.
#[derive(Debug)]
pub(super) struct SoftDirty;

impl DirtyTracker for SoftDirty {
    fn name(&self) -> &'static str {
        "soft-dirty"
    }

    fn probe(&self) -> Result<(), String> {
        // A freshly written page is soft-dirty from the start where the kernel has such a thing.
        let page = vec![1u8; 2 * 4096];
        let start = (page.as_ptr().addr() as u64 + 4095) & !4095;
        let query = Query {
            all: Category::SOFT_DIRTY,
            any: Category::empty(),
            inverted: Category::empty(),
            report: Category::SOFT_DIRTY,
            protect: false,
            tracked_only: false,
        };
        let here = Pagemap::open(Pid::this()).map_err(|e| format!("pagemap: {e}"))?;
        let mut dirty = false;
        here.scan(PageRange::of_pages(start, 1), &query, |_, _| dirty = true)
            .map_err(|e| format!("PAGEMAP_SCAN: {e}"))?;
        if dirty {
            Ok(())
        } else {
            Err("the kernel has no soft-dirty bits".into())
        }
    }

    fn written(&self) -> Option<Category> {
        Some(Category::SOFT_DIRTY)
    }

    fn arm(&self, pid: Pid, _: &[Mapping], _: Option<&OwnedFd>) -> Result<Armed> {
        let path = format!("/proc/{pid}/clear_refs");
        fs::write(&path, "4").map_err(|e| Error::path("write", &path, e))?;
        Ok(Armed::default())
    }
}
