//! The ownership map: every populated page of a layer, one after the other, with the layer whose
//! bytes a restore would take; folded to as many pixels as there is room for.

use std::path::{Path, PathBuf};

use icecore::chain::{Held, Stack};
use icecore::image::PagemapId;
use icecore::{PAGE_SIZE, Result, Vaddr};

use crate::format;

/// Whose bytes a page has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The layer this far below the selected one.
    Layer(usize),
    /// Nobody's: the stack has a gap.
    Missing,
}

/// Pages with the same owner at successive addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Number of the first page on the map.
    pub(crate) first: u64,
    /// How many.
    pub(crate) pages: u64,
    /// Whose.
    pub(crate) owner: Owner,
    /// Address of the first page.
    pub(crate) addr: Vaddr,
    /// Index of the process or segment.
    pub(crate) space: usize,
}

/// All pages of a layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    /// Names of the layers, the selected one first.
    pub(crate) levels: Vec<String>,
    /// Their directories.
    pub(crate) dirs: Vec<PathBuf>,
    /// Ascending by page number, without gaps.
    pub(crate) runs: Vec<Run>,
    /// Processes and segments.
    pub(crate) spaces: Vec<String>,
    /// The same, as the images name them.
    pub(crate) ids: Vec<PagemapId>,
    /// Number of pages.
    pub(crate) total: u64,
    /// Pages of each owner, newest first.
    pub(crate) shares: Vec<(Owner, u64)>,
}

/// A map on a grid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// Pages in one pixel, at least one.
    pub(crate) pages_per_pixel: u64,
    /// One of the owners of the pages in each pixel, so that each has its share of the pixels.
    pub(crate) pixels: Vec<Owner>,
}

impl Map {
    /// Computes the map of the layer in `dir`.
    ///
    /// # Errors
    /// When the layer or one of its ancestors cannot be read.
    pub(crate) fn load(dir: &Path) -> Result<Self> {
        let _held = Held::shared(dir)?;
        let stack = Stack::open(dir)?;
        let mut map = Self {
            levels: stack
                .levels()
                .iter()
                .map(|level| format::plain(&level.name()))
                .collect(),
            dirs: stack
                .levels()
                .iter()
                .map(|level| level.dir().to_path_buf())
                .collect(),
            ..Self::default()
        };
        for id in stack.tip().images().pagemaps()? {
            let ownership = stack.ownership(id)?;
            let mut runs: Vec<(Vaddr, u64, Owner)> = ownership
                .runs()
                .iter()
                .map(|run| (run.range.start, run.range.pages(), Owner::Layer(run.layer)))
                .collect();
            runs.extend(
                ownership
                    .missing()
                    .iter()
                    .map(|gap| (gap.range.start, gap.range.pages(), Owner::Missing)),
            );
            runs.sort_unstable_by_key(|(addr, ..)| *addr);
            map.ids.push(id);
            map.spaces.push(match id {
                PagemapId::Task(pid) => format!("process {pid}"),
                PagemapId::Shared(id) => format!("shared segment {id}"),
            });
            for (addr, pages, owner) in runs {
                map.push(addr, pages, owner);
            }
        }
        Ok(map)
    }

    /// Appends pages of the latest process or segment.
    pub(crate) fn push(&mut self, addr: Vaddr, pages: u64, owner: Owner) {
        self.runs.push(Run {
            first: self.total,
            pages,
            owner,
            addr,
            space: self.spaces.len().saturating_sub(1),
        });
        self.total += pages;
        match self.shares.iter_mut().find(|(known, _)| *known == owner) {
            Some((_, sum)) => *sum += pages,
            None => {
                self.shares.push((owner, pages));
                self.shares.sort_unstable_by_key(|(owner, _)| *owner);
            }
        }
    }

    /// Number of the page at `addr` of a process or segment.
    pub(crate) fn page_at(&self, id: PagemapId, addr: Vaddr) -> Option<u64> {
        let space = self.ids.iter().position(|known| *known == id)?;
        let here = |run: &&Run| {
            run.space == space && (run.addr..run.addr + run.pages * PAGE_SIZE).contains(&addr)
        };
        let run = self.runs.iter().find(here)?;
        Some(run.first + (addr - run.addr) / PAGE_SIZE)
    }

    /// The lowest layer's place in the stack.
    pub(crate) fn last(&self) -> usize {
        self.levels.len().saturating_sub(1)
    }

