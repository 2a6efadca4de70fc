//! Reading the bytes of a task's memory (or of a shared segment) through the stack.
//!
//! Reads are `pread(2)` on the owners' pages files, never `mmap`: another process may punch or
//! truncate those files. A file is opened when its first page is read and stays open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use super::{Owned, Ownership, Stack};
use crate::error::{Error, Kind, Result};
use crate::image::{Images, PagemapId};
use crate::units::{PageRange, Vaddr};

/// The pages of one task or shared segment as of the tip of a stack.
#[derive(Debug)]
pub struct Resolved<'s> {
    stack: &'s Stack,
    id: PagemapId,
    ownership: Ownership,
    files: Vec<OnceLock<File>>,
}

impl<'s> Resolved<'s> {
    pub(super) fn new(stack: &'s Stack, id: PagemapId, ownership: Ownership) -> Self {
        let files = stack.levels().iter().map(|_| OnceLock::new()).collect();
        Self {
            stack,
            id,
            ownership,
            files,
        }
    }

    /// Ascending, disjoint runs of pages that can be read.
    pub fn runs(&self) -> &[Owned] {
        self.ownership.runs()
    }

    /// Who owns what, with the pages that cannot be found.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// The pages file of a run; its first page is at `run.offset`.
    pub fn file(&self, run: &Owned) -> Result<&File> {
        let slot = self.files.get(run.layer).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("The stack has no layer number {}", run.layer),
            )
        })?;
        if let Some(file) = slot.get() {
            return Ok(file);
        }
        let file = self.images(run)?.pages_file(run.pages_id)?;
        Ok(slot.get_or_init(|| file))
    }

    /// Fills `buf` with the bytes at `addr`. Every page of it must have an owner.
    pub fn read_at(&self, addr: Vaddr, buf: &mut [u8]) -> Result<()> {
        let wanted = PageRange::new(addr, addr + buf.len() as u64);
        let mut at = addr;
        let mut rest = buf;
        for run in self.ownership.within(wanted) {
            if run.range.start != at {
                break;
            }
            let (part, after) = rest.split_at_mut(usize::try_from(run.range.bytes()).unwrap_or(0));
            self.file(&run)?
                .read_exact_at(part, run.offset)
                .map_err(|e| self.failed(&run, e))?;
            at = run.range.end;
            rest = after;
        }
        if rest.is_empty() {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "Page {at:x} of {} is not stored in layer {} or below",
            self.id.file_name(),
            self.stack.tip().dir().display()
        )))
    }

    fn images(&self, run: &Owned) -> Result<&'s Images> {
        Ok(self.stack.level(run.layer)?.images())
    }

    fn failed(&self, run: &Owned, cause: io::Error) -> Error {
        let dir = self
            .images(run)
            .map_or_else(|_| String::new(), |i| i.dir().display().to_string());
        let what = format!(
            "Cannot read pages {} from {dir}/pages-{}.img",
            run.range, run.pages_id
        );
        if cause.kind() == io::ErrorKind::UnexpectedEof {
            Error::corrupt(what + ": the file is too short")
        } else {
            Error::io(what, cause)
        }
    }
}
