//! Locks on files come back from every layer, with those who wait for them.

use std::fs::File;

use crate::files::every_layer_comes_back;
use crate::support::{Need, Sandbox, require, wait_until};

#[test]
fn locks_come_back_from_every_layer() {
    every_layer_comes_back("locks", &[], "--file-locks", &["child"]);
}

#[test]
fn who_waits_for_a_lock_gets_it_after_a_restore() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("locks", &[]);
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1 -l", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
    target.ask("release");
    let got = target.dir().join("got");
    wait_until("the lock is passed on", || got.exists().then_some(()));
}

#[test]
fn a_lock_that_somebody_else_has_by_now_is_an_obstacle_of_the_restore() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("locks", &[]);
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1 -l", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    let file = File::open(target.dir().join("whole")).unwrap();
    file.lock().unwrap();
    // The other side of a pid namespace cannot be named.
    let run = sandbox.icecore("restore -D 1 -d").fails(1);
    assert!(run.stderr.contains("a lock (flock)"), "{}", run.stderr);
    assert!(run.stderr.contains("lslocks"), "{}", run.stderr);
    file.unlock().unwrap();
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}

#[test]
fn a_lock_shared_with_a_process_outside_of_the_tree_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("locks", &[]);
    let child = target.members()[1];
    let run = sandbox
        .icecore(&format!("dump -t {child} -D 1 -l"))
        .fails(5);
    let words = format!("shares with specimen (pid {})", target.pid);
    assert!(run.stderr.contains(&words), "{}", run.stderr);
    target.runs();
    target.check();
}
