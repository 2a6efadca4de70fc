//! Stacks, catalogs and checks on directories that are wrong in one way each.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::Path;

use super::model::{MADE as TASK, Made, scratch};
use super::*;
use crate::error::Kind;
use crate::event::Cancel;
use crate::image::proto::PstreeEntry;
use crate::image::{Images, LayerWriter, PagemapId, Place, SIDECAR};
use crate::units::{PAGE_SIZE, PageRange};

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
fn a_parent_that_was_renamed_is_found_by_its_identity() {
    let root = scratch();
    let one = Made::new("1", None, BASE).id(1, None).write(root.path());
    let two = Made::new("2", Some("../1"), TOP)
        .id(2, Some(1))
        .write(root.path());
    let base = root.path().join("base");
    fs::rename(&one, &base).unwrap();
    assert_eq!(check_dir(&two).obstacles, vec![]);
    let catalog = Catalog::scan(root.path()).unwrap();
    assert!(catalog.layers().iter().all(|layer| layer.is_restorable()));
    assert_eq!(catalog.trees().len(), 1);
    // Another layer takes the old name.
    Made::new("1", None, BASE).id(9, None).write(root.path());
    let stack = Stack::open(&two).unwrap();
    assert_eq!(stack.levels()[1].dir(), base.canonicalize().unwrap());
    fs::remove_file(two.join("parent")).unwrap();
    assert_eq!(check_dir(&two).obstacles, vec![]);
    fs::remove_dir_all(&base).unwrap();
    assert!(only_obstacle(&two).contains("lost its `parent` link"));
}

