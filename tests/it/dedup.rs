//! Dedup that costs no layer anything: what is left is restored by us and by CRIU, and equal pages
//! share their blocks on the file systems that can do it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use icecore::chain::Stack;
use icecore::image::proto::InventoryEntry;
use icecore::image::{LayerWriter, Pagemap, PagemapId, Place, Run, Sidecar};
use icecore::{Cancel, PAGE_SIZE, dedup};
use nix::unistd::{Whence, lseek};

use crate::stack::{STILL, drill, restore};
use crate::support::{Need, Sandbox, require};

#[test]
fn criu_restores_every_layer_of_a_stack_whose_unchanged_and_zero_pages_are_gone() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["400"]);
    target.ask("map 60 3");
    target.ask("dirty 0 30 5");
    let dump = |words: &str| {
        sandbox
            .icecore(&format!("dump -t {} {words}", target.pid))
            .ok()
    };
    dump("-D 1 -R --track-mem");
    // The same bytes again: dirty, but unchanged.
    target.ask("dirty 0 30 5");
    target.ask("shared 10 5");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    target.ask("dirty 1 30 6");
    dump("-D 3 --track-mem --prev-images-dir ../2");
    sandbox.wait_gone(&[target.pid]);
    let said = sandbox
        .icecore("dedup -D 3 --strategy unchanged,zero --json")
        .ok()
        .stdout;
    let done: serde_json::Value = serde_json::from_str(&said).unwrap();
    for step in done["steps"].as_array().unwrap() {
        let name = &step["plan"]["strategy"];
        eprintln!("{name}: {}", step["freed"]);
        assert_eq!(step["freed"]["bytes"], step["plan"]["bytes"], "{said}");
    }
    let freed = &done["steps"][0]["freed"];
    assert!(freed["pages"].as_u64().unwrap() > 0, "{said}");
    sandbox.icecore("verify 3").ok();
    for layer in [2, 1, 3] {
        sandbox.criu(&format!("restore -D {layer} -d -v2")).ok();
        target.check();
        sandbox.kill(&target);
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn criu_restores_a_layer_whose_zeros_are_holes() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for kind in ["memory", "shared"] {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, &[]);
        target.check();
        sandbox
            .icecore(&format!("dump -t {} -D 1", target.pid))
            .ok();
        sandbox.wait_gone(&[target.pid]);
        let said = sandbox.icecore("dedup -D 1 --strategy zero").ok().stdout;
        eprintln!("{kind}: {}", said.trim());
        assert!(said.contains("Freed"), "{said}");
        sandbox.icecore("verify 1").ok();
        sandbox.icecore("stacks .").ok();
        for _ in 0..2 {
            sandbox.criu("restore -D 1 -d -v2").ok();
            target.check();
            sandbox.kill(&target);
            sandbox.icecore("restore -D 1 -d").ok();
            target.check();
            sandbox.kill(&target);
        }
    }
}

/// A file system in a file; unmounted on drop.
struct Mounted {
    dir: tempfile::TempDir,
    kind: &'static str,
}

impl Mounted {
    fn new(kind: &'static str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(400 << 20).unwrap();
        let run = |program: &str, args: &[&Path]| {
            let done = Command::new(program).args(args).output();
            done.is_ok_and(|o| o.status.success())
        };
        let at = dir.path().join("at");
        fs::create_dir(&at).unwrap();
        let mounted = run(&format!("mkfs.{kind}"), &[&image])
            && run("mount", &[Path::new("-o"), Path::new("loop"), &image, &at]);
        if !mounted {
            eprintln!("skipped {kind}: it cannot be made or mounted here");
            return None;
        }
        Some(Self { dir, kind })
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("at")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(self.path()).status();
        assert!(done.is_ok_and(|s| s.success()), "{} stays", self.kind);
    }
}

const ID: PagemapId = PagemapId::Task(7);
const PAGES: u64 = 4096;

/// A layer of pages whose first number is given by `number`.
fn layer(dir: &Path, parent: Option<&Path>, number: impl Fn(u64) -> u64) {
    let writer = LayerWriter::create(dir).unwrap();
    let mut pages = writer.pages(1).unwrap();
    for page in 0..PAGES {
        let mut bytes = vec![0x55; PAGE_SIZE as usize];
        bytes[..8].copy_from_slice(&number(page).to_le_bytes());
        pages.append(&bytes).unwrap();
    }
    let run = Run {
        start: 0x10_0000,
        pages: PAGES,
        place: Place::Present,
        lazy: false,
    };
    let map = Pagemap {
        pages_id: 1,
        runs: vec![run],
    };
    writer.pagemap(ID, &map).unwrap();
    if let Some(parent) = parent {
        writer.link_parent(parent).unwrap();
    }
    let inventory = InventoryEntry {
        img_version: 2,
        ..InventoryEntry::default()
    };
    writer.one("inventory.img", &inventory).unwrap();
    writer.sidecar(Sidecar::default()).unwrap();
    writer.commit().unwrap();
}

