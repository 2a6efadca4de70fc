//! Random sequences of changes and dedups on random trees of layers, against a model that knows only
//! bytes. `ICECORE_TEST_SEQUENCES` sets how many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statfs::{XFS_SUPER_MAGIC, statfs};
use proptest::prelude::*;
use proptest::sample::{Index, Selector};
use proptest::test_runner::TestRunner;
use tempfile::TempDir;

use super::*;
use crate::chain::model::{Cells, Made, SPACE, cells, pagemap, scratch};
use crate::chain::{self, Catalog, Depth, Ranges, Stack, check_dir};
use crate::dedup;
use crate::error::Kind;
use crate::event::Cancel;
use crate::image::proto::InventoryEntry;
use crate::image::{Images, LayerWriter, PagemapId, Place, Sidecar};
use crate::units::PAGE_SIZE;

/// Pagemaps that a layer may have: a task that is always there, one that comes and goes, a segment.
const IDS: [PagemapId; 3] = [PagemapId::Task(7), PagemapId::Task(9), PagemapId::Shared(3)];

/// What a layer should give: for each pagemap the first byte of each page.
type Memory = BTreeMap<PagemapId, BTreeMap<u64, u8>>;

/// A layer to be made: where its parent is, what it has of each pagemap, whether we made it.
type Seed = (Index, [Option<Cells>; 3], bool);

fn seeds() -> impl Strategy<Value = Vec<Seed>> {
    let map = || prop::option::weighted(0.8, cells());
    let layer = (
        any::<Index>(),
        [map(), map(), map()],
        prop::bool::weighted(0.8),
    );
    prop::collection::vec(layer, 1..7)
}

/// The layers, with what each of them should give as long as it is there.
#[derive(Debug, Default)]
struct World {
    root: PathBuf,
    layers: BTreeMap<PathBuf, Memory>,
    /// Layers that a dedup has consumed.
    lost: BTreeSet<PathBuf>,
    made: usize,
    /// Files can share blocks here.
    shares: bool,
}

impl World {
    fn new(root: &Path, seeds: &[Seed]) -> Self {
        let root = root.canonicalize().unwrap();
        let kind = statfs(&root).unwrap().filesystem_type();
        let mut world = Self {
            root,
            shares: kind == XFS_SUPER_MAGIC,
            ..Self::default()
        };
        let mut dirs: Vec<PathBuf> = Vec::new();
        for (n, (parent, maps, ours)) in seeds.iter().enumerate() {
            let parent = (n > 0).then(|| dirs[n - 1 - parent.index(n) / 2].clone());
            dirs.push(world.write(parent.as_deref(), maps, *ours));
        }
        world
    }

    fn fresh(&mut self) -> PathBuf {
        self.made += 1;
        self.root.join(self.made.to_string())
    }

    fn write(&mut self, parent: Option<&Path>, maps: &[Option<Cells>; 3], ours: bool) -> PathBuf {
        let dir = self.fresh();
        let n = self.made;
        let below = parent.map(|parent| self.layers[parent].clone());
        let writer = LayerWriter::create(&dir).unwrap();
        let mut memory = Memory::new();
        for (pages_id, (id, cells)) in (1..).zip(IDS.iter().zip(maps)) {
            let Some(mut cells) = cells.clone() else {
                continue;
            };
            let inherited = below.as_ref().and_then(|below| below.get(id));
            let mut bytes = BTreeMap::new();
            let mut pages = writer.pages(pages_id).unwrap();
            for (page, cell) in (0u64..).zip(cells.iter_mut()) {
                let old = inherited.and_then(|below| below.get(&page)).copied();
                match (*cell, old) {
                    (None, _) => {}
                    (Some(Place::Parent), Some(old)) => drop(bytes.insert(page, old)),
                    (Some(Place::Parent), None) => *cell = None,
                    (Some(Place::Present), _) => {
                        let place = n * 3 * SPACE + page as usize + SPACE * pages_id as usize;
                        // Half of the pages are like many others: equal below, or zeros.
                        let byte = match place % 2 {
                            0 => u8::try_from(page % 3).unwrap(),
                            _ => u8::try_from(1 + place % 251).unwrap(),
                        };
                        pages.append(&vec![byte; PAGE_SIZE as usize]).unwrap();
                        bytes.insert(page, byte);
                    }
                }
            }
            let mut map = pagemap(&cells);
            map.pages_id = pages_id;
            writer.pagemap(*id, &map).unwrap();
            memory.insert(*id, bytes);
        }
        if let Some(parent) = parent {
            writer
                .link_parent(&Path::new("..").join(parent.file_name().unwrap()))
                .unwrap();
        }
        let inventory = InventoryEntry {
            img_version: 2,
            ..InventoryEntry::default()
        };
        writer.one("inventory.img", &inventory).unwrap();
        if ours {
            let of_parent =
                parent.map(|parent| Sidecar::read(&Images::open(parent).unwrap()).unwrap());
            let parent_id = of_parent.flatten().map(|s| s.id).unwrap_or_default();
            writer
                .sidecar(Sidecar {
                    id: vec![u8::try_from(n).unwrap(); 16],
                    parent_id,
                    created: Some(n as u64 * 1_800_000_000_000),
                    ..Sidecar::default()
                })
                .unwrap();
        }
        writer.commit().unwrap();
        self.layers.insert(dir.clone(), memory);
        dir
    }

