//! What a stack stores for nothing: a plan of each dedup strategy, by layer and range, and where in the
//! layers that is.
//!
//! Plans are made by a thread, the cheap ones first, and stopped when nobody looks any more. The picture of
//! a layer has all pages of the stack in the order of addresses, in [`BUCKETS`] parts at most: what two
//! layers store for the same addresses is at the same place of both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::chain::{Held, Ranges, Stack};
use icecore::dedup::{self, Plan, STRATEGIES};
use icecore::image::PagemapId;
use icecore::{Cancel, Kind, PAGE_SIZE, PageRange, Result};

use super::message::Failure;
use crate::format;

/// Parts of the picture of a layer: more than any screen has columns.
const BUCKETS: u64 = 1024;
/// Ranges that are kept of a plan, the largest.
const KEPT: usize = 2000;

/// What is known of the stack of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Surplus {
    /// The layer.
    pub(crate) dir: PathBuf,
    /// The strategy that is looked at.
    pub(crate) at: usize,
    /// All strategies, in the order of the registry.
    pub(crate) options: Vec<Choice>,
    /// What the layers store, once that is known.
    pub(crate) layers: Option<Result<Arc<Layers>, Failure>>,
    /// The first layer whose picture is shown.
    pub(crate) layer: usize,
    /// The first range shown.
    pub(crate) range: usize,
}

/// A strategy.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it frees and what that costs.
    pub(crate) summary: &'static str,
    /// What the user said; nothing: as it is best.
    pub(crate) said: Option<bool>,
    /// Its plan, once there is one.
    pub(crate) found: Option<Result<Arc<Found>, Failure>>,
}

/// A plan, made ready to be shown.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// The plan.
    pub(crate) plan: Arc<Plan>,
    /// Layers that cannot be restored any more afterwards.
    pub(crate) lost: Vec<String>,
    /// What goes, the largest first.
    pub(crate) ranges: Vec<Freed>,
    /// How many ranges are not among them, and their bytes.
    pub(crate) more: (usize, u64),
    /// Pages that go, by the directory of the layer, in each part of its picture.
    pub(crate) pages: BTreeMap<PathBuf, Vec<u64>>,
}

/// Successive pages that go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Freed {
    /// The layer.
    pub(crate) layer: String,
    /// Process or segment.
    pub(crate) whose: String,
    /// Name of the mapping.
    pub(crate) mapping: String,
    /// Addresses.
    pub(crate) range: PageRange,
    /// Bytes that they take on the disk.
    pub(crate) bytes: u64,
}

/// What the layers of a stack store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layers {
    /// Tip first.
    pub(crate) layers: Vec<Stored>,
    /// All pages that any of them stores.
    pub(crate) pages: u64,
}

/// What a layer stores.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Its name.
    pub(crate) name: String,
    /// Pages that take space, in each part of the picture.
    pub(crate) pages: Vec<u64>,
}

/// Something new about a stack.
#[derive(Clone, Debug)]
pub(crate) enum News {
    /// What the layers store.
    Layers(Result<Arc<Layers>, Failure>),
    /// The plan of the strategy with this number.
    Plan(usize, Result<Arc<Found>, Failure>),
}

/// A cell of the picture of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// The layer stores nothing there.
    Nothing,
    /// All of it stays.
    Stays,
    /// All of it stays, and it is less than half of the addresses.
    Thin,
    /// Some of it goes.
    Part,
    /// All of it goes.
    Goes,
}

impl Choice {
    /// The plan, if it frees something and nothing is in its way.
    pub(crate) fn usable(&self) -> Option<&Arc<Found>> {
        let found = self.found.as_ref()?.as_ref().ok()?;
        (found.plan.is_possible() && !found.plan.is_empty()).then_some(found)
    }

    /// Whether it is to be done: what costs no layer anything is, unless the user says otherwise.
    pub(crate) fn is_chosen(&self) -> bool {
        let best = |found: &Arc<Found>| self.said.unwrap_or(found.plan.lossless);
        self.usable().is_some_and(best)
    }
}

impl Surplus {
    /// Nothing is known yet of the layer in `dir`.
    pub(crate) fn new(dir: PathBuf) -> Self {
        let options = STRATEGIES.iter().map(|strategy| Choice {
            name: strategy.name(),
            summary: strategy.summary(),
            said: None,
            found: None,
        });
        Self {
            dir,
            at: 0,
            options: options.collect(),
            layers: None,
            layer: 0,
            range: 0,
        }
    }

    /// The plan that is looked at.
    pub(crate) fn found(&self) -> Option<&Arc<Found>> {
        self.options.get(self.at)?.found.as_ref()?.as_ref().ok()
    }

