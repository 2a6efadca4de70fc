//! Files that need more than their path: each comes back from any layer of a stack with the contents
//! and the state that it had in that layer.

use crate::support::{Need, Sandbox, require};

/// Dumps three incremental layers of `kind`, the root of which is told `write N` before each and the
/// processes at `others` `expect N`; then restores each, out of order, and finds its own state.
pub fn every_layer_comes_back(kind: &str, args: &[&str], options: &str, others: &[&str]) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen(kind, args);
    let pids = target.members();
    for layer in 1..=3 {
        target.ask(&format!("write {layer}"));
        for desk in others {
            target.ask_at(desk, &format!("expect {layer}"));
        }
        target.check();
        let parent = match layer {
            1 => "-R --track-mem".to_owned(),
            2 => "-R --track-mem --prev-images-dir ../1".to_owned(),
            _ => "--track-mem --prev-images-dir ../2".to_owned(),
        };
        let words = format!("dump -t {} -D {layer} {options} {parent}", target.pid);
        sandbox.icecore(&words).ok();
    }
    sandbox.wait_gone(&pids);
    for layer in [2, 3, 1] {
        let words = format!("restore -D {layer} -d");
        sandbox.icecore(&words).ok();
        target.runs();
        assert_eq!(target.check(), layer.to_string());
        for desk in others {
            assert_eq!(target.ask_at(desk, "check"), layer.to_string());
        }
        if layer != 1 {
            sandbox.kill(&target);
            sandbox.wait_gone(&pids);
        }
    }
    // A restored tree is like any other.
    target.ask("write 9");
    sandbox
        .icecore(&format!("dump -t {} -D 9 {options}", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 9 -d").ok();
    assert_eq!(target.check(), "9");
}

#[test]
fn files_without_a_name_come_back_with_their_contents() {
    every_layer_comes_back("nameless", &[], "", &["child"]);
}

#[test]
fn a_file_that_has_lost_its_name_but_not_all_gets_one_for_the_layer() {
    every_layer_comes_back("nameless", &["link"], "--link-remap", &["child"]);
}

#[test]
fn a_large_deleted_file_goes_into_the_layer_when_that_is_allowed() {
    if !require(&[Need::Root]) {
        return;
    }
    for what in ["deleted-file", "deleted-mapping"] {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen("holder", &[what]);
        let words = format!("dump -t {} -D 1 --ghost-limit 2M", target.pid);
        sandbox.icecore(&words).ok();
        sandbox.wait_gone(&[target.pid]);
        sandbox.icecore("restore -D 1 -d").ok();
        assert_eq!(target.check(), "1", "{what}");
    }
}
