//! Descriptors of namespaces: those that the tree lives in come back from every layer, whether they
//! are the machine's or made anew; others are obstacles.

use std::fs;

use crate::files::every_layer_comes_back;
use crate::namespaces::{dump, every_layer_comes_back_in, restored};
use crate::support::{Need, Sandbox, require, wait_until};

#[test]
fn descriptors_of_the_namespaces_of_the_machine_come_back_from_every_layer() {
    every_layer_comes_back("namespaces", &[], "", &["child"]);
}

#[test]
fn descriptors_of_namespaces_of_the_tree_come_back_from_every_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    for namespaces in [
        &["--uts"][..],
        &["--pid", "--uts", "--ipc", "--time"],
        &["--pid", "--mount-proc", "--uts", "--ipc"],
    ] {
        every_layer_comes_back_in(namespaces, "namespaces");
    }
}

#[test]
fn a_descriptor_of_a_namespace_that_the_tree_has_left_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let inherits = "exec 9< /proc/self/ns/uts; exec unshare --uts --fork sleep 1000";
    let starter = sandbox.start("log", &["sh", "-c", inherits]);
    let path = sandbox.proc(&format!("{starter}/task/{starter}/children"));
    let pid = wait_until("it is there", || {
        let children = fs::read_to_string(&path).ok()?;
        let pid: i32 = children.trim().parse().ok()?;
        let comm = fs::read_to_string(sandbox.proc(&format!("{pid}/comm"))).ok()?;
        (comm.trim() == "sleep").then_some(pid)
    });
    let run = sandbox.icecore(&format!("check -t {pid}"));
    assert_eq!(run.code, 5, "{run:?}");
    let said = run.stdout + &run.stderr;
    let what = "in which no process of the tree is as descriptor 9";
    assert!(said.contains(what), "{said}");
    assert!(said.contains("a uts namespace (uts:["), "{said}");
}

#[test]
fn a_namespace_that_a_mount_holds_is_restored_where_the_tree_is_in_it_and_refused_elsewhere() {
    if !require(&[Need::Root]) {
        return;
    }
    for (make, ours) in [
        ("unshare --net=mounted true", false),
        ("mount --bind /proc/self/ns/net mounted", true),
    ] {
        let mut sandbox = Sandbox::new();
        sandbox.sh(&format!("touch mounted; {make}"));
        let target = sandbox.specimen("holder", &["mounted-namespace"]);
        assert_eq!(target.check(), "1");
        let run = sandbox.icecore(&format!("dump -t {} -D 1", target.pid));
        if !ours {
            let run = run.fails(5);
            let what = "mounted) in which no process of the tree is";
            assert!(run.stderr.contains(what), "{}", run.stderr);
            target.runs();
            continue;
        }
        run.ok();
        sandbox.wait_gone(&[target.pid]);
        // What is mounted there by then does not matter.
        sandbox.sh("umount mounted; unshare --net=mounted true");
        sandbox.icecore("restore -D 1 -d").ok();
        assert_eq!(target.check(), "2");
        let link = |name: &str| fs::read_link(target.proc(target.pid, name)).unwrap();
        assert_eq!(link("fd/4"), link("ns/net"));
    }
}

#[test]
fn descriptors_of_namespaces_of_the_tree_go_from_us_to_criu_and_back() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for namespaces in [&["--uts"][..], &["--pid", "--uts", "--ipc"]] {
        let mut sandbox = Sandbox::new();
        let mut target = sandbox.specimen_apart(namespaces, "namespaces", &[]);
        target.check();
        // With a pid namespace CRIU opens those of the first process of the machine, from its own layers, too.
        if !namespaces.contains(&"--pid") {
            dump(&sandbox, &target, "-D 1");
            sandbox.criu("restore -D 1 -d -v2").ok();
            target.check();
            target.ask_at("child", "check");
        }
        let pids = target.members();
        fs::create_dir(sandbox.path("2")).unwrap();
        let words = format!("dump -t {} -D 2 -v2", target.pid);
        sandbox.criu(&words).ok();
        sandbox.wait_gone(&pids);
        restored(&sandbox, &mut target, "2");
        target.check();
        target.ask_at("child", "check");
    }
}
