//! Restores in a pid namespace of their own, while others have the ids.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::stack::STILL;
use crate::support::{Need, Sandbox, Target, digest, python, require, wait_until};

/// The memory of a tree of one process, wherever that has its id.
fn memory(target: &Target) -> BTreeMap<u64, [u8; 16]> {
    let pages = digest(target).into_iter();
    pages.map(|((_, addr), hash)| (addr, hash)).collect()
}

/// Restores a layer; the tree, and the first process of its namespace.
fn restore(sandbox: &Sandbox, like: &Target, layer: &str) -> (Target, i32) {
    let words = format!("restore -D {layer} -d --new-pid-namespace --json");
    let run = sandbox.icecore(&words).ok();
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let id = |name: &str| i32::try_from(told[name].as_i64().unwrap()).unwrap();
    assert_eq!(id("root_inside"), like.pid);
    let tree = Target::apart(like.dir().to_owned(), id("root"), sandbox.proc(""));
    (tree, id("first_process"))
}

fn end(sandbox: &Sandbox, tree: &Target, first: i32) {
    let pids = [tree.members(), vec![first]].concat();
    sandbox.run("kill", &["-9", &first.to_string()]).ok();
    sandbox.wait_gone(&pids);
}

#[test]
fn each_layer_runs_beside_the_tree_that_has_its_ids() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["300"]);
    let mut states = Vec::new();
    for layer in 1..=3 {
        target.ask(&format!("dirty 0 40 {layer}"));
        target.check();
        states.push(memory(&target));
        let parent = match layer {
            1 => String::new(),
            _ => format!("--prev-images-dir ../{}", layer - 1),
        };
        let words = format!("dump -t {} -D {layer} -R --track-mem {parent}", target.pid);
        sandbox.icecore(&words).ok();
    }
    sandbox.icecore("restore -D 2 -d").fails(7);
    let before = memory(&target);
    for layer in [2, 3, 1] {
        let (tree, first) = restore(&sandbox, &target, &layer.to_string());
        assert_eq!(memory(&tree), states[layer - 1], "layer {layer}");
        end(&sandbox, &tree, first);
        assert_eq!(memory(&target), before, "the tree that was there");
    }
    target.check();
}

#[test]
fn what_was_restored_in_a_namespace_of_its_own_can_be_dumped_with_it_on_top_of_its_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["300"]);
    let words = format!("dump -t {} -D 1 --track-mem", target.pid);
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&[target.pid]);
    let (tree, first) = restore(&sandbox, &target, "1");
    tree.ask("dirty 0 40 7");
    tree.check();
    let before = memory(&tree);
    let words = format!("dump -t {first} -D 2 --track-mem --prev-images-dir ../1 --json");
    let run = sandbox.icecore(&words).ok();
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(told["pages_in_parent"].as_u64() > Some(200), "{told}");
    sandbox.wait_gone(&[tree.pid, first]);
    let run = sandbox.icecore("restore -D 2 -d --json").ok();
    let told: Value = serde_json::from_str(&run.stdout).unwrap();
    let first = i32::try_from(told["root"].as_i64().unwrap()).unwrap();
    let all = Target::apart(target.dir().to_owned(), first, sandbox.proc(""));
    let root = all.members()[1];
    let tree = Target::apart(target.dir().to_owned(), root, sandbox.proc(""));
    assert_eq!(memory(&tree), before);
    tree.check();
    end(&sandbox, &tree, first);
}

#[test]
fn the_end_of_the_root_in_there_is_that_of_the_command() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let path = |name: &str| sandbox.path(name).to_str().unwrap().to_owned();
    let (ready, go, script) = (path("ready"), path("go"), path("script"));
    let text = format!(
        "import os, time\nopen('{ready}', 'w').close()\n\
         while not os.path.exists('{go}'): time.sleep(0.01)\nos._exit(7)\n"
    );
    std::fs::write(&script, text).unwrap();
    let python = python().unwrap();
    let pid = sandbox.start("log", &[python.to_str().unwrap(), &script]);
    wait_until("it is ready", || {
        sandbox.path("ready").exists().then_some(())
    });
    let words = format!("dump -t {pid} -D 1 -R");
    sandbox.icecore(&words).ok();
    std::fs::write(sandbox.path("go"), "").unwrap();
    sandbox.wait_gone(&[pid]);
    sandbox.icecore("restore -D 1 --new-pid-namespace").fails(7);
    let missing = sandbox.icecore("restore -D 9 --new-pid-namespace").fails(3);
    assert!(
        missing.stderr.contains("Cannot open layer"),
        "{}",
        missing.stderr
    );
}
