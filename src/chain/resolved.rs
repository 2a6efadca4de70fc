//! Reading the bytes of a task's memory (or of a shared segment) through the stack.
//!
//! Reads are `pread(2)` on the owners' pages files, never `mmap`: another process may punch or
//! truncate those files. A file is opened when its first page is read and stays open.
//!
//! [`Resolved::checked`] compares the bytes with the digests of their blocks, each block once, and is
//! for whoever goes on to trust them: restores, and operations that write them elsewhere. Dumps
//! compare without: their target waits. A block in which somebody freed pages without a mark (`criu
//! dedup`) cannot be compared; that a page which is needed is not one of those, is made sure of.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::holes::unmarked;
use super::{Owned, Ownership, Stack};
use crate::error::{Error, Kind, Result};
use crate::image::{Images, PagemapId, PagesDigest};
use crate::units::{PageRange, Vaddr};

/// The pages of one task or shared segment as of the tip of a stack.
#[derive(Debug)]
pub struct Resolved<'s> {
    stack: &'s Stack,
    id: PagemapId,
    ownership: Ownership,
    files: Vec<OnceLock<Source>>,
    checks: bool,
}

/// An open pages file.
#[derive(Debug)]
struct Source {
    file: File,
    /// A bit for each block whose digest fits; empty when none is asked for, or known.
    checked: Vec<AtomicU64>,
}

impl<'s> Resolved<'s> {
    pub(super) fn new(stack: &'s Stack, id: PagemapId, ownership: Ownership) -> Self {
        let files = stack.levels().iter().map(|_| OnceLock::new()).collect();
        Self {
            stack,
            id,
            ownership,
            files,
            checks: false,
        }
    }

    /// The same, with every byte compared with the digests of its layer, where there are any.
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.checks = true;
        self
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
        Ok(&self.source(run)?.file)
    }

    fn source(&self, run: &Owned) -> Result<&Source> {
        let slot = self.files.get(run.layer).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("The stack has no layer number {}", run.layer),
            )
        })?;
        if let Some(source) = slot.get() {
            return Ok(source);
        }
        let file = self.images(run)?.pages_file(run.pages_id)?;
        let words = self.digest(run).map_or(0, |d| d.blocks().div_ceil(64));
        let checked = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(slot.get_or_init(|| Source { file, checked }))
    }

    /// What the bytes of a run are to be compared with.
    fn digest(&self, run: &Owned) -> Option<&'s PagesDigest> {
        let level = self.stack.level(run.layer).ok().filter(|_| self.checks)?;
        let known = level.sidecar()?.known_pages(run.pages_id)?;
        known.is_known().then_some(known)
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
            self.read_run(&run, part)?;
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

    /// Fills `buf` with the bytes of `run`, which may be one of any layer of the stack.
    pub fn read_run(&self, run: &Owned, buf: &mut [u8]) -> Result<()> {
        let source = self.source(run)?;
        source
            .file
            .read_exact_at(buf, run.offset)
            .map_err(|e| self.failed(run, e))?;
        match self.digest(run) {
            Some(digest) => self.check(source, digest, run, buf),
            None => Ok(()),
        }
    }

    /// Compares `part`, the bytes of `run`, with the digests of their blocks.
    fn check(
        &self,
        source: &Source,
        digest: &PagesDigest,
        run: &Owned,
        part: &mut [u8],
    ) -> Result<()> {
        let size = digest.block_bytes();
        let end = run.offset + part.len() as u64;
        let mut whole: Vec<u8>;
        for index in run.offset / size..end.div_ceil(size) {
            let bit = 1 << (index % 64);
            let word = usize::try_from(index / 64).ok();
            let word = word.and_then(|word| source.checked.get(word));
            if word.is_some_and(|word| word.load(Ordering::Relaxed) & bit != 0) {
                continue;
            }
            let (start, len) = digest.block(index);
            let inside = start >= run.offset && start + len as u64 <= end;
            let bytes = if inside {
                let from = usize::try_from(start - run.offset).unwrap_or(0);
                &mut part[from..from + len]
            } else {
                whole = vec![0; len];
                let read = source.file.read_exact_at(&mut whole, start);
                read.map_err(|e| self.failed(run, e))?;
                &mut whole[..]
            };
            if !digest.block_matches(index, bytes) {
                // CRIU may have freed other pages of the block: then its digest tells nothing.
                let block = PageRange::new(start, start + len as u64);
                let holes =
                    unmarked(&source.file, block, digest).map_err(|e| self.failed(run, e))?;
                let own = PageRange::new(run.offset, end);
                if holes.is_empty() || !holes.intersect(&own.into()).is_empty() {
                    return Err(self.damaged(run, start, len));
                }
            }
            if let Some(word) = word {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn damaged(&self, run: &Owned, start: u64, len: usize) -> Error {
        let dir = self.images(run).map(|images| images.dir().to_path_buf());
        let file = dir
            .unwrap_or_default()
            .join(format!("pages-{}.img", run.pages_id));
        Error::corrupt(format!(
            "{} is damaged: bytes {start:x}-{:x} are not what was written (found while reading {} of {})",
            file.display(),
            start + len as u64,
            run.range,
            self.id.file_name(),
        ))
        .hint("icecore verify tells what is affected; use another layer, or a copy of this one")
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
