//! Dedup of random trees of layers against a model that looks at one page at a time.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::chain::model::{MADE, Made, SPACE, TASK, Tree, scratch, tree};
use crate::chain::{Catalog, Held, State, check_dir};
use crate::image::{Images, PagemapId, Place, Sidecar};
use crate::units::PAGE_SIZE;

/// Panics unless every page of `layer`, read through its stack, has the bytes of its owner.
fn assert_bytes(tree: &Tree, root: &Path, layer: usize) {
    let stack = Stack::open(Tree::dir(root, layer)).unwrap();
    let memory = stack.resolved(PagemapId::Task(TASK)).unwrap();
    let mut buf = vec![0; PAGE_SIZE as usize];
    for page in 0..SPACE {
        let read = memory.read_at(page as u64 * PAGE_SIZE, &mut buf);
        match tree.owner(layer, page) {
            Some(owner) => {
                read.unwrap();
                assert!(
                    buf == Tree::bytes(owner, page),
                    "page {page} of layer {layer}"
                );
            }
            None => assert!(read.is_err(), "page {page} of layer {layer} exists"),
        }
    }
}

/// What dedup of `tip` frees: (layer, page).
fn naive_cuts(tree: &Tree, tip: usize) -> BTreeSet<(usize, usize)> {
    let stored = |layer: usize, page: usize| tree.layers[layer][page] == Some(Place::Present);
    tree.line(tip)[1..]
        .iter()
        .flat_map(|layer| (0..SPACE).map(move |page| (*layer, page)))
        .filter(|(layer, page)| stored(*layer, *page) && stored(tip, *page))
        .collect()
}

fn cuts(plan: &Plan) -> BTreeSet<(usize, usize)> {
    let mut all = BTreeSet::new();
    for cut in &plan.cuts {
        let layer = cut
            .dir
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        for range in cut.ranges.iter() {
            for page in range.start / PAGE_SIZE..range.end / PAGE_SIZE {
                all.insert((layer, usize::try_from(page).unwrap()));
            }
        }
    }
    all
}

