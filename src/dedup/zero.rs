//! Zero pages: stored pages that hold nothing but zeros become holes, which read as zeros.
//!
//! Pagemaps and offsets stay as they are, so CRIU reads them too. The sidecar notes the holes before
//! they are made: they are told from pages that were freed, and a kill in between means nothing, for
//! the bytes are the same before and after.

use super::apply::{extents, note, punch};
use super::intact::{Intact, each};
use super::{Freed, Plan, Strategy};
use crate::chain::{self, Ranges, Stack};
use crate::error::Result;
use crate::event::{Cancel, Event, Reporter};
use crate::image::{Images, Sidecar};
use crate::units::{PAGE_SIZE, PageRange};

/// Lossless: zeros become holes.
#[derive(Clone, Copy, Debug)]
pub struct Zero;

impl Strategy for Zero {
    fn name(&self) -> &'static str {
        "zero"
    }

    fn summary(&self) -> &'static str {
        "turns stored pages of zeros into holes; every layer stays what it is"
    }

    fn is_lossless(&self) -> bool {
        true
    }

    fn plan(&self, stack: &Stack, plan: &mut Plan, cancel: &Cancel) -> Result<()> {
        let mut intact = Intact::new(stack);
        for (index, level) in stack.levels().iter().enumerate() {
            for id in level.images().pagemaps()? {
                cancel.check()?;
                let Some(pagemap) = chain::pagemap(level.images(), id)? else {
                    continue;
                };
                let there = intact.stored(index, &pagemap)?;
                let mut zeros = Ranges::new();
                each(
                    &stack.stored(index, &pagemap, id).checked(),
                    &there,
                    |at, bytes| {
                        cancel.check()?;
                        for (start, page) in (at..).step_by(PAGE_SIZE as usize).zip(pages(bytes)) {
                            if is_zero(page) {
                                zeros.push(PageRange::of_pages(start, 1));
                            }
                        }
                        Ok(())
                    },
                )?;
                plan.punch(level, id, &pagemap, &zeros)?;
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        plan: &Plan,
        freed: &mut Freed,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<()> {
        for cut in &plan.cuts {
            cancel.check()?;
            Sidecar::update(&Images::open(&cut.dir)?, |sidecar| {
                let pages = sidecar.pages_of(cut.pages_id);
                let before = pages.zeros.clone();
                pages.zero(&extents(&cut.offsets));
                Ok(pages.zeros != before)
            })?;
            let bytes = punch(cut)?;
            note(freed, &cut.dir, cut.pages, bytes);
            let (done, total) = (freed.pages, plan.pages);
            reporter.report(Event::Progress { done, total });
        }
        Ok(())
    }
}

/// The pages of `bytes`.
pub(super) fn pages(bytes: &[u8]) -> std::slice::ChunksExact<'_, u8> {
    bytes.chunks_exact(PAGE_SIZE as usize)
}

/// True when every byte is zero.
pub(super) fn is_zero(page: &[u8]) -> bool {
    static ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    page == ZEROS
}
