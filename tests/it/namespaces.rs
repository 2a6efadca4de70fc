//! Trees with namespaces for themselves: recognised, dumped from outside with the ids that they have
//! inside, restored into new ones; by CRIU too, as far as it can.

use std::fs;

use crate::support::{Need, Sandbox, Target, require, wait_until};

/// How the root is started: a pid namespace whose first process leads a session.
const PIDS: &[&str] = &["--pid"];
/// The same with mounts and host names of its own.
const MORE: &[&str] = &["--pid", "--mount-proc", "--uts"];

/// Specimens that look closely at ids, with arguments, desks and words.
type Kind = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);
const KINDS: &[Kind] = &[
    (
        "tree",
        &[],
        &[
            ("group", "check"),
            ("session", "check"),
            ("orphan", "check"),
        ],
    ),
    ("sessions", &[], &[("lost", "check"), ("stray", "check")]),
    ("threads", &[], &[]),
    ("signals", &[], &[]),
    ("timers", &[], &[]),
    ("descriptors", &[], &[("child", "check")]),
    ("sockets", &[], &[]),
    ("terminals", &[], &[]),
    ("locks", &[], &[("child", "check")]),
    ("watches", &[], &[("child", "check")]),
    ("pidfds", &[], &[("child", "check")]),
    ("namespaces", &[], &[("child", "check")]),
    ("events", &[], &[]),
    ("shared", &[], &[("child", "check")]),
    ("stops", &[], &[]),
    ("creds", &["threads"], &[]),
    ("confined", &[], &[]),
    ("internet", &[], &[]),
];

pub fn dump(sandbox: &Sandbox, target: &Target, words: &str) {
    let pids = target.members();
    let words = format!("dump -t {} --link-remap --file-locks {words}", target.pid);
    sandbox.icecore(&words).ok();
    if !words.contains(" -R") {
        sandbox.wait_gone(&pids);
    }
}

pub fn restored(sandbox: &Sandbox, target: &mut Target, layer: &str) {
    let file = sandbox.path("restored.pid");
    let words = format!("restore -D {layer} -d --pidfile {}", file.display());
    sandbox.icecore(&words).ok();
    target.pid = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    target.runs();
}

/// Dumps three incremental layers of a tree of `kind` and its child in these namespaces of its own, and
/// restores each, out of order; it finds its state of then, and is dumped again like any other tree.
pub fn every_layer_comes_back_in(namespaces: &[&str], kind: &str) {
    eprintln!("{namespaces:?}");
    let mut sandbox = Sandbox::new();
    let mut target = sandbox.specimen_apart(namespaces, kind, &[]);
    for layer in 1..=3 {
        target.ask(&format!("write {layer}"));
        target.ask_at("child", &format!("expect {layer}"));
        target.check();
        target.ask_at("child", "check");
        let words = match layer {
            1 => "-R --track-mem".to_owned(),
            2 => "-R --track-mem --prev-images-dir ../1".to_owned(),
            _ => "--prev-images-dir ../2".to_owned(),
        };
        dump(&sandbox, &target, &format!("-D {layer} {words}"));
    }
    for layer in [2, 3, 1] {
        restored(&sandbox, &mut target, &layer.to_string());
        assert_eq!(target.check(), layer.to_string());
        assert_eq!(target.ask_at("child", "check"), layer.to_string());
        if layer != 1 {
            sandbox.kill(&target);
        }
    }
    dump(&sandbox, &target, "-D 4");
    restored(&sandbox, &mut target, "4");
    target.check();
    target.ask_at("child", "check");
}

fn kill(sandbox: &Sandbox, target: &Target) {
    let members = target.members();
    sandbox
        .run("kill", &["-KILL", &target.pid.to_string()])
        .ok();
    sandbox.wait_gone(&members);
}