fn run(plan: &Plan) -> Result<Freed> {
    apply(plan, &(), &Cancel::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn dedup_frees_what_the_model_says_and_every_other_layer_reads_as_before(
        tree in tree(2..7), pick in any::<prop::sample::Index>(),
    ) {
        let scratch = scratch();
        let root = scratch.path();
        tree.write(root);
        let all = 0..tree.layers.len();
        for layer in all.clone() {
            assert_bytes(&tree, root, layer);
            prop_assert_eq!(check_dir(Tree::dir(root, layer)).obstacles, vec![]);
        }
        let tip = pick.index(tree.layers.len());
        if tree.parents[tip].is_none() {
            prop_assert!(plan(Tree::dir(root, tip), &Superseded).is_err());
            return Ok(());
        }

        let freed = naive_cuts(&tree, tip);
        let loses = |layer: usize| (0..SPACE)
            .any(|page| tree.owner(layer, page).is_some_and(|owner| freed.contains(&(owner, page))));
        let line = tree.line(tip);
        let victims: Vec<usize> = line.iter().copied().filter(|l| loses(*l)).collect();
        let branches: Vec<usize> = all.clone().filter(|l| !line.contains(l) && loses(*l)).collect();

        let plan = plan(Tree::dir(root, tip), &Superseded).unwrap();
        prop_assert_eq!(cuts(&plan), freed.clone());
        prop_assert_eq!(plan.pages, freed.len() as u64);
        let named: Vec<usize> = plan.victims.iter().map(|v| v.name.parse().unwrap()).collect();
        prop_assert_eq!(named, victims.clone());
        prop_assert_eq!(plan.obstacles.len(), branches.len(), "{:?}", plan.obstacles);

        if !branches.is_empty() {
            prop_assert_eq!(run(&plan).unwrap_err().kind(), Kind::Busy);
            for layer in all {
                assert_bytes(&tree, root, layer);
            }
            return Ok(());
        }
        let result = run(&plan).unwrap();
        prop_assert_eq!(result.pages, plan.pages);
        prop_assert_eq!(result.bytes, plan.bytes);
        prop_assert_eq!(result.marked.len(), victims.len());
        let catalog = Catalog::scan(root).unwrap();
        for layer in all {
            let dir = Tree::dir(root, layer);
            let report = check_dir(&dir);
            let state = catalog.layers()[catalog.find(&dir).unwrap()].state;
            if victims.contains(&layer) {
                prop_assert!(report.obstacles[0].what.contains("consumed"), "{:?}", report);
                prop_assert_eq!(state, State::Consumed);
            } else {
                prop_assert_eq!(report.obstacles, vec![]);
                prop_assert_eq!(state, State::Complete);
                assert_bytes(&tree, root, layer);
            }
        }
        let again = super::plan(Tree::dir(root, tip), &Superseded).unwrap();
        prop_assert!(again.is_empty() && again.victims.is_empty() && again.is_possible());
        prop_assert_eq!(run(&plan).unwrap(), Freed::default());
    }

    #[test]
    fn a_dedup_that_was_killed_can_be_repeated_and_never_leaves_a_loss_unmarked(
        tree in tree(2..6), punched in 0usize..40,
    ) {
        let scratch = scratch();
        let root = scratch.path();
        tree.write(root);
        let tip = tree.layers.len() - 1;
        prop_assume!(tree.parents[tip].is_some());
        let first = plan(Tree::dir(root, tip), &Superseded).unwrap();
        prop_assume!(first.is_possible());

        // Killed after the marks, with some of the cuts made.
        for victim in &first.victims {
            Sidecar::mark_consumed(&Images::open(&victim.dir).unwrap(), &first.dir, &[]).unwrap();
        }
        for cut in first.cuts.iter().take(punched) {
            apply::punch(cut).unwrap();
        }
        assert_bytes(&tree, root, tip);

        let second = plan(Tree::dir(root, tip), &Superseded).unwrap();
        prop_assert!(second.is_possible(), "{:?}", second.obstacles);
        run(&second).unwrap();
        prop_assert!(plan(Tree::dir(root, tip), &Superseded).unwrap().is_empty());
        assert_bytes(&tree, root, tip);
    }
}

const BASE: &[(u64, u64, Place)] = &[(0, 8, Place::Present)];
const TOP: &[(u64, u64, Place)] = &[(0, 2, Place::Present), (2, 6, Place::Parent)];

fn superseded_plan(dir: &Path) -> Plan {
    plan(dir, &Superseded).unwrap()
}

fn only_obstacle(dir: &Path) -> String {
    let plan = superseded_plan(dir);
    let [obstacle] = plan.obstacles.as_slice() else {
        panic!("{plan:?}")
    };
    assert!(!obstacle.hint.is_empty());
    assert!(run(&plan).is_err());
    obstacle.what.clone()
}

#[test]
fn a_layer_without_parent_has_nothing_to_dedup() {
    let root = scratch();
    let one = Made::new("1", None, BASE).write(root.path());
    assert!(
        plan(one, &Superseded)
            .unwrap_err()
            .to_string()
            .contains("has no parent")
    );
}

#[test]
fn a_process_that_exited_between_the_layers_is_no_reason_to_stop() {
    let root = scratch();
    let one = Made::new("1", None, BASE).write(root.path());
    fs::copy(one.join("pagemap-7.img"), one.join("pagemap-9.img")).unwrap();
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let done = run(&superseded_plan(&two)).unwrap();
    assert_eq!((done.pages, done.bytes), (2, 2 * PAGE_SIZE));
}

#[test]
fn a_new_process_with_an_old_pid_frees_nothing_below_the_layer_without_it() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), BASE).write(root.path());
    fs::remove_file(two.join("pagemap-7.img")).unwrap();
    let three = Made::new("3", Some("../2"), BASE).write(root.path());
    assert!(superseded_plan(&three).is_empty());
}

