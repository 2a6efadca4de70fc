//! The specimens and the sandbox themselves are sound: each specimen finds nothing wrong with itself
//! when nobody touches it, and survives a dump and a restore by a CRIU that is known to be right.

use crate::support::{
    Need, Sandbox, assert_same_memory, assert_same_portrait, digest, portrait, require,
};

/// Kinds with their arguments that every engine can dump.
const KINDS: &[(&str, &[&str])] = &[
    ("memory", &[]),
    ("shared", &[]),
    ("threads", &[]),
    ("signals", &[]),
    ("timers", &[]),
    ("surroundings", &[]),
    ("creds", &["drop"]),
    ("creds", &["keep"]),
    ("descriptors", &[]),
    ("pipes", &[]),
    ("tree", &[]),
    ("writer", &[]),
];

#[test]
fn every_specimen_is_content_with_itself() {
    if !require(&[Need::Root]) {
        return;
    }
    for (kind, args) in KINDS
        .iter()
        .chain(&[("sleepers", [].as_slice()), ("sessions", &[])])
    {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, args);
        target.check();
        target.check();
    }
}

#[test]
fn every_specimen_survives_criu() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for (kind, args) in KINDS {
        // CRIU asks prlimit(2) for the limits of a process of another user.
        if *kind == "creds" && !require(&[Need::SysResource]) {
            continue;
        }
        // CRIU interrupts sleeps, forgets the personality and O_DIRECTORY, and that a FIFO had no writer yet.
        let args = match *kind {
            "threads" => &["patient"],
            "surroundings" | "descriptors" | "pipes" => &["modest"],
            _ => *args,
        };
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, args);
        target.check();
        let (pids, stopped) = (target.members(), target.stopped());
        std::fs::create_dir(sandbox.path("1")).unwrap();
        sandbox
            .criu(&format!("dump -t {} -D 1 -v2", target.pid))
            .ok();
        sandbox.wait_gone(&pids);
        sandbox.criu("restore -D 1 -d -v2").ok();
        target.wait_for_stops(&stopped);
        eprintln!("{kind}: {}", target.check());
    }
}

#[test]
fn a_process_that_does_nothing_looks_the_same_twice() {
    if !require(&[Need::Root]) {
        return;
    }
    for kind in ["memory", "shared", "descriptors", "pipes", "tree"] {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, &[]);
        let (pictured, hashed) = (portrait(&target), digest(&target));
        assert!(hashed.len() > 100);
        assert_same_portrait(kind, &pictured, &portrait(&target));
        assert_same_memory(kind, &hashed, &digest(&target));
    }
}

#[test]
fn nothing_outlives_a_sandbox() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["10"]);
    let proc = sandbox.proc("1");
    assert!(proc.exists());
    let outside = sandbox.outside(target.pid);
    drop(sandbox);
    assert!(!std::path::Path::new(&format!("/proc/{outside}")).exists());
}