#[test]
fn a_tree_in_a_pid_namespace_keeps_the_ids_that_it_has_there() {
    if !require(&[Need::Root]) {
        return;
    }
    for (kind, args, also) in KINDS {
        for namespaces in [PIDS, MORE] {
            // Without mounts of their own they would find other processes in /proc.
            let looks = [
                "tree",
                "sessions",
                "threads",
                "descriptors",
                "terminals",
                "pidfds",
                "stops",
                "creds",
            ];
            if namespaces == PIDS && looks.contains(kind) {
                continue;
            }
            eprintln!("{kind} {namespaces:?}");
            let mut sandbox = Sandbox::new();
            let mut target = sandbox.specimen_apart(namespaces, kind, args);
            for layer in ["1", "2"] {
                target.check();
                for (desk, words) in *also {
                    target.ask_at(desk, words);
                }
                dump(&sandbox, &target, &format!("-D {layer}"));
                restored(&sandbox, &mut target, layer);
            }
            target.check();
            for (desk, words) in *also {
                target.ask_at(desk, words);
            }
        }
    }
}

#[test]
fn an_ipc_namespace_comes_back_from_each_layer_with_all_that_is_in_it() {
    if !require(&[Need::Root]) {
        return;
    }
    for namespaces in [&["--ipc"][..], &["--pid", "--mount-proc", "--ipc"]] {
        for (kind, verb) in [("sysv", "write"), ("queues", "put")] {
            eprintln!("{kind} {namespaces:?}");
            let mut sandbox = Sandbox::new();
            let mut target = sandbox.specimen_apart(namespaces, kind, &[]);
            for layer in 1..=3 {
                target.ask(&format!("{verb} {}", layer * 100));
                target.ask_at("child", &format!("expect {}", layer * 100));
                target.check();
                let mode = match layer {
                    1 => "-R --track-mem",
                    2 => "-R --track-mem --prev-images-dir ../1",
                    _ => "--prev-images-dir ../2",
                };
                dump(&sandbox, &target, &format!("-D {layer} {mode}"));
            }
            for layer in [2, 3, 1] {
                restored(&sandbox, &mut target, &layer.to_string());
                for desk in ["main", "child"] {
                    target.ask_at(desk, &format!("expect {}", layer * 100));
                    target.ask_at(desk, "check");
                }
                target.ask(&format!("{verb} 7"));
                target.ask_at("child", "expect 7");
                target.ask_at("child", "check");
                sandbox.kill(&target);
            }
        }
    }
}

#[test]
fn every_layer_of_a_stack_of_a_pid_namespace_comes_back() {
    if !require(&[Need::Root]) {
        return;
    }
    for namespaces in [PIDS, MORE] {
        let mut sandbox = Sandbox::new();
        let mut target = sandbox.specimen_apart(namespaces, "writer", &["400"]);
        target.ask("map 60 3");
        dump(&sandbox, &target, "-D 1 -R --track-mem");
        target.ask("dirty 0 30 5");
        dump(
            &sandbox,
            &target,
            "-D 2 -R --track-mem --prev-images-dir ../1",
        );
        target.ask("dirty 1 30 6");
        target.ask("shared 10 6");
        dump(&sandbox, &target, "-D 3 --track-mem --prev-images-dir ../2");
        for layer in ["2", "1", "3"] {
            restored(&sandbox, &mut target, layer);
            target.check();
            assert!(fs::metadata(target.proc(target.pid, "root")).is_ok());
            kill(&sandbox, &target);
        }
        // Its pid is nobody's here.
        let said = sandbox.icecore("stacks --json .").ok().stdout;
        assert!(said.contains("\"own_pids\": true"), "{said}");
        // A branch: a restored tree is dumped on top of the layer that it came from.
        restored(&sandbox, &mut target, "2");
        target.ask("dirty 0 10 9");
        dump(&sandbox, &target, "-D 4 --prev-images-dir ../2");
        restored(&sandbox, &mut target, "4");
        target.check();
    }
}

