//! How much of what each layer stores is still read, by the layer itself and by the newest ones above it.
//!
//! Counted by a thread of its own, tree by tree, again only where layers have changed. It takes no lock,
//! for nobody shall have to wait for it: what changes meanwhile is counted again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};

use icecore::chain::{Catalog, Census, Layer, Ranges, Stack, State};
use icecore::image::PagemapId;
use icecore::{Cancel, PAGE_SIZE, Result};

use super::message::Msg;

/// Bytes of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Read as of the newest layers on top of it (or of itself, where there is none).
    pub(crate) owned: u64,
    /// Stored, but in each of them stored again above.
    pub(crate) superseded: u64,
}

/// What is known, by directory; nothing for a layer that cannot be counted.
pub(crate) type Uses = BTreeMap<PathBuf, Option<Use>>;

/// What tells that a layer is the one that was counted.
type Mark = (PathBuf, Option<String>, State, u64, u64);

/// Counts every catalog that comes.
pub(crate) fn answer(catalogs: &Receiver<Catalog>, messages: &Sender<Msg>) {
    let mut known: BTreeMap<Vec<PathBuf>, (Vec<Mark>, Uses)> = BTreeMap::new();
    while let Ok(mut catalog) = catalogs.recv() {
        while let Ok(newer) = catalogs.try_recv() {
            catalog = newer;
        }
        let mut now = BTreeMap::new();
        let mut todo = Vec::new();
        for tree in catalog.trees() {
            let layers: Vec<usize> = tree.iter().map(|(layer, _)| *layer).collect();
            let here = || layers.iter().filter_map(|n| catalog.layers().get(*n));
            let dirs: Vec<PathBuf> = here().map(|layer| layer.dir.clone()).collect();
            let marks: Vec<Mark> = here().map(mark).collect();
            match known.remove(&dirs).filter(|(before, _)| *before == marks) {
                Some(counted) => drop(now.insert(dirs, counted)),
                None => todo.push((dirs, marks, layers)),
            }
        }
        known = now;
        // What is not counted yet is not shown as it was.
        let mut open = tell(&known, messages);
        for (dirs, marks, layers) in todo {
            let uses = of_tree(&catalog, &layers);
            known.insert(dirs, (marks, uses));
            open = open && tell(&known, messages);
        }
        if !open {
            return;
        }
    }
}

fn mark(layer: &Layer) -> Mark {
    let (id, dir) = (layer.id.clone(), layer.dir.clone());
    (dir, id, layer.state, layer.pages_stored, layer.disk_bytes)
}

fn tell(known: &BTreeMap<Vec<PathBuf>, (Vec<Mark>, Uses)>, messages: &Sender<Msg>) -> bool {
    let all = known.values().flat_map(|(_, uses)| uses.clone());
    messages.send(Msg::Owned(all.collect())).is_ok()
}

/// Counts a tree of layers: whatever any of its tips reads is owned.
fn of_tree(catalog: &Catalog, layers: &[usize]) -> Uses {
    let dir = |n: usize| catalog.layers().get(n).map(|layer| layer.dir.clone());
    let tips = || layers.iter().filter(|n| catalog.children(**n).is_empty());
    // How many tips stand on each layer.
    let mut above: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for tip in tips() {
        let mut at = Some(*tip);
        while let Some(n) = at {
            *dir(n).map_or(&mut 0, |dir| above.entry(dir).or_default()) += 1;
            at = catalog.parent(n).filter(|n| layers.contains(n));
        }
    }
    let mut pages: BTreeMap<PathBuf, u64> = BTreeMap::new();
    let mut shared: BTreeMap<(PathBuf, PagemapId), Ranges> = BTreeMap::new();
    let mut failed = Vec::new();
    for tip in tips().filter_map(|tip| dir(*tip)) {
        if count(&tip, &above, &mut pages, &mut shared).is_err() {
            failed.push(tip);
        }
    }
    for ((dir, _), read) in shared {
        *pages.entry(dir).or_default() += read.pages();
    }
    let known = layers.iter().filter_map(|n| catalog.layers().get(*n));
    let known = known.map(|layer| {
        let owned = pages.get(&layer.dir).map(|pages| pages * PAGE_SIZE);
        // Where one of several tips cannot be read, what it reads is not known either.
        let certain = failed.is_empty();
        let found = owned.filter(|_| certain).map(|owned| Use {
            owned,
            superseded: superseded(layer, owned),
        });
        (layer.dir.clone(), found)
    });
    known.collect()
}

/// What a layer stores beside what is read of it; pages that were freed take nothing.
fn superseded(layer: &Layer, owned: u64) -> u64 {
    if layer.state == State::Consumed {
        return 0;
    }
    let stored = layer.pages_stored * PAGE_SIZE;
    stored
        .saturating_sub(owned)
        .min(layer.disk_bytes.saturating_sub(owned))
}

/// Adds what a tip reads. Of layers that other tips stand on, too, addresses are needed.
fn count(
    tip: &std::path::Path,
    above: &BTreeMap<PathBuf, usize>,
    pages: &mut BTreeMap<PathBuf, u64>,
    shared: &mut BTreeMap<(PathBuf, PagemapId), Ranges>,
) -> Result<()> {
    let stack = Stack::open(tip)?;
    let several = |dir: &PathBuf| above.get(dir).is_some_and(|tips| *tips > 1);
    let census = Census::of(&stack, &Cancel::default())?;
    for layer in census.layers.iter().filter(|layer| !several(&layer.dir)) {
        pages.insert(layer.dir.clone(), layer.owned);
    }
    if !census.layers.iter().any(|layer| several(&layer.dir)) {
        return Ok(());
    }
    for id in stack.tip().images().pagemaps()? {
        let ownership = stack.ownership(id)?;
        for (n, level) in stack.levels().iter().enumerate() {
            let dir = level.dir().to_path_buf();
            if several(&dir) {
                let read = shared.entry((dir, id)).or_default();
                *read = read.union(&ownership.of_layer(n));
            }
        }
    }
    Ok(())
}
