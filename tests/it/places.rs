//! Files of the tree's own processes, places without contents, and who is told about a file: from
//! every layer.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::files::every_layer_comes_back;
use crate::namespaces::{dump, every_layer_comes_back_in, restored};
use crate::support::{Need, Sandbox, Target, require, wait_until};

#[test]
fn files_of_its_own_processes_and_places_come_back_from_every_layer() {
    every_layer_comes_back("places", &[], "", &["child"]);
}

#[test]
fn files_of_its_own_processes_come_back_from_every_layer_of_a_pid_namespace_with_its_own_proc_and_without()
 {
    if !require(&[Need::Root]) {
        return;
    }
    for namespaces in [
        &["--pid"][..],
        &["--pid", "--mount-proc"],
        &["--mount-proc"],
    ] {
        every_layer_comes_back_in(namespaces, "places");
    }
}

#[test]
fn files_of_the_machines_proc_come_back_beside_those_of_the_trees_own() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    // It opens what is there before and after it mounts another one.
    let inner =
        "mount -t proc proc /proc; exec 6< /proc/self/status 7< /proc/meminfo; exec sleep 1000";
    let outer =
        format!("exec 8< /proc/self/status 9< /proc/meminfo; exec unshare --mount sh -c '{inner}'");
    let starter = sandbox.start(
        "log",
        &["unshare", "--pid", "--fork", "setsid", "sh", "-c", &outer],
    );
    let children = sandbox.proc(&format!("{starter}/task/{starter}/children"));
    let pid: i32 = wait_until("sleep runs", || {
        let child = fs::read_to_string(&children).ok()?.trim().to_owned();
        let comm = fs::read_to_string(sandbox.proc(&format!("{child}/comm"))).ok()?;
        (comm.trim() == "sleep").then(|| child.parse().ok())?
    });
    let target = Target::silent(pid, sandbox.proc(""));
    dump(&sandbox, &target, "-D 1");
    let mut target = target;
    restored(&sandbox, &mut target, "1");
    let device = |path: &str| fs::metadata(target.proc(target.pid, path)).unwrap().dev();
    let (own, machines) = (
        device("root/proc"),
        fs::metadata(sandbox.proc("")).unwrap().dev(),
    );
    assert_ne!(own, machines);
    for (number, wanted) in [(6, own), (7, own), (8, machines), (9, machines)] {
        assert_eq!(device(&format!("fd/{number}")), wanted, "{number}");
    }
    for (number, wanted) in [(6, "1".to_owned()), (8, format!("{} 1", target.pid))] {
        let status = fs::read_to_string(target.proc(target.pid, &format!("fd/{number}"))).unwrap();
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let ids = ids
            .unwrap()
            .split_whitespace()
            .rev()
            .take(wanted.split(' ').count());
        let ids: Vec<&str> = ids.collect::<Vec<_>>().into_iter().rev().collect();
        assert_eq!(ids.join(" "), wanted, "{number}");
    }
}

#[test]
fn a_file_of_a_process_on_a_third_proc_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let inner = "mount -t proc proc /proc; exec 6< /proc/self/status; mount -t proc proc /proc; exec sleep 1000";
    let pid = sandbox.start("log", &["unshare", "--mount", "sh", "-c", inner]);
    wait_until("sleep runs", || {
        let comm = fs::read_to_string(sandbox.proc(&format!("{pid}/comm"))).ok()?;
        (comm.trim() == "sleep").then_some(())
    });
    let run = sandbox.icecore(&format!("dump -t {pid} -D 1")).fails(5);
    let what = "a file of a process on another /proc than the one of the tree, as descriptor 6";
    assert!(run.stderr.contains(what), "{}", run.stderr);
}

#[test]
fn who_is_told_about_a_file_comes_back_from_every_layer() {
    every_layer_comes_back("owners", &[], "", &[]);
}

#[test]
fn a_file_of_a_process_outside_of_the_tree_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("places", &[]);
    let child = *target.members().last().unwrap();
    let run = sandbox.icecore(&format!("dump -t {child} -D 1")).fails(5);
    let words = format!(
        "/proc/{}/maps, a file of a process that is not in the tree",
        target.pid
    );
    assert!(run.stderr.contains(&words), "{}", run.stderr);
    target.runs();
    target.check();
}

#[test]
fn files_of_processes_of_a_pid_namespace_are_not_taken_for_others_from_a_layer_of_criu() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_apart(&["--pid"], "places", &["modest"]);
    let pids = target.members();
    fs::create_dir(sandbox.path("1")).unwrap();
    let words = format!("dump -t {} -D 1 -v2", target.pid);
    sandbox.criu(&words).ok();
    sandbox.wait_gone(&pids);
    // It notes the ids that they have outside, which others have inside, and finds nothing there itself.
    let run = sandbox.icecore("restore -D 1 -d").fails(5);
    let what = format!(
        "File /proc/{}/maps has the id of a process outside",
        target.pid
    );
    assert!(run.stderr.contains(&what), "{}", run.stderr);
    assert!(sandbox.criu("restore -D 1 -d -v2").code != 0);
}
