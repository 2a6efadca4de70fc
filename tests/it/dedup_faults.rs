//! Dedups that are killed at every system call, meet a full or broken disk at every call, or lose the
//! power at every call: each layer is bit for bit what it was, or (superseded) is marked as consumed;
//! and the same command finishes it, with nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use icecore::chain::{Catalog, Depth, Stack, State, check_dir, verify};
use icecore::image::proto::InventoryEntry;
use icecore::image::{LayerWriter, Pagemap, PagemapId, Place, Run, Sidecar};
use icecore::{Cancel, PAGE_SIZE};
use tempfile::TempDir;

use crate::support::faults::{CHANGES, FALLIBLE, Point, failing_at, killed_at, points};
use crate::support::{Need, require, wait_until};

const ICECORE: &str = env!("CARGO_BIN_EXE_icecore");
const STRATEGIES: [&str; 3] = ["unchanged", "zero", "superseded"];
const LAYERS: usize = 3;
const PAGES: u64 = 40;
const IDS: [PagemapId; 2] = [PagemapId::Task(7), PagemapId::Shared(3)];

/// The byte of a page as of a layer: some are zeros, some never change.
fn byte(layer: usize, page: u64) -> u8 {
    match page % 4 {
        0 => 0,
        1 => 9,
        _ => u8::try_from(10 + layer).unwrap(),
    }
}

/// Layers `1` to `3`: all but the first leave every fifth page to the parent.
fn stack(img: &Path) {
    for layer in 1..=LAYERS {
        let writer = LayerWriter::create(img.join(layer.to_string())).unwrap();
        for (pages_id, id) in (1..).zip(IDS) {
            let mut map = Pagemap {
                pages_id,
                runs: Vec::new(),
            };
            let mut pages = writer.pages(pages_id).unwrap();
            for page in 0..PAGES {
                let below = layer > 1 && page % 5 == 0;
                if !below {
                    let bytes = [byte(layer, page); PAGE_SIZE as usize];
                    pages.append(&bytes).unwrap();
                }
                map.push(Run {
                    start: page * PAGE_SIZE,
                    pages: 1,
                    place: if below { Place::Parent } else { Place::Present },
                    lazy: false,
                });
            }
            writer.pagemap(id, &map).unwrap();
        }
        if layer > 1 {
            let parent = format!("../{}", layer - 1);
            writer.link_parent(Path::new(&parent)).unwrap();
        }
        let inventory = InventoryEntry {
            img_version: 2,
            ..InventoryEntry::default()
        };
        writer.one("inventory.img", &inventory).unwrap();
        let sidecar = Sidecar {
            id: vec![u8::try_from(layer).unwrap(); 16],
            parent_id: vec![u8::try_from(layer - 1).unwrap(); 16 * usize::from(layer > 1)],
            ..Sidecar::default()
        };
        writer.sidecar(sidecar).unwrap();
        writer.commit().unwrap();
    }
}

/// Every layer is what it was; one that may be consumed is that, or says so.
fn check(what: &str, img: &Path, strategy: &str) {
    let catalog = Catalog::scan(img).unwrap();
    assert_eq!(catalog.layers().len(), LAYERS, "{what}");
    for (layer, found) in (1..).zip(catalog.layers()) {
        let may_go = strategy == "superseded" && layer < LAYERS;
        if may_go && found.state == State::Consumed {
            continue;
        }
        assert_eq!(check_dir(&found.dir).obstacles, vec![], "{what}: {layer}");
        let stack = Stack::open(&found.dir).unwrap();
        for id in IDS {
            let memory = stack.resolved(id).unwrap().checked();
            for page in 0..PAGES {
                let mut bytes = [0; PAGE_SIZE as usize];
                memory.read_at(page * PAGE_SIZE, &mut bytes).unwrap();
                let owner = (1..=layer).rev().find(|l| *l == 1 || page % 5 != 0);
                let expected = byte(owner.unwrap(), page);
                assert!(
                    bytes.iter().all(|b| *b == expected),
                    "{what}: {layer} {page}"
                );
            }
        }
    }
    let verified = verify(img, Depth::Full, &(), &Cancel::default()).unwrap();
    assert_eq!(verified.findings, vec![], "{what}");
}