    fn pick(&self, index: Index) -> PathBuf {
        self.layers
            .keys()
            .nth(index.index(self.layers.len()))
            .unwrap()
            .clone()
    }

    /// Carries out a plan that may be refused, and forgets what it removes.
    fn apply(&mut self, plan: &Plan) -> bool {
        let done = apply(plan, &(), &Cancel::default());
        if plan.is_possible() {
            done.unwrap();
            plan.removals.iter().for_each(|gone| self.forget(&gone.dir));
        } else {
            done.unwrap_err();
        }
        plan.is_possible()
    }

    fn forget(&mut self, dir: &Path) {
        self.layers.remove(dir);
        self.lost.remove(dir);
    }

    /// Deduplicates a stack; what is planned twice has nothing left to do.
    fn dedup(&mut self, dir: &Path, name: &str) {
        let strategy = dedup::strategy(name).unwrap();
        let single = Stack::open(dir).unwrap().depth() == 1;
        let shares = self.shares || name != "content";
        if single && !strategy.is_lossless() {
            dedup::plan(dir, strategy).unwrap_err();
            return;
        }
        let plan = dedup::plan(dir, strategy).unwrap();
        let done = dedup::apply(&plan, &(), &Cancel::default());
        if !plan.is_possible() {
            assert!(!strategy.is_lossless() || !shares, "{plan:?}");
            done.unwrap_err();
            return;
        }
        let freed = done.unwrap();
        assert_eq!(freed.pages, plan.pages);
        // XFS counts what it reserved behind the end of a file, and its own blocks.
        let exact = self.shares || freed.bytes == plan.bytes;
        assert!(exact, "{freed:?} {plan:?}");
        let lost: Vec<PathBuf> = plan
            .lost_layers()
            .map(|victim| victim.dir.clone())
            .collect();
        assert!(name == "superseded" || lost.is_empty(), "{plan:?}");
        for dir in lost {
            self.layers.remove(&dir).unwrap();
            self.lost.insert(dir);
        }
        let again = dedup::plan(dir, strategy).unwrap();
        assert!(again.is_empty() && again.is_possible(), "{again:?}");
    }

    /// Every layer that is there gives what it should, and there is nothing else.
    fn check(&self) {
        for (dir, memory) in &self.layers {
            let report = check_dir(dir);
            assert_eq!(report.obstacles, vec![], "{}", dir.display());
            let stack = Stack::open(dir).unwrap();
            let mut found = Memory::new();
            for id in stack.tip().images().pagemaps().unwrap() {
                let pagemap = chain::pagemap(stack.tip().images(), id).unwrap().unwrap();
                let resolved = stack.resolved(id).unwrap().checked();
                let mut bytes = BTreeMap::new();
                for range in Ranges::covered(&pagemap).iter() {
                    for at in (range.start..range.end).step_by(PAGE_SIZE as usize) {
                        let mut page = [0; PAGE_SIZE as usize];
                        resolved.read_at(at, &mut page).unwrap();
                        assert!(page.iter().all(|byte| *byte == page[0]));
                        bytes.insert(at / PAGE_SIZE, page[0]);
                    }
                }
                found.insert(id, bytes);
            }
            assert_eq!(&found, memory, "{}", dir.display());
        }
        let here: BTreeSet<PathBuf> = fs::read_dir(&self.root)
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        assert_eq!(
            here,
            self.layers.keys().chain(&self.lost).cloned().collect()
        );
        let catalog = Catalog::scan(&self.root).unwrap();
        for layer in catalog.layers() {
            let lost = self.lost.contains(&layer.dir);
            assert_eq!(layer.is_restorable(), !lost, "{layer:?}");
        }
        if catalog.layers().is_empty() {
            return;
        }
        let verified = chain::verify(&self.root, Depth::Full, &(), &Cancel::default()).unwrap();
        assert_eq!(verified.findings, vec![]);
    }
}

