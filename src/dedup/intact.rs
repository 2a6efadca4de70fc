//! Pages whose bytes are really there, as of any layer of a stack; and reading them.
//!
//! A page that dedup freed, or that is gone for another reason, reads as zeros: it must never be
//! taken for one that holds zeros.

use std::collections::BTreeMap;

use super::plan::{of_file, stored, translate};
use crate::chain::{self, Ranges, Resolved, Stack};
use crate::error::{Error, Result};
use crate::image::Pagemap;
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// Bytes read at once.
pub(super) const CHUNK: u64 = 256 * 1024;

/// What is lost in the pages files of a stack, looked up once for each file.
#[derive(Debug)]
pub(super) struct Intact<'s> {
    stack: &'s Stack,
    lost: BTreeMap<(usize, u32), Ranges>,
}

impl<'s> Intact<'s> {
    pub(super) fn new(stack: &'s Stack) -> Self {
        let lost = BTreeMap::new();
        Self { stack, lost }
    }

    /// The parts of a pages file whose bytes are gone, and what lies beyond its end.
    fn lost(&mut self, index: usize, pages_id: u32) -> Result<&Ranges> {
        if !self.lost.contains_key(&(index, pages_id)) {
            let level = self.stack.level(index)?;
            let file = level.images().pages_file(pages_id)?;
            let known = level.sidecar().and_then(|s| s.known_pages(pages_id));
            let path = level.dir().join(format!("pages-{pages_id}.img"));
            let cannot = |e| Error::path("read", &path, e);
            let len = file.metadata().map_err(cannot)?.len() / PAGE_SIZE * PAGE_SIZE;
            let mut lost = chain::lost(&file, len, known).map_err(cannot)?;
            if let Some(known) = known {
                lost = lost.union(&known.freed[..].into());
            }
            lost = lost.union(&PageRange::new(len, u64::MAX).into());
            self.lost.insert((index, pages_id), lost);
        }
        static NONE: Ranges = Ranges::new();
        Ok(self.lost.get(&(index, pages_id)).unwrap_or(&NONE))
    }

    /// The addresses that layer `index` stores and that are there.
    pub(super) fn stored(&mut self, index: usize, pagemap: &Pagemap) -> Result<Ranges> {
        let runs = stored(pagemap);
        let lost = self.lost(index, pagemap.pages_id)?;
        let whole: Ranges = runs.iter().map(|(range, _)| *range).collect();
        if lost.is_empty() {
            return Ok(whole);
        }
        let gone = runs
            .iter()
            .map(|(range, at)| (of_file(*range, *at), range.start));
        Ok(whole.minus(&translate(gone, lost)))
    }
}

/// Calls `look` with some of the pages of `wanted` at a time: their addresses, and their bytes in
/// `memory`, compared with their digests.
pub(super) fn each(
    memory: &Resolved<'_>,
    wanted: &Ranges,
    mut look: impl FnMut(Vaddr, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    for range in wanted.iter() {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(CHUNK);
            let part = &mut buffer[..usize::try_from(len).unwrap_or(0)];
            memory.read_at(at, part)?;
            look(at, part)?;
            at += len;
        }
    }
    Ok(())
}