#[test]
fn a_parent_that_was_moved_to_another_stack_is_found_by_its_identity() {
    let root = scratch();
    let [a, b] = ["a", "b"].map(|name| {
        let dir = root.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    });
    let one = Made::new("1", None, BASE).id(1, None).write(&a);
    let two = Made::new("2", Some("../1"), TOP).id(2, Some(1)).write(&a);
    let moved = b.join("elsewhere");
    fs::rename(&one, &moved).unwrap();
    assert_eq!(check_dir(&two).obstacles, vec![]);
    let stack = Stack::open(&two).unwrap();
    assert_eq!(stack.levels()[1].dir(), moved.canonicalize().unwrap());
    // So is the layer itself, with the one below left where it was.
    let away = b.join("2");
    fs::rename(&two, &away).unwrap();
    fs::rename(&moved, &one).unwrap();
    assert_eq!(check_dir(&away).obstacles, vec![]);
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

/// A stack of two sealed layers with pages of every kind.
fn sealed(root: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let one = Made::new("1", None, BASE).id(1, None).write(root);
    let two = Made::new("2", Some("../1"), TOP).id(2, Some(1)).write(root);
    adopt(root, &(), &Cancel::default()).unwrap();
    (one, two)
}

fn found(dir: &Path, depth: Depth) -> Verified {
    verify(dir, depth, &(), &Cancel::default()).unwrap()
}

#[test]
fn an_adopted_stack_is_sound_and_adopting_again_changes_nothing() {
    let root = scratch();
    let (_, two) = sealed(root.path());
    let before = fs::read(two.join(SIDECAR)).unwrap();
    let again = adopt(&two, &(), &Cancel::default()).unwrap();
    assert_eq!((again.layers.len(), again.known.len()), (0, 2));
    assert_eq!(fs::read(two.join(SIDECAR)).unwrap(), before);
    let verified = found(&two, Depth::Full);
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!((verified.layers.len(), verified.files), (2, 10));
    assert_eq!(found(root.path(), Depth::Quick).layers.len(), 2);
}

#[test]
fn a_layer_in_the_making_is_no_problem_and_one_that_was_left_behind_is() {
    let root = scratch();
    sealed(root.path());
    let writer = LayerWriter::create(root.path().join("3")).unwrap();
    writer.all("pstree.img", &[PstreeEntry::default()]).unwrap();
    let verified = found(root.path(), Depth::Full);
    assert!(verified.is_sound(), "{verified:?}");
    assert_eq!(verified.layers.len(), 2);
    // As when its maker dies.
    let left = root.path().join("4.partial");
    fs::create_dir(&left).unwrap();
    fs::copy(writer.partial().join("pstree.img"), left.join("pstree.img")).unwrap();
    drop(writer);
    let verified = found(root.path(), Depth::Full);
    assert_eq!(verified.layers.len(), 3);
    assert!(!verified.is_sound());
}

#[test]
fn every_flipped_bit_of_every_file_is_found_and_a_page_is_named_with_its_mapping() {
    let root = scratch();
    let (one, two) = sealed(root.path());
    for name in Images::open(&one).unwrap().names().unwrap() {
        let path = one.join(&name);
        let good = fs::read(&path).unwrap();
        let step = if name.starts_with("pages-") { 8191 } else { 1 };
        for bit in (0..good.len() * 8).step_by(step) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            let verified = found(&two, Depth::Full);
            assert!(!verified.is_sound(), "bit {bit} of {name}");
            if name.starts_with("pages-") {
                let [finding] = verified.findings.as_slice() else {
                    panic!("{verified:?}")
                };
                assert_eq!(finding.addresses, Some(PageRange::new(0, 8 * PAGE_SIZE)));
                assert_eq!(finding.mapping.as_deref(), Some("anonymous memory"));
                assert_eq!(finding.pagemap, Some(TASK));
            }
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(found(&two, Depth::Full).is_sound());
}

#[test]
fn every_flipped_bit_without_digests_gives_a_value_or_an_error() {
    let root = scratch();
    Made::new("1", None, BASE).id(1, None).write(root.path());
    let two = Made::new("2", Some("../1"), TOP)
        .id(2, Some(1))
        .write(root.path());
    for name in Images::open(&two).unwrap().names().unwrap() {
        let path = two.join(&name);
        if name.starts_with("pages-") || !path.is_file() || name == "parent" {
            continue;
        }
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            Catalog::scan(root.path()).unwrap();
            found(&two, Depth::Full);
            drop(adopt(&two, &(), &Cancel::default()));
            drop(fs::remove_file(two.join(SIDECAR)));
            if let Ok(stack) = Stack::open(&two)
                && let Ok(memory) = stack.resolved(TASK)
            {
                drop(memory.read_at(0, &mut vec![0; 8192]));
            }
        }
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn what_is_read_with_checks_is_what_was_written_or_an_error() {
    let root = scratch();
    let (one, two) = sealed(root.path());
    let stack = Stack::open(&two).unwrap();
    let mut page = vec![0; 2 * PAGE_SIZE as usize];
    let read = |page: &mut [u8]| stack.resolved(TASK)?.checked().read_at(5 * PAGE_SIZE, page);
    read(&mut page).unwrap();
    assert!(page.iter().all(|b| *b == 0xAA));
    // A page beside those that are read, in the same block: the block cannot be trusted.
    let pages = OpenOptions::new()
        .write(true)
        .open(one.join("pages-1.img"))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&pages, b"x", 4 * PAGE_SIZE + 3).unwrap();
    let error = read(&mut page).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("1/pages-1.img is damaged"));
    let unchecked = stack.resolved(TASK).unwrap();
    unchecked.read_at(5 * PAGE_SIZE, &mut page).unwrap();
}

#[test]
fn files_that_are_missing_cut_or_new_are_named_without_reading_any() {
    let root = scratch();
    let (one, two) = sealed(root.path());
    fs::write(one.join("fs-7.img"), "").unwrap();
    let pages = OpenOptions::new()
        .write(true)
        .open(one.join("pages-1.img"))
        .unwrap();
    pages.set_len(PAGE_SIZE).unwrap();
    fs::remove_file(two.join("pstree.img")).unwrap();
    fs::write(two.join("restore.log"), "").unwrap();
    let files: Vec<_> = found(&two, Depth::Quick)
        .findings
        .into_iter()
        .filter_map(|f| f.file)
        .collect();
    assert_eq!(files, ["pstree.img", "pages-1.img", "fs-7.img"]);
}

#[test]
fn a_copy_that_leaves_out_zeros_is_sound_and_a_hole_in_place_of_data_is_not() {
    let root = scratch();
    let (one, _) = sealed(root.path());
    let path = one.join("pages-1.img");
    let pages = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&pages, &[0; 4096], 2 * PAGE_SIZE).unwrap();
    fs::remove_file(one.join(SIDECAR)).unwrap();
    adopt(&one, &(), &Cancel::default()).unwrap();
    let punch = |page: i64| {
        let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&pages, flags, page * 4096, 4096).unwrap();
    };
    punch(2);
    assert!(found(&one, Depth::Full).is_sound());
    let catalog = Catalog::scan(&one).unwrap();
    assert_eq!(catalog.layers()[0].state, State::Complete);
    punch(4);
    assert!(!found(&one, Depth::Quick).is_sound());
}

#[test]
fn a_golden_layer_of_criu_is_verified_adopted_and_found_damaged() {
    let root = scratch();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/criu-4.1");
    let dir = root.path().join("criu");
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(golden).unwrap().flatten() {
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let bare = found(&dir, Depth::Full);
    assert!(bare.is_sound(), "{bare:?}");
    assert_eq!(bare.without_digests.len(), 1);
    adopt(&dir, &(), &Cancel::default()).unwrap();
    let adopted = found(&dir, Depth::Full);
    assert!(adopted.is_sound() && adopted.without_digests.is_empty());
    for name in Images::open(&dir).unwrap().names().unwrap() {
        let path = dir.join(&name);
        let good = fs::read(&path).unwrap();
        let step = if name.starts_with("pages-") { 4099 } else { 13 };
        for bit in (0..good.len() * 8).step_by(step) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            assert!(!found(&dir, Depth::Full).is_sound(), "bit {bit} of {name}");
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(found(&dir, Depth::Full).is_sound());
}
