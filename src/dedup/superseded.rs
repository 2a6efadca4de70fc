//! Superseded pages: stored again by the tip, at the same address, whatever they hold. This is the
//! meaning of `criu dedup`: the layers below stop being restorable.
//!
//! *Unneeded* is the part of it that costs nothing: pages that no layer needs which anybody could
//! still restore, such as those that only layers need which were given up before.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::apply::{extents, note, punch};
use super::plan::Victim;
use super::{Freed, Plan, Strategy, branches};
use crate::chain::{self, Affected, Layer, Level, Ranges, Stack, State, superseded};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::event::{Cancel, Event, Reporter};
use crate::image::{Images, PagemapId, Sidecar};

/// CRIU's meaning of dedup.
#[derive(Clone, Copy, Debug)]
pub struct Superseded;

/// Superseded pages that no restorable layer needs.
#[derive(Clone, Copy, Debug)]
pub struct Unneeded;

/// What the ancestors lose: for each level of the stack, for each pagemap, the pages lost as of
/// that layer.
pub(super) type Losses = BTreeMap<usize, BTreeMap<PagemapId, Affected>>;

impl Strategy for Superseded {
    fn name(&self) -> &'static str {
        "superseded"
    }

    fn summary(&self) -> &'static str {
        "frees what the layer stores again (as criu does); the layers below can't be restored then"
    }

    fn is_lossless(&self) -> bool {
        false
    }

    fn plan(&self, stack: &Stack, plan: &mut Plan, cancel: &Cancel) -> Result<()> {
        free(stack, plan, cancel, |_, _| Ok(Ranges::new()))
    }

    fn apply(
        &self,
        plan: &Plan,
        freed: &mut Freed,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<()> {
        mark_and_punch(plan, freed, reporter, cancel)
    }
}

impl Strategy for Unneeded {
    fn name(&self) -> &'static str {
        "unneeded"
    }

    fn summary(&self) -> &'static str {
        "frees superseded pages that no restorable layer needs"
    }

    fn is_lossless(&self) -> bool {
        false
    }

    fn plan(&self, stack: &Stack, plan: &mut Plan, cancel: &Cancel) -> Result<()> {
        let wanted = branches::wanted(stack)?;
        let states: Vec<State> = stack
            .levels()
            .iter()
            .map(|level| Layer::read(level.dir()).state)
            .collect();
        // Of one pagemap at a time: what each layer has that a restorable one needs.
        let known: RefCell<Option<(PagemapId, Vec<Ranges>)>> = RefCell::new(None);
        free(stack, plan, cancel, |id, owner| {
            let mut known = known.borrow_mut();
            if known.as_ref().is_none_or(|(of, _)| *of != id) {
                *known = Some((id, needed_of(stack, &states, id, cancel)?));
            }
            let needed = known.as_ref().and_then(|(_, all)| all.get(owner));
            let mut needed = needed.cloned().unwrap_or_default();
            if let Some(by_branches) = wanted.get(&(stack.level(owner)?.dir().to_path_buf(), id)) {
                needed = needed.union(by_branches);
            }
            Ok(needed)
        })
    }

    fn apply(
        &self,
        plan: &Plan,
        freed: &mut Freed,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<()> {
        mark_and_punch(plan, freed, reporter, cancel)
    }
}

/// For each layer, the pages of it that layers read which can still be restored.
fn needed_of(
    stack: &Stack,
    states: &[State],
    id: PagemapId,
    cancel: &Cancel,
) -> Result<Vec<Ranges>> {
    let mut all = vec![Ranges::new(); stack.depth()];
    for (index, state) in states.iter().enumerate() {
        cancel.check()?;
        if matches!(state, State::Consumed | State::PreDump) {
            continue;
        }
        let mut read = vec![Ranges::new(); all.len()];
        for run in stack.ownership_as_of(index, id)?.runs() {
            if let Some(of) = read.get_mut(run.layer) {
                of.push(run.range);
            }
        }
        for (needed, read) in all.iter_mut().zip(&read) {
            if !read.is_empty() {
                *needed = needed.union(read);
            }
        }
    }
    Ok(all)
}

