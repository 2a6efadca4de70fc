//! Every resource makes the round trip: dump, kill, restore, and the specimen finds nothing wrong
//! with itself, nor does anybody who looks from outside.

use std::path::{Path, PathBuf};

use crate::support::{Need, Portrait, Sandbox, Target, assert_same_portrait, portrait, require};

/// Dumps (killing), restores, and compares; twice, so that a restored process is dumped as well.
/// `also` are further questions: desk and words.
fn round_trip(kind: &str, args: &[&str], also: &[(&str, &str)]) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen(kind, args);
    for layer in 1..=2 {
        let before = content(&target, also);
        dump_and_kill(&sandbox, &target, layer);
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.runs();
        assert_same_portrait(
            &format!("{kind}, layer {layer}"),
            &before,
            &portrait(&target),
        );
    }
    content(&target, also);
}

/// Asks everything, then looks.
fn content(target: &Target, also: &[(&str, &str)]) -> Portrait {
    target.check();
    for (desk, words) in also {
        target.ask_at(desk, words);
    }
    target.check();
    portrait(target)
}

fn dump_and_kill(sandbox: &Sandbox, target: &Target, layer: u32) {
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D {layer}", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
}

/// What comes back from each layer of a stack.
pub const LAYERED: &[(&str, &[&str])] = &[
    ("commons", &[]),
    ("creds", &["threads"]),
    ("signals", &[]),
    ("surroundings", &[]),
    ("settings", &[]),
    ("tree", &[]),
    ("stops", &[]),
    ("threads", &[]),
    ("timers", &[]),
    ("memory", &[]),
    ("guards", &[]),
    ("shared", &[]),
    ("aio", &[]),
    ("descriptors", &[]),
    ("pipes", &[]),
    ("events", &[]),
    ("polls", &[]),
    ("confined", &[]),
    ("dispatch", &[]),
    ("tiles", &[]),
    ("tuned", &[]),
];

/// State that is in no page is in each layer of a stack, too.
#[test]
fn what_tasks_hold_comes_back_from_each_layer_of_a_stack() {
    if !require(&[Need::Root]) {
        return;
    }
    for (kind, args) in LAYERED {
        eprintln!("{kind}");
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, args);
        let before = content(&target, &[]);
        let first = format!("dump -t {} -D 1 -R --track-mem", target.pid);
        sandbox.icecore(&first).ok();
        let pids = target.members();
        let second = format!("dump -t {} -D 2 --prev-images-dir ../1", target.pid);
        sandbox.icecore(&second).ok();
        sandbox.wait_gone(&pids);
        for layer in ["1", "2"] {
            sandbox.icecore(&format!("restore -D {layer} -d")).ok();
            assert_same_portrait(&format!("{kind}, {layer}"), &before, &portrait(&target));
            content(&target, &[]);
            sandbox.kill(&target);
        }
    }
}

#[test]
fn watches_come_back_under_the_numbers_that_they_were_entered_with() {
    round_trip("polls", &[], &[("main", "use")]);
}

#[test]
fn private_memory_of_every_kind_comes_back() {
    round_trip("memory", &[], &[]);
}

#[test]
fn guard_pages_inside_a_mapping_still_guard() {
    round_trip("guards", &[], &[]);
}

#[test]
fn shared_memory_is_shared_again() {
    round_trip(
        "shared",
        &[],
        &[
            ("child", "check"),
            ("main", "write 5"),
            ("child", "expect 5"),
            ("child", "check"),
            ("child", "write 9"),
            ("main", "expect 9"),
        ],
    );
}

#[test]
fn rings_of_asynchronous_io_come_back_empty_and_one_that_holds_events_is_waited_for() {
    round_trip("aio", &[], &[]);
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("aio", &[]);
    target.ask("submit");
    let dump = format!("dump -t {} -D 1 -R", target.pid);
    let refused = sandbox.icecore(&dump).fails(7);
    assert!(
        refused.stderr.contains("has not taken"),
        "{}",
        refused.stderr
    );
    target.ask("take");
    target.check();
    let told = sandbox.icecore(&dump).ok();
    assert!(
        told.stdout.contains("under way are lost"),
        "{}",
        told.stdout
    );
}