fn words(img: &Path, strategy: &str) -> Vec<String> {
    let tip = img.join(LAYERS.to_string()).display().to_string();
    ["dedup", "-D", &tip, "--strategy", strategy, "--yes"]
        .map(str::to_owned)
        .to_vec()
}

/// The same command again does the rest, and leaves nothing behind.
fn finish(what: &str, img: &Path, strategy: &str) {
    for _ in 0..2 {
        let done = Command::new(ICECORE)
            .args(words(img, strategy))
            .output()
            .unwrap();
        assert!(done.status.success(), "{what}: {done:?}");
    }
    check(what, img, strategy);
    let again = Command::new(ICECORE)
        .args(words(img, strategy))
        .arg("--json")
        .output()
        .unwrap();
    let said: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(said["steps"][0]["plan"]["pages"], 0, "{what}: {said}");
    let mut names: Vec<PathBuf> = Vec::new();
    let layers = (1..=LAYERS).map(|layer| img.join(layer.to_string()));
    for dir in std::iter::once(img.to_path_buf()).chain(layers) {
        names.extend(fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()));
    }
    let odd = |path: &&PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with('.') || name.ends_with(".new") || name.ends_with(".partial")
    };
    assert_eq!(names.iter().find(odd), None, "{what}");
}

fn scratch() -> TempDir {
    scratch_in(Path::new("/dev/shm"))
}

fn scratch_in(place: &Path) -> TempDir {
    tempfile::Builder::new()
        .prefix("icecore-test-")
        .tempdir_in(place)
        .unwrap()
}

/// The points of a dedup that is not disturbed.
fn points_of(place: &Path, set: &[&str], strategy: &str) -> Vec<Point> {
    let dir = scratch_in(place);
    let img = dir.path().join("img");
    stack(&img);
    let words = words(&img, strategy);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (points, code) = points(set, &dir.path().join("calls"), ICECORE, &words);
    assert_eq!(code, 0, "{strategy}");
    finish("undisturbed", &img, strategy);
    points
}

type Fault = dyn Fn(&Point, &[&str]) -> i32;

fn everywhere(place: &Path, strategies: &[&str], set: &[&str], how: &Fault) {
    for strategy in strategies {
        let points = points_of(place, set, strategy);
        let mut hit = 0;
        for point in &points {
            let what = format!("{strategy} at {} {}", point.call, point.number);
            let dir = scratch_in(place);
            let img = dir.path().join("img");
            stack(&img);
            let words = words(&img, strategy);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            hit += usize::from(how(point, &words) != 0);
            check(&what, &img, strategy);
            finish(&what, &img, strategy);
        }
        eprintln!(
            "{strategy}: {} points, {hit} of them ended it",
            points.len()
        );
        assert!(hit * 3 > points.len(), "{hit} of {}", points.len());
    }
}

#[test]
fn a_dedup_killed_at_any_call_leaves_every_layer_as_it_was_or_marked() {
    if require(&[Need::Strace]) {
        let killed = |point: &Point, words: &[&str]| killed_at(point, ICECORE, words);
        everywhere(Path::new("/dev/shm"), &STRATEGIES, CHANGES, &killed);
        if let Some(xfs) = xfs() {
            everywhere(&xfs.0, &["content"], CHANGES, &killed);
        }
    }
}

#[test]
fn a_dedup_on_a_full_or_broken_disk_leaves_every_layer_as_it_was_or_marked() {
    if require(&[Need::Strace]) {
        let xfs = xfs();
        for errno in ["ENOSPC", "EIO"] {
            let failing = |point: &Point, words: &[&str]| failing_at(point, errno, ICECORE, words);
            everywhere(Path::new("/dev/shm"), &STRATEGIES, FALLIBLE, &failing);
            if let Some(xfs) = &xfs {
                everywhere(&xfs.0, &["content"], FALLIBLE, &failing);
            }
        }
    }
}

/// Runs a program of the system, which must succeed.
fn run(program: &str, args: &[&Path]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
}

/// A file system in `image`, mounted at `at` until it is dropped; after that the directory goes that it is in.
struct Mounted(PathBuf, Option<TempDir>);

