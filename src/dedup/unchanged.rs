//! Unchanged pages: stored in a layer although they equal what the layer below gives. They are left
//! to the parent.
//!
//! Since the bytes of a pages file follow its pagemap without gaps, the layer gets a new pagemap and
//! a new, shorter pages file, and takes the place of the old one in one step (see `store`). Each
//! layer is a step of its own: what it reads is the same before and after, so is what is above it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;

use super::apply::note;
use super::intact::{CHUNK, Intact, each};
use super::plan::{Cut, stored, translate};
use super::zero::pages;
use super::{Freed, Plan, Strategy};
use crate::chain::{self, Owned, Ownership, Ranges, Resolved, Stack};
use crate::error::{Error, Result};
use crate::event::{Cancel, Event, Reporter};
use crate::image::{Extent, LayerWriter, Pagemap, PagemapId, Place, Run, SIDECAR, Sidecar};
use crate::units::{PAGE_SIZE, PageRange};

/// Lossless: a page that equals that of the parent is left to the parent.
#[derive(Clone, Copy, Debug)]
pub struct Unchanged;

impl Strategy for Unchanged {
    fn name(&self) -> &'static str {
        "unchanged"
    }

    fn summary(&self) -> &'static str {
        "leaves pages to the parent that are equal there; every layer stays what it is"
    }

    fn is_lossless(&self) -> bool {
        true
    }

    fn plan(&self, stack: &Stack, plan: &mut Plan, cancel: &Cancel) -> Result<()> {
        let mut intact = Intact::new(stack);
        let mut all = BTreeSet::new();
        for level in stack.levels() {
            all.extend(level.images().pagemaps()?);
        }
        for id in all {
            for (index, equal) in equal_to_parent(stack, id, &mut intact, cancel)? {
                let level = stack.level(index)?;
                if let Some(pagemap) = chain::pagemap(level.images(), id)? {
                    plan.cut(level, id, &pagemap, equal)?;
                }
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
        for cuts in plan.cuts.chunk_by(|a, b| a.dir == b.dir) {
            cancel.check()?;
            rewrite(cuts, freed)?;
            let (done, total) = (freed.pages, plan.pages);
            reporter.report(Event::Progress { done, total });
        }
        Ok(())
    }
}

/// The pages of each layer that are equal in the layer below.
///
/// One way down the stack: what a layer stores waits (at most once for each address) for the next
/// layer that stores it too, as long as the layers between leave it to their parents.
fn equal_to_parent(
    stack: &Stack,
    id: PagemapId,
    intact: &mut Intact<'_>,
    cancel: &Cancel,
) -> Result<BTreeMap<usize, Ranges>> {
    let mut equal: BTreeMap<usize, Vec<PageRange>> = BTreeMap::new();
    let mut waiting: Vec<Owned> = Vec::new();
    let mut compare = Comparison::new(stack, id);
    for (index, level) in stack.levels().iter().enumerate() {
        cancel.check()?;
        let Some(pagemap) = chain::pagemap(level.images(), id)? else {
            waiting.clear(); // it ends what is above
            continue;
        };
        let there = intact.stored(index, &pagemap)?;
        let own = Ownership::of(index, &pagemap);
        let left = Ranges::of(&pagemap, Place::Parent);
        for (above, below) in met(&waiting, own.runs(), &there) {
            cancel.check()?;
            compare.pages(&above, &below, |page| {
                let all = equal.entry(above.layer).or_default();
                match all.last_mut() {
                    Some(last) if last.end == page.start => last.end = page.end,
                    _ => all.push(page),
                }
            })?;
        }
        waiting = cut_to(&waiting, &left);
        if level.sidecar().is_none_or(|s| s.consumed.is_none()) {
            waiting.extend(cut_to(own.runs(), &there));
            waiting.sort_unstable_by_key(|run| run.range);
        }
    }
    let sets = equal
        .into_iter()
        .map(|(n, pages)| (n, Ranges::from_iter(pages)));
    Ok(sets.collect())
}

/// The parts of `runs` inside `set`; both ascend.
fn cut_to(runs: &[Owned], set: &Ranges) -> Vec<Owned> {
    let mut parts = Vec::new();
    let mut set = set.iter().peekable();
    for run in runs {
        while let Some(next) = set.peek() {
            parts.extend(run.clip(*next));
            if next.end > run.range.end {
                break;
            }
            set.next();
        }
    }
    parts
}

/// Where runs of `above` and of `below` (inside `there`) have the same addresses, in pairs; all ascend.
fn met(above: &[Owned], below: &[Owned], there: &Ranges) -> Vec<(Owned, Owned)> {
    let below = cut_to(below, there);
    let mut pairs = Vec::new();
    let mut above = above.iter().peekable();
    for low in &below {
        while let Some(high) = above.peek() {
            if let Some(part) = high.clip(low.range) {
                pairs.extend(low.clip(part.range).map(|low| (part, low)));
            }
            if high.range.end > low.range.end {
                break;
            }
            above.next();
        }
    }
    pairs
}

/// Compares pages of two layers.
struct Comparison<'s> {
    memory: Resolved<'s>,
    above: Vec<u8>,
    below: Vec<u8>,
}

