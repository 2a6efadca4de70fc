//! A set of pages as an ascending list of disjoint ranges that never touch.
//!
//! All operations merge two sorted lists, so they cost as many steps as there are ranges, however
//! many pages those hold. Empty ranges are never stored.

use serde::Serialize;

use crate::image::{Extent, Pagemap, Place};
use crate::units::{PageRange, Vaddr};

/// A set of pages: ascending, disjoint ranges; neighbours are joined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Ranges(Vec<PageRange>);

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The pages of `pagemap` that are in `place`.
    pub fn of(pagemap: &Pagemap, place: Place) -> Self {
        let mut set = Self::new();
        for run in pagemap.runs.iter().filter(|run| run.place == place) {
            set.push(run.range());
        }
        set
    }

    /// All pages of `pagemap`.
    pub fn covered(pagemap: &Pagemap) -> Self {
        let mut set = Self::new();
        for run in &pagemap.runs {
            set.push(run.range());
        }
        set
    }

    /// Adds a range that starts nowhere before the last one that was added.
    pub fn push(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.0.iter().copied()
    }

    /// True when the set holds nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.iter().map(PageRange::pages).sum()
    }

    /// True when `addr` lies in one of the ranges.
    pub fn contains(&self, addr: Vaddr) -> bool {
        let after = self.0.partition_point(|range| range.start <= addr);
        after > 0
            && self
                .0
                .get(after - 1)
                .is_some_and(|range| range.contains(addr))
    }

    /// Pages in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let mut both = Self::new();
        let (mut left, mut right) = (self.0.as_slice(), other.0.as_slice());
        while let ([a, rest_a @ ..], [b, rest_b @ ..]) = (left, right) {
            both.push(a.intersect(*b));
            if a.end < b.end {
                left = rest_a;
            } else {
                right = rest_b;
            }
        }
        both
    }

    /// Pages in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = Self::new();
        let (mut left, mut right) = (self.0.as_slice(), other.0.as_slice());
        loop {
            match (left, right) {
                ([a, rest @ ..], [b, ..]) if a.start <= b.start => {
                    all.push(*a);
                    left = rest;
                }
                (_, [b, rest @ ..]) => {
                    all.push(*b);
                    right = rest;
                }
                ([a, rest @ ..], []) => {
                    all.push(*a);
                    left = rest;
                }
                ([], []) => return all,
            }
        }
    }

    /// Pages of this set that are not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = Self::new();
        let mut cuts = other.0.as_slice();
        for range in self.iter() {
            let mut start = range.start;
            while let [cut, after @ ..] = cuts {
                if cut.start >= range.end {
                    break;
                }
                rest.push(PageRange::new(start, cut.start));
                start = start.max(cut.end);
                if cut.end > range.end {
                    break; // it may reach into the next range
                }
                cuts = after;
            }
            rest.push(PageRange::new(start, range.end));
        }
        rest
    }
}

impl From<PageRange> for Ranges {
    fn from(range: PageRange) -> Self {
        let mut set = Self::new();
        set.push(range);
        set
    }
}

/// Bytes of a pages file, as a sidecar notes them.
impl From<&[Extent]> for Ranges {
    fn from(extents: &[Extent]) -> Self {
        let range = |e: &Extent| PageRange::new(e.offset, e.offset.saturating_add(e.bytes));
        extents.iter().map(range).collect()
    }
}

impl FromIterator<PageRange> for Ranges {
    /// Ranges in any order, overlapping or not.
    fn from_iter<I: IntoIterator<Item = PageRange>>(ranges: I) -> Self {
        let mut all: Vec<PageRange> = ranges.into_iter().collect();
        all.sort_unstable();
        let mut set = Self::new();
        for range in all {
            set.push(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::units::PAGE_SIZE;

    fn set(pages: &BTreeSet<u64>) -> Ranges {
        pages
            .iter()
            .map(|page| PageRange::of_pages(page * PAGE_SIZE, 1))
            .collect()
    }

    proptest! {
        #[test]
        fn operations_equal_those_on_sets_of_pages(
            a in prop::collection::btree_set(0u64..60, 0..40),
            b in prop::collection::btree_set(0u64..60, 0..40),
        ) {
            let (x, y) = (set(&a), set(&b));
            prop_assert_eq!(x.intersect(&y), set(&a.intersection(&b).copied().collect()));
            prop_assert_eq!(x.union(&y), set(&a.union(&b).copied().collect()));
            prop_assert_eq!(x.minus(&y), set(&a.difference(&b).copied().collect()));
            prop_assert_eq!(x.pages(), a.len() as u64);
            for page in 0..60 {
                prop_assert_eq!(x.contains(page * PAGE_SIZE + 7), a.contains(&page));
            }
        }
    }
}
