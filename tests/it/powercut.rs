//! The power goes while a stack is being changed: what the disk holds then, mounted again, has every
//! layer bit for bit as it was, or the operation has done its work, and the same command finishes it.
//!
//! The operation is killed at a system call, and the disk is copied at once: what was not synced by
//! then is in memory only, and lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::faults::{
    DROP, FLATTEN, ICECORE, Operation, PRUNE, SQUASH, SUPERSEDED, Template, UNCHANGED, placed,
};
use crate::support::disk::Disk;
use crate::support::faults::{CHANGES, killed_at, points};
use crate::support::{Need, require};

/// Instants of each operation, evenly spread; `ICECORE_TEST_ALL=1` takes all.
const INSTANTS: usize = 70;

fn everywhere(operation: &Operation) {
    if !require(&[Need::Root, Need::Strace, Need::Ext4]) {
        return;
    }
    let template = Template::new();
    let (_stack, img) = template.copy_for(operation);
    let dir = Template::scratch();
    let path = |name: &str| dir.path().join(name);
    // A disk with the stack on it, never mounted again itself.
    Disk::format(&path("base")).unwrap();
    let disk = Disk::mount(&path("base"), &path("at")).unwrap();
    let copied = Command::new("cp")
        .arg("-a")
        .arg(&img)
        .arg(disk.path())
        .status()
        .unwrap();
    assert!(copied.success());
    disk.sync();
    let words = placed(&disk.path().join("img"), operation.command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    drop(disk);

    let files = AtomicUsize::new(0);
    // Never the same file again: a sandbox that another test begins now takes a copy of all mounts
    // along, so a file system may live on a while after it was unmounted here.
    let fresh = || path(&format!("disk{}", files.fetch_add(1, Ordering::Relaxed)));
    let mount = |image: &Path| {
        let disk = Disk::mount(image, &path("at")).unwrap();
        fs::remove_file(image).unwrap(); // it lives as long as the loop device
        disk
    };
    // Runs something on a copy of the disk and cuts the power; what is there then.
    let cut_after = |run: &mut dyn FnMut()| {
        let image = fresh();
        fs::copy(path("base"), &image).unwrap();
        let disk = Disk::mount(&image, &path("at")).unwrap();
        run();
        let cut = fresh();
        disk.cut(&cut);
        drop(disk);
        fs::remove_file(image).unwrap();
        mount(&cut)
    };

    let mut all = Vec::new();
    let disk = cut_after(&mut || {
        let (points, code) = points(CHANGES, &path("calls"), ICECORE, &words);
        assert_eq!(code, 0, "{operation:?}");
        all = points;
    });
    let done = disk.path().join("img");
    assert!(
        operation.gone.iter().all(|gone| !done.join(gone).exists()),
        "it was not durable"
    );
    template.finish("the power goes afterwards", &done, operation);
    drop(disk);

    let every = std::env::var_os("ICECORE_TEST_ALL").is_some();
    let step = if every {
        1
    } else {
        all.len().div_ceil(INSTANTS)
    };
    for point in all.iter().step_by(step) {
        let what = format!(
            "{:?}: power cut at {} {}",
            operation.command, point.call, point.number
        );
        let disk = cut_after(&mut || {
            killed_at(point, ICECORE, &words);
        });
        let img = disk.path().join("img");
        template.check(&what, &img, operation);
        template.finish(&what, &img, operation);
    }
    eprintln!(
        "{:?}: {} instants, every {step}.",
        operation.command,
        all.len()
    );
}

#[test]
fn a_drop_survives_a_power_cut_at_any_call() {
    everywhere(&DROP);
}

#[test]
fn a_squash_survives_a_power_cut_at_any_call() {
    everywhere(&SQUASH);
}

#[test]
fn a_prune_survives_a_power_cut_at_any_call() {
    everywhere(&PRUNE);
}

#[test]
fn a_flatten_survives_a_power_cut_at_any_call() {
    everywhere(&FLATTEN);
}

#[test]
fn a_dedup_survives_a_power_cut_at_any_call() {
    everywhere(&UNCHANGED);
    everywhere(&SUPERSEDED);
}