#[test]
fn a_tree_with_mounts_of_its_own_sees_its_own_proc_again() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let mut target = sandbox.specimen_apart(MORE, "writer", &["10"]);
    let look = |target: &Target| {
        let root = target.proc(target.pid, "root/proc");
        let comm = fs::read_to_string(root.join("1/comm")).unwrap();
        let names = fs::read_to_string(root.join("1/mountinfo")).unwrap();
        (
            comm,
            names.lines().filter(|l| l.contains(" /proc ")).count(),
        )
    };
    let before = look(&target);
    assert_eq!(before.0.trim(), "specimen");
    for layer in ["1", "2"] {
        dump(&sandbox, &target, &format!("-D {layer}"));
        restored(&sandbox, &mut target, layer);
        assert_eq!(look(&target), before);
    }
    // Files are open where the tree is.
    let fds = target.proc(target.pid, "fdinfo/3");
    let mounts = fs::read_to_string(target.proc(target.pid, "mountinfo")).unwrap();
    let info = fs::read_to_string(fds).unwrap();
    let mount = info.lines().find_map(|l| l.strip_prefix("mnt_id:\t"));
    let id = format!("{} ", mount.unwrap().trim());
    assert!(mounts.lines().any(|l| l.starts_with(&id)), "{info}{mounts}");
}

#[test]
fn a_host_name_of_its_own_comes_back_from_each_layer_with_other_namespaces_or_alone() {
    if !require(&[Need::Root]) {
        return;
    }
    for namespaces in [&["--uts"][..], &["--pid", "--uts"]] {
        let mut sandbox = Sandbox::new();
        let mut target = sandbox.specimen_apart(namespaces, "writer", &["10"]);
        let name = |target: &Target, words: &[&str]| {
            let pid = target.pid.to_string();
            let words = [&["-t", &pid, "--uts", "hostname"], words].concat();
            sandbox.run("nsenter", &words).ok().stdout
        };
        let host = sandbox.run("hostname", &[]).ok().stdout;
        for layer in ["1", "2", "3"] {
            name(&target, &[&format!("name-{layer}")]);
            let mode = match layer {
                "1" => "-R --track-mem",
                "2" => "-R --track-mem --prev-images-dir ../1",
                _ => "--prev-images-dir ../2",
            };
            dump(&sandbox, &target, &format!("-D {layer} {mode}"));
        }
        for layer in ["2", "3", "1"] {
            restored(&sandbox, &mut target, layer);
            assert_eq!(name(&target, &[]).trim(), format!("name-{layer}"));
            target.check();
            // A name of its own still: nobody else's changes with it.
            name(&target, &["another"]);
            kill(&sandbox, &target);
        }
        assert_eq!(sandbox.run("hostname", &[]).ok().stdout, host);
    }
}

#[test]
fn part_of_a_pid_namespace_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_apart(MORE, "tree", &[]);
    let part = target.members()[1];
    let run = sandbox.icecore(&format!("dump -t {part} -D 1")).fails(5);
    let hint = format!("icecore dump -t {}", target.pid);
    for word in ["pid namespace", &hint] {
        assert!(run.stderr.contains(word), "{}", run.stderr);
    }
    // Somebody from outside would end with the namespace.
    let stranger = sandbox.start(
        "stranger.log",
        &[
            "nsenter",
            "--target",
            &target.pid.to_string(),
            "--pid",
            "sleep",
            "1000",
        ],
    );
    wait_until("it is inside", || {
        let children = target.proc(stranger, &format!("task/{stranger}/children"));
        let children = fs::read_to_string(children).ok()?;
        (!children.trim().is_empty()).then_some(())
    });
    let run = sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .fails(5);
    assert!(
        run.stderr.contains("has entered the pid namespace"),
        "{}",
        run.stderr
    );
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R", target.pid))
        .ok();
    target.check();
}

#[test]
fn criu_restores_our_layers_of_a_pid_namespace() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for namespaces in [PIDS, &["--pid", "--uts"]] {
        for (kind, args) in [
            ("writer", &["100"][..]),
            ("sockets", &["modest"]),
            ("timers", &[]),
        ] {
            let mut sandbox = Sandbox::new();
            let target = sandbox.specimen_apart(namespaces, kind, args);
            target.check();
            dump(&sandbox, &target, "-D 1");
            sandbox.criu("restore -D 1 -d -v2").ok();
            target.check();
        }
    }
}