    /// The plans that are to be carried out: those chosen, or else the one that is looked at.
    pub(crate) fn chosen(&self) -> Vec<Arc<Plan>> {
        let plan = |choice: &Choice| choice.usable().map(|found| Arc::clone(&found.plan));
        let chosen = self.options.iter().filter(|choice| choice.is_chosen());
        let chosen: Vec<_> = chosen.filter_map(plan).collect();
        if chosen.is_empty() {
            return self
                .options
                .get(self.at)
                .and_then(plan)
                .into_iter()
                .collect();
        }
        chosen
    }

    /// The picture of a layer in so many cells, as the plan that is looked at would leave it.
    pub(crate) fn cells(&self, stored: &Stored, columns: usize) -> Vec<Cell> {
        let freed = self.found().and_then(|found| found.pages.get(&stored.dir));
        let all = match &self.layers {
            Some(Ok(layers)) => layers.pages,
            _ => 0,
        };
        let freed = freed.map_or(&[][..], Vec::as_slice);
        cells(&stored.pages, freed, columns, part(all))
    }
}

/// How many pages a part of the picture stands for.
fn part(pages: u64) -> u64 {
    pages.div_ceil(BUCKETS).max(1)
}

/// A picture in so many cells, of which each has at least one part, which stands for `size` pages.
fn cells(stored: &[u64], freed: &[u64], columns: usize, size: u64) -> Vec<Cell> {
    let sum = |pages: &[u64], from: usize, to: usize| -> u64 {
        let to = to.min(pages.len());
        pages.get(from..to).unwrap_or_default().iter().sum()
    };
    let cell = |column: usize| {
        let from = column * stored.len() / columns;
        let to = ((column + 1) * stored.len() / columns).max(from + 1);
        match (sum(stored, from, to), sum(freed, from, to)) {
            (0, _) => Cell::Nothing,
            (some, 0) if some * 2 < size * u64::try_from(to - from).unwrap_or(1) => Cell::Thin,
            (_, 0) => Cell::Stays,
            (stored, freed) if freed < stored => Cell::Part,
            _ => Cell::Goes,
        }
    };
    (0..columns).map(cell).collect()
}

/// The addresses of a stack, one after the other.
#[derive(Debug, Default)]
struct Axis {
    /// Each range with the number of its first page.
    ranges: BTreeMap<PagemapId, Vec<(PageRange, u64)>>,
    /// How many pages there are.
    pages: u64,
}

impl Axis {
    fn add(&mut self, id: PagemapId, all: &Ranges) {
        for range in all.iter() {
            let ranges = self.ranges.entry(id).or_default();
            ranges.push((range, self.pages));
            self.pages += range.pages();
        }
    }

    /// Adds the pages of `set` to the parts of a picture.
    fn count(&self, id: PagemapId, set: &Ranges, parts: &mut Vec<u64>) {
        let size = part(self.pages);
        parts.resize(usize::try_from(self.pages.div_ceil(size)).unwrap_or(0), 0);
        let mut axis = self.ranges.get(&id).into_iter().flatten().peekable();
        for range in set.iter() {
            while let Some((on, first)) = axis.peek() {
                let part = on.intersect(range);
                if !part.is_empty() {
                    let mut at = first + (part.start - on.start) / PAGE_SIZE;
                    let end = at + part.pages();
                    while at < end {
                        let bucket = at / size;
                        let to = end.min((bucket + 1) * size);
                        let here = usize::try_from(bucket).unwrap_or(usize::MAX);
                        if let Some(sum) = parts.get_mut(here) {
                            *sum += to - at;
                        }
                        at = to;
                    }
                }
                if on.end > range.end {
                    break;
                }
                axis.next();
            }
        }
    }
}

/// Finds out all about the stack of the layer in `dir`; `tell` says whether anybody listens.
pub(crate) fn plan(dir: &Path, cancel: &Cancel, tell: &mut dyn FnMut(News) -> bool) {
    let (axis, layers) = match stored(dir) {
        Ok(known) => known,
        Err(error) => {
            tell(News::Layers(Err((&error).into())));
            return;
        }
    };
    if !tell(News::Layers(Ok(Arc::new(layers)))) {
        return;
    }
    // Those that read no pages first.
    let mut order: Vec<usize> = (0..STRATEGIES.len()).collect();
    order.sort_by_key(|n| STRATEGIES.get(*n).is_some_and(|s| s.is_lossless()));
    for n in order {
        let Some(strategy) = STRATEGIES.get(n) else {
            continue;
        };
        let plan = dedup::plan_unless(dir, *strategy, cancel);
        if plan.as_ref().is_err_and(|e| e.kind() == Kind::Cancelled) {
            return;
        }
        let found = plan.map(|plan| Arc::new(shown(plan, &axis)));
        if !tell(News::Plan(n, found.map_err(|e| (&e).into()))) {
            return;
        }
    }
}

