//! The plan of a change: which layers go, which ones get another parent, what that costs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::family::{Family, settled};
use super::prune::{self, Keep};
use super::{flatten, remove};
use crate::chain::{self, Layer, Ranges, Stack, State};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::PagemapId;
use crate::store::Lock;
use crate::units::PAGE_SIZE;

/// What a change would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// The word on the command line.
    pub operation: &'static str,
    /// Layers that get another parent, in the order in which that happens.
    pub rewrites: Vec<Rewrite>,
    /// Layers that go, the uppermost first.
    pub removals: Vec<Removal>,
    /// Why it cannot be done.
    pub obstacles: Vec<Obstacle>,
    /// What to know before doing it.
    pub warnings: Vec<Obstacle>,
    /// What was asked for, to plan it again.
    #[serde(skip)]
    pub(super) request: Request,
    /// The folders that hold the layers.
    #[serde(skip)]
    pub(super) folders: BTreeSet<PathBuf>,
}

/// A layer that gets another parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rewrite {
    /// Its directory.
    pub dir: PathBuf,
    /// Its last part.
    pub name: String,
    /// Where the result goes, if not into its place.
    pub into: Option<PathBuf>,
    /// The parent it will have.
    pub parent: Option<PathBuf>,
    /// Layers that become part of it: those between it and the parent it will have.
    pub joined: Vec<PathBuf>,
    /// Pages that it takes over from layers that are no longer below it.
    pub moved: Vec<Moved>,
    /// Number of those pages.
    pub pages: u64,
    /// Bytes that will be written.
    pub bytes: u64,
}

/// Pages of one pagemap that a layer takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// The pagemap.
    pub pagemap: PagemapId,
    /// Their addresses.
    pub ranges: Ranges,
}

/// A layer that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// Its directory.
    pub dir: PathBuf,
    /// Its last part.
    pub name: String,
    /// What the user called it.
    pub label: Option<String>,
    /// What it takes on the disk.
    pub bytes: u64,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Drop(Vec<PathBuf>),
    Squash(PathBuf, PathBuf),
    Flatten(PathBuf, Option<PathBuf>),
    Prune(PathBuf, Keep),
}

impl Request {
    /// Plans it while nobody changes the layers.
    pub(super) fn plan(&self) -> Result<Plan> {
        let _lock = Lock::shared(&self.folders()?)?;
        self.plan_held()
    }

    /// The same, when the folders are locked already.
    pub(super) fn plan_held(&self) -> Result<Plan> {
        match self {
            Self::Drop(dirs) => remove::plan_drop(dirs),
            Self::Squash(from, to) => remove::plan_squash(from, to),
            Self::Flatten(dir, into) => flatten::plan_flatten(dir, into.as_deref()),
            Self::Prune(dir, keep) => prune::plan_prune(dir, keep),
        }
    }

    /// The folders that hold the layers it is about, and their ancestors.
    fn folders(&self) -> Result<BTreeSet<PathBuf>> {
        let dirs = match self {
            Self::Drop(dirs) => dirs.clone(),
            Self::Squash(from, to) => vec![from.clone(), to.clone()],
            Self::Flatten(dir, _) => vec![dir.clone()],
            Self::Prune(dir, _) => return Ok(Family::below(&settled(dir)?)?.folders()),
        };
        let mut all = BTreeSet::new();
        for dir in &dirs {
            all.extend(chain::folders(dir)?);
        }
        Ok(all)
    }
}

impl Plan {
    /// True when nothing is in the way.
    pub fn is_possible(&self) -> bool {
        self.obstacles.is_empty()
    }