/// One change.
#[derive(Clone, Debug)]
enum Step {
    Drop(Box<Selector>, usize),
    Squash(Index, Index),
    Flatten(Index, bool),
    Branch(Index),
    Prune(usize, usize),
    Pin(Index, bool),
    Label(Index),
    Dump(Index, [Option<Cells>; 3]),
    Dedup(Index, &'static str),
    Adopt(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let map = || prop::option::weighted(0.8, cells());
    prop_oneof![
        3 => (any::<Selector>(), 1usize..3).prop_map(|(s, n)| Step::Drop(Box::new(s), n)),
        3 => (any::<Index>(), any::<Index>()).prop_map(|(a, b)| Step::Squash(a, b)),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(a, b)| Step::Flatten(a, b)),
        1 => any::<Index>().prop_map(Step::Branch),
        1 => (1usize..4, 0usize..3).prop_map(|(last, hourly)| Step::Prune(last, hourly)),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(a, b)| Step::Pin(a, b)),
        1 => any::<Index>().prop_map(Step::Label),
        3 => (any::<Index>(), [map(), map(), map()]).prop_map(|(a, m)| Step::Dump(a, m)),
        2 => any::<Index>().prop_map(|a| Step::Dedup(a, "unchanged")),
        2 => any::<Index>().prop_map(|a| Step::Dedup(a, "zero")),
        1 => any::<Index>().prop_map(|a| Step::Dedup(a, "superseded")),
        1 => any::<Index>().prop_map(|a| Step::Dedup(a, "unneeded")),
        1 => any::<Index>().prop_map(|a| Step::Dedup(a, "content")),
        1 => any::<Index>().prop_map(Step::Adopt),
    ]
}

fn take(world: &mut World, step: Step) {
    match step {
        Step::Drop(selector, count) => {
            let all: Vec<PathBuf> = world.layers.keys().cloned().collect();
            let mut dirs: Vec<PathBuf> =
                (0..count).map(|_| selector.select(&all).clone()).collect();
            dirs.dedup();
            world.apply(&drop_layers(&dirs).unwrap());
        }
        Step::Squash(a, b) => {
            let (from, to) = (world.pick(a), world.pick(b));
            match squash(&from, &to) {
                Ok(plan) => drop(world.apply(&plan)),
                Err(error) => assert_eq!(error.kind(), Kind::Usage),
            }
        }
        Step::Flatten(a, in_place) => {
            let dir = world.pick(a);
            let into = (!in_place).then(|| world.fresh());
            let done = world.apply(&flatten(&dir, into.as_deref()).unwrap());
            assert!(done);
            if let Some(into) = into {
                world.layers.insert(into, world.layers[&dir].clone());
            }
        }
        Step::Branch(a) => {
            let (dir, into) = (world.pick(a), world.fresh());
            branch(&dir, &into, Some("b")).unwrap();
            world.layers.insert(into, world.layers[&dir].clone());
        }
        Step::Prune(last, hourly) => {
            let keep = Keep {
                last,
                hourly,
                ..Keep::default()
            };
            let plan = prune(&world.root, &keep).unwrap();
            world.apply(&plan);
        }
        Step::Pin(a, pinned) => drop(pin(&world.pick(a), pinned).unwrap()),
        Step::Label(a) => drop(label(&world.pick(a), "x").unwrap()),
        Step::Dump(a, maps) => {
            let parent = world.pick(a);
            world.write(Some(&parent), &maps, true);
        }
        Step::Dedup(a, strategy) => {
            let dir = world.pick(a);
            world.dedup(&dir, strategy);
        }
        Step::Adopt(a) => {
            chain::adopt(&world.pick(a), &(), &Cancel::default()).unwrap();
        }
    }
}

/// How many sequences each of the two tests goes through.
fn sequences() -> u32 {
    let wanted = std::env::var("ICECORE_TEST_SEQUENCES");
    wanted.ok().and_then(|n| n.parse().ok()).unwrap_or(400) / 2
}

