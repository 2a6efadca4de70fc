//! Stacks, catalogs and checks on directories that are wrong in one way each.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::model::{MADE as TASK, Made, scratch};
use super::*;
use crate::error::Kind;
use crate::image::{PagemapId, Place, SIDECAR};
use crate::units::PAGE_SIZE;

const BASE: &[(u64, u64, Place)] = &[(0, 8, Place::Present)];
const TOP: &[(u64, u64, Place)] = &[(0, 2, Place::Present), (2, 6, Place::Parent)];

fn only_obstacle(dir: &Path) -> String {
    let report = check_dir(dir);
    let [obstacle] = report.obstacles.as_slice() else {
        panic!("{report:?}")
    };
    assert!(!obstacle.hint.is_empty());
    obstacle.what.clone()
}

#[test]
fn a_sound_stack_has_no_obstacles_and_says_what_it_holds() {
    let root = scratch();
    Made::new("1", None, BASE).id(1, None).write(root.path());
    let top = Made::new("2", Some("../1"), TOP)
        .id(2, Some(1))
        .write(root.path());
    let report = check_dir(&top);
    assert_eq!(
        (report.obstacles.len(), report.layers, report.pages),
        (0, 2, 8)
    );
    let stack = Stack::open(&top).unwrap();
    let ownership = stack.ownership(TASK).unwrap();
    assert_eq!(ownership.of_layer(0).pages(), 2);
    assert_eq!(ownership.of_layer(1).pages(), 6);
    assert_eq!(ownership.runs()[1].offset, 2 * PAGE_SIZE);
    assert!(
        stack
            .ownership(PagemapId::Shared(3))
            .unwrap()
            .runs()
            .is_empty()
    );
}

#[test]
fn a_missing_parent_is_an_obstacle_and_makes_all_layers_above_orphans() {
    let root = scratch();
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let three = Made::new("3", Some("../2"), TOP).write(root.path());
    assert!(only_obstacle(&two).contains("parent ../1 of layer"));
    assert_eq!(Stack::open(&three).unwrap_err().kind(), Kind::NotFound);
    let catalog = Catalog::scan(root.path()).unwrap();
    for dir in [two, three] {
        assert_eq!(
            catalog.layers()[catalog.find(dir).unwrap()].state,
            State::Orphan
        );
    }
}

#[test]
fn parents_in_a_loop_are_refused_and_the_catalog_still_ends() {
    let root = scratch();
    let one = Made::new("1", Some("../3"), TOP).write(root.path());
    Made::new("2", Some("../1"), TOP).write(root.path());
    Made::new("3", Some("../2"), TOP).write(root.path());
    let branch = Made::new("4", Some("../2"), TOP).write(root.path());
    let own = Made::new("5", Some("."), TOP).write(root.path());
    for dir in [&one, &branch, &own] {
        assert!(only_obstacle(dir).contains("loop"));
    }
    let catalog = Catalog::scan(root.path()).unwrap();
    assert!(
        catalog
            .layers()
            .iter()
            .all(|layer| layer.state == State::Orphan)
    );
    let listed: usize = catalog.trees().iter().map(Vec::len).sum();
    assert_eq!(listed, 5);
}

#[test]
fn another_layer_in_the_place_of_the_parent_is_noticed() {
    let root = scratch();
    let one = Made::new("1", None, BASE).id(9, None).write(root.path());
    let two = Made::new("2", Some("../1"), TOP)
        .id(2, Some(1))
        .write(root.path());
    assert!(only_obstacle(&two).contains("Wrong parent"));
    let catalog = Catalog::scan(root.path()).unwrap();
    let state = |dir: &Path| catalog.layers()[catalog.find(dir).unwrap()].state;
    assert_eq!((state(&one), state(&two)), (State::Complete, State::Orphan));

    fs::remove_file(one.join(SIDECAR)).unwrap();
    assert!(only_obstacle(&two).contains("without identity"));
    fs::remove_file(two.join("parent")).unwrap();
    assert!(only_obstacle(&two).contains("lost its `parent` link"));
}