fn stored(dir: &Path) -> Result<(Axis, Layers)> {
    let _held = Held::shared(dir)?;
    let stack = Stack::open(dir)?;
    let mut all: BTreeMap<PagemapId, Ranges> = BTreeMap::new();
    let mut by_layer = Vec::new();
    for level in stack.levels() {
        let mut here = Vec::new();
        for id in level.images().pagemaps()? {
            let pages = dedup::on_disk(level, id)?;
            let known = all.entry(id).or_default();
            *known = known.union(&pages);
            here.push((id, pages));
        }
        by_layer.push(here);
    }
    let mut axis = Axis::default();
    for (id, ranges) in &all {
        axis.add(*id, ranges);
    }
    let layers = stack.levels().iter().zip(by_layer).map(|(level, here)| {
        let mut pages = Vec::new();
        for (id, set) in here {
            axis.count(id, &set, &mut pages);
        }
        Stored {
            dir: level.dir().to_path_buf(),
            name: format::plain(&level.name()),
            pages,
        }
    });
    let layers = Layers {
        layers: layers.collect(),
        pages: axis.pages,
    };
    Ok((axis, layers))
}

/// Makes a plan ready.
fn shown(plan: Plan, axis: &Axis) -> Found {
    let mut pages: BTreeMap<PathBuf, Vec<u64>> = BTreeMap::new();
    let mut ranges = Vec::new();
    for cut in &plan.cuts {
        axis.count(
            cut.pagemap,
            &cut.ranges,
            pages.entry(cut.dir.clone()).or_default(),
        );
        let layer = cut.dir.file_name().unwrap_or(cut.dir.as_os_str());
        let layer = format::plain(&layer.to_string_lossy());
        let whose = match cut.pagemap {
            PagemapId::Task(pid) => pid.to_string(),
            PagemapId::Shared(shmid) => format!("shm {shmid}"),
        };
        for part in &cut.mappings {
            let mut holes = part.holes.iter().peekable();
            for range in part.ranges.iter() {
                let mut bytes = range.bytes();
                while let Some(hole) = holes.peek() {
                    bytes -= hole.intersect(range).bytes();
                    if hole.end > range.end {
                        break;
                    }
                    holes.next();
                }
                ranges.push(Freed {
                    layer: layer.clone(),
                    whose: whose.clone(),
                    mapping: format::plain(&part.mapping),
                    range,
                    bytes,
                });
            }
        }
    }
    ranges.sort_by_key(|freed| std::cmp::Reverse(freed.bytes));
    let rest = ranges.get(KEPT..).unwrap_or_default();
    let more = (rest.len(), rest.iter().map(|freed| freed.bytes).sum());
    ranges.truncate(KEPT);
    Found {
        lost: plan.lost_layers().map(|v| format::plain(&v.name)).collect(),
        plan: Arc::new(plan),
        ranges,
        more,
        pages,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cell_tells_whether_all_of_it_goes_or_a_part() {
        let shown = cells(&[0, 4, 1, 4, 4], &[0, 0, 0, 1, 4], 5, 4);
        use Cell::{Goes, Nothing, Part, Stays, Thin};
        assert_eq!(shown, [Nothing, Stays, Thin, Part, Goes]);
        assert_eq!(cells(&[0, 4, 4, 4], &[], 2, 4), [Stays, Stays]);
        assert_eq!(cells(&[0, 3, 4, 4], &[], 2, 4), [Thin, Stays]);
        assert_eq!(cells(&[4, 0], &[4], 4, 4), [Goes, Goes, Nothing, Nothing]);
        assert_eq!(cells(&[], &[], 2, 1), [Nothing, Nothing]);
    }

    proptest! {
        #[test]
        fn every_page_is_counted_in_one_part(
            parts in prop::collection::vec((1u64..3000, 0u64..50, any::<bool>()), 1..30),
        ) {
            let id = PagemapId::Task(1);
            let (mut all, mut some, mut at) = (Ranges::new(), Ranges::new(), 0);
            for (pages, gap, take) in parts {
                let range = PageRange::of_pages(at * PAGE_SIZE, pages);
                all.push(range);
                if take {
                    some.push(PageRange::of_pages(range.start, pages.div_ceil(2)));
                }
                at += pages + gap;
            }
            let mut axis = Axis::default();
            axis.add(id, &all);
            let mut counted = Vec::new();
            axis.count(id, &some, &mut counted);
            prop_assert!(counted.len() as u64 <= BUCKETS);
            prop_assert_eq!(counted.iter().sum::<u64>(), some.pages());
            let mut whole = Vec::new();
            axis.count(id, &all, &mut whole);
            prop_assert!(counted.iter().zip(&whole).all(|(some, all)| some <= all));
        }
    }
}