/// One sequence.
fn live(root: &Path, seeds: &[Seed], steps: Vec<Step>) {
    let mut world = World::new(root, seeds);
    world.check();
    for step in steps {
        if world.layers.is_empty() {
            break;
        }
        take(&mut world, step);
        world.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: sequences(),
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    })]
    #[test]
    fn every_layer_that_stays_gives_the_same_memory(
        seeds in seeds(), steps in prop::collection::vec(step(), 1..8),
    ) {
        live(scratch().path(), &seeds, steps);
    }

    #[test]
    fn every_layer_that_stays_gives_the_same_memory_on_another_processor(
        seeds in seeds(), steps in prop::collection::vec(step(), 1..8),
    ) {
        live(scratch().path(), &seeds, steps);
    }
}

/// An XFS of its own, in memory: there, files can share blocks.
struct Xfs {
    dir: TempDir,
}

impl Xfs {
    fn new() -> Result<Self, String> {
        let dir = scratch();
        let image = dir.path().join("image");
        let file = fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(400 << 20).map_err(|e| e.to_string())?;
        run(Command::new("mkfs.xfs").arg("-q").arg(&image))?;
        let xfs = Self { dir };
        fs::create_dir(xfs.path()).map_err(|e| e.to_string())?;
        let mut mount = Command::new("mount");
        run(mount.args(["-o", "loop"]).arg(&image).arg(xfs.path()))?;
        Ok(xfs)
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("at")
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        // Whoever was given a copy of the mounts just now may keep it a while.
        drop(run(Command::new("umount").arg("-l").arg(self.path())));
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let done = output.status.success();
    done.then_some(())
        .ok_or_else(|| format!("{command:?}: {said}"))
}

#[test]
fn every_layer_that_stays_gives_the_same_memory_where_files_share_blocks() {
    let xfs = match Xfs::new() {
        Ok(xfs) => xfs,
        Err(why) => return writeln!(std::io::stderr(), "skipped: {why}").unwrap(),
    };
    let mut runner = TestRunner::new(ProptestConfig {
        cases: sequences().div_ceil(10), // each of its syncs is a real one
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let all = runner.run(
        &(seeds(), prop::collection::vec(step(), 1..8)),
        |(seeds, steps)| {
            let root = tempfile::tempdir_in(xfs.path()).unwrap();
            live(root.path(), &seeds, steps);
            Ok(())
        },
    );
    all.unwrap();
}

const BASE: &[(u64, u64, Place)] = &[(0, 8, Place::Present)];
const TOP: &[(u64, u64, Place)] = &[(0, 2, Place::Present), (2, 6, Place::Parent)];

fn line(root: &Path) -> [PathBuf; 3] {
    [
        Made::new("1", None, BASE).id(1, None).write(root),
        Made::new("2", Some("../1"), TOP).id(2, Some(1)).write(root),
        Made::new("3", Some("../2"), &[(1, 4, Place::Parent)])
            .id(3, Some(2))
            .write(root),
    ]
}

#[test]
fn a_plan_says_what_moves_and_changes_nothing() {
    let root = scratch();
    let [_, two, three] = line(root.path());
    let plan = drop_layers(std::slice::from_ref(&two)).unwrap();
    assert_eq!(plan.removals.len(), 1);
    let [rewrite] = &plan.rewrites[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (rewrite.dir == three.canonicalize().unwrap(), rewrite.pages),
        (true, 1)
    );
    assert!(two.exists());
    apply(&plan, &(), &Cancel::default()).unwrap();
    assert!(!two.exists());
    assert_eq!(
        fs::read_link(three.join("parent")).unwrap(),
        Path::new("../1")
    );
    let sidecar = Sidecar::read(&Images::open(&three).unwrap())
        .unwrap()
        .unwrap();
    assert_eq!((sidecar.id, sidecar.parent_id), (vec![3; 16], vec![1; 16]));
    assert_eq!(
        (sidecar.pages_stored, sidecar.pages_in_parent),
        (Some(1), Some(3))
    );
}

#[test]
fn a_plan_that_is_out_of_date_is_refused() {
    let root = scratch();
    let [one, two, three] = line(root.path());
    let plan = drop_layers(&[one]).unwrap();
    apply(&drop_layers(&[two]).unwrap(), &(), &Cancel::default()).unwrap();
    let error = apply(&plan, &(), &Cancel::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(check_dir(three).is_sound());
}

#[test]
fn a_squash_that_was_cut_off_before_layers_went_is_finished_by_the_same_command() {
    let root = scratch();
    let [one, two, three] = line(root.path());
    let before = root.path().join("before");
    fs::create_dir(&before).unwrap();
    let copies = line(&before);
    apply(&squash(&one, &three).unwrap(), &(), &Cancel::default()).unwrap();
    assert!(!one.exists() && !two.exists() && check_dir(&three).is_sound());
    // As if it had been killed there.
    fs::rename(&copies[0], &one).unwrap();
    fs::rename(&copies[1], &two).unwrap();
    let plan = squash(&one, &three).unwrap();
    assert_eq!((plan.rewrites.len(), plan.removals.len()), (0, 2));
    apply(&plan, &(), &Cancel::default()).unwrap();
    assert!(!one.exists() && !two.exists() && check_dir(&three).is_sound());
}

#[test]
fn pins_directories_inside_and_unfinished_dumps_are_in_the_way() {
    let root = scratch();
    let [one, two, _] = line(root.path());
    pin(&two, true).unwrap();
    let refused = |dir: &PathBuf| {
        drop_layers(std::slice::from_ref(dir)).unwrap().obstacles[0]
            .what
            .clone()
    };
    assert!(refused(&two).contains("pinned"));
    assert!(pin(&two, false).unwrap() && !pin(&two, false).unwrap());
    fs::create_dir(two.join("mine")).unwrap();
    assert!(refused(&two).contains("mine is no file of a layer"));
    assert!(
        refused(&one).contains("mine is no file of a layer"),
        "it would be written anew"
    );
    fs::remove_dir(two.join("mine")).unwrap();
    let mut partial = Made::new("4", Some("../2"), TOP);
    partial.version = None;
    partial.write(root.path());
    assert!(refused(&two).contains("not finished"));
}

#[test]
fn a_consumed_layer_goes_with_the_layers_below_or_not_at_all() {
    let root = scratch();
    let [one, two, three] = line(root.path());
    let images = Images::open(&two).unwrap();
    Sidecar::mark_consumed(&images, &three, &[]).unwrap();
    let plan = drop_layers(std::slice::from_ref(&one)).unwrap();
    assert!(
        plan.obstacles[0].hint.contains("drop it as well"),
        "{plan:?}"
    );
    let plan = drop_layers(&[one, two]).unwrap();
    apply(&plan, &(), &Cancel::default()).unwrap();
    assert!(check_dir(&three).is_sound());
    assert!(!three.join("parent").exists());
}

#[test]
fn prune_keeps_what_it_is_told_and_what_is_pinned() {
    let root = scratch();
    let mut seeds = Vec::new();
    let cells = vec![Some(Place::Present); SPACE];
    let mut world = World::new(root.path(), &seeds);
    let mut parent: Option<PathBuf> = None;
    for _ in 0..8 {
        // Half an hour apart.
        parent = Some(world.write(parent.as_deref(), &[Some(cells.clone()), None, None], true));
        seeds.clear();
    }
    let layer = |n: usize| world.root.join(n.to_string());
    label(&layer(1), "keep me").unwrap();
    pin(&layer(2), true).unwrap();
    let keep = |keep: &Keep| -> Vec<String> {
        let plan = prune(&world.root, keep).unwrap();
        let gone: BTreeSet<&str> = plan.removals.iter().map(|r| r.name.as_str()).collect();
        let all = (1..9).map(|n: usize| n.to_string());
        all.filter(|name| !gone.contains(name.as_str())).collect()
    };
    assert_eq!(
        keep(&Keep {
            last: 1,
            ..Keep::default()
        }),
        ["2", "8"]
    );
    assert_eq!(
        keep(&Keep {
            hourly: 2,
            ..Keep::default()
        }),
        ["2", "7", "8"]
    );
    assert_eq!(
        keep(&Keep {
            daily: 3,
            ..Keep::default()
        }),
        ["2", "8"]
    );
    let labels = vec!["keep me".to_owned()];
    assert_eq!(
        keep(&Keep {
            labels,
            ..Keep::default()
        }),
        ["1", "2"]
    );
    assert_eq!(
        prune(&world.root, &Keep::default()).unwrap_err().kind(),
        Kind::Usage
    );
}

#[test]
fn a_label_is_one_line() {
    let root = scratch();
    let [one, ..] = line(root.path());
    assert!(label(&one, " before the upgrade ").unwrap());
    let read = || {
        Sidecar::read(&Images::open(&one).unwrap())
            .unwrap()
            .unwrap()
            .label
    };
    assert_eq!(read().as_deref(), Some("before the upgrade"));
    assert_eq!(label(&one, "a\nb").unwrap_err().kind(), Kind::Usage);
    assert!(label(&one, "").unwrap());
    assert_eq!(read(), None);
}
