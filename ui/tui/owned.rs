//! How much of what each layer stores is still read, by the layer itself and by the newest ones above it. A
//! layer that a live process stands on counts as one of the newest: that process goes on from there.
//!
//! Counted by a thread of its own, tree by tree, again only where layers have changed. It takes no lock,
//! for nobody shall have to wait for it: what changes meanwhile is counted again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};

use icecore::chain::{Catalog, Census, Layer, Ranges, Stack, State};
use icecore::image::PagemapId;
use icecore::{Cancel, PAGE_SIZE, Result};

use super::message::Msg;
use crate::standing::Standing;

/// Bytes of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Read as of the newest layers on top of it, and of those on which a live process stands (or of itself,
    /// where there is none).
    pub(crate) owned: u64,
    /// Stored, but in each of them stored again above.
    pub(crate) superseded: u64,
}

/// What is known, by directory; nothing for a layer that cannot be counted.
pub(crate) type Uses = BTreeMap<PathBuf, Option<Use>>;

/// What tells that a layer is the one that was counted.
type Mark = (PathBuf, Option<String>, State, u64, u64, bool);

/// Counts every catalog that comes.
pub(crate) fn answer(catalogs: &Receiver<Catalog>, messages: &Sender<Msg>) {
    let mut known: BTreeMap<Vec<PathBuf>, (Vec<Mark>, Uses)> = BTreeMap::new();
    while let Ok(mut catalog) = catalogs.recv() {
        while let Ok(newer) = catalogs.try_recv() {
            catalog = newer;
        }
        let live = Standing::now().layers();
        let mut now = BTreeMap::new();
        let mut todo = Vec::new();
        for tree in catalog.trees() {
            let layers: Vec<usize> = tree.iter().map(|(layer, _)| *layer).collect();
            let here = || layers.iter().filter_map(|n| catalog.layers().get(*n));
            let dirs: Vec<PathBuf> = here().map(|layer| layer.dir.clone()).collect();
            let marks: Vec<Mark> = here().map(|layer| mark(layer, &live)).collect();
            match known.remove(&dirs).filter(|(before, _)| *before == marks) {
                Some(counted) => drop(now.insert(dirs, counted)),
                None => todo.push((dirs, marks, layers)),
            }
        }
        known = now;
        // What is not counted yet is not shown as it was.
        let mut open = tell(&known, messages);
        for (dirs, marks, layers) in todo {
            let uses = of_tree(&catalog, &layers, &live);
            known.insert(dirs, (marks, uses));
            open = open && tell(&known, messages);
        }
        if !open {
            return;
        }
    }
}

fn mark(layer: &Layer, live: &BTreeSet<String>) -> Mark {
    let (id, dir) = (layer.id.clone(), layer.dir.clone());
    let (stored, bytes) = (layer.pages_stored, layer.disk_bytes);
    (
        dir,
        id,
        layer.state,
        stored,
        bytes,
        is_stood_on(layer, live),
    )
}

/// Whether a live process stands on it. One that nobody can go back to is read by nobody.
fn is_stood_on(layer: &Layer, live: &BTreeSet<String>) -> bool {
    layer.is_restorable() && layer.id.as_ref().is_some_and(|id| live.contains(id))
}

fn tell(known: &BTreeMap<Vec<PathBuf>, (Vec<Mark>, Uses)>, messages: &Sender<Msg>) -> bool {
    let all = known.values().flat_map(|(_, uses)| uses.clone());
    messages.send(Msg::Owned(all.collect())).is_ok()
}