    /// True when there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rewrites.is_empty() && self.removals.is_empty()
    }

    /// Bytes that will be written.
    pub fn bytes_written(&self) -> u64 {
        self.rewrites.iter().map(|rewrite| rewrite.bytes).sum()
    }

    /// Bytes on the disk that the removed layers take now.
    pub fn bytes_removed(&self) -> u64 {
        self.removals.iter().map(|removal| removal.bytes).sum()
    }

    pub(super) fn new(operation: &'static str, request: Request, family: &Family) -> Self {
        let mut plan = Self {
            operation,
            rewrites: Vec::new(),
            removals: Vec::new(),
            obstacles: Vec::new(),
            warnings: Vec::new(),
            request,
            folders: family.folders(),
        };
        for unreadable in &family.unreadable {
            let what = format!("Branches may be hidden: {}", unreadable.what);
            if unreadable.kind == Kind::Permission {
                let hint = "Run as a user who may read the directory";
                plan.warnings
                    .push(Obstacle::new(unreadable.kind, what, hint));
            } else {
                plan.obstacle(unreadable.kind, what, "Repair the disk, then try again");
            }
        }
        plan
    }

    pub(super) fn obstacle(&mut self, kind: Kind, what: String, hint: impl Into<String>) {
        let obstacle = Obstacle::new(kind, what, hint);
        if !self.obstacles.contains(&obstacle) {
            self.obstacles.push(obstacle);
        }
    }

    /// Plans to remove the layers in `gone`, and what the others need for that.
    pub(super) fn remove(&mut self, family: &Family, gone: &BTreeSet<PathBuf>) -> Result<()> {
        for dir in gone {
            let layer = family.layer(dir)?;
            self.check_removal(layer);
            for child in family
                .children(dir)
                .filter(|child| !gone.contains(&child.dir))
            {
                let mut joined = Vec::new();
                let heir = heir(family, layer, gone, &mut joined)?;
                if let Some(rewrite) = self.rebase(child, heir, None)? {
                    rewrite.joined = joined;
                }
            }
        }
        // Uppermost first: by the number of ancestors.
        let mut order: Vec<(usize, &Layer)> = Vec::new();
        for dir in gone {
            let layer = family.layer(dir)?;
            order.push((ancestors(family, layer), layer));
        }
        order.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.dir.cmp(&b.1.dir)));
        self.removals = order
            .into_iter()
            .map(|(_, layer)| Removal {
                dir: layer.dir.clone(),
                name: layer.name.clone(),
                label: layer.label.clone(),
                bytes: layer.disk_bytes,
            })
            .collect();
        Ok(())
    }

    fn check_removal(&mut self, layer: &Layer) {
        let dir = layer.dir.display();
        if layer.pinned {
            let hint = format!("icecore unpin {dir}, if you do not need it any more");
            self.obstacle(Kind::Busy, format!("Layer {dir} is pinned"), hint);
        }
        if layer.state == State::Partial {
            self.obstacle(
                Kind::Busy,
                format!("The dump into {dir} is not finished"),
                "Wait for the dump; remove that directory if none is running",
            );
        }
        self.check_contents(&layer.dir);
    }

    /// A directory inside would be removed with the layer.
    fn check_contents(&mut self, dir: &Path) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let known = name == "parent" || entry.file_type().is_ok_and(|kind| kind.is_file());
            if !known {
                self.obstacle(
                    Kind::Unsupported,
                    format!("{} is no file of a layer", entry.path().display()),
                    "Move it out of the layer's directory",
                );
            }
        }
    }

    /// Plans to give `layer` the parent in `parent`, one of its ancestors, or none.
    pub(super) fn rebase(
        &mut self,
        layer: &Layer,
        parent: Option<PathBuf>,
        into: Option<PathBuf>,
    ) -> Result<Option<&mut Rewrite>> {
        let dir = layer.dir.display();
        match layer.state {
            // It does not stand on that layer, whatever its link says.
            State::Orphan => return Ok(None),
            State::Partial => {
                self.obstacle(
                    Kind::Busy,
                    format!("A dump into {dir} is not finished; it may need the pages below"),
                    "Wait for the dump; remove that directory if none is running",
                );
                return Ok(None);
            }
            State::Consumed => {
                self.obstacle(
                    Kind::Corrupt,
                    format!("Layer {dir} cannot be carried over: pages of it were freed by dedup"),
                    format!("It cannot be restored any more; drop it as well: icecore drop {dir}"),
                );
                return Ok(None);
            }
            State::Complete | State::PreDump | State::Damaged => {}
        }
        let stack = Stack::open(&layer.dir)?;
        let report = if layer.state == State::PreDump {
            chain::check_memory(&stack)
        } else {
            chain::check(&stack)
        };
        self.obstacles.extend(report.obstacles);
        if into.is_none() {
            self.check_contents(&layer.dir);
        }
        let level = level_of(&stack, parent.as_deref())?;
        let mut rewrite = Rewrite {
            dir: layer.dir.clone(),
            name: layer.name.clone(),
            into,
            parent,
            joined: Vec::new(),
            moved: Vec::new(),
            pages: 0,
            bytes: 0,
        };
        let mut pages_ids = BTreeMap::new();
        for id in stack.tip().images().pagemaps()? {
            let Some(pagemap) = chain::pagemap(stack.tip().images(), id)? else {
                continue;
            };
            if let Some(other) = pages_ids.insert(pagemap.pages_id, id) {
                let (a, b) = (other.file_name(), id.file_name());
                self.obstacle(
                    Kind::Unsupported,
                    format!("{a} and {b} of {dir} have their pages in one file"),
                    "Such layers cannot be changed",
                );
            }
            let ranges = moving(&stack, id, level)?;
            if !ranges.is_empty() {
                rewrite.pages += ranges.pages();
                rewrite.bytes += pagemap.stored_bytes() + ranges.pages() * PAGE_SIZE;
                rewrite.moved.push(Moved {
                    pagemap: id,
                    ranges,
                });
            }
        }
        self.rewrites.push(rewrite);
        Ok(self.rewrites.last_mut())
    }
}

/// The pages of `id` that the tip takes over when everything between it and `level` goes.
pub(super) fn moving(stack: &Stack, id: PagemapId, level: usize) -> Result<Ranges> {
    let mut ranges = Ranges::new();
    for run in stack.ownership(id)?.runs() {
        if run.layer > 0 && run.layer < level {
            ranges.push(run.range);
        }
    }
    Ok(ranges)
}

/// The place in the stack of the layer in `dir`; below the last one for none.
pub(super) fn level_of(stack: &Stack, dir: Option<&Path>) -> Result<usize> {
    let Some(dir) = dir else {
        return Ok(stack.depth());
    };
    let found = stack.levels().iter().position(|level| level.dir() == dir);
    found.ok_or_else(|| {
        let what = format!(
            "{} is no ancestor of {}",
            dir.display(),
            stack.tip().dir().display()
        );
        Error::new(Kind::Usage, what)
    })
}

/// The nearest ancestor of `layer` that stays; `passed` gets those that do not, `layer` first.
fn heir(
    family: &Family,
    layer: &Layer,
    gone: &BTreeSet<PathBuf>,
    passed: &mut Vec<PathBuf>,
) -> Result<Option<PathBuf>> {
    let mut at = layer;
    loop {
        passed.push(at.dir.clone());
        match &at.parent {
            None => return Ok(None),
            Some(parent) if !gone.contains(parent) => return Ok(Some(parent.clone())),
            Some(parent) => at = family.layer(parent)?,
        }
    }
}

/// How many ancestors a layer has, as far as they are there.
fn ancestors(family: &Family, layer: &Layer) -> usize {
    let above = |layer: &&Layer| family.layer(layer.parent.as_ref()?).ok();
    std::iter::successors(Some(layer), above)
        .take(chain::MAX_DEPTH)
        .count()
}
