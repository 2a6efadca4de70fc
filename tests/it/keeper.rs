//! Tracking from one command to the next: one keeper, whoever starts it; gone with its last target;
//! and when it is lost, or somebody else has one too, layers are larger but never wrong.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::support::{Need, Run, Sandbox, Target, require, wait_until};

/// Pages of the writer's memory that no test writes: a layer that holds fewer was made by tracking.
const MANY: u64 = 1000;

/// Runs icecore with the keepers of another directory.
fn icecore_of(sandbox: &Sandbox, keepers: &str, words: &str) -> Run {
    let variable = format!("ICECORE_RUNTIME_DIR={}", sandbox.path(keepers).display());
    let mut args = vec![variable.as_str(), env!("CARGO_BIN_EXE_icecore")];
    args.extend(words.split_whitespace());
    sandbox.run("env", &args)
}

fn json(run: Run) -> Value {
    let run = run.ok();
    serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {}", run.stdout))
}

/// Makes a tracked layer of a running target.
fn dump(sandbox: &Sandbox, target: &Target, layer: &str, parent: Option<&str>) -> Value {
    json(sandbox.icecore(&words(target, layer, parent)))
}

fn words(target: &Target, layer: &str, parent: Option<&str>) -> String {
    let parent = parent.map_or_else(String::new, |p| format!("--prev-images-dir ../{p}"));
    format!(
        "dump -t {} -D {layer} -R --track-mem --json {parent}",
        target.pid
    )
}

fn stored(layer: &Value) -> u64 {
    layer["pages_stored"].as_u64().unwrap()
}

/// Pids of the keepers that serve inside.
fn keepers(sandbox: &Sandbox) -> Vec<i32> {
    let is_keeper = |pid: &i32| {
        let cmdline = fs::read(sandbox.proc(&format!("{pid}/cmdline"))).unwrap_or_default();
        cmdline.ends_with(b"\0keeper\0--serve\0")
    };
    let entries = fs::read_dir(sandbox.proc("")).unwrap().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(is_keeper).collect()
}

/// Restores a layer and lets the target look at itself.
fn content_after(sandbox: &Sandbox, target: &Target, layer: &str) {
    sandbox.kill(target);
    sandbox.icecore(&format!("restore -D {layer} -d")).ok();
    target.check();
}

/// A sandbox with a writer that owns more than [`MANY`] pages.
fn writer() -> (Sandbox, Target) {
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["1500"]);
    (sandbox, target)
}

#[test]
fn commands_at_the_same_time_start_one_keeper() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let kinds = ["writer", "memory", "shared", "threads", "signals"];
    let targets = kinds.map(|kind| sandbox.specimen(kind, &[]));
    let (sandbox, targets) = (&sandbox, &targets);
    std::thread::scope(|scope| {
        for (kind, target) in kinds.iter().zip(targets) {
            scope.spawn(move || dump(sandbox, target, &format!("{kind}-1"), None));
        }
    });
    assert_eq!(keepers(sandbox).len(), 1);
    for (kind, target) in kinds.iter().zip(targets) {
        let second = dump(
            sandbox,
            target,
            &format!("{kind}-2"),
            Some(&format!("{kind}-1")),
        );
        assert_eq!(second["tracker"], "uffd-wp", "{kind}");
        target.check();
    }
}

#[test]
fn the_keeper_ends_with_its_last_target_and_takes_its_socket_away() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    dump(&sandbox, &target, "1", None);
    assert_eq!(keepers(&sandbox).len(), 1);
    let socket = sandbox.path("run/keeper.sock");
    assert!(socket.exists());
    sandbox.kill(&target);
    wait_until("the keeper is gone", || {
        (keepers(&sandbox).is_empty() && !socket.exists()).then_some(())
    });
    // And the next one is started as the first one was.
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
    assert!(stored(&dump(&sandbox, &target, "2", Some("1"))) < MANY);
}

#[test]
fn without_the_keeper_nothing_is_lost_but_time() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    dump(&sandbox, &target, "1", None);
    for pid in keepers(&sandbox) {
        sandbox.run("kill", &["-KILL", &pid.to_string()]).ok();
        sandbox.wait_gone(&[pid]);
    }
    target.ask("dirty 0 20 5");
    let second = dump(&sandbox, &target, "2", Some("1"));
    assert_eq!(second["tracker"], "content");
    assert!(stored(&second) < MANY, "{second}");
    target.ask("dirty 0 20 6");
    let third = dump(&sandbox, &target, "3", Some("2"));
    assert_eq!(third["tracker"], "uffd-wp");
    assert!(stored(&third) < MANY, "{third}");
    content_after(&sandbox, &target, "3");
}

