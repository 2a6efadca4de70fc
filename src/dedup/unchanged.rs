//! Unchanged pages: stored in a layer although they equal what the layer below gives. They are left
//! to the parent.
//!
//! Since the bytes of a pages file follow its pagemap without gaps, the layer gets a new pagemap and
//! a new, shorter pages file, and takes the place of the old one in one step (see `store`). Each
//! layer is a step of its own: what it reads is the same before and after, so is what is above it.

use std::io::{Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;

use super::apply::note;
use super::intact::{Intact, each, of_layer};
use super::plan::{Cut, stored, translate};
use super::zero::pages;
use super::{Freed, Plan, Strategy};
use crate::chain::{self, Ranges, Stack};
use crate::error::{Error, Result};
use crate::event::{Cancel, Event, Reporter};
use crate::image::{Extent, LayerWriter, Pagemap, Place, Run, SIDECAR, Sidecar};
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
        for (index, level) in stack.levels().iter().enumerate() {
            let freed = level.sidecar().is_some_and(|s| s.consumed.is_some());
            if freed || index + 1 == stack.depth() {
                continue;
            }
            for id in level.images().pagemaps()? {
                cancel.check()?;
                let Some(pagemap) = chain::pagemap(level.images(), id)? else {
                    continue;
                };
                let below = stack.resolved_as_of(index + 1, id)?.checked();
                let both = intact
                    .stored(index, &pagemap)?
                    .intersect(&intact.owned(below.ownership())?);
                let mut equal = Ranges::new();
                let mut theirs = Vec::new();
                each(&of_layer(stack, index, id)?, &both, |at, ours| {
                    theirs.resize(ours.len(), 0);
                    below.read_at(at, &mut theirs)?;
                    let pairs = pages(ours).zip(pages(&theirs));
                    for (start, (ours, theirs)) in (at..).step_by(PAGE_SIZE as usize).zip(pairs) {
                        if ours == theirs {
                            equal.push(PageRange::of_pages(start, 1));
                        }
                    }
                    Ok(())
                })?;
                plan.cut(level, id, &pagemap, equal)?;
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
    let memory = of_layer(stack, 0, cut.pagemap)?;
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
