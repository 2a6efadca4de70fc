//! The plan of a dedup: which bytes of which files go, what that costs, and what is in the way.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Strategy, branches};
use crate::chain::{self, Affected, Layer, Level, Ranges, Stack, State};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::{Pagemap, PagemapId, Place, Run};
use crate::units::{PAGE_SIZE, PageRange};

/// What a dedup of one layer would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The layer for whose benefit the layers below are punched.
    pub dir: PathBuf,
    /// Name of the strategy.
    pub strategy: &'static str,
    /// What goes, ancestor by ancestor, pagemap by pagemap.
    pub cuts: Vec<Cut>,
    /// The layers that lose pages of theirs and are marked as consumed, nearest first.
    pub victims: Vec<Victim>,
    /// Pages to free.
    pub pages: u64,
    /// Bytes to free.
    pub bytes: u64,
    /// Why it cannot be done.
    pub obstacles: Vec<Obstacle>,
    /// What to know before doing it.
    pub warnings: Vec<Obstacle>,
}

/// Pages of one pagemap of one ancestor that go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The layer that stores them.
    pub dir: PathBuf,
    /// The pagemap that describes them.
    pub pagemap: PagemapId,
    /// N of the `pages-N.img` that holds them.
    pub pages_id: u32,
    /// Their addresses; what is gone already is left out.
    pub ranges: Ranges,
    /// Where they are in the pages file, in bytes.
    pub offsets: Ranges,
    /// Number of pages.
    pub pages: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl Cut {
    /// The pages file.
    pub fn file(&self) -> PathBuf {
        self.dir.join(format!("pages-{}.img", self.pages_id))
    }
}

/// A layer that a dedup makes unrestorable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Victim {
    /// Its directory.
    pub dir: PathBuf,
    /// Its last part.
    pub name: String,
    /// What it is now; only a complete layer is a loss.
    pub state: State,
}

/// What the ancestors lose: for each level of the stack, for each pagemap, the pages lost as of
/// that layer.
pub(super) type Losses = BTreeMap<usize, BTreeMap<PagemapId, Affected>>;

/// Plans to free, below the layer in `dir`, the pages that `strategy` finds.
///
/// Changes nothing. Fails when the stack cannot be opened or has only one layer.
pub fn plan(dir: impl AsRef<Path>, strategy: &dyn Strategy) -> Result<Plan> {
    let stack = Stack::open(dir)?;
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
    let mut plan = Plan {
        dir: stack.tip().dir().to_path_buf(),
        strategy: strategy.name(),
        cuts: Vec::new(),
        victims: Vec::new(),
        pages: 0,
        bytes: 0,
        obstacles: chain::check(&stack).obstacles,
        warnings: Vec::new(),
    };
    let mut losses = Losses::new();
    for id in stack.tip().images().pagemaps()? {
        plan.add(&stack, id, strategy, &mut losses)?;
    }
    plan.cuts.sort_by_key(|cut| {
        stack
            .levels()
            .iter()
            .position(|level| level.dir() == cut.dir)
    });
    plan.pages = plan.cuts.iter().map(|cut| cut.pages).sum();
    plan.bytes = plan.cuts.iter().map(|cut| cut.bytes).sum();
    for level in losses.keys() {
        plan.victim(stack.level(*level)?);
    }
    branches::protect(&stack, &losses, &mut plan)?;
    Ok(plan)
}

