//! The plan of a dedup: which bytes of which files go, what that costs, and what is in the way.

use std::fs::OpenOptions;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Strategy;
use crate::chain::{self, Held, Level, Ranges, Stack, State};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::event::Cancel;
use crate::image::{Pagemap, PagemapId, Place, Run};
use crate::units::{PAGE_SIZE, PageRange};

/// What a dedup of one layer would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// The layer whose stack is deduplicated.
    pub dir: PathBuf,
    /// Name of the strategy.
    pub strategy: &'static str,
    /// Every layer stays what it is.
    pub lossless: bool,
    /// What goes, layer by layer from the tip down, pagemap by pagemap.
    pub cuts: Vec<Cut>,
    /// What is to share the blocks of equal bytes (strategy *content*).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<Share>,
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

/// Pages of one pagemap of one layer that go.
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
    /// The same by mapping.
    pub mappings: Vec<Part>,
    /// Number of pages.
    pub pages: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
}

/// The part of a cut that is in mappings of one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The name, as in `/proc/PID/maps`.
    pub mapping: String,
    /// The addresses.
    pub ranges: Ranges,
    /// Those of them that take no space on the disk.
    #[serde(skip)]
    pub holes: Ranges,
    /// Number of pages.
    pub pages: u64,
    /// Bytes that they take on the disk.
    pub bytes: u64,
}

/// Bytes of a pages file that are equal to those of another one (or of another place in it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    /// The file that gives up its own blocks.
    pub file: PathBuf,
    /// Where, in bytes.
    pub offset: u64,
    /// The file whose blocks it will use.
    pub of: PathBuf,
    /// Where there, in bytes.
    pub of_offset: u64,
    /// How many bytes.
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

/// Plans to free what `strategy` finds in the stack of the layer in `dir`.
///
/// Changes nothing. Fails when the stack cannot be opened or read, or somebody changes it.
pub fn plan(dir: impl AsRef<Path>, strategy: &dyn Strategy) -> Result<Plan> {
    plan_unless(dir.as_ref(), strategy, &Cancel::default())
}

/// The same, unless somebody asks to stop meanwhile.
///
/// # Errors
/// As [`plan`], and when it was asked to stop.
pub fn plan_unless(dir: &Path, strategy: &dyn Strategy, cancel: &Cancel) -> Result<Plan> {
    let _held = Held::shared(dir)?;
    plan_held(dir, strategy, cancel)
}

/// The same, when the stack is held already.
pub(super) fn plan_held(dir: &Path, strategy: &dyn Strategy, cancel: &Cancel) -> Result<Plan> {
    let stack = Stack::open(dir)?;
    let mut plan = Plan {
        dir: stack.tip().dir().to_path_buf(),
        strategy: strategy.name(),
        lossless: strategy.is_lossless(),
        cuts: Vec::new(),
        shares: Vec::new(),
        victims: Vec::new(),
        pages: 0,
        bytes: 0,
        obstacles: chain::check(&stack).obstacles,
        warnings: Vec::new(),
    };
    strategy.plan(&stack, &mut plan, cancel)?;
    plan.cuts.sort_by_key(|cut| {
        let levels = stack.levels();
        levels.iter().position(|level| level.dir() == cut.dir)
    });
    plan.pages = plan.cuts.iter().map(|cut| cut.pages).sum();
    plan.bytes = plan.cuts.iter().map(|cut| cut.bytes).sum();
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
        let obstacle = Obstacle::new(kind, what, hint);
        if !self.obstacles.contains(&obstacle) {
            self.obstacles.push(obstacle);
        }
    }

    /// Notes the pages of `wanted` that are still on the disk, to be punched, and returns them.
    pub(super) fn punch(
        &mut self,
        level: &Level,
        id: PagemapId,
        pagemap: &Pagemap,
        wanted: &Ranges,
    ) -> Result<Ranges> {
        if wanted.is_empty() {
            return Ok(Ranges::new());
        }
        let path = level.dir().join(format!("pages-{}.img", pagemap.pages_id));
        let ranges = wanted.minus(&in_holes(level, pagemap)?);
        if ranges.is_empty() {
            return Ok(ranges);
        }
        let meta = path.metadata().map_err(|e| Error::path("read", &path, e))?;
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
        self.cut(level, id, pagemap, ranges.clone())?;
        Ok(ranges)
    }

    /// Notes that the pages of `ranges` go.
    pub(super) fn cut(
        &mut self,
        level: &Level,
        id: PagemapId,
        pagemap: &Pagemap,
        ranges: Ranges,
    ) -> Result<()> {
        if ranges.is_empty() {
            return Ok(());
        }
        let path = level.dir().join(format!("pages-{}.img", pagemap.pages_id));
        let len = path
            .metadata()
            .map_err(|e| Error::path("read", &path, e))?
            .len();
        if len != pagemap.stored_bytes() {
            let what = format!(
                "{} has not the length that its pagemap tells",
                path.display()
            );
            self.obstacle(Kind::Corrupt, what, "The layer is damaged; leave it alone");
        }
        if let Err(error) = OpenOptions::new().write(true).open(&path) {
            let error = Error::path("write", &path, error);
            self.obstacle(
                error.kind(),
                error.one_line(),
                "run it as the owner of the layers, or as root (CAP_DAC_OVERRIDE)",
            );
        }
        let holes = in_holes(level, pagemap)?;
        self.cuts.push(Cut {
            dir: level.dir().to_path_buf(),
            pagemap: id,
            pages_id: pagemap.pages_id,
            pages: ranges.pages(),
            bytes: ranges.minus(&holes).pages() * PAGE_SIZE,
            offsets: translate(stored(pagemap).into_iter(), &ranges),
            mappings: by_mapping(level, id, &ranges, &holes),
            ranges,
        });
        Ok(())
    }
}