#[test]
fn a_pinned_layer_keeps_its_pages() {
    let root = scratch();
    let mut one = Made::new("1", None, BASE);
    one.sidecar = Some(Sidecar {
        pinned: Some(true),
        ..Sidecar::default()
    });
    one.write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    assert!(only_obstacle(&two).contains("pinned"));
}

#[test]
fn a_pages_file_with_another_name_keeps_its_pages() {
    let root = scratch();
    let one = Made::new("1", None, BASE).write(root.path());
    fs::hard_link(one.join("pages-1.img"), root.path().join("copy")).unwrap();
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    assert!(only_obstacle(&two).contains("hard links"));
}

#[test]
fn a_layer_that_could_not_be_restored_frees_nothing_below_it() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    let mut two = Made::new("2", Some("../1"), TOP);
    two.version = None;
    assert!(only_obstacle(&two.write(root.path())).contains("never finished"));
}

#[test]
fn an_unfinished_dump_on_a_layer_below_is_waited_for() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let mut other = Made::new("3.partial", Some("../1"), &[]);
    other.version = None;
    other.write(root.path());
    assert!(only_obstacle(&two).contains("is not finished"));
}

#[test]
fn a_branch_that_reads_only_other_pages_is_not_in_the_way() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let branch = Made::new("3", Some("../1"), &[(4, 2, Place::Parent)]).write(root.path());
    run(&superseded_plan(&two)).unwrap();
    assert_eq!(check_dir(branch).obstacles, vec![]);
}

#[test]
fn a_branch_made_after_the_plan_is_still_protected() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let plan = superseded_plan(&two);
    assert!(plan.is_possible());
    let branch = Made::new("3", Some("../1"), &[(0, 8, Place::Parent)]).write(root.path());
    assert_eq!(run(&plan).unwrap_err().kind(), Kind::Busy);
    assert_eq!(check_dir(branch).obstacles, vec![]);
}

#[test]
fn a_layer_in_use_is_not_punched() {
    let root = scratch();
    let one = Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let plan = superseded_plan(&two);
    let reader = Held::shared(&one).unwrap();
    assert_eq!(run(&plan).unwrap_err().kind(), Kind::Busy);
    assert_eq!(check_dir(&one).obstacles, vec![]);
    drop(reader);
    run(&plan).unwrap();
}

#[test]
fn a_lower_layer_that_reads_freed_pages_through_its_parent_is_a_victim_too() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    Made::new("2", Some("../1"), &[(0, 8, Place::Parent)]).write(root.path());
    let three = Made::new("3", Some("../2"), TOP).write(root.path());
    let plan = superseded_plan(&three);
    let victims: Vec<&str> = plan.victims.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(victims, ["2", "1"]);
    assert_eq!(plan.lost_layers().count(), 2);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["cuts"][0]["pagemap"], MADE.file_name());
    assert_eq!(json["cuts"][0]["ranges"][0], "0-2000");
}

#[test]
fn a_golden_layer_of_criu_loses_its_zeros_and_nothing_else() {
    let root = scratch();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/criu-4.1");
    let dir = root.path().join("criu");
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(golden).unwrap().flatten() {
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let pages = fs::read(dir.join("pages-1.img")).unwrap();
    let zeros = plan(&dir, &Zero).unwrap();
    assert!(
        zeros.pages >= 2,
        "the pages of the vDSO are zeros: {zeros:?}"
    );
    assert_eq!(run(&zeros).unwrap().bytes, zeros.bytes);
    assert_eq!(fs::read(dir.join("pages-1.img")).unwrap(), pages);
    assert_eq!(check_dir(&dir).obstacles, vec![]);
    let catalog = Catalog::scan(&dir).unwrap();
    assert_eq!(catalog.layers()[0].state, State::Complete);
    assert!(plan(&dir, &Unchanged).unwrap().is_empty());
}
