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
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

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
        let present = pagemap.runs.iter().filter(|r| r.place == Place::Present);
        let runs = present.map(|run| {
            let range = run.range();
            offset += range.bytes();
            Owned {
                range,
                layer,
                pages_id: pagemap.pages_id,
                offset: offset - range.bytes(),
            }
        });
        Self {
            runs: joined(runs.collect()),
            missing: Vec::new(),
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

/// A search for owners on its way down the stack, one pagemap at a time, so that a caller stops
/// reading as soon as every page is found.
#[derive(Debug)]
pub struct Descent {
    wanted: Ranges,
    layer: usize,
    found: Ownership,
}

impl Descent {
    /// Begins at the tip.
    pub fn new(tip: &Pagemap) -> Self {
        Self::from(0, tip)
    }

    /// Begins at the layer number `layer`.
    pub fn from(layer: usize, tip: &Pagemap) -> Self {
        let mut descent = Self {
            wanted: Ranges::new(),
            layer,
            found: Ownership::default(),
        };
        descent.wanted = descent.take(tip, None);
        descent
    }

    /// True when every page has its owner.
    pub fn is_done(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Goes on with the parent's pagemap.
    pub fn below(&mut self, parent: &Pagemap) {
        let wanted = std::mem::take(&mut self.wanted);
        self.lose(&wanted.minus(&Ranges::covered(parent)), Why::NotCovered);
        self.layer += 1;
        self.wanted = self.take(parent, Some(&wanted));
    }

    /// Ends the search; pages that are still wanted are missing for the reason given.
    pub fn end(mut self, why: Why) -> Ownership {
        let wanted = std::mem::take(&mut self.wanted);
        self.lose(&wanted, why);
        let Ownership {
            mut runs,
            mut missing,
        } = self.found;
        runs.sort_unstable_by_key(|run| run.range);
        missing.sort_unstable_by_key(|gap| gap.range);
        Ownership {
            runs: joined(runs),
            missing,
        }
    }

    fn lose(&mut self, pages: &Ranges, why: Why) {
        let layer = self.layer;
        self.found
            .missing
            .extend(pages.iter().map(|range| Missing { range, layer, why }));
    }

    /// Notes what this layer owns of the wanted pages (`None`: all) and returns what it sends on.
    fn take(&mut self, pagemap: &Pagemap, wanted: Option<&Ranges>) -> Ranges {
        let everything = if wanted.is_none() {
            Ranges::covered(pagemap)
        } else {
            Ranges::new()
        };
        let wanted = wanted.unwrap_or(&everything);
        let mut offset = 0;
        let mut further = Ranges::new();
        let mut want = wanted.iter().peekable();
        for run in &pagemap.runs {
            let range = run.range();
            while let Some(next) = want.peek() {
                let part = next.intersect(range);
                if !part.is_empty() {
                    match run.place {
                        Place::Parent => further.push(part),
                        Place::Present => self.found.runs.push(Owned {
                            range: part,
                            layer: self.layer,
                            pages_id: pagemap.pages_id,
                            offset: offset + (part.start - range.start),
                        }),
                    }
                }
                if next.end > range.end {
                    break;
                }
                want.next();
            }
            if run.place == Place::Present {
                offset += run.pages * PAGE_SIZE;
            }
        }
        further
    }
}

/// Joins neighbours whose bytes are neighbours too.
fn joined(runs: Vec<Owned>) -> Vec<Owned> {
    let mut all: Vec<Owned> = Vec::with_capacity(runs.len());
    for run in runs {
        match all.last_mut() {
            Some(last)
                if last.range.end == run.range.start
                    && last.layer == run.layer
                    && last.end_offset() == run.offset =>
            {
                last.range.end = run.range.end;
            }
            _ => all.push(run),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::model::{Model, chain};

    fn ownership(stack: &[Pagemap]) -> Ownership {
        let mut descent = Descent::new(&stack[0]);
        for parent in &stack[1..] {
            descent.below(parent);
        }
        descent.end(Why::NoParent)
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
