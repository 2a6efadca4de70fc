//! Stacks of incremental layers: what a layer holds is bit for bit what was there at the instant of
//! the dump, from whichever layer one restores, whatever was made on top of it.

use std::fs;

use crate::support::{Digest, Need, Sandbox, Target, assert_same_memory, digest, require};

/// The C library keeps the number of the CPU in the memory of each thread (rseq(2)); without that,
/// a process that does nothing does not change.
pub const STILL: &str = "GLIBC_TUNABLES=glibc.pthread.rseq=0";

/// Layers of the stack.
const LAYERS: usize = 5;

/// One of the layers and what was in memory when it was made.
pub struct Made {
    /// Its directory.
    pub name: String,
    /// What was in memory.
    pub memory: Digest,
}

/// Changes something of each kind, differently each time.
fn change(target: &Target, round: usize) {
    target.ask(&format!("dirty 0 40 {}", round + 10));
    target.ask(&format!("shared 7 {}", round + 20));
    target.ask(&format!("heap {} {round}", 300 * round));
    match round {
        1 => drop(target.ask("map 90 5")),
        2 => drop(target.ask("drop 0 10 100")),
        3 => drop(target.ask("grow 1 200")),
        _ => drop(target.ask("move 1 150")),
    }
    target.check();
}

/// Makes a stack of layers `1`, `2`, … of a running writer; the last dump kills it.
pub fn drill(sandbox: &Sandbox, target: &Target) -> Vec<Made> {
    let mut made: Vec<Made> = Vec::new();
    for layer in 1..=LAYERS {
        if layer > 1 {
            change(target, layer - 1);
        }
        let pids = target.members();
        let memory = digest(target);
        let parent = if layer > 1 {
            format!("--prev-images-dir ../{}", layer - 1)
        } else {
            String::new()
        };
        let last = if layer == LAYERS {
            ""
        } else {
            "--leave-running"
        };
        let name = format!("img/{layer}");
        let words = format!(
            "dump -t {} -D {name} {last} --track-mem {parent}",
            target.pid
        );
        let said = sandbox.icecore(&words).ok();
        eprintln!("{}", said.stdout.trim());
        if layer == LAYERS {
            sandbox.wait_gone(&pids);
        } else {
            // The dump itself changes nothing.
            assert_same_memory(&format!("after dump {layer}"), &memory, &digest(target));
        }
        made.push(Made { name, memory });
    }
    made
}

/// Restores a layer and compares every page; the tree runs on.
pub fn restore(sandbox: &Sandbox, target: &Target, layer: &Made) {
    sandbox
        .icecore(&format!("restore -D {} -d", layer.name))
        .ok();
    assert_same_memory(&layer.name, &layer.memory, &digest(target));
    target.check();
}

#[test]
fn every_layer_of_a_stack_restores_bit_for_bit_in_any_order() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let made = drill(&sandbox, &target);
    for layer in [1, 4, 0, 3, 2, 4] {
        restore(&sandbox, &target, &made[layer]);
        sandbox.kill(&target);
    }
}

#[test]
fn layers_made_on_top_of_a_restored_one_are_a_branch_and_leave_the_others_alone() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let mut made = drill(&sandbox, &target);
    // Two layers on top of layer 2.
    restore(&sandbox, &target, &made[1]);
    for (name, parent) in [("2b", "2"), ("2c", "2b")] {
        target.ask("dirty 0 30 99");
        target.ask("shared 5 98");
        target.check();
        let memory = digest(&target);
        let name = format!("img/{name}");
        let said = sandbox
            .icecore(&format!(
                "dump -t {} -D {name} -R --track-mem --prev-images-dir ../{parent}",
                target.pid
            ))
            .ok();
        eprintln!("{}", said.stdout.trim());
        made.push(Made { name, memory });
    }
    sandbox.kill(&target);
    for layer in [6, 0, 5, 1, 4, 3, 2] {
        restore(&sandbox, &target, &made[layer]);
        sandbox.kill(&target);
    }
}

#[test]
fn incremental_layers_store_only_what_changed() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["5000"]);
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
        .ok();
    target.ask("dirty 0 10 3");
    sandbox
        .icecore(&format!(
            "dump -t {} -D 2 -R --track-mem --prev-images-dir ../1",
            target.pid
        ))
        .ok();
    let size = |layer: u32| -> u64 {
        let files = fs::read_dir(sandbox.path(layer.to_string()))
            .unwrap()
            .flatten();
        let pages = files.filter(|f| f.file_name().to_string_lossy().starts_with("pages-"));
        pages.map(|f| f.metadata().unwrap().len()).sum()
    };
    // Beside the ten pages: stack, heap and shared memory of a small program.
    assert!(size(1) > 5000 * 4096, "{}", size(1));
    assert!(size(2) < 300 * 4096, "{}", size(2));
}

#[test]
fn a_busy_tree_is_dumped_at_one_instant() {
    if !require(&[Need::Root]) {
        return;
    }
    // What is compared is what was there when the processes were stopped: they stay so.
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "threads", &[]);
    let mut made = Vec::new();
    for layer in 1..=3 {
        let parent = if layer > 1 {
            format!("--prev-images-dir ../{}", layer - 1)
        } else {
            String::new()
        };
        let name = layer.to_string();
        let words = format!(
            "dump -t {} -D {name} --leave-stopped --track-mem {parent}",
            target.pid
        );
        sandbox.icecore(&words).ok();
        target.wait_stopped();
        made.push(Made {
            name,
            memory: digest(&target),
        });
        sandbox
            .run("kill", &["-CONT", &target.pid.to_string()])
            .ok();
        target.check();
    }
    // A dump of the stopped tree is restored stopped.
    sandbox
        .run("kill", &["-STOP", &target.pid.to_string()])
        .ok();
    target.wait_stopped();
    let memory = digest(&target);
    let pids = target.members();
    let words = format!(
        "dump -t {} -D 4 --track-mem --prev-images-dir ../3",
        target.pid
    );
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 4 -d").ok();
    target.wait_stopped();
    assert_same_memory("layer 4", &memory, &digest(&target));
    sandbox
        .run("kill", &["-CONT", &target.pid.to_string()])
        .ok();
    target.check();
    sandbox.kill(&target);
    for layer in made {
        sandbox
            .icecore(&format!("restore -D {} -d", layer.name))
            .ok();
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn dedup_keeps_every_layer_that_it_does_not_name() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let made = drill(&sandbox, &target);
    let plan = sandbox
        .icecore("dedup -D img/5 --strategy superseded --dry-run")
        .ok();
    eprintln!("{}", plan.stdout);
    restore(&sandbox, &target, &made[0]);
    sandbox.kill(&target);
    sandbox
        .icecore("dedup -D img/5 --strategy superseded --yes")
        .ok();
    restore(&sandbox, &target, &made[4]);
    sandbox.kill(&target);
    // A consumed layer is refused, and nothing is started.
    let refused = sandbox.icecore("restore -D img/1 -d");
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(!sandbox.exists(target.pid));
}