/// Counts a tree of layers: whatever any of its tips reads is owned.
fn of_tree(catalog: &Catalog, layers: &[usize], live: &BTreeSet<String>) -> Uses {
    let dir = |n: usize| catalog.layers().get(n).map(|layer| layer.dir.clone());
    let stood_on = |n: usize| {
        let layer = catalog.layers().get(n);
        layer.is_some_and(|layer| is_stood_on(layer, live))
    };
    let tips = || {
        let all = layers.iter();
        all.filter(|n| catalog.children(**n).is_empty() || stood_on(**n))
    };
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use icecore::{chain, dedup, edit};
    use tempfile::TempDir;

    use super::*;
    use crate::standing::identity;

    /// A copy of a stack of CRIU's: three layers, each on top of the one before.
    fn stack() -> TempDir {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/criu-4.1-stack");
        let copy = tempfile::tempdir().unwrap();
        for layer in ["1", "2", "3"] {
            let to = copy.path().join(layer);
            fs::create_dir(&to).unwrap();
            for file in fs::read_dir(from.join(layer)).unwrap() {
                let file = file.unwrap();
                let to = to.join(file.file_name());
                match file.file_type().unwrap().is_symlink() {
                    true => symlink(fs::read_link(file.path()).unwrap(), to).unwrap(),
                    false => drop(fs::copy(file.path(), to).unwrap()),
                }
            }
        }
        copy
    }

    /// Pages owned and superseded, by layer.
    fn counted(stack: &TempDir) -> BTreeMap<String, Option<(u64, u64)>> {
        counted_with(stack, &BTreeSet::new())
    }

    /// The same while live processes stand on layers.
    fn counted_with(
        stack: &TempDir,
        live: &BTreeSet<String>,
    ) -> BTreeMap<String, Option<(u64, u64)>> {
        let catalog = Catalog::scan(stack.path()).unwrap();
        let trees = catalog.trees();
        let uses = trees.iter().flat_map(|tree| {
            let layers: Vec<usize> = tree.iter().map(|(layer, _)| *layer).collect();
            of_tree(&catalog, &layers, live)
        });
        let pages = |of: Use| (of.owned / PAGE_SIZE, of.superseded / PAGE_SIZE);
        uses.map(|(dir, of)| {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            (name, of.map(pages))
        })
        .collect()
    }

    #[test]
    fn each_page_of_the_newest_layer_is_owned_once_and_the_others_are_superseded() {
        let stack = stack();
        let counted = counted(&stack);
        assert_eq!(counted["3"], Some((3, 0)));
        assert_eq!(counted["2"], Some((1, 2)));
        assert_eq!(counted["1"], Some((8, 4)));
    }

    #[test]
    fn what_only_a_branch_reads_is_owned_too() {
        let stack = stack();
        let at = |name: &str| stack.path().join(name);
        edit::branch(&at("1"), &at("other"), None).unwrap();
        let counted = counted(&stack);
        // The branch reads all of it.
        assert_eq!(counted["1"], Some((12, 0)));
        assert_eq!(counted["2"], Some((1, 2)), "as before");
        assert_eq!(counted["other"], Some((0, 0)));
    }

    #[test]
    fn what_a_live_process_stands_on_is_owned_although_newer_layers_override_it() {
        let stack = stack();
        chain::adopt(stack.path(), &(), &Cancel::default()).unwrap();
        let id = identity(&stack.path().join("2")).unwrap();
        let before = counted(&stack);
        assert_eq!(before["2"], Some((1, 2)), "overridden by 3");
        let live = counted_with(&stack, &[id.clone()].into());
        assert_eq!(live["2"], Some((3, 0)));
        assert_eq!(live["3"], before["3"]);
        assert!(live["1"].unwrap().0 >= before["1"].unwrap().0);
        let warned = |layer: &str| {
            let tip = stack.path().join("3");
            let plan = dedup::plan(&tip, dedup::strategy("superseded").unwrap()).unwrap();
            let id = identity(&stack.path().join(layer)).unwrap();
            Standing::of([(7, id.clone()), (8, id)]).warnings(&plan)
        };
        let text = "process 7 and 1 more stand on layer 2, which is given up: there is no way \
                    back to it then, and the next layer has to be a full one";
        assert_eq!(warned("2"), [text]);
        assert!(warned("3").is_empty(), "that one is not lost");
        // When it was given up, it is nobody's any more.
        let plan = dedup::plan(
            stack.path().join("3"),
            dedup::strategy("superseded").unwrap(),
        );
        dedup::apply(&plan.unwrap(), &(), &Cancel::default()).unwrap();
        assert_eq!(counted_with(&stack, &[id].into())["2"], Some((1, 0)));
    }

    #[test]
    fn of_a_damaged_layer_nothing_is_claimed() {
        let stack = stack();
        fs::write(stack.path().join("3/pagemap-218.img"), b"nonsense").unwrap();
        let counted = counted(&stack);
        assert_eq!(counted["3"], None);
        assert_eq!(counted["2"], Some((3, 0)), "the newest that can be read");
    }
}