/// Plans to punch superseded pages, but for those that `spare` names: pages of a pagemap that the
/// layer with a number stores.
fn free(
    stack: &Stack,
    plan: &mut Plan,
    cancel: &Cancel,
    spare: impl Fn(PagemapId, usize) -> Result<Ranges>,
) -> Result<()> {
    if stack.depth() == 1 {
        return Err(Error::new(
            Kind::Failed,
            format!(
                "Layer {} has no parent: there is nothing to dedup",
                stack.tip().dir().display()
            ),
        )
        .hint("Name a layer that was dumped on top of another one"));
    }
    let mut losses = Losses::new();
    for id in stack.tip().images().pagemaps()? {
        cancel.check()?;
        let Some(tip) = chain::pagemap(stack.tip().images(), id)? else {
            continue;
        };
        // One at a time, from the lowest up: a pagemap of many pages is big.
        let depth = depth_of(stack, id)?;
        let mut below: Option<Affected> = None;
        for index in (1..depth).rev() {
            let level = stack.level(index)?;
            let Some(pagemap) = &chain::pagemap(level.images(), id)? else {
                continue;
            };
            let wanted = superseded(pagemap, &tip).minus(&spare(id, index)?);
            let cut = plan.punch(level, id, pagemap, &wanted)?;
            let affected = Affected::above(below.as_ref(), pagemap, &cut);
            if !affected.pages().is_empty() {
                let losses = losses.entry(index).or_default();
                losses.insert(id, affected.clone());
            }
            below = Some(affected);
        }
    }
    for level in losses.keys() {
        victim(plan, stack.level(*level)?);
    }
    branches::protect(stack, &losses, plan)
}

/// How many layers, from the tip down, have the pagemap.
fn depth_of(stack: &Stack, id: PagemapId) -> Result<usize> {
    for (index, level) in stack.levels().iter().enumerate() {
        if !level.images().pagemaps()?.contains(&id) {
            return Ok(index);
        }
    }
    Ok(stack.depth())
}

fn victim(plan: &mut Plan, level: &Level) {
    let layer = Layer::read(level.dir());
    if layer.pinned {
        let what = format!(
            "Layer {} is pinned and would lose pages",
            layer.dir.display()
        );
        plan.obstacle(
            Kind::Busy,
            what,
            "Unpin the layer, or dedup a layer below it",
        );
    }
    if layer.state == State::Complete {
        plan.warnings.push(Obstacle::new(
            Kind::Failed,
            format!(
                "Layer {} will not be restorable any more",
                layer.dir.display()
            ),
            format!(
                "{} and the layers above it stay restorable",
                plan.dir.display()
            ),
        ));
    }
    plan.victims.push(Victim {
        dir: layer.dir,
        name: layer.name,
        state: layer.state,
    });
}

fn mark_and_punch(
    plan: &Plan,
    freed: &mut Freed,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<()> {
    reporter.report(Event::Phase("mark"));
    for victim in &plan.victims {
        let cuts = plan.cuts.iter().filter(|cut| cut.dir == victim.dir);
        let freed_here: Vec<_> = cuts
            .map(|cut| (cut.pages_id, extents(&cut.offsets)))
            .collect();
        if Sidecar::mark_consumed(&Images::open(&victim.dir)?, &plan.dir, &freed_here)? {
            freed.marked.push(victim.dir.clone());
        }
    }
    reporter.report(Event::Phase("punch"));
    for cut in &plan.cuts {
        cancel.check()?;
        let bytes = punch(cut)?;
        note(freed, &cut.dir, cut.pages, bytes);
        let (done, total) = (freed.pages, plan.pages);
        reporter.report(Event::Progress { done, total });
    }
    Ok(())
}
