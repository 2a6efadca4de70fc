//! `icecore demo` without a terminal does all its steps, finds nothing wrong, and cleans up.

use std::fs;

use crate::support::{Need, Sandbox, require};

#[test]
fn the_demo_finds_nothing_wrong_and_leaves_nothing_behind() {
    if !require(&[Need::Root]) {
        return;
    }
    let sandbox = Sandbox::new();
    let temporary = format!("TMPDIR={}", sandbox.path("tmp").display());
    fs::create_dir(sandbox.path("tmp")).unwrap();
    let icecore = env!("CARGO_BIN_EXE_icecore");
    let said = sandbox
        .run("env", &[&temporary, icecore, "demo", "--plain"])
        .ok()
        .stdout;
    for step in [
        "watch",
        "layer 1",
        "layer 2",
        "owners",
        "restore 2",
        "dedup",
        "refused",
        "done",
    ] {
        assert!(
            said.lines().any(|line| line.starts_with(step)),
            "no {step} in:\n{said}"
        );
    }
    assert!(said.contains("none wrong"), "{said}");
    let left: Vec<_> = fs::read_dir(sandbox.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    let processes = fs::read_dir(sandbox.proc("")).unwrap().flatten();
    let pids: Vec<i32> = processes
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .filter(|p| *p != 1)
        .collect();
    // The keeper may live a moment longer than its last target.
    sandbox.wait_gone(&pids);
}
