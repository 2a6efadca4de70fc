//! The census of a stack: how many pages each layer stores, and how many it still owns as of each
//! layer above.
//!
//! All pagemaps are read at once, window by window of addresses, from the oldest layer up: each
//! paints its number over the pages that it stores, so that after each layer the window shows who
//! owns what as of it. The rule is that of [`Ownership`](super::Ownership): what a layer keeps
//! in-parent must be covered by its direct parent. This takes a few bytes of memory for each page of
//! a window, whatever the stack, where runs would take as many bytes as there are pages.

use std::path::PathBuf;

use serde::Serialize;

use super::Stack;
use crate::error::{Error, Kind, Result};
use crate::event::Cancel;
use crate::image::{Images, PagemapId, Place, Run, Runs};
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// Pages in a window: their owners fit the second-level cache.
const WINDOW: usize = 1 << 16;

/// Nobody's page: not covered, or lost.
const NOBODY: u16 = u16::MAX;

/// How many pages each layer of a stack stores and owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Census {
    /// Tip first.
    pub layers: Vec<Counted>,
    /// Pages that the tip has, wherever they are.
    pub pages: u64,
    /// Pages of the tip that no layer holds; none in a sound stack.
    pub missing: u64,
}

/// Figures of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Its directory.
    pub dir: PathBuf,
    /// Pages that it stores.
    pub stored: u64,
    /// Pages that it leaves to its parent.
    pub in_parent: u64,
    /// Pages of it that the tip reads.
    pub owned: u64,
    /// Pages of it that the tip does not read: stored again above, or no longer there.
    pub superseded: u64,
    /// Pages of it that each layer reads: itself first, then its child, up to the tip.
    pub owned_as_of: Vec<u64>,
}

impl Census {
    /// Counts all pages of `stack`.
    ///
    /// # Errors
    /// When a pagemap cannot be read, or the stack has too many layers.
    pub fn of(stack: &Stack, cancel: &Cancel) -> Result<Self> {
        let depth = stack.depth();
        if u16::try_from(depth).is_ok_and(|depth| depth < NOBODY) {
            let mut count = Count::new(depth);
            let mut ids: Vec<PagemapId> = Vec::new();
            for level in stack.levels() {
                ids.extend(level.images().pagemaps()?);
            }
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                let cursors = stack.levels().iter().rev().map(|level| {
                    let runs = level.images().runs(id)?;
                    Cursor::new(level.images(), runs)
                });
                count.pagemap(cursors.collect::<Result<_>>()?, cancel)?;
            }
            return Ok(count.finish(stack));
        }
        let what = format!("A stack of {depth} layers is too deep to be counted");
        Err(Error::new(Kind::Unsupported, what))
    }
}

/// A pagemap being read.
struct Cursor {
    runs: Option<Runs>,
    /// What is left of the run that was read last.
    next: Option<Run>,
    /// Pages in the pages file that no run has claimed: a damaged pagemap could claim any number.
    unclaimed: u64,
}

impl Cursor {
    fn new(images: &Images, runs: Option<Runs>) -> Result<Self> {
        let file = runs.as_ref().map(|runs| images.pages_file(runs.pages_id()));
        let bytes = file.and_then(Result::ok).and_then(|f| f.metadata().ok());
        let mut cursor = Self {
            runs,
            next: None,
            unclaimed: bytes.map_or(0, |meta| meta.len() / PAGE_SIZE),
        };
        cursor.advance()?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<()> {
        self.next = self.runs.as_mut().and_then(Iterator::next).transpose()?;
        if let Some(run) = self.next.filter(|run| run.place == Place::Present) {
            let what = || Error::corrupt("A pagemap has more pages than its pages file");
            self.unclaimed = self.unclaimed.checked_sub(run.pages).ok_or_else(what)?;
        }
        Ok(())
    }

    /// Where the next stored page may be: everything before is left to parents, or nowhere.
    fn nothing_stored_before(&self) -> Option<Vaddr> {
        self.next.map(|run| match run.place {
            Place::Present => run.start,
            Place::Parent => run.range().end,
        })
    }

    /// The next part of a run before `end`, if there is one.
    fn take(&mut self, end: Vaddr) -> Result<Option<(PageRange, Place)>> {
        let Some(run) = self.next.filter(|run| run.start < end) else {
            return Ok(None);
        };
        let range = run.range();
        let part = PageRange::new(range.start, range.end.min(end));
        if part.end < range.end {
            self.next = Some(Run {
                start: part.end,
                pages: run.pages - part.pages(),
                ..run
            });
        } else {
            self.advance()?;
        }
        Ok(Some((part, run.place)))
    }
}

/// Figures while they are counted; layers are numbered from the oldest.
struct Count {
    depth: usize,
    stored: Vec<u64>,
    in_parent: Vec<u64>,
    /// `owned[layer * depth + owner]`: pages of `owner` as of `layer`.
    owned: Vec<u64>,
    missing: u64,
    covered: u64,
    /// The owner of each page of the window.
    window: Vec<u16>,
    /// Pages of each owner in the window at present.
    present: Vec<u64>,
}

impl Count {
    fn new(depth: usize) -> Self {
        Self {
            depth,
            stored: vec![0; depth],
            in_parent: vec![0; depth],
            owned: vec![0; depth * depth],
            missing: 0,
            covered: 0,
            window: vec![NOBODY; WINDOW],
            present: vec![0; depth],
        }
    }