#[test]
fn threads_keep_their_registers_names_masks_and_locks() {
    round_trip("threads", &[], &[]);
}

#[test]
fn signal_actions_masks_pending_signals_and_the_alternate_stack_come_back() {
    round_trip("signals", &[], &[("main", "deliver")]);
}

#[test]
fn timers_run_on_with_the_time_that_was_left() {
    round_trip("timers", &[], &[]);
}

#[test]
fn limits_scheduling_names_and_small_settings_come_back() {
    round_trip("surroundings", &[], &[]);
}

#[test]
fn settings_that_criu_loses_come_back() {
    round_trip("settings", &[], &[]);
}

#[test]
fn a_plain_user_comes_back_as_such() {
    round_trip("creds", &["drop"], &[]);
}

#[test]
fn kept_and_ambient_capabilities_come_back() {
    round_trip("creds", &["keep"], &[]);
}

#[test]
fn each_thread_keeps_credentials_of_its_own() {
    round_trip("creds", &["threads"], &[]);
}

#[test]
fn descriptors_keep_offsets_flags_and_who_shares_them() {
    round_trip(
        "descriptors",
        &[],
        &[
            ("child", "check"),
            ("main", "append"),
            ("child", "append"),
            ("child", "check"),
        ],
    );
}

#[test]
fn an_inherited_offset_is_one_for_parent_and_child() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("descriptors", &[]);
    dump_and_kill(&sandbox, &target, 1);
    sandbox.icecore("restore -D 1 -d").ok();
    let offset = target.ask_at("child", "read 100");
    target.ask(&format!("expect {offset}"));
    target.check();
    let offset = target.ask("read 1000");
    target.ask_at("child", &format!("expect {offset}"));
    target.ask_at("child", "check");
}

#[test]
fn pipes_and_fifos_keep_what_is_in_them() {
    round_trip("pipes", &[], &[("child", "check")]);
}

#[test]
fn what_is_in_a_restored_pipe_can_be_read() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("pipes", &[]);
    for layer in 1..=2 {
        dump_and_kill(&sandbox, &target, layer);
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.ask("drain");
        target.check();
    }
}

#[test]
fn sessions_groups_zombies_and_stopped_processes_come_back() {
    let leaves = ["group", "member", "session", "grandchild", "orphan"];
    let mut also: Vec<(&str, &str)> = leaves.map(|leaf| (leaf, "check")).to_vec();
    also.extend([("main", "continue"), ("stopped", "check"), ("main", "stop")]);
    round_trip("tree", &[], &also);
}

#[test]
fn stopped_processes_get_what_waited_for_them_when_they_go_on() {
    let children = ["stop-0", "stop-1", "stop-2"].map(|desk| (desk, "check"));
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("stops", &[]);
    for layer in 1..=2 {
        target.check();
        dump_and_kill(&sandbox, &target, layer);
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
    }
    target.check();
    target.ask("continue");
    for (desk, words) in children {
        target.ask_at(desk, words);
    }
}

#[test]
fn members_of_sessions_come_back_without_who_forked_them() {
    let members = ["lost", "child", "job", "late", "leader", "stray"];
    round_trip("sessions", &[], &members.map(|member| (member, "check")));
}

#[test]
fn a_process_with_a_root_directory_of_its_own_comes_back() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &["chroot"]);
    let places = || {
        let child = target.members()[1];
        ["root", "cwd", "exe"].map(|name| std::fs::read_link(target.proc(child, name)).unwrap())
    };
    crate::support::wait_until("the child has its root", || {
        (places()[0] == target.dir().join("root")).then_some(())
    });
    let before = places();
    for layer in 1..=2 {
        dump_and_kill(&sandbox, &target, layer);
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        assert_eq!(places(), before);
        target.check();
    }
}

#[test]
fn tiles_come_back_and_may_still_be_used() {
    round_trip("tiles", &[], &[("thread", "check"), ("later", "check")]);
    round_trip("tiles", &[], &[("thread", "check"), ("later", "load")]);
}

#[test]
fn tiles_may_first_be_used_after_a_restore() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("tiles", &[]);
    dump_and_kill(&sandbox, &target, 1);
    sandbox.icecore("restore -D 1 -d").ok();
    target.ask_at("later", "load");
    for desk in ["later", "thread", "main"] {
        eprintln!("{desk}: {}", target.ask_at(desk, "check"));
    }
}

