//! Pidfds of the tree come back from every layer; others are obstacles.

use crate::files::every_layer_comes_back;
use crate::support::{Need, Sandbox, require};

#[test]
fn pidfds_come_back_from_every_layer() {
    every_layer_comes_back("pidfds", &[], "", &["child"]);
}

#[test]
fn a_restored_pidfd_tells_the_end_of_its_process() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("pidfds", &[]);
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
    target.ask("end");
}

#[test]
fn a_pidfd_of_a_process_outside_of_the_tree_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("pidfds", &[]);
    let child = *target.members().last().unwrap();
    let run = sandbox.icecore(&format!("dump -t {child} -D 1")).fails(5);
    let words = format!(
        "a pidfd of process {} (specimen) outside of the tree",
        target.pid
    );
    assert!(run.stderr.contains(&words), "{}", run.stderr);
    target.runs();
    target.check();
}
