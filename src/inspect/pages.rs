//! The pages of two memories side by side.

use serde::Serialize;

use super::cat::CHUNK;
use super::space::Space;
use super::view::View;
use crate::chain::{Owned, Ranges, Resolved};
use crate::error::Result;
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// Pages of one mapping that differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pages {
    /// The mapping (of the first memory for pages that are gone).
    pub mapping: PageRange,
    /// Its name.
    pub name: String,
    /// Pages of both whose bytes differ.
    pub changed: Ranges,
    /// Bytes that differ in those.
    pub bytes: u64,
    /// Pages that only the second layer has.
    pub appeared: Ranges,
    /// Pages that only the first layer has.
    pub gone: Ranges,
}

/// Compares the pages that are the tasks' own, mapping by mapping.
pub(super) fn compare(
    from: &View,
    a: &Space<'_>,
    to: &View,
    b: &Space<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<Pages>> {
    let covered = |memory: &Resolved<'_>| -> Ranges {
        let mut set = Ranges::new();
        memory.runs().iter().for_each(|run| set.push(run.range));
        set
    };
    let (before, after) = (covered(a.memory()), covered(b.memory()));
    let (appeared, gone) = (after.minus(&before), before.minus(&after));
    let mut changed = Changed::default();
    let mut compared = 0;
    for range in before.intersect(&after).iter() {
        let mut at = range.start;
        while let (Some(x), Some(y)) = (
            a.memory()
                .ownership()
                .within(PageRange::new(at, range.end))
                .next(),
            b.memory()
                .ownership()
                .within(PageRange::new(at, range.end))
                .next(),
        ) {
            let part = x.range.intersect(y.range);
            if part.is_empty() {
                break;
            }
            if !same_place(from, &x, to, &y) {
                changed.read(a, b, part)?;
            }
            compared += part.pages();
            progress(compared);
            at = part.end;
        }
    }
    let mut all = Vec::new();
    for (space, gone_only) in [(b, false), (a, true)] {
        for mapping in space.mappings() {
            let here = Ranges::from(mapping.range);
            let in_both = |set: &Ranges| {
                if gone_only {
                    Ranges::new()
                } else {
                    set.intersect(&here)
                }
            };
            let changed_here = in_both(&changed.pages);
            let found = Pages {
                mapping: mapping.range,
                name: mapping.name.clone(),
                bytes: changed.bytes_in(&changed_here),
                changed: changed_here,
                appeared: in_both(&appeared),
                gone: if gone_only {
                    gone.intersect(&here)
                } else {
                    Ranges::new()
                },
            };
            if !(found.changed.is_empty() && found.appeared.is_empty() && found.gone.is_empty()) {
                all.push(found);
            }
        }
    }
    Ok(joined(all))
}

/// One entry for what is gone from a mapping and what is new in it, where the mapping is the same.
fn joined(all: Vec<Pages>) -> Vec<Pages> {
    let mut joined: Vec<Pages> = Vec::new();
    for next in all {
        match joined
            .iter_mut()
            .find(|old| old.mapping == next.mapping && old.name == next.name)
        {
            Some(old) => old.gone = next.gone,
            None => joined.push(next),
        }
    }
    joined.sort_by_key(|pages| pages.mapping);
    joined
}

/// True when both runs begin at the same byte of the same file.
fn same_place(from: &View, x: &Owned, to: &View, y: &Owned) -> bool {
    let file = |view: &View, run: &Owned| {
        view.stack()
            .level(run.layer)
            .map(|level| level.dir().to_path_buf())
            .ok()
    };
    let base = |run: &Owned| run.offset.wrapping_sub(run.range.start);
    x.pages_id == y.pages_id && base(x) == base(y) && file(from, x) == file(to, y)
}

/// Pages that differ, with the number of bytes.
#[derive(Debug, Default)]
struct Changed {
    pages: Ranges,
    each: Vec<(Vaddr, u64)>,
}

impl Changed {
    /// Compares `range`, which both have.
    fn read(&mut self, a: &Space<'_>, b: &Space<'_>, range: PageRange) -> Result<()> {
        let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
        let page = usize::try_from(PAGE_SIZE).unwrap_or(CHUNK);
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            a.memory().read_at(at, &mut left[..len])?;
            b.memory().read_at(at, &mut right[..len])?;
            let pages = left[..len].chunks(page).zip(right[..len].chunks(page));
            for ((x, y), addr) in pages.zip((at..).step_by(page)) {
                if x != y {
                    let bytes = x.iter().zip(y).filter(|(x, y)| x != y).count();
                    self.pages.push(PageRange::of_pages(addr, 1));
                    self.each.push((addr, bytes as u64));
                }
            }
            at += len as u64;
        }
        Ok(())
    }

    fn bytes_in(&self, pages: &Ranges) -> u64 {
        let mut sum = 0;
        for range in pages.iter() {
            let first = self.each.partition_point(|(addr, _)| *addr < range.start);
            let inside = self.each[first..]
                .iter()
                .take_while(|(addr, _)| *addr < range.end);
            sum += inside.map(|(_, bytes)| bytes).sum::<u64>();
        }
        sum
    }
}
