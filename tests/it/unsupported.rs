//! What no image can hold yet is an obstacle, named before anything is frozen; the target does not
//! notice.

use crate::support::{Need, Sandbox, assert_same_portrait, portrait, require};

/// Dumps a holder of `what`: it is refused with `words`, and nothing has happened.
fn refused(what: &str, words: &[&str]) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &[what]);
    let before = portrait(&target);
    for mode in ["", "-R", "-R --track-mem", "--dry-run"] {
        let run = sandbox
            .icecore(&format!("dump -t {} -D 1 {mode}", target.pid))
            .fails(5);
        let pid = format!("{}", target.pid);
        for word in words.iter().chain(&[pid.as_str(), "descriptor 4"]) {
            assert!(run.stderr.contains(word), "no {word} in: {}", run.stderr);
        }
        target.runs();
        assert!(!sandbox.path("1").exists());
        assert!(!sandbox.path("1.partial").exists());
    }
    assert_same_portrait(what, &before, &portrait(&target));
    assert_eq!(target.check(), "1");
    assert_eq!(target.check(), "2");
}

#[test]
fn an_io_uring_descriptor_is_an_obstacle() {
    refused("io_uring", &["io_uring"]);
}

#[test]
fn a_bpf_map_is_an_obstacle() {
    refused("bpf", &["BPF map"]);
}

#[test]
fn a_socket_is_an_obstacle() {
    refused("socket", &["socket"]);
}