#[test]
fn two_keepers_of_one_process_never_believe_each_other() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    let other = |layer, parent| {
        json(icecore_of(
            &sandbox,
            "other",
            &words(&target, layer, parent),
        ))
    };
    let first = dump(&sandbox, &target, "1", None);
    assert_eq!(first["warnings"], Value::Array(Vec::new()));
    // What will be large is said, and why; a watch, which would count nothing, is refused.
    let said = other("a", None)["warnings"].to_string();
    assert!(said.contains("another userfaultfd"), "{said}");
    assert!(said.contains("ICECORE_RUNTIME_DIR"), "{said}");
    let watched = format!("watch {} -n 1", target.pid);
    let refused = icecore_of(&sandbox, "third", &watched).fails(7);
    assert!(
        refused.stderr.contains("ICECORE_RUNTIME_DIR"),
        "{refused:?}"
    );
    target.ask("dirty 0 20 5");
    // Renews the first keeper's tracking: for the kernel nothing is written since.
    dump(&sandbox, &target, "2", Some("1"));
    other("b", Some("a"));
    content_after(&sandbox, &target, "b");
    content_after(&sandbox, &target, "2");
}

#[test]
fn another_program_in_the_same_process_is_tracked_anew() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    target.ask("map 1500 7");
    dump(&sandbox, &target, "1", None);
    let ready = target.dir().join("main.ready");
    fs::remove_file(&ready).unwrap();
    target.tell("main", "exec");
    wait_until("the new program is ready", || ready.exists().then_some(()));
    target.ask("map 1500 8");
    let second = dump(&sandbox, &target, "2", Some("1"));
    assert_eq!(second["tracker"], "content");
    target.ask("dirty 1 20 5");
    let third = dump(&sandbox, &target, "3", Some("2"));
    assert_eq!(third["tracker"], "uffd-wp");
    assert!(stored(&third) < MANY, "{third}");
    content_after(&sandbox, &target, "3");
}

#[test]
fn a_keeper_in_a_directory_of_everybody_is_not_believed() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    fs::set_permissions(sandbox.path("run"), Permissions::from_mode(0o777)).unwrap();
    let layer = dump(&sandbox, &target, "1", None);
    let warnings = layer["warnings"].to_string();
    assert!(warnings.contains("only you can write"), "{warnings}");
    assert!(keepers(&sandbox).is_empty());
    target.runs();
    content_after(&sandbox, &target, "1");
}

#[test]
fn a_keeper_that_does_not_answer_costs_seconds_and_no_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    dump(&sandbox, &target, "1", None);
    let pid = keepers(&sandbox)[0].to_string();
    sandbox.run("kill", &["-STOP", &pid]).ok();
    target.ask("dirty 0 20 5");
    let second = dump(&sandbox, &target, "2", Some("1"));
    let warnings = second["warnings"].to_string();
    assert!(warnings.contains("does not answer"), "{warnings}");
    sandbox.run("kill", &["-CONT", &pid]).ok();
    target.runs();
    content_after(&sandbox, &target, "2");
}

#[test]
fn what_a_watch_counts_is_what_the_next_layer_holds_and_counting_changes_nothing() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    let watch = || json(sandbox.icecore(&format!("watch -t {} -n 1 --json", target.pid)));
    let dirty = |sample: &Value| sample["dirty_pages"].as_u64().unwrap();
    // Not tracked yet: from here on it is.
    watch();
    assert_eq!(keepers(&sandbox).len(), 1);
    let first = dump(&sandbox, &target, "1", None);
    let before = watch();
    assert_eq!(before["since_layer"], first["id"]);
    assert!(dirty(&before) < MANY, "{before}");
    target.ask("map 300 5");
    let samples = [watch(), watch(), watch()];
    let counts = samples.each_ref().map(dirty);
    assert!(counts[0] >= 300, "{counts:?}");
    assert_eq!(counts, [counts[0]; 3]);
    let second = dump(&sandbox, &target, "2", Some("1"));
    assert!(stored(&second) >= 300 && stored(&second) < MANY, "{second}");
    assert!(dirty(&watch()) < counts[0]);
    content_after(&sandbox, &target, "2");
}

#[test]
fn nothing_of_the_tracking_stays_in_the_target() {
    if !require(&[Need::Root]) {
        return;
    }
    let (sandbox, target) = writer();
    let descriptors = || fs::read_dir(target.proc(target.pid, "fd")).unwrap().count();
    let before = descriptors();
    dump(&sandbox, &target, "1", None);
    assert_eq!(descriptors(), before);
    let open = fs::read_dir(target.proc(keepers(&sandbox)[0], "fd")).unwrap();
    let held: Vec<_> = open
        .filter_map(|e| fs::read_link(e.ok()?.path()).ok())
        .filter(|link| link == Path::new("anon_inode:[userfaultfd]"))
        .collect();
    assert_eq!(held.len(), 1);
}