fn number(stack: &Stack, page: u64) -> u64 {
    let mut bytes = [0; PAGE_SIZE as usize];
    let memory = stack.resolved(ID).unwrap().checked();
    memory
        .read_at(0x10_0000 + page * PAGE_SIZE, &mut bytes)
        .unwrap();
    u64::from_le_bytes(*bytes.first_chunk().unwrap())
}

#[test]
fn equal_pages_share_blocks_on_xfs_and_btrfs_and_nothing_else_changes() {
    if !require(&[Need::Root]) {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let Some(fs) = Mounted::new(kind) else {
            continue;
        };
        let (one, two) = (fs.path().join("1"), fs.path().join("2"));
        layer(&one, None, |page| page + 1);
        // At other addresses the same, but for every hundredth.
        let of_two = |page: u64| match page % 100 {
            0 => page + 1_000_000,
            _ => (page + 7) % PAGES + 1,
        };
        layer(&two, Some(Path::new("../1")), of_two);
        let strategy = dedup::strategy("content").unwrap();
        let plan = dedup::plan(&two, strategy).unwrap();
        assert_eq!(plan.pages, PAGES - PAGES.div_ceil(100));
        let freed = dedup::apply(&plan, &(), &Cancel::default()).unwrap();
        assert_eq!(freed.pages, plan.pages, "{kind}");
        eprintln!("{kind}: {} of {} bytes", freed.bytes, plan.bytes);
        // btrfs keeps an extent as long as any page of it is in use.
        if kind == "xfs" {
            assert!(freed.bytes > plan.bytes / 10 * 9, "{kind}: {freed:?}");
        }
        let stack = Stack::open(&two).unwrap();
        for page in 0..PAGES {
            assert_eq!(number(&stack, page), of_two(page));
        }
        assert_eq!(number(&Stack::open(&one).unwrap(), 3), 4);
        let again = dedup::plan(&two, strategy).unwrap();
        assert!(again.is_empty(), "{kind}: {} pages", again.pages);
    }
}

#[test]
fn layers_that_are_equal_throughout_give_their_blocks_back_on_xfs_and_btrfs() {
    if !require(&[Need::Root]) {
        return;
    }
    for kind in ["xfs", "btrfs"] {
        let Some(fs) = Mounted::new(kind) else {
            continue;
        };
        let (one, two) = (fs.path().join("1"), fs.path().join("2"));
        layer(&one, None, |page| page + 1);
        layer(&two, Some(Path::new("../1")), |page| page + 1);
        let said = Command::new(env!("CARGO_BIN_EXE_icecore"))
            .args(["dedup", "--strategy", "content", "--yes", "--json", "-D"])
            .arg(&two)
            .output()
            .unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let freed = &said["steps"][0]["freed"];
        eprintln!("{kind}: {freed}");
        assert_eq!(freed["pages"], PAGES, "{kind}");
        let bytes = freed["bytes"].as_u64().unwrap();
        assert!(bytes > PAGES * PAGE_SIZE / 10 * 9, "{kind}: {freed}");
        assert_eq!(number(&Stack::open(&two).unwrap(), 3), 4);
    }
}

#[test]
fn where_files_cannot_share_blocks_the_plan_says_so() {
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    layer(&root.path().join("1"), None, |_| 1);
    let plan = dedup::plan(root.path().join("1"), dedup::strategy("content").unwrap()).unwrap();
    assert!(plan.obstacles[0].what.contains("cannot share blocks"));
}

/// The pages of every pages file of a layer that are holes, by its name.
fn holes(layer: &Path) -> BTreeMap<String, Vec<i64>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(layer).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("pages-") {
            let file = File::open(entry.path()).unwrap();
            let pages = i64::try_from(file.metadata().unwrap().len() / PAGE_SIZE).unwrap();
            let page = |n: i64| n * i64::try_from(PAGE_SIZE).unwrap();
            let is_hole = |n: &i64| lseek(&file, page(*n), Whence::SeekHole) == Ok(page(*n));
            all.insert(name, (0..pages).filter(is_hole).collect());
        }
    }
    all
}

#[test]
fn what_criu_frees_we_would_free_too_and_its_silent_losses_are_named() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let made = drill(&sandbox, &target);
    sandbox.run("cp", &["-a", "img", "ours"]).ok();
    sandbox.criu("dedup -D img/5 -v2").ok();
    sandbox
        .icecore("dedup -D ours/5 --strategy superseded --yes")
        .ok();
    let mut freed = 0;
    for layer in 1..=5 {
        // CRIU stops at a layer in which the page was not mapped; we go on to those below it.
        let ours = holes(&sandbox.path(format!("ours/{layer}")));
        for (name, by_criu) in holes(&sandbox.path(format!("img/{layer}"))) {
            let kept = by_criu.iter().find(|page| !ours[&name].contains(page));
            assert_eq!(kept, None, "{layer}/{name}");
            freed += by_criu.len();
        }
    }
    assert!(freed > 100, "{freed}");
    for layer in 1..5 {
        let refused = sandbox.icecore(&format!("restore -D img/{layer} -d"));
        assert!(
            refused.code == 4 && refused.stderr.contains("without a mark"),
            "{refused:?}"
        );
        assert!(!sandbox.exists(target.pid));
    }
    restore(&sandbox, &target, &made[4]);
}