#[test]
fn a_stack_that_is_too_deep_is_refused() {
    let root = scratch();
    for n in 0..=MAX_DEPTH {
        let dir = root.path().join(n.to_string());
        fs::create_dir(&dir).unwrap();
        symlink(format!("../{}", n + 1), dir.join("parent")).unwrap();
    }
    fs::create_dir(root.path().join((MAX_DEPTH + 1).to_string())).unwrap();
    assert_eq!(
        Stack::open(root.path().join("0")).unwrap_err().kind(),
        Kind::Unsupported
    );
    assert_eq!(
        Stack::open(root.path().join("2")).unwrap().depth(),
        MAX_DEPTH
    );
}

#[test]
fn pages_that_no_ancestor_holds_are_named_with_the_layer_where_the_search_ended() {
    let root = scratch();
    let lone = Made::new("lone", None, TOP).write(root.path());
    assert!(only_obstacle(&lone).contains("6 pages in the parent, first 2000-8000"));

    Made::new("1", None, &[(0, 4, Place::Present)]).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let what = only_obstacle(&two);
    assert!(
        what.contains("4 pages") && what.contains("does not cover them"),
        "{what}"
    );

    let three = Made::new("3", Some("../1"), &[(0, 4, Place::Parent)]).write(root.path());
    assert_eq!(check_dir(&three).obstacles, vec![]);
    fs::remove_file(root.path().join("1/pagemap-7.img")).unwrap();
    assert!(only_obstacle(&three).contains("1 has no pagemap-7.img"));
}

#[test]
fn the_grandparent_is_not_asked_for_a_page_that_the_parent_does_not_cover() {
    let root = scratch();
    Made::new("1", None, BASE).write(root.path());
    Made::new("2", Some("../1"), &[(0, 2, Place::Parent)]).write(root.path());
    let three = Made::new("3", Some("../2"), &[(0, 4, Place::Parent)]).write(root.path());
    assert!(only_obstacle(&three).contains("2 pages in the parent, first 2000-4000"));
}

#[test]
fn truncated_and_missing_pages_files_are_obstacles_where_the_stack_needs_them() {
    let root = scratch();
    let one = Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let last = Made::new("3", Some("../2"), &[(0, 2, Place::Parent)]).write(root.path());
    let pages = OpenOptions::new()
        .write(true)
        .open(one.join("pages-1.img"))
        .unwrap();
    pages.set_len(8 * PAGE_SIZE - 1).unwrap();
    for dir in [&one, &two] {
        assert!(only_obstacle(dir).contains("too short"));
    }
    assert_eq!(check_dir(&last).obstacles, vec![], "it needs layer 2 only");
    fs::remove_file(one.join("pages-1.img")).unwrap();
    assert!(only_obstacle(&two).contains("pages-1.img"));
    let stack = Stack::open(&two).unwrap();
    let memory = stack.resolved(TASK).unwrap();
    let mut page = vec![0; 2 * PAGE_SIZE as usize];
    memory.read_at(0, &mut page).unwrap();
    assert_eq!(
        memory.read_at(PAGE_SIZE, &mut page).unwrap_err().kind(),
        Kind::NotFound
    );
}

#[test]
fn entries_out_of_order_or_beyond_all_addresses_are_an_error_and_never_a_panic() {
    let root = scratch();
    let cases: [&[(u64, u64, Place)]; 4] = [
        &[(4, 1, Place::Parent), (2, 1, Place::Parent)],
        &[(4, 4, Place::Parent), (6, 1, Place::Parent)],
        &[(0, u64::MAX, Place::Parent)],
        &[(u64::MAX / PAGE_SIZE, 2, Place::Parent)],
    ];
    Made::new("base", None, BASE).write(root.path());
    for (n, runs) in cases.into_iter().enumerate() {
        let dir = Made::new(&n.to_string(), Some("../base"), runs).write(root.path());
        assert!(only_obstacle(&dir).contains("pagemap-7.img"), "case {n}");
    }
    Catalog::scan(root.path()).unwrap();
}

#[test]
fn pages_outside_of_all_mappings_are_an_obstacle() {
    let root = scratch();
    let dir = Made::new("1", None, &[(63, 2, Place::Present)]).write(root.path());
    assert!(only_obstacle(&dir).contains("outside of every mapping of pid 7, first 40000-41000"));
}

