//! Branches: layers outside of the stack that were made on top of one of its ancestors and still
//! read pages there. Looked for in the folders that hold the layers of the stack.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::superseded::Losses;
use crate::chain::{self, Affected, Catalog, Layer, Ranges, Stack, State};
use crate::error::{Kind, Obstacle, Result};
use crate::image::{Images, PagemapId};

/// Folders are searched no deeper than this: siblings lie beside each other.
const DEPTH: usize = 2;

/// Adds an obstacle for every branch that would lose pages.
pub(super) fn protect(stack: &Stack, losses: &Losses, plan: &mut Plan) -> Result<()> {
    if losses.is_empty() {
        return Ok(());
    }
    let own: BTreeSet<&Path> = stack.levels().iter().map(chain::Level::dir).collect();
    let above = children(stack, plan)?;
    for (index, lost) in losses {
        let mut todo = vec![(stack.level(*index)?.dir().to_path_buf(), lost.clone())];
        while let Some((dir, lost)) = todo.pop() {
            for layer in above.get(&dir).into_iter().flatten() {
                if own.contains(layer.dir.as_path()) {
                    continue;
                }
                match reads(layer, &lost) {
                    Ok(lost) if lost.is_empty() => {}
                    Ok(lost) => {
                        object(layer, &lost, plan);
                        todo.push((layer.dir.clone(), lost));
                    }
                    Err(error) => plan.obstacle(
                        error.kind(),
                        format!(
                            "Layer {} may need the pages: {}",
                            layer.dir.display(),
                            error.one_line()
                        ),
                        "Repair or remove that layer",
                    ),
                }
            }
        }
    }
    Ok(())
}

/// The pages of layers of the stack that restorable branches need: by layer and pagemap.
pub(super) fn wanted(stack: &Stack) -> Result<BTreeMap<(PathBuf, PagemapId), Ranges>> {
    let own: BTreeSet<&Path> = stack.levels().iter().map(chain::Level::dir).collect();
    let mut wanted: BTreeMap<(PathBuf, PagemapId), Ranges> = BTreeMap::new();
    for folder in folders(stack) {
        for layer in Catalog::scan_to(folder, DEPTH)?.layers() {
            if !layer.is_restorable() || own.contains(layer.dir.as_path()) {
                continue;
            }
            let branch = Stack::open(&layer.dir)?;
            for id in branch.tip().images().pagemaps()? {
                let ownership = branch.ownership(id)?;
                for (index, level) in branch.levels().iter().enumerate() {
                    if own.contains(level.dir()) {
                        let needed = wanted.entry((level.dir().to_path_buf(), id)).or_default();
                        *needed = needed.union(&ownership.of_layer(index));
                    }
                }
            }
        }
    }
    Ok(wanted)
}

/// The folders that hold the layers of the stack.
fn folders(stack: &Stack) -> BTreeSet<&Path> {
    let levels = stack.levels().iter();
    levels.filter_map(|level| level.dir().parent()).collect()
}

/// All layers that can be found around the stack, by the directory of their parent.
fn children(stack: &Stack, plan: &mut Plan) -> Result<BTreeMap<PathBuf, Vec<Layer>>> {
    let mut layers: BTreeMap<PathBuf, Layer> = BTreeMap::new();
    for folder in folders(stack) {
        let catalog = Catalog::scan_to(folder, DEPTH)?;
        for unreadable in catalog.unreadable() {
            plan.warnings.push(Obstacle::new(
                unreadable.kind,
                format!("Branches may be hidden: {}", unreadable.what),
                "Run as a user who may read the directory",
            ));
        }
        layers.extend(
            catalog
                .layers()
                .iter()
                .map(|layer| (layer.dir.clone(), layer.clone())),
        );
    }
    let mut above: BTreeMap<PathBuf, Vec<Layer>> = BTreeMap::new();
    for layer in layers.into_values() {
        if let Some(parent) = layer.parent.clone() {
            above.entry(parent).or_default().push(layer);
        }
    }
    Ok(above)
}

/// The pages among those `lost` as of its parent that `layer` reads there.
fn reads(
    layer: &Layer,
    lost: &BTreeMap<PagemapId, Affected>,
) -> Result<BTreeMap<PagemapId, Affected>> {
    let images = Images::open(&layer.dir)?;
    let mut here = BTreeMap::new();
    for (id, parent) in lost {
        let affected = if layer.state == State::Partial {
            parent.clone() // its pagemaps are still being written: it may read everything
        } else {
            let Some(pagemap) = chain::pagemap(&images, *id)? else {
                continue;
            };
            Affected::above(Some(parent), &pagemap, &Ranges::new())
        };
        if !affected.pages().is_empty() {
            here.insert(*id, affected);
        }
    }
    Ok(here)
}

/// Says why `layer` is in the way, unless it cannot be restored anyway.
fn object(layer: &Layer, lost: &BTreeMap<PagemapId, Affected>, plan: &mut Plan) {
    let pages: u64 = lost.values().map(|affected| affected.pages().pages()).sum();
    let dir = layer.dir.display();
    let (what, hint) = match layer.state {
        State::Consumed | State::Orphan => return,
        State::Partial => (
            format!("A dump into {dir} is not finished; it may need the pages"),
            "Wait for the dump; remove that directory if none is running",
        ),
        State::Complete | State::PreDump | State::Damaged => (
            format!("Branch {dir} still needs {pages} of the pages"),
            "Remove that branch if you do not need it, or dedup a layer above the fork",
        ),
    };
    plan.obstacle(Kind::Busy, what, hint);
}