/// The pages that a layer stores of a process or segment and that take space on the disk.
///
/// # Errors
/// When its pagemap or pages file cannot be read.
pub fn on_disk(level: &Level, id: PagemapId) -> Result<Ranges> {
    match chain::pagemap(level.images(), id)? {
        Some(pagemap) => {
            let stored = Ranges::of(&pagemap, Place::Present);
            Ok(stored.minus(&in_holes(level, &pagemap)?))
        }
        None => Ok(Ranges::new()),
    }
}

/// The stored pages that are holes in the pages file: they take no space.
fn in_holes(level: &Level, pagemap: &Pagemap) -> Result<Ranges> {
    let path = level.dir().join(format!("pages-{}.img", pagemap.pages_id));
    let cannot = |e| Error::path("read", &path, e);
    let file = level.images().pages_file(pagemap.pages_id)?;
    let len = file.metadata().map_err(cannot)?.len();
    let holes = chain::holes(&file, len).map_err(cannot)?;
    let whole: Ranges = holes.iter().map(inner_pages).collect();
    let from_file = stored(pagemap).into_iter();
    let from_file = from_file.map(|(range, at)| (of_file(range, at), range.start));
    Ok(translate(from_file, &whole))
}

/// The ranges by the name of their mapping, in the order of addresses.
fn by_mapping(level: &Level, id: PagemapId, ranges: &Ranges, holes: &Ranges) -> Vec<Part> {
    let mut parts: Vec<(String, Ranges)> = Vec::new();
    let mut rest = ranges.clone();
    let mut add = |name: &str, found: Ranges| {
        if found.is_empty() {
            return;
        }
        match parts.iter_mut().find(|(known, _)| known == name) {
            Some((_, all)) => *all = all.union(&found),
            None => parts.push((name.to_owned(), found)),
        }
    };
    for (range, name) in chain::mappings(level.images(), id) {
        let range = Ranges::from(range);
        add(&name, rest.intersect(&range));
        rest = rest.minus(&range);
    }
    add("no mapping", rest);
    let part = |(mapping, ranges): (String, Ranges)| Part {
        mapping,
        pages: ranges.pages(),
        bytes: ranges.minus(holes).pages() * PAGE_SIZE,
        holes: ranges.intersect(holes),
        ranges,
    };
    parts.into_iter().map(part).collect()
}

/// The present runs of a pagemap with their offsets in the pages file.
pub(super) fn stored(pagemap: &Pagemap) -> Vec<(PageRange, u64)> {
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
pub(super) fn of_file(range: PageRange, offset: u64) -> PageRange {
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
pub(super) fn translate(runs: impl Iterator<Item = (PageRange, u64)>, set: &Ranges) -> Ranges {
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