    /// Folds the map to at most `pixels` pixels.
    pub(crate) fn fold(&self, pixels: u64) -> Folded {
        let mut folded = Folded {
            pages_per_pixel: self.total.div_ceil(pixels.max(1)).max(1),
            pixels: Vec::new(),
        };
        if pixels == 0 {
            return folded;
        }
        let size = folded.pages_per_pixel;
        // Pages of each owner in the pixel that is being filled.
        let mut counts: Vec<(Owner, u64)> = Vec::new();
        let mut owed = Owed::default();
        let mut room = size;
        for run in &self.runs {
            let mut left = run.pages;
            while left > 0 {
                let part = left.min(room);
                match counts.iter_mut().find(|(owner, _)| *owner == run.owner) {
                    Some((_, sum)) => *sum += part,
                    None => counts.push((run.owner, part)),
                }
                left -= part;
                room -= part;
                if room == 0 {
                    folded.pixels.extend(owed.choose(&mut counts));
                    room = size;
                }
            }
        }
        folded.pixels.extend(owed.choose(&mut counts));
        folded
    }

    /// The runs that touch the pages `[first, first + pages)`.
    pub(crate) fn within(&self, first: u64, pages: u64) -> impl Iterator<Item = (Run, u64)> + '_ {
        let end = first + pages;
        let from = self
            .runs
            .partition_point(|run| run.first + run.pages <= first);
        self.runs
            .iter()
            .skip(from)
            .take_while(move |run| run.first < end)
            .map(move |run| {
                let part = (run.first + run.pages).min(end) - run.first.max(first);
                (*run, part)
            })
    }
}

/// Pages of each owner that no pixel has shown yet. An owner whose few pages lie scattered wins no
/// pixel by majority; what it is owed adds up until it gets one, so it cannot vanish from the map.
#[derive(Debug, Default)]
struct Owed(Vec<(Owner, i64)>);

impl Owed {
    /// The owner of a pixel with these pages; a missing page is never outvoted.
    fn choose(&mut self, counts: &mut Vec<(Owner, u64)>) -> Option<Owner> {
        let mut best: Option<usize> = None;
        let mut pages = 0;
        for (owner, count) in counts.iter() {
            let count = i64::try_from(*count).unwrap_or(i64::MAX);
            pages += count;
            let at = self.0.iter().position(|(known, _)| known == owner);
            let at = at.unwrap_or_else(|| {
                self.0.push((*owner, 0));
                self.0.len() - 1
            });
            self.0[at].1 += count;
            let rank = |at: usize| (self.0[at].0 == Owner::Missing, self.0[at].1);
            if best.is_none_or(|best| rank(at) > rank(best)) {
                best = Some(at);
            }
        }
        counts.clear();
        let winner = &mut self.0[best?];
        winner.1 -= pages;
        Some(winner.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(runs: &[(u64, usize)]) -> Map {
        let mut map = Map {
            spaces: vec!["process 7".into()],
            ..Map::default()
        };
        for (pages, layer) in runs {
            map.push(map.total * 4096, *pages, Owner::Layer(*layer));
        }
        map
    }

    proptest! {
        #[test]
        fn a_pixel_shows_an_owner_of_one_of_its_pages(
            runs in prop::collection::vec((1u64..40, 0usize..4), 0..30),
            pixels in 1u64..200,
        ) {
            let map = made(&runs);
            let pages: Vec<usize> = runs
                .iter()
                .flat_map(|(pages, layer)| std::iter::repeat_n(*layer, *pages as usize))
                .collect();
            let folded = map.fold(pixels);
            prop_assert!(folded.pixels.len() as u64 <= pixels);
            let size = folded.pages_per_pixel as usize;
            prop_assert_eq!(folded.pixels.len(), pages.len().div_ceil(size));
            for (pixel, part) in folded.pixels.iter().zip(pages.chunks(size)) {
                let Owner::Layer(layer) = *pixel else { panic!("nothing is missing") };
                prop_assert!(part.contains(&layer));
                prop_assert!(size > 1 || part == [layer]);
            }
        }
    }

    #[test]
    fn an_owner_of_few_scattered_pages_gets_its_share_of_the_pixels() {
        // One page in a hundred, never more than a tenth of a pixel.
        let runs: Vec<(u64, usize)> = (0..1000).flat_map(|_| [(99, 1), (1, 0)]).collect();
        let pixels = made(&runs).fold(1000).pixels;
        let few = pixels.iter().filter(|p| **p == Owner::Layer(0)).count();
        assert!((9..=11).contains(&few), "{few} of {}", pixels.len());
    }

    #[test]
    fn a_missing_page_is_never_outvoted() {
        let mut map = made(&[(500, 0)]);
        map.push(0, 1, Owner::Missing);
        assert_eq!(map.fold(1).pixels, [Owner::Missing]);
    }
}