impl<'s> Comparison<'s> {
    fn new(stack: &'s Stack, id: PagemapId) -> Self {
        Self {
            memory: stack.runs_of(id).checked(),
            above: Vec::new(),
            below: Vec::new(),
        }
    }

    /// Calls `equal` with each page of two runs of the same addresses that is equal in both.
    fn pages(
        &mut self,
        above: &Owned,
        below: &Owned,
        mut equal: impl FnMut(PageRange),
    ) -> Result<()> {
        let mut at = above.range.start;
        while at < above.range.end {
            let part = PageRange::new(at, above.range.end.min(at + CHUNK));
            let (Some(high), Some(low)) = (above.clip(part), below.clip(part)) else {
                break;
            };
            let len = usize::try_from(part.bytes()).unwrap_or(0);
            self.above.resize(len, 0);
            self.below.resize(len, 0);
            self.memory.read_run(&high, &mut self.above)?;
            self.memory.read_run(&low, &mut self.below)?;
            let pairs = pages(&self.above).zip(pages(&self.below));
            for (start, (high, low)) in (at..).step_by(PAGE_SIZE as usize).zip(pairs) {
                if high == low {
                    equal(PageRange::of_pages(start, 1));
                }
            }
            at = part.end;
        }
        Ok(())
    }
}

/// Gives one layer its new pagemaps and pages files.
fn rewrite(cuts: &[Cut], freed: &mut Freed) -> Result<()> {
    let Some(dir) = cuts.first().map(|cut| &cut.dir) else {
        return Ok(());
    };
    let stack = Stack::open(dir)?;
    let (images, old) = (stack.tip().images(), stack.tip().sidecar());
    let writer = LayerWriter::replace(dir)?;
    let mut cut_bytes = 0;
    for cut in cuts {
        let Some(pagemap) = chain::pagemap(images, cut.pagemap)? else {
            let what = format!("{} has gone", cut.pagemap.file_name());
            return Err(Error::corrupt(what));
        };
        let left = left_to_parent(&pagemap, &cut.ranges);
        pages_file(&stack, cut, &pagemap, &left, &writer)?;
        writer.pagemap(cut.pagemap, &left)?;
        cut_bytes += blocks(&cut.file())?;
    }
    for name in images.names()? {
        let is_new = writer.partial().join(&name).symlink_metadata().is_ok();
        let path = dir.join(&name);
        if name == SIDECAR || is_new || !path.is_file() {
            continue;
        }
        writer.keep(images, old, &name)?;
    }
    if let Some(parent) = images.parent_link()? {
        writer.link_parent(&parent)?;
    }
    let pages: u64 = cuts.iter().map(|cut| cut.pages).sum();
    match old {
        Some(old) if old.has_digests() => {
            let mut sidecar = old.clone();
            recount(&mut sidecar, pages);
            writer.sidecar(sidecar)?;
        }
        // A layer of CRIU's that nobody adopted stays one, but for what must be noted.
        Some(old) => {
            let mut sidecar = old.clone();
            recount(&mut sidecar, pages);
            writer.marks(sidecar)?;
        }
        None => writer.marks(Sidecar::default())?,
    }
    writer.commit()?;
    let mut now = 0;
    for cut in cuts {
        now += blocks(&cut.file())?;
    }
    note(freed, dir, pages, cut_bytes.saturating_sub(now));
    Ok(())
}