impl Plan {
    /// True when nothing is in the way.
    pub fn is_possible(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// True when there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The layers that can be restored now and could not be afterwards.
    pub fn lost_layers(&self) -> impl Iterator<Item = &Victim> {
        self.victims
            .iter()
            .filter(|victim| victim.state == State::Complete)
    }

    pub(super) fn obstacle(&mut self, kind: Kind, what: String, hint: &str) {
        self.obstacles.push(Obstacle::new(kind, what, hint));
    }

    /// Adds what goes of pagemap `id`.
    fn add(
        &mut self,
        stack: &Stack,
        id: PagemapId,
        strategy: &dyn Strategy,
        losses: &mut Losses,
    ) -> Result<()> {
        let pagemaps = stack.pagemaps(id).collect::<Result<Vec<Pagemap>>>()?;
        let freed = strategy.decide(stack, id, &pagemaps)?;
        let mut below: Option<Affected> = None;
        for (index, pagemap) in pagemaps.iter().enumerate().rev() {
            let level = stack.level(index)?;
            let wanted = freed.get(index).cloned().unwrap_or_default();
            let cut = self.cut(level, id, pagemap, &wanted)?;
            let affected = Affected::above(below.as_ref(), pagemap, &cut);
            if !affected.pages().is_empty() {
                if index == 0 {
                    let what = format!(
                        "Strategy {} would free pages that {} needs",
                        self.strategy,
                        level.dir().display()
                    );
                    self.obstacle(
                        Kind::Failed,
                        what,
                        "This is a defect of the strategy; use another one",
                    );
                }
                losses
                    .entry(index)
                    .or_default()
                    .insert(id, affected.clone());
            }
            below = Some(affected);
        }
        Ok(())
    }

    /// Notes the pages of `wanted` that are still on the disk, and returns them.
    fn cut(
        &mut self,
        level: &Level,
        id: PagemapId,
        pagemap: &Pagemap,
        wanted: &Ranges,
    ) -> Result<Ranges> {
        let stored = stored(pagemap);
        if wanted.is_empty() {
            return Ok(Ranges::new());
        }
        let path = level.dir().join(format!("pages-{}.img", pagemap.pages_id));
        let cannot = |e| Error::path("read", &path, e);
        let file = level.images().pages_file(pagemap.pages_id)?;
        let meta = file.metadata().map_err(cannot)?;
        if meta.len() != pagemap.stored_bytes() {
            let what = format!(
                "{} has not the length that its pagemap tells",
                path.display()
            );
            self.obstacle(Kind::Corrupt, what, "The layer is damaged; leave it alone");
        }
        let holes = chain::holes(&file, meta.len()).map_err(cannot)?;
        let whole: Ranges = holes.iter().map(inner_pages).collect();
        let gone = translate(
            stored
                .iter()
                .map(|(range, at)| (of_file(*range, *at), range.start)),
            &whole,
        );
        let ranges = wanted.minus(&gone);
        if ranges.is_empty() {
            return Ok(ranges);
        }
        if meta.nlink() > 1 {
            let what = format!(
                "{} has {} names (hard links): the others would lose the pages too",
                path.display(),
                meta.nlink()
            );
            self.obstacle(
                Kind::Busy,
                what,
                "Remove the other copies, or copy the layer without --link",
            );
        }
        if let Err(error) = OpenOptions::new().write(true).open(&path) {
            let error = Error::path("write", &path, error);
            self.obstacle(
                error.kind(),
                error.one_line(),
                "Run as the owner of the layers",
            );
        }
        let offsets = translate(stored.into_iter(), &ranges);
        self.cuts.push(Cut {
            dir: level.dir().to_path_buf(),
            pagemap: id,
            pages_id: pagemap.pages_id,
            pages: ranges.pages(),
            bytes: ranges.pages() * PAGE_SIZE,
            ranges: ranges.clone(),
            offsets,
        });
        Ok(ranges)
    }

    fn victim(&mut self, level: &Level) {
        let layer = Layer::read(level.dir());
        if layer.pinned {
            let what = format!(
                "Layer {} is pinned and would lose pages",
                layer.dir.display()
            );
            self.obstacle(
                Kind::Busy,
                what,
                "Unpin the layer, or dedup a layer below it",
            );
        }
        if layer.state == State::Complete {
            self.warnings.push(Obstacle::new(
                Kind::Failed,
                format!(
                    "Layer {} will not be restorable any more",
                    layer.dir.display()
                ),
                format!(
                    "{} and the layers above it stay restorable",
                    self.dir.display()
                ),
            ));
        }
        self.victims.push(Victim {
            dir: layer.dir,
            name: layer.name,
            state: layer.state,
        });
    }
}

/// The present runs of a pagemap with their offsets in the pages file.
fn stored(pagemap: &Pagemap) -> Vec<(PageRange, u64)> {
    let mut offset = 0;
    let mut runs = Vec::new();
    for range in pagemap
        .runs
        .iter()
        .filter(|run| run.place == Place::Present)
        .map(Run::range)
    {
        runs.push((range, offset));
        offset += range.bytes();
    }
    runs
}

/// The bytes in the file of a run that is stored at `offset`.
fn of_file(range: PageRange, offset: u64) -> PageRange {
    PageRange::new(offset, offset + range.bytes())
}

/// The whole pages inside a range of bytes.
fn inner_pages(bytes: PageRange) -> PageRange {
    PageRange::new(
        bytes.start.next_multiple_of(PAGE_SIZE),
        bytes.end / PAGE_SIZE * PAGE_SIZE,
    )
}

/// Moves the members of `set` as `runs` say: each `(from, to)` moves a range to the start `to`.
/// Both sides of `runs` ascend.
fn translate(runs: impl Iterator<Item = (PageRange, u64)>, set: &Ranges) -> Ranges {
    let mut moved = Ranges::new();
    let mut left = set.iter().peekable();
    for (from, to) in runs {
        while let Some(next) = left.peek() {
            let part = next.intersect(from);
            if !part.is_empty() {
                let start = to + (part.start - from.start);
                moved.push(PageRange::new(start, start + part.bytes()));
            }
            if next.end > from.end {
                break;
            }
            left.next();
        }
    }
    moved
}
