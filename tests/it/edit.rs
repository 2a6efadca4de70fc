//! Stacks of a real process that are dropped, squashed, flattened, pruned: every layer that stays is
//! bit for bit what it was, for us and for CRIU.

use std::fs;

use crate::stack::{Made, STILL, drill, restore};
use crate::support::{Need, Sandbox, assert_same_memory, digest, require};

#[test]
fn every_layer_that_stays_restores_bit_for_bit() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let made = drill(&sandbox, &target);
    let all_restore = |layers: &[usize]| {
        for layer in layers {
            restore(&sandbox, &target, &made[layer - 1]);
            sandbox.kill(&target);
        }
    };
    let edit = |words: &str| {
        let said = sandbox.icecore(words).ok();
        eprintln!("{words}\n{}", said.stdout);
        sandbox.icecore("verify img").ok();
    };
    // Without a terminal nothing goes unless it was said so.
    sandbox.icecore("drop img/3").fails(2);
    edit("drop img/3 --dry-run");
    all_restore(&[3]);
    edit("drop img/3 --yes");
    all_restore(&[5, 1, 4, 2]);
    edit("branch img/4 img/4b --label other");
    edit("squash img/1..img/2 --yes");
    assert!(!sandbox.path("img/2/parent").exists());
    all_restore(&[2, 5, 4]);
    edit("flatten img/4 --into img/4f");
    for name in ["img/4b", "img/4f"] {
        let copy = Made {
            name: name.to_owned(),
            memory: made[3].memory.clone(),
        };
        restore(&sandbox, &target, &copy);
        sandbox.kill(&target);
    }
    edit("pin img/4b");
    sandbox.icecore("drop img/4b --yes").fails(7);
    edit("prune img --keep-last 1 --yes");
    let mut names: Vec<_> = fs::read_dir(sandbox.path("img"))
        .unwrap()
        .flatten()
        .collect();
    names.sort_by_key(fs::DirEntry::file_name);
    let names: Vec<_> = names
        .iter()
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    assert!(names.contains(&"4b".to_owned()), "{names:?}");
    assert!(!names.contains(&"2".to_owned()), "{names:?}");
    edit("flatten img/4b");
    let copy = Made {
        name: "img/4b".to_owned(),
        memory: made[3].memory.clone(),
    };
    restore(&sandbox, &target, &copy);
}

#[test]
fn criu_restores_what_is_left_of_a_stack() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["400"]);
    let made = drill(&sandbox, &target);
    sandbox.icecore("drop img/2 img/4 --yes").ok();
    sandbox.icecore("branch img/3 img/3b").ok();
    sandbox.icecore("flatten img/1 --into img/1f").ok();
    for (name, layer) in [("5", 5), ("3b", 3), ("3", 3), ("1f", 1)] {
        sandbox.criu(&format!("restore -D img/{name} -d -v2")).ok();
        assert_same_memory(name, &made[layer - 1].memory, &digest(&target));
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn dumps_go_on_after_layers_below_were_changed() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let dump = |layer: usize, parent: Option<usize>| -> Made {
        target.ask(&format!("dirty 0 20 {layer}"));
        target.check();
        let memory = digest(&target);
        let parent = parent.map_or(String::new(), |p| format!("--prev-images-dir ../{p}"));
        let pid = target.pid;
        let words = format!("dump -t {pid} -D {layer} -R --track-mem {parent} --json");
        let said = sandbox.icecore(&words).ok().stdout;
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        if layer > 1 {
            assert!(said["pages_stored"].as_u64() < Some(300), "{said}");
        }
        Made {
            name: layer.to_string(),
            memory,
        }
    };
    dump(1, None);
    let mut made = vec![dump(2, Some(1))];
    // The tracker is armed for layer 2, which now stands alone.
    sandbox.icecore("drop 1 --yes").ok();
    made.push(dump(3, Some(2)));
    // The tracker is armed for a layer that is gone.
    drop(dump(4, Some(3)));
    sandbox.icecore("drop 4 --yes").ok();
    made.push(dump(5, Some(3)));
    // For the upper one of two that are squashed.
    sandbox.icecore("squash 3..5 --yes").ok();
    made.remove(1);
    made.push(dump(6, Some(5)));
    sandbox.kill(&target);
    for layer in &made {
        restore(&sandbox, &target, layer);
        sandbox.kill(&target);
    }
}
