//! Which layer owns each page: the bytes of a page that a layer keeps in-parent are looked up
//! layer by layer, downwards.
//!
//! The rule is CRIU's. A page that is in-parent must be covered by the pagemap of the *direct*
//! parent, which either holds it or sends the search on to its own parent. A parent that lacks the
//! page, or the whole pagemap, ends the search: looking further down would give the bytes of
//! another mapping, or of another process with the same pid. Pages that no entry of the tip covers
//! are not populated and have no owner.

use serde::Serialize;

use super::Ranges;
use crate::image::{Pagemap, Place};
use crate::units::{PageRange, Vaddr};

/// Pages whose bytes lie one after the other in one pages file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Owned {
    /// The addresses.
    pub range: PageRange,
    /// The owner's place in the stack: 0 is the tip, 1 its parent, and so on.
    pub layer: usize,
    /// N of the owner's `pages-N.img`.
    pub pages_id: u32,
    /// Where in that file the first page begins, in bytes.
    pub offset: u64,
}

impl Owned {
    /// The part of the run inside `range`, if any.
    pub fn clip(&self, range: PageRange) -> Option<Self> {
        let part = self.range.intersect(range);
        (!part.is_empty()).then(|| Self {
            range: part,
            offset: self.offset + (part.start - self.range.start),
            ..*self
        })
    }

    /// One past the last byte in the pages file.
    pub fn end_offset(&self) -> u64 {
        self.offset + self.range.bytes()
    }
}

/// Why the search for a page ended without an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Why {
    /// The layer has no parent, yet keeps the page in its parent.
    NoParent,
    /// The parent has no pagemap of this task or segment.
    NoPagemap,
    /// The parent's pagemap does not cover the page.
    NotCovered,
}

/// Pages that are in-parent but that no layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The addresses.
    pub range: PageRange,
    /// The last layer (0 = tip) that said "in my parent".
    pub layer: usize,
    /// What was wrong below it.
    pub why: Why,
}

/// Every page of one task or shared segment, with its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ownership {
    runs: Vec<Owned>,
    missing: Vec<Missing>,
}

impl Ownership {
    /// What layer `layer`, whose pagemap this is, stores itself.
    pub fn of(layer: usize, pagemap: &Pagemap) -> Self {
        let mut offset = 0;
        let mut found = Self::default();
        for run in pagemap.runs.iter().filter(|r| r.place == Place::Present) {
            let range = run.range();
            found.push(Owned {
                range,
                layer,
                pages_id: pagemap.pages_id,
                offset,
            });
            offset += range.bytes();
        }
        found
    }

    /// Adds pages above all others; neighbours whose bytes are neighbours too are one run.
    pub(super) fn push(&mut self, run: Owned) {
        match self.runs.last_mut() {
            Some(last)
                if last.range.end == run.range.start
                    && last.layer == run.layer
                    && last.end_offset() == run.offset =>
            {
                last.range.end = run.range.end;
            }
            _ => self.runs.push(run),
        }
    }

    /// Adds pages above all others that nobody has.
    pub(super) fn lose(&mut self, pages: Missing) {
        match self.missing.last_mut() {
            Some(last)
                if last.range.end == pages.range.start
                    && (last.layer, last.why) == (pages.layer, pages.why) =>
            {
                last.range.end = pages.range.end;
            }
            _ => self.missing.push(pages),
        }
    }

    /// Ascending, disjoint runs; as long as possible.
    pub fn runs(&self) -> &[Owned] {
        &self.runs
    }

    /// Ascending, disjoint: pages that cannot be found. Empty in a sound stack.
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// The run that holds `addr`.
    pub fn at(&self, addr: Vaddr) -> Option<&Owned> {
        let after = self.runs.partition_point(|run| run.range.start <= addr);
        self.runs
            .get(after.checked_sub(1)?)
            .filter(|run| run.range.contains(addr))
    }

    /// The runs inside `range`, cut to it, ascending.
    pub fn within(&self, range: PageRange) -> impl Iterator<Item = Owned> + '_ {
        let first = self
            .runs
            .partition_point(|run| run.range.end <= range.start);
        self.runs
            .iter()
            .skip(first)
            .map_while(move |run| run.clip(range))
    }

    /// The addresses that layer `layer` owns.
    pub fn of_layer(&self, layer: usize) -> Ranges {
        let mut set = Ranges::new();
        for run in self.runs.iter().filter(|run| run.layer == layer) {
            set.push(run.range);
        }
        set
    }

    /// Number of pages that have an owner.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|run| run.range.pages()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::descent::{self, Source};
    use crate::chain::model::{Model, chain};
    use crate::units::PAGE_SIZE;

    fn ownership(stack: &[Pagemap]) -> Ownership {
        let open = |n: usize| {
            let source = |pagemap: &Pagemap| Source {
                pages_id: pagemap.pages_id,
                runs: Box::new(pagemap.clone().runs.into_iter().map(Ok)),
            };
            Ok(stack.get(n).map(source).ok_or(Why::NoParent))
        };
        descent::ownership(0, open).unwrap()
    }

    proptest! {
        #[test]
        fn owners_are_those_of_the_naive_model(model in chain(1..6)) {
            let Model { pagemaps, owners, lost } = model;
            let found = ownership(&pagemaps);
            let mut pages = Vec::new();
            for run in found.runs() {
                for n in 0..run.range.pages() {
                    let at = run.range.start + n * PAGE_SIZE;
                    pages.push((at / PAGE_SIZE, (run.layer, run.offset / PAGE_SIZE + n)));
                }
            }
            prop_assert_eq!(pages, owners.into_iter().collect::<Vec<_>>());
            let missing: Vec<u64> = found.missing().iter()
                .flat_map(|gap| (gap.range.start / PAGE_SIZE)..(gap.range.end / PAGE_SIZE))
                .collect();
            prop_assert_eq!(missing, lost);
            for pair in found.runs().windows(2) {
                prop_assert!(pair[0].range.end <= pair[1].range.start);
                prop_assert!(pair[0].range.end < pair[1].range.start
                    || pair[0].layer != pair[1].layer
                    || pair[0].end_offset() != pair[1].offset, "runs are as long as possible");
            }
            for run in found.runs() {
                let middle = run.range.start + run.range.pages() / 2 * PAGE_SIZE;
                prop_assert_eq!(found.at(middle), Some(run));
            }
        }

        #[test]
        fn a_window_shows_the_same_owners_cut_to_it(model in chain(1..4), a in 0u64..80, n in 0u64..40) {
            let found = ownership(&model.pagemaps);
            let window = PageRange::of_pages(a * PAGE_SIZE, n);
            let naive: Vec<Owned> = found.runs().iter().filter_map(|run| run.clip(window)).collect();
            prop_assert_eq!(found.within(window).collect::<Vec<_>>(), naive);
        }
    }
}
