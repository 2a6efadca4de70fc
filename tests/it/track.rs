//! Whatever happens between two layers, the upper one restores what was there: a page is left to
//! the parent only when it is the same page of the same process.

use crate::support::{Need, Sandbox, Target, require, wait_until};

/// Dumps, lets `between` change things, dumps incrementally (killing), and restores both layers;
/// `after` looks at each. Returns what the second dump said.
fn between_two_layers(between: impl Fn(&Target), after: impl Fn(&Target, u32)) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["200"]);
    // Something to grow, move and drop.
    target.ask("map 100 3");
    target.ask("heap 500 4");
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
        .ok();
    between(&target);
    let pids = target.members();
    let words = format!(
        "dump -t {} -D 2 --track-mem --prev-images-dir ../1",
        target.pid
    );
    eprintln!("{}", sandbox.icecore(&words).ok().stdout.trim());
    sandbox.wait_gone(&pids);
    for layer in [2, 1, 2] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.runs();
        after(&target, layer);
        sandbox.kill(&target);
    }
}

/// The root alone has to be content.
fn changed_by(commands: &[&str]) {
    between_two_layers(
        |target| {
            for command in commands {
                target.ask(command);
            }
            target.check();
        },
        |target, _| drop(target.check()),
    );
}

#[test]
fn written_pages() {
    changed_by(&["dirty 0 20 7", "dirty 1 5 8", "shared 9 9"]);
}

#[test]
fn a_new_mapping() {
    changed_by(&["map 50 7", "dirty 2 5 8"]);
}

#[test]
fn a_new_mapping_at_the_place_of_an_old_one() {
    changed_by(&["unmap 1", "map 100 9"]);
}

#[test]
fn a_mapping_that_is_gone() {
    changed_by(&["unmap 1"]);
}

#[test]
fn a_grown_heap() {
    changed_by(&["heap 3000 5"]);
}

#[test]
fn a_grown_mapping() {
    changed_by(&["grow 1 400", "dirty 1 30 6"]);
}

#[test]
fn a_shrunk_mapping() {
    changed_by(&["grow 1 30"]);
}

#[test]
fn a_moved_mapping() {
    changed_by(&["move 1 100"]);
}

#[test]
fn a_moved_mapping_whose_place_is_taken_by_another_one() {
    changed_by(&["move 1 100", "map 100 8", "map 100 9"]);
}

#[test]
fn pages_that_were_given_back() {
    changed_by(&["drop 0 10 50", "drop 1 0 100"]);
}

#[test]
fn pages_that_were_given_back_and_written_again() {
    changed_by(&["drop 0 10 50", "dirty 0 100 6"]);
}

#[test]
fn changed_protection() {
    changed_by(&["dirty 1 10 5", "protect 1"]);
}

#[test]
fn a_new_file_mapping() {
    changed_by(&["file 40 6"]);
}

#[test]
fn a_new_thread() {
    changed_by(&["thread", "thread", "dirty 0 10 5"]);
}

#[test]
fn a_grown_stack() {
    between_two_layers(
        |target| {
            target.tell("main", "stack 100");
            target.ask_at("deep", "check");
        },
        // Which desk is served depends on the layer.
        |target, layer| drop(target.ask_at(if layer == 2 { "deep" } else { "main" }, "check")),
    );
}

#[test]
fn a_new_process_that_shares_all_pages() {
    between_two_layers(
        |target| drop(target.ask("fork")),
        |target, layer| {
            target.check();
            if layer == 2 {
                target.ask_at("child1", "check");
            }
            assert_eq!(target.members().len(), if layer == 2 { 2 } else { 1 });
        },
    );
}

#[test]
fn a_new_process_and_writes_on_both_sides() {
    between_two_layers(
        |target| {
            target.ask("fork-write");
            target.ask("dirty 0 30 9");
            target.ask_at("child1", "dirty 1 10 9");
        },
        |target, layer| {
            target.check();
            if layer == 2 {
                target.ask_at("child1", "check");
            }
        },
    );
}

#[test]
fn a_process_that_has_exited() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["200"]);
    target.ask("fork-write");
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
        .ok();
    target.tell("child1", "exit");
    target.ask("reap");
    target.ask("dirty 0 10 4");
    let words = format!(
        "dump -t {} -D 2 --track-mem --prev-images-dir ../1",
        target.pid
    );
    let pids = target.members();
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&pids);
    for (layer, processes) in [(1, 2), (2, 1), (1, 2)] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.check();
        assert_eq!(target.members().len(), processes);
        if layer == 1 {
            target.ask_at("child1", "check");
        }
        sandbox.kill(&target);
    }
}

#[test]
fn another_process_with_the_same_pid() {
    if !require(&[Need::Root]) {
        return;
    }
    // Layer 2 of the same pid, but of a process that was restored from elsewhere meanwhile.
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["200"]);
    sandbox
        .icecore(&format!("dump -t {} -D 0 -R --track-mem", target.pid))
        .ok();
    target.ask("dirty 0 50 4");
    target.ask("shared 50 4");
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
        .ok();
    sandbox.kill(&target);
    sandbox.icecore("restore -D 0 -d").ok();
    let words = format!(
        "dump -t {} -D 2 --track-mem --prev-images-dir ../1",
        target.pid
    );
    let pids = target.members();
    eprintln!("{}", sandbox.icecore(&words).ok().stdout.trim());
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 2 -d").ok();
    target.check();
}

#[test]
fn another_program_in_the_same_process() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["200"]);
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
        .ok();
    let ready = target.dir().join("main.ready");
    std::fs::remove_file(&ready).unwrap();
    target.tell("main", "exec");
    wait_until("the new program is ready", || ready.exists().then_some(()));
    assert!(target.check().starts_with("300 pages"));
    let words = format!(
        "dump -t {} -D 2 --track-mem --prev-images-dir ../1",
        target.pid
    );
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&[target.pid]);
    for (layer, pages) in [(2, "300"), (1, "200")] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        assert!(target.check().starts_with(pages));
        sandbox.kill(&target);
    }
}

#[test]
fn writes_without_tracking_in_between_are_not_lost() {
    if !require(&[Need::Root]) {
        return;
    }
    // Layer 2 does not ask for tracking; layer 3 on top of it must not trust layer 1's.
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["200"]);
    let dump = |words: &str| {
        sandbox
            .icecore(&format!("dump -t {} {words}", target.pid))
            .ok()
    };
    dump("-D 1 -R --track-mem");
    target.ask("dirty 0 20 4");
    dump("-D 2 -R --prev-images-dir ../1");
    target.ask("dirty 0 20 5");
    dump("-D 3 -R --track-mem --prev-images-dir ../2");
    target.ask("dirty 0 20 6");
    dump("-D 4 --prev-images-dir ../3");
    sandbox.wait_gone(&[target.pid]);
    for layer in [4, 3, 2, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn a_parent_that_is_not_the_last_layer_made() {
    if !require(&[Need::Root]) {
        return;
    }
    // Layer 3 on top of layer 1, although the tracker was armed for layer 2.
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["200"]);
    let dump = |words: &str| {
        sandbox
            .icecore(&format!("dump -t {} {words}", target.pid))
            .ok()
    };
    dump("-D 1 -R --track-mem");
    target.ask("dirty 0 20 4");
    target.ask("shared 20 4");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    target.ask("dirty 0 20 5");
    dump("-D 3 --track-mem --prev-images-dir ../1");
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 3 -d").ok();
    target.check();
}