#[test]
fn unfinished_layers_pre_dumps_and_lost_pagemaps_are_told_apart() {
    let root = scratch();
    let mut partial = Made::new("1", None, BASE);
    partial.version = None;
    let partial = partial.write(root.path());
    assert!(only_obstacle(&partial).contains("never finished"));
    let mut pre_dump = Made::new("2", None, BASE);
    pre_dump.version = Some(0);
    let pre_dump = pre_dump.write(root.path());
    assert!(only_obstacle(&pre_dump).contains("memory only"));
    assert!(check_memory(&Stack::open(&pre_dump).unwrap()).is_sound());
    let above = Made::new("3", Some("../2"), TOP).write(root.path());
    assert_eq!(check_dir(&above).obstacles, vec![]);
    let catalog = Catalog::scan(root.path()).unwrap();
    let states: Vec<State> = catalog.layers().iter().map(|layer| layer.state).collect();
    assert_eq!(states, [State::Partial, State::PreDump, State::Complete]);
    fs::remove_file(above.join("pagemap-7.img")).unwrap();
    assert!(only_obstacle(&above).contains("memory of pid 7 is missing"));
}

#[test]
fn a_hole_without_a_mark_is_found_where_it_matters() {
    let root = scratch();
    let one = Made::new("1", None, BASE).write(root.path());
    let two = Made::new("2", Some("../1"), TOP).write(root.path());
    let pages = OpenOptions::new()
        .write(true)
        .open(one.join("pages-1.img"))
        .unwrap();
    let punch = |page: i64| {
        let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&pages, flags, page * 4096, 4096).unwrap();
    };
    punch(1); // layer 2 stores this page itself
    assert!(only_obstacle(&one).contains("1 page gone, first at 1000"));
    assert_eq!(check_dir(&two).obstacles, vec![]);
    punch(5);
    assert!(only_obstacle(&two).contains("1 page gone, first at 5000"));
    let catalog = Catalog::scan(root.path()).unwrap();
    assert_eq!(catalog.layers()[0].state, State::Consumed);
}

#[test]
fn the_catalog_shows_branches_in_the_order_of_numbers_and_ignores_links_to_directories() {
    let root = scratch();
    let stack = root.path().join("deep/web");
    fs::create_dir_all(&stack).unwrap();
    Made::new("1", None, BASE).id(1, None).write(&stack);
    Made::new("2", Some("../1"), TOP)
        .id(2, Some(1))
        .write(&stack);
    Made::new("10", Some("../2"), TOP)
        .id(10, Some(2))
        .write(&stack);
    Made::new("9", Some("../1"), TOP)
        .id(9, Some(1))
        .write(&stack);
    symlink("web", root.path().join("deep/latest")).unwrap();
    symlink("..", root.path().join("deep/up")).unwrap();
    let catalog = Catalog::scan(root.path()).unwrap();
    let names: Vec<&str> = catalog
        .layers()
        .iter()
        .map(|layer| layer.name.as_str())
        .collect();
    assert_eq!(names, ["1", "2", "9", "10"]);
    let tree: Vec<(&str, usize)> = catalog.trees()[0]
        .iter()
        .map(|(n, h)| (names[*n], *h))
        .collect();
    assert_eq!(tree, [("1", 0), ("2", 1), ("10", 2), ("9", 1)]);
    let two = &catalog.layers()[1];
    assert_eq!((two.root, two.tasks, two.threads), (Some(7), 1, 2));
    assert_eq!((two.pages_stored, two.pages_in_parent), (2, 6));
    assert_eq!(two.extent, Extent::Incremental);
    assert!(two.created().is_some() && two.bytes > 2 * PAGE_SIZE);

    // A parent elsewhere belongs to the line of ancestors too.
    let inner = Catalog::scan(stack.join("10")).unwrap();
    assert_eq!(inner.layers().len(), 3);
}

#[test]
fn a_layer_that_is_read_cannot_be_held_alone() {
    let root = scratch();
    let dir = Made::new("1", None, BASE).write(root.path());
    let reader = Held::shared(&dir).unwrap();
    let other = Held::shared(&dir).unwrap();
    assert_eq!(Held::alone(&dir).unwrap_err().kind(), Kind::Busy);
    drop((reader, other));
    drop(Held::alone(&dir).unwrap());
}