fn recount(sidecar: &mut Sidecar, pages: u64) {
    let less = |n: u64| n.saturating_sub(pages);
    sidecar.pages_stored = sidecar.pages_stored.map(less);
    sidecar.pages_in_parent = sidecar.pages_in_parent.map(|n| n + pages);
    sidecar.bytes = sidecar.bytes.map(|n| n.saturating_sub(pages * PAGE_SIZE));
}

/// The pagemap with the pages of `equal` in-parent.
fn left_to_parent(pagemap: &Pagemap, equal: &Ranges) -> Pagemap {
    let mut left = Pagemap {
        pages_id: pagemap.pages_id,
        runs: Vec::new(),
    };
    for run in &pagemap.runs {
        let whole = Ranges::from(run.range());
        let parts = |set: Ranges, place| set.iter().map(|r| (r, place)).collect::<Vec<_>>();
        let mut all = parts(whole.minus(equal), run.place);
        if run.place == Place::Present {
            all.extend(parts(whole.intersect(equal), Place::Parent));
        } else {
            all = vec![(run.range(), run.place)];
        }
        all.sort_unstable_by_key(|(range, _)| *range);
        for (range, place) in all {
            left.push(Run {
                start: range.start,
                pages: range.pages(),
                place,
                lazy: run.lazy,
            });
        }
    }
    left
}

/// Writes the pages that stay, compared with their digests; zeros that were holes stay holes.
fn pages_file(
    stack: &Stack,
    cut: &Cut,
    pagemap: &Pagemap,
    left: &Pagemap,
    writer: &LayerWriter,
) -> Result<()> {
    let known = stack
        .tip()
        .sidecar()
        .and_then(|s| s.known_pages(cut.pages_id));
    let holes = known.map_or_else(Ranges::new, |known| Ranges::from(&known.zeros[..]));
    let from_file = stored(pagemap)
        .into_iter()
        .map(|(range, at)| (PageRange::new(at, at + range.bytes()), range.start));
    let zeros = translate(from_file, &holes);
    let memory = stack.stored(0, pagemap, cut.pagemap).checked();
    let path = writer.partial().join(format!("pages-{}.img", cut.pages_id));
    let mut out = writer.pages(cut.pages_id)?;
    let mut noted = Vec::new();
    for (range, at) in stored(left) {
        let whole = Ranges::from(range);
        for hole in whole.intersect(&zeros).iter() {
            let offset = at + (hole.start - range.start);
            noted.push(Extent {
                offset,
                bytes: hole.bytes(),
            });
        }
        let data = whole.minus(&zeros);
        for part in data.iter() {
            let to = SeekFrom::Start(at + (part.start - range.start));
            let mut file = out.file();
            file.seek(to).map_err(|e| Error::path("write", &path, e))?;
            each(&memory, &part.into(), |_, bytes| out.append(bytes))?;
        }
    }
    out.file()
        .set_len(left.stored_bytes())
        .map_err(|e| Error::path("write", &path, e))?;
    writer.zeros(cut.pages_id, &noted);
    Ok(())
}

fn blocks(path: &std::path::Path) -> Result<u64> {
    let meta = path.metadata().map_err(|e| Error::path("read", path, e))?;
    Ok(meta.blocks() * 512)
}