#[test]
fn we_restore_layers_of_a_pid_namespace_that_criu_made() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for namespaces in [PIDS, &["--pid", "--uts"]] {
        for (kind, args) in [
            ("writer", &["100"][..]),
            ("sockets", &["modest"]),
            ("timers", &[]),
        ] {
            let mut sandbox = Sandbox::new();
            // CRIU notes the thread that a timer tells with the id that it has outside.
            let kind = if kind == "timers" { "signals" } else { kind };
            let mut target = sandbox.specimen_apart(namespaces, kind, args);
            target.check();
            let pids = target.members();
            fs::create_dir(sandbox.path("1")).unwrap();
            sandbox
                .criu(&format!("dump -t {} -D 1 -v2", target.pid))
                .ok();
            sandbox.wait_gone(&pids);
            restored(&sandbox, &mut target, "1");
            target.check();
        }
    }
}

/// A clock far ahead of the machine's, as after a reboot.
const AHEAD: &[&str] = &["--time", "--monotonic", "1000000", "--boottime", "1000000"];

/// What the specimen's clock shows, which must be near where it was set.
fn clock(target: &Target) -> u64 {
    let seconds = target.check().parse().unwrap();
    assert!(seconds > 1_000_000, "{seconds}");
    seconds
}

#[test]
fn clocks_go_on_from_each_layer_of_a_stack() {
    if !require(&[Need::Root]) {
        return;
    }
    for namespaces in [AHEAD, &[AHEAD, MORE].concat()] {
        let mut sandbox = Sandbox::new();
        let mut target = sandbox.specimen_apart(namespaces, "clocks", &[]);
        clock(&target);
        dump(&sandbox, &target, "-D 1 -R --track-mem");
        dump(&sandbox, &target, "-D 2 --prev-images-dir ../1");
        for layer in ["1", "2"] {
            restored(&sandbox, &mut target, layer);
            clock(&target);
            kill(&sandbox, &target);
        }
        // What runs in a time namespace of our making is dumped like anything else.
        restored(&sandbox, &mut target, "2");
        dump(&sandbox, &target, "-D 3 --prev-images-dir ../2");
        restored(&sandbox, &mut target, "3");
        clock(&target);
    }
}

#[test]
fn clocks_that_are_not_ahead_need_no_namespace() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("clocks", &[]);
    let namespace = |pid| fs::read_link(sandbox.proc(&format!("{pid}/ns/time"))).unwrap();
    let before = namespace(target.pid);
    for layer in ["1", "2"] {
        dump(&sandbox, &target, &format!("-D {layer}"));
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        assert_eq!(namespace(target.pid), before);
        target.check();
    }
}