    /// Counts one pagemap; `cursors` are those of the layers, oldest first.
    fn pagemap(&mut self, mut cursors: Vec<Cursor>, cancel: &Cancel) -> Result<()> {
        let bytes = WINDOW as u64 * PAGE_SIZE;
        while let Some(first) = cursors.iter().filter_map(|c| Some(c.next?.start)).min() {
            cancel.check()?;
            // What nobody stores may be as large as the address space, in a damaged layer.
            let empty = cursors
                .iter()
                .filter_map(Cursor::nothing_stored_before)
                .min();
            if let Some(end) = empty.filter(|end| end - first >= bytes) {
                self.skip(&mut cursors, end)?;
                continue;
            }
            let start = first / bytes * bytes;
            self.window.fill(NOBODY);
            self.present.fill(0);
            for (layer, cursor) in cursors.iter_mut().enumerate() {
                self.paint(layer, cursor, start, start.saturating_add(bytes))?;
                let row = layer * self.depth;
                for (total, now) in self.owned[row..].iter_mut().zip(&self.present) {
                    *total += now;
                }
            }
        }
        Ok(())
    }

    /// Counts what is before `end`, where no layer stores anything.
    fn skip(&mut self, cursors: &mut [Cursor], end: Vaddr) -> Result<()> {
        for (layer, cursor) in cursors.iter_mut().enumerate() {
            while let Some((range, _)) = cursor.take(end)? {
                self.in_parent[layer] += range.pages();
                if layer + 1 == self.depth {
                    self.covered += range.pages();
                    self.missing += range.pages();
                }
            }
        }
        Ok(())
    }

    /// Lets one layer paint the window from `start` to `end`.
    fn paint(&mut self, layer: usize, cursor: &mut Cursor, start: Vaddr, end: Vaddr) -> Result<()> {
        let is_tip = layer + 1 == self.depth;
        let number = u16::try_from(layer).unwrap_or(NOBODY);
        let page = |at: Vaddr| usize::try_from((at - start) / PAGE_SIZE).unwrap_or(WINDOW);
        let mut at = 0;
        while let Some((range, place)) = cursor.take(end)? {
            let (from, to) = (page(range.start), page(range.end));
            self.forget(at, from);
            at = to;
            if is_tip {
                self.covered += range.pages();
            }
            match place {
                Place::Present => {
                    self.stored[layer] += range.pages();
                    self.forget(from, to);
                    self.window[from..to].fill(number);
                    self.present[layer] += range.pages();
                }
                Place::Parent => {
                    self.in_parent[layer] += range.pages();
                    if is_tip {
                        let lost = self.window[from..to].iter().filter(|o| **o == NOBODY);
                        self.missing += lost.count() as u64;
                    }
                }
            }
        }
        self.forget(at, WINDOW);
        Ok(())
    }

    /// The pages from `from` to `to` are nobody's any more.
    fn forget(&mut self, from: usize, to: usize) {
        for owner in &mut self.window[from..to] {
            if *owner != NOBODY {
                self.present[usize::from(*owner)] -= 1;
                *owner = NOBODY;
            }
        }
    }

    fn finish(self, stack: &Stack) -> Census {
        let depth = self.depth;
        let as_of = |layer: usize, owner: usize| self.owned[layer * depth + owner];
        let layers = stack.levels().iter().rev().enumerate().map(|(n, level)| {
            let owned = as_of(depth - 1, n);
            Counted {
                dir: level.dir().to_path_buf(),
                stored: self.stored[n],
                in_parent: self.in_parent[n],
                owned,
                superseded: self.stored[n] - owned,
                owned_as_of: (n..depth).map(|layer| as_of(layer, n)).collect(),
            }
        });
        let mut layers: Vec<Counted> = layers.collect();
        layers.reverse();
        Census {
            layers,
            pages: self.covered,
            missing: self.missing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chain::model::{TASK, Tree, scratch, tree};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_census_equals_the_ownership_as_of_every_layer(tree in tree(1..7)) {
            let root = scratch();
            tree.write(root.path());
            for tip in 0..tree.layers.len() {
                let stack = Stack::open(Tree::dir(root.path(), tip)).unwrap();
                let census = Census::of(&stack, &Cancel::default()).unwrap();
                let id = PagemapId::Task(TASK);
                let tips = stack.ownership(id).unwrap();
                prop_assert_eq!(census.pages, tips.pages());
                prop_assert_eq!(census.missing, 0);
                for (layer, counted) in census.layers.iter().enumerate() {
                    let owned: Vec<u64> = (0..=layer).rev()
                        .map(|above| stack.ownership_as_of(above, id).unwrap().of_layer(layer).pages())
                        .collect();
                    prop_assert_eq!(&counted.owned_as_of, &owned);
                    prop_assert_eq!(counted.owned, tips.of_layer(layer).pages());
                    prop_assert_eq!(counted.stored, counted.owned + counted.superseded);
                }
            }
        }
    }
}
