//! What processes share since they were forked is shared after a restore: pages, so that the tree needs no
//! more memory than before; descriptors and directories.

use std::fs;

use crate::files::every_layer_comes_back;
use crate::stack::STILL;
use crate::support::{
    Need, Sandbox, Target, assert_same_memory, assert_same_portrait, digest, portrait, require,
};

/// KiB of memory of its own that the tree has, shared pages counted once (proc_pid_smaps(5),
/// Pss_Anon). Pages of files are left out: who else maps them at this moment changes their share.
fn needed(target: &Target) -> u64 {
    let of = |pid: i32| -> u64 {
        let text = fs::read_to_string(target.proc(pid, "smaps_rollup")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.unwrap().parse().unwrap()
    };
    target.members().into_iter().map(of).sum()
}

#[test]
fn what_processes_share_without_being_threads_is_shared_again_from_every_layer() {
    every_layer_comes_back("commons", &[], "", &[]);
}

#[test]
fn pages_that_processes_share_since_fork_are_shared_after_a_restore_from_each_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "family", &[]);
    let desks = ["main", "child", "grandchild"];
    let mut states = Vec::new();
    for layer in 1..=3 {
        // Each changes pages that the others share.
        for (index, desk) in desks.iter().enumerate() {
            target.ask_at(desk, &format!("write {}", layer * 1000 + 100 + index));
            target.ask_at(desk, "check");
        }
        let state = (needed(&target), portrait(&target), digest(&target));
        let mode = match layer {
            1 => "-R --track-mem",
            2 => "-R --track-mem --prev-images-dir ../1",
            _ => "--prev-images-dir ../2",
        };
        let pids = target.members();
        sandbox
            .icecore(&format!("dump -t {} -D {layer} {mode}", target.pid))
            .ok();
        if layer == 3 {
            sandbox.wait_gone(&pids);
        }
        states.push(state);
    }
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        let (before, pictured, hashed) = &states[layer - 1];
        let after = needed(&target);
        eprintln!("layer {layer}: {before} KiB, {after} KiB");
        assert!(
            after < before + before / 10,
            "{before} KiB became {after} KiB"
        );
        assert_same_portrait(&format!("{layer}"), pictured, &portrait(&target));
        assert_same_memory(&format!("{layer}"), hashed, &digest(&target));
        // What one writes, the others do not see.
        for desk in ["main", "child", "grandchild"] {
            target.ask_at(desk, "write 5000");
        }
        sandbox.kill(&target);
    }
}
