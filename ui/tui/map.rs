//! The ownership map: every populated page of a layer, one after the other, with the layer whose
//! bytes a restore would take; folded to as many pixels as there is room for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use icecore::chain::{Held, Stack};
use icecore::image::PagemapId;
use icecore::{PAGE_SIZE, PageRange, Result, Vaddr};
use serde::{Deserialize, Serialize};

use super::coloring::Coloring;
use super::text::cut;
use super::theme::letter;
use crate::format;

/// Columns of the name of a mapping: whose it is has to have room, too.
const NAME: usize = 30;

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

/// How much of a layer the map shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Zoom {
    /// Everything.
    #[default]
    Tree,
    /// One process or shared segment.
    Process,
    /// One mapping.
    Mapping,
    /// A pixel is a page.
    Page,
}

impl Zoom {
    /// Closer.
    pub(crate) fn closer(self) -> Self {
        match self {
            Self::Tree => Self::Process,
            Self::Process => Self::Mapping,
            Self::Mapping | Self::Page => Self::Page,
        }
    }

    /// Farther.
    pub(crate) fn farther(self) -> Self {
        match self {
            Self::Page => Self::Mapping,
            Self::Mapping => Self::Process,
            Self::Process | Self::Tree => Self::Tree,
        }
    }
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
    /// Mappings: process or segment, addresses, name.
    pub(crate) mappings: Vec<(usize, PageRange, String)>,
    /// What the owners stand for.
    pub(crate) coloring: Coloring,
    /// Number of pages.
    pub(crate) total: u64,
}

/// A map on a grid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folded {
    /// The first page.
    pub(crate) first: u64,
    /// How many.
    pub(crate) pages: u64,
    /// Pages in one pixel, at least one.
    pub(crate) pages_per_pixel: u64,
    /// One of the owners of the pages in each pixel, so that each has its share of the pixels.
    pub(crate) pixels: Vec<Owner>,
    /// Pages of each owner among those shown, newest first.
    pub(crate) shares: Vec<(Owner, u64)>,
}

