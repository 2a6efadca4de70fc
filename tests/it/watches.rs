//! What is watched by inotify is watched again after a restore, from every layer.

use crate::files::every_layer_comes_back;
use crate::support::{Need, Sandbox, require};

#[test]
fn watches_come_back_from_every_layer_and_no_event_with_them() {
    every_layer_comes_back("watches", &[], "", &["child"]);
}

#[test]
fn events_that_wait_are_named_by_the_dump_and_not_restored() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("watches", &[]);
    let pids = target.members();
    target.ask("leave");
    let run = sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    let said = run.stdout + &run.stderr;
    assert!(said.contains("has not read all inotify events"), "{said}");
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}