impl Mounted {
    fn new(image: &Path, at: &Path) -> Self {
        Self::with(image, at, "loop")
    }

    /// One of many copies.
    fn copy(kind: &str, image: &Path, at: &Path) -> Self {
        // A sandbox that another test begins takes a copy of all mounts along, for a while, and of
        // two that call themselves the same, XFS mounts one.
        let same = if kind == "xfs" { "loop,nouuid" } else { "loop" };
        Self::with(image, at, same)
    }

    fn with(image: &Path, at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).unwrap();
        run("mount", &[Path::new("-o"), Path::new(options), image, at]);
        Self(at.to_path_buf(), None)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A loop device inside may still be on its way out.
        wait_until("the file system is unmounted", || {
            let done = Command::new("umount").arg(&self.0).output();
            done.is_ok_and(|done| done.status.success()).then_some(())
        });
    }
}

/// A file system whose files can share blocks; none where it cannot be made.
fn xfs() -> Option<Mounted> {
    let dir = scratch();
    let image = dir.path().join("image");
    fs::File::create(&image)
        .unwrap()
        .set_len(400 << 20)
        .unwrap();
    let made = Command::new("mkfs.xfs").arg("-q").arg(&image).output();
    if !require(&[Need::Root]) || !made.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: no xfs can be made here");
        return None;
    }
    let mut mounted = Mounted::new(&image, &dir.path().join("at"));
    mounted.1 = Some(dir);
    Some(mounted)
}

#[test]
fn a_dedup_that_loses_the_power_at_any_call_leaves_every_layer_as_it_was_or_marked() {
    if !require(&[Need::Root, Need::Strace]) {
        return;
    }
    let dir = scratch();
    let outer = dir.path().join("outer.image");
    fs::File::create(&outer).unwrap().set_len(2 << 30).unwrap();
    let made = Command::new("mkfs.xfs").arg("-q").arg(&outer).output();
    if !made.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: there is no mkfs.xfs");
        return;
    }
    // On xfs a copy of the backing file is made at one instant, while the inner system goes on.
    let xfs = Mounted::new(&outer, &dir.path().join("outer"));
    let path = |name: &str| xfs.0.join(name);
    let clone = |from: &str, to: &str| {
        run(
            "cp",
            &[Path::new("--reflink=always"), &path(from), &path(to)],
        );
    };
    let at = dir.path().join("at");
    for (kind, size) in [("ext4", 24 << 20), ("xfs", 300 << 20)] {
        let image = fs::File::create(path(kind)).unwrap();
        image.set_len(size).unwrap();
        let mkfs = format!("mkfs.{kind}");
        run(&mkfs, &[Path::new("-q"), &path(kind)]);
        let _mounted = Mounted::copy(kind, &path(kind), &at);
        stack(&at.join("img"));
    }
    let all = STRATEGIES.map(|strategy| (strategy, "ext4"));
    for (strategy, kind) in all.into_iter().chain([("content", "xfs")]) {
        let place = match kind {
            "xfs" => &xfs.0,
            _ => Path::new("/dev/shm"),
        };
        let points = points_of(place, CHANGES, strategy);
        for (n, point) in points.iter().enumerate() {
            let what = format!("power lost: {strategy} at {} {}", point.call, point.number);
            // New files each time: a loop device that is on its way out would be used again, with
            // what it remembers of another content.
            let running = format!("{strategy}-{n}-running");
            let after = format!("{strategy}-{n}-after");
            clone(kind, &running);
            {
                let mounted = Mounted::copy(kind, &path(&running), &at);
                let words = words(&mounted.0.join("img"), strategy);
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                killed_at(point, ICECORE, &words);
                clone(&running, &after);
            }
            let mounted = Mounted::copy(kind, &path(&after), &at);
            check(&what, &mounted.0.join("img"), strategy);
            finish(&what, &mounted.0.join("img"), strategy);
            drop(mounted);
            fs::remove_file(path(&running)).unwrap();
            fs::remove_file(path(&after)).unwrap();
        }
        eprintln!("{strategy}: the power was lost at {} points", points.len());
    }
}