impl Map {
    /// Computes the map of the owners of the layer in `dir`.
    ///
    /// # Errors
    /// When the layer or one of its ancestors cannot be read.
    pub(super) fn of_owners(dir: &Path) -> Result<Self> {
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
            let mappings = stack.tip().mappings(id).into_iter();
            let space = map.ids.len();
            map.mappings
                .extend(mappings.map(|(range, name)| (space, range, format::plain(&name))));
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

    /// The same pages, in classes of another colouring.
    pub(super) fn colored(&self, coloring: Coloring, classes: &[Option<usize>]) -> Self {
        let mut map = Self {
            coloring,
            runs: Vec::new(),
            total: 0,
            spaces: Vec::new(),
            ..self.clone()
        };
        let mut classes = classes.iter();
        for (index, name) in self.spaces.iter().enumerate() {
            map.spaces.push(name.clone());
            for run in self.runs.iter().filter(|run| run.space == index) {
                let mut at = run.addr;
                let end = run.addr + run.pages * PAGE_SIZE;
                let part = classes
                    .by_ref()
                    .take(usize::try_from(run.pages).unwrap_or(0));
                let owners: Vec<Owner> = part
                    .map(|class| class.map_or(Owner::Missing, Owner::Layer))
                    .collect();
                for same in owners.chunk_by(|a, b| a == b) {
                    let pages = u64::try_from(same.len()).unwrap_or(0);
                    map.push(at, pages, same.first().copied().unwrap_or(Owner::Missing));
                    at += pages * PAGE_SIZE;
                }
                if at < end {
                    map.push(at, (end - at) / PAGE_SIZE, Owner::Missing);
                }
            }
        }
        map
    }

    /// The number of the ordinary case: the lowest layer's place in the stack, or the last class.
    pub(crate) fn last(&self) -> usize {
        match self.coloring {
            Coloring::Owner => self.levels.len().saturating_sub(1),
            other => other.classes().len().saturating_sub(1),
        }
    }

    /// The letter of an owner or class.
    pub(crate) fn letter(&self, owner: Owner) -> char {
        match (owner, self.coloring) {
            (_, Coloring::Owner) | (Owner::Missing, _) => letter(owner),
            (Owner::Layer(n), other) => other.classes().get(n).map_or('?', |class| class.0),
        }
    }

    /// The name of an owner or class.
    pub(crate) fn name(&self, owner: Owner) -> &str {
        match (owner, self.coloring) {
            (Owner::Missing, Coloring::Owner) => "MISSING",
            (Owner::Missing, _) => "no bytes",
            (Owner::Layer(n), Coloring::Owner) => self.levels.get(n).map_or("?", String::as_str),
            (Owner::Layer(n), other) => other.classes().get(n).map_or("?", |class| class.1),
        }
    }

    /// The mapping around an address of a process or segment.
    pub(crate) fn mapping_at(&self, space: usize, addr: Vaddr) -> Option<(PageRange, &str)> {
        let here = |(of, range, _): &&(usize, PageRange, String)| {
            *of == space && (range.start..range.end).contains(&addr)
        };
        let found = self.mappings.iter().find(here);
        found.map(|(_, range, name)| (*range, name.as_str()))
    }

    /// The first page and the number of pages that a zoom shows around page `at`.
    pub(crate) fn window(&self, zoom: Zoom, at: u64, pixels: u64) -> (u64, u64) {
        let Some((run, _)) = self.within(at, 1).next() else {
            return (0, self.total);
        };
        let addr = run.addr + at.saturating_sub(run.first) * PAGE_SIZE;
        let mapping = self.mapping_at(run.space, addr).map(|(range, _)| range);
        let all = |taken: &dyn Fn(&Run) -> u64, before: &dyn Fn(&Run) -> u64| {
            let runs = || self.runs.iter().filter(|other| other.space == run.space);
            let first = self.runs.iter().find(|other| other.space == run.space);
            let first = first.map_or(0, |first| first.first);
            (
                first + runs().map(before).sum::<u64>(),
                runs().map(taken).sum(),
            )
        };
        match (zoom, mapping) {
            (Zoom::Tree, _) => (0, self.total),
            (Zoom::Process, _) | (Zoom::Mapping, None) => all(&|run| run.pages, &|_| 0),
            (Zoom::Mapping, Some(range)) => {
                let part = |run: &Run, from: Vaddr, to: Vaddr| {
                    let end = run.addr + run.pages * PAGE_SIZE;
                    end.min(to).saturating_sub(run.addr.max(from)) / PAGE_SIZE
                };
                all(&|run| part(run, range.start, range.end), &|run| {
                    part(run, 0, range.start)
                })
            }
            (Zoom::Page, _) => {
                let pixels = pixels.max(1).min(self.total);
                let first = at.saturating_sub(pixels / 2).min(self.total - pixels);
                (first, pixels)
            }
        }
    }

    /// Folds the map to at most `pixels` pixels.
    #[cfg(test)]
    pub(crate) fn fold(&self, pixels: u64) -> Folded {
        self.fold_part((0, self.total), pixels)
    }

    /// Folds `pages` pages from `first` on.
    pub(crate) fn fold_part(&self, (first, pages): (u64, u64), pixels: u64) -> Folded {
        let mut folded = Folded {
            first,
            pages,
            pages_per_pixel: pages.div_ceil(pixels.max(1)).max(1),
            pixels: Vec::new(),
            shares: self.shares_of(first, pages),
        };
        if pixels == 0 {
            return folded;
        }
        let size = folded.pages_per_pixel;
        // Pages of each owner in the pixel that is being filled.
        let mut counts: Vec<(Owner, u64)> = Vec::new();
        let mut owed = Owed::default();
        let mut room = size;
        for (run, mut left) in self.within(first, pages) {
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

    /// How many of `pages` pages from `first` on each owner has, newest first.
    fn shares_of(&self, first: u64, pages: u64) -> Vec<(Owner, u64)> {
        let mut shares = BTreeMap::new();
        for (run, pages) in self.within(first, pages) {
            *shares.entry(run.owner).or_default() += pages;
        }
        shares.into_iter().collect()
    }

    /// Which part of the layer a zoom shows, when that begins at page `first`; nothing where it is all.
    pub(crate) fn part(&self, zoom: Zoom, first: u64) -> Option<String> {
        if zoom == Zoom::Tree {
            return None;
        }
        if zoom == Zoom::Page {
            return Some("page by page".into());
        }
        let (run, _) = self.within(first, 1).next()?;
        let space = self.spaces.get(run.space)?;
        let addr = run.addr + first.saturating_sub(run.first) * PAGE_SIZE;
        // Where no mapping is known, a zoom shows all of the process.
        let mapping = self.mapping_at(run.space, addr);
        Some(match mapping.filter(|_| zoom == Zoom::Mapping) {
            None => space.clone(),
            Some((range, "")) => format!("{range} of {space}"),
            // The directory of a file is worth less than the room that it takes.
            Some((_, name)) => {
                let name = cut(name.rsplit('/').next().unwrap_or(name), NAME);
                format!("{name} of {space}")
            }
        })
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
    fn a_zoom_shows_what_is_around_a_page_and_never_less_than_it() {
        let mut map = made(&[(100, 0)]);
        map.spaces.push("process 8".into());
        map.push(0x1000, 50, Owner::Layer(1));
        map.push(0x90_0000, 30, Owner::Layer(0));
        let range = |addr, pages| PageRange::of_pages(addr, pages);
        map.mappings.push((1, range(0x1000, 60), "heap".into()));
        map.mappings.push((1, range(0x90_0000, 30), String::new()));
        assert_eq!(map.window(Zoom::Tree, 120, 10), (0, 180));
        assert_eq!(map.window(Zoom::Process, 120, 10), (100, 80));
        assert_eq!(map.window(Zoom::Mapping, 120, 10), (100, 50));
        assert_eq!(map.window(Zoom::Mapping, 151, 10), (150, 30));
        assert_eq!(map.window(Zoom::Page, 151, 10), (146, 10));
        assert_eq!(map.window(Zoom::Page, 179, 10), (170, 10));
        assert_eq!(
            map.window(Zoom::Mapping, 50, 10),
            (0, 100),
            "no mapping is known"
        );
        assert_eq!(
            map.fold_part((146, 10), 10).pixels[..5],
            [[Owner::Layer(1); 4].as_slice(), &[Owner::Layer(0)]].concat()
        );
    }

    #[test]
    fn what_is_counted_and_named_is_the_part_that_is_shown() {
        let mut map = made(&[(100, 0)]);
        map.spaces.push("process 8".into());
        map.push(0x1000, 50, Owner::Layer(1));
        map.push(0x90_0000, 1, Owner::Layer(0));
        let range = |addr, pages| PageRange::of_pages(addr, pages);
        map.mappings
            .push((1, range(0x1000, 60), "/usr/lib/libc.so".into()));
        map.mappings.push((1, range(0x90_0000, 1), String::new()));
        let (here, below) = (Owner::Layer(0), Owner::Layer(1));
        let part = |zoom, page| {
            let folded = map.fold_part(map.window(zoom, page, 10), 10);
            let part = map.part(zoom, folded.first);
            assert_eq!(
                folded.shares.iter().map(|(_, n)| n).sum::<u64>(),
                folded.pages
            );
            (part.unwrap_or_default(), folded.pages, folded.shares)
        };
        assert_eq!(
            part(Zoom::Tree, 120),
            (String::new(), 151, vec![(here, 101), (below, 50)])
        );
        assert_eq!(
            part(Zoom::Process, 120),
            ("process 8".into(), 51, vec![(here, 1), (below, 50)])
        );
        assert_eq!(
            part(Zoom::Mapping, 120),
            ("libc.so of process 8".into(), 50, vec![(below, 50)])
        );
        assert_eq!(
            part(Zoom::Mapping, 150),
            ("900000-901000 of process 8".into(), 1, vec![(here, 1)])
        );
        let unknown = "no mapping is known";
        assert_eq!(part(Zoom::Mapping, 50).0, "process 7", "{unknown}");
        assert_eq!(part(Zoom::Page, 150).1, 10);
    }

    #[test]
    fn another_colouring_keeps_every_page_in_its_place() {
        let map = made(&[(3, 0), (2, 1)]);
        let classes = [Some(1), Some(1), Some(0), None, Some(1)];
        let zero = map.colored(Coloring::Zero, &classes);
        let shown: Vec<_> = zero
            .runs
            .iter()
            .map(|run| (run.first, run.pages, run.owner, run.addr))
            .collect();
        let (z, o) = (Owner::Layer(0), Owner::Layer(1));
        let expected = [
            (0, 2, o, 0),
            (2, 1, z, 8192),
            (3, 1, Owner::Missing, 12288),
            (4, 1, o, 16384),
        ];
        assert_eq!(shown, expected);
        assert_eq!((zero.total, zero.letter(z), zero.letter(o)), (5, 'z', 'o'));
    }

    #[test]
    fn a_missing_page_is_never_outvoted() {
        let mut map = made(&[(500, 0)]);
        map.push(0, 1, Owner::Missing);
        assert_eq!(map.fold(1).pixels, [Owner::Missing]);
    }
}