#[test]
fn clocks_go_on_between_criu_and_us() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let namespaces = [AHEAD, PIDS].concat();
    let mut target = sandbox.specimen_apart(&namespaces, "clocks", &[]);
    let file = sandbox.path("criu.pid");
    let by_criu = format!("-d -v2 --pidfile {}", file.display());
    // Ours by CRIU, which makes a time namespace for whatever it restores.
    dump(&sandbox, &target, "-D 1");
    sandbox.criu(&format!("restore -D 1 {by_criu}")).ok();
    target.pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    clock(&target);
    // That one by us.
    dump(&sandbox, &target, "-D 2");
    restored(&sandbox, &mut target, "2");
    clock(&target);
    // CRIU's by us.
    let pids = target.members();
    fs::create_dir(sandbox.path("3")).unwrap();
    sandbox
        .criu(&format!("dump -t {} -D 3 -v2", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    restored(&sandbox, &mut target, "3");
    clock(&target);
}

#[test]
fn criu_restores_every_layer_of_our_stack_of_a_pid_namespace() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let mut target = sandbox.specimen_apart(PIDS, "writer", &["400"]);
    dump(&sandbox, &target, "-D 1 -R --track-mem");
    target.ask("dirty 0 30 5");
    dump(
        &sandbox,
        &target,
        "-D 2 -R --track-mem --prev-images-dir ../1",
    );
    target.ask("dirty 0 30 6");
    dump(&sandbox, &target, "-D 3 --prev-images-dir ../2");
    let file = sandbox.path("criu.pid");
    for layer in ["2", "1", "3"] {
        let _none = fs::remove_file(&file);
        sandbox
            .criu(&format!(
                "restore -D {layer} -d -v2 --pidfile {}",
                file.display()
            ))
            .ok();
        target.pid = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        target.check();
        kill(&sandbox, &target);
    }
    // CRIU restores one with mounts of its own into nothing rather than into wrong ones.
    let target = sandbox.specimen_apart(MORE, "clocks", &[]);
    dump(&sandbox, &target, "-D 4");
    assert!(sandbox.criu("restore -D 4 -d -v2").code != 0);
}

/// Runs icecore and kills it after so many milliseconds.
fn killed(sandbox: &Sandbox, life: u32, words: &str) {
    let seconds = format!("0.{life:03}");
    let mut args = vec!["-s", "KILL", &seconds, env!("CARGO_BIN_EXE_icecore")];
    args.extend(words.split_whitespace());
    let run = sandbox.run("timeout", &args);
    assert!(matches!(run.code, 0 | 137), "{run:?}");
}

/// The first process of a pid namespace inside the sandbox's.
fn first_inside(sandbox: &Sandbox) -> Option<i32> {
    let entries = fs::read_dir(sandbox.proc("")).unwrap().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find(|pid| {
        let status = fs::read_to_string(sandbox.proc(&format!("{pid}/status")));
        let status = status.unwrap_or_default();
        let ids = status.lines().find_map(|l| l.strip_prefix("NSpid:"));
        let ids: Vec<&str> = ids.unwrap_or_default().split_whitespace().collect();
        ids.len() == 2 && ids.last() == Some(&"1") && !status.contains("State:\tZ")
    })
}

#[test]
fn a_pid_namespace_survives_the_death_of_its_dumper_and_none_is_left_half_made() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let mut target = sandbox.specimen_apart(MORE, "threads", &[]);
    for life in (1..40).step_by(4) {
        killed(
            &sandbox,
            life,
            &format!("dump -t {} -D {life} -R", target.pid),
        );
        target.wait_running();
        target.check();
    }
    dump(&sandbox, &target, "-D last");
    let mut whole = 0;
    for life in (1..160).step_by(8) {
        killed(&sandbox, life, "restore -D last -d");
        // Killed before the last step, nothing is there; after it, everything.
        if let Some(root) = first_inside(&sandbox) {
            target.pid = root;
            if target.check_unless_gone() {
                whole += 1;
                kill(&sandbox, &target);
            }
        }
    }
    eprintln!("{whole} restores were faster");
    restored(&sandbox, &mut target, "last");
    target.check();
}

#[test]
fn ipc_namespaces_go_from_us_to_criu_and_back() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for kind in ["sysv", "queues"] {
        let mut sandbox = Sandbox::new();
        let mut target = sandbox.specimen_apart(&["--ipc"], kind, &["modest"]);
        target.check();
        dump(&sandbox, &target, "-D 1");
        sandbox.criu("restore -D 1 -d -v2").ok();
        for desk in ["main", "child"] {
            target.ask_at(desk, "check");
        }
        let pids = target.members();
        fs::create_dir(sandbox.path("2")).unwrap();
        sandbox
            .criu(&format!("dump -t {} -D 2 -v2", target.pid))
            .ok();
        sandbox.wait_gone(&pids);
        restored(&sandbox, &mut target, "2");
        for desk in ["main", "child"] {
            target.ask_at(desk, "check");
        }
    }
}