#[test]
fn calls_that_a_thread_catches_itself_are_caught_again() {
    round_trip("dispatch", &[], &[]);
}

#[test]
fn seccomp_filters_hold_again() {
    let members = [("thread", "check"), ("child", "check")];
    round_trip("confined", &[], &members);
    round_trip("confined", &["plain"], &members);
}

#[test]
fn eventfds_timerfds_signalfds_and_epoll_come_back() {
    round_trip("events", &[], &[]);
}

#[test]
fn sleeping_calls_are_neither_interrupted_nor_cut_short() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sleepers", &[]);
    for layer in 0..10 {
        sandbox
            .icecore(&format!("dump -t {} -D {layer} -R", target.pid))
            .ok();
        target.check();
    }
    dump_and_kill(&sandbox, &target, 10);
    sandbox.icecore("restore -D 10 -d").ok();
    target.check();
}

#[test]
fn waiting_for_epoll_and_for_sockets_with_timeouts_is_not_interrupted() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sleepers", &["epoll_wait", "receive", "accept"]);
    for layer in 0..10 {
        sandbox
            .icecore(&format!("dump -t {} -D {layer} -R", target.pid))
            .ok();
        target.check();
    }
    dump_and_kill(&sandbox, &target, 10);
    sandbox.icecore("restore -D 10 -d").ok();
    target.check();
}

#[test]
fn a_stopped_tree_is_restored_stopped() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["20"]);
    sandbox
        .icecore(&format!("dump -t {} -D 1 --leave-stopped", target.pid))
        .ok();
    assert_eq!(target.state(target.pid), Some('T'));
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 2", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 2 -d").ok();
    assert_eq!(target.state(target.pid), Some('T'));
    sandbox
        .run("kill", &["-CONT", &target.pid.to_string()])
        .ok();
    target.check();
}

#[test]
fn a_dump_leaves_no_trace_in_its_target() {
    if !require(&[Need::Root]) {
        return;
    }
    for kind in ["memory", "threads", "signals", "tree"] {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, &[]);
        let before = content(&target, &[]);
        sandbox
            .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
            .ok();
        target.runs();
        assert_same_portrait(kind, &before, &portrait(&target));
        target.check();
    }
}

/// A control group of this test, removed in the end.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let tops = ["unified", "", "pids"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        let name = format!("icecore-test-{}", std::process::id());
        let makes = |top: &PathBuf| {
            top.join("cgroup.procs").exists() && std::fs::create_dir(top.join(&name)).is_ok()
        };
        Some(Self(tops.into_iter().find(makes)?.join(&name)))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Busy until the last process in it is gone, which the sandbox sees to.
        let gone = || std::fs::remove_dir(&self.0).ok();
        crate::support::wait_until("the control group empty", gone);
    }
}

#[test]
fn a_tree_comes_back_into_its_control_group_from_each_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let Some(group) = Group::new() else {
        eprintln!("skipped: no control group can be made here");
        return;
    };
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("tree", &[]);
    for pid in target.members() {
        // Written inside, where the pid means that process.
        let procs = group.0.join("cgroup.procs");
        let words = format!("echo {pid} > {}", procs.display());
        sandbox.run("sh", &["-c", &words]).ok();
    }
    let pids = target.members();
    for (layer, mode) in [
        (1, "-R --track-mem"),
        (2, "-R --track-mem --prev-images-dir ../1"),
        (3, "--prev-images-dir ../2"),
    ] {
        let words = format!("dump -t {} -D {layer} {mode}", target.pid);
        sandbox.icecore(&words).ok();
    }
    sandbox.wait_gone(&pids);
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        let procs = std::fs::read_to_string(group.0.join("cgroup.procs")).unwrap();
        let members = target.members();
        // A zombie is in no group that anybody could see.
        let alive = members
            .iter()
            .filter(|pid| target.state(**pid) != Some('Z'));
        assert_eq!(procs.lines().count(), alive.count(), "{layer}: {procs}");
        sandbox.kill(&target);
        sandbox.wait_gone(&members);
    }
}
