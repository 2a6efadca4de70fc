//! Our layers and CRIU's are the same thing: each restores what the other has dumped, and `crit`
//! reads ours.

use std::fs;
use std::io::Write as _;

use serde_json::Value;

use crate::support::{Need, Sandbox, Target, criu, criu_of_internet, require, wait_until};

/// Kinds that CRIU 4.1 can restore as well, with their arguments.
pub const KINDS: &[(&str, &[&str])] = &[
    ("events", &["modest"]),
    ("aio", &[]),
    ("commons", &["modest"]),
    ("internet", &[]),
    ("raw", &[]),
    ("locks", &[]),
    ("memory", &[]),
    ("shared", &[]),
    ("threads", &["patient"]),
    ("signals", &[]),
    ("timers", &[]),
    ("surroundings", &["modest"]),
    ("confined", &[]),
    ("confined", &["plain"]),
    ("creds", &["drop"]),
    ("creds", &["keep"]),
    ("creds", &["threads"]),
    ("descriptors", &["modest"]),
    ("namespaces", &[]),
    ("nameless", &["modest"]),
    ("nameless", &["modest", "link"]),
    ("pidfds", &[]),
    ("pipes", &["modest"]),
    ("polls", &["modest"]),
    ("places", &["modest"]),
    ("owners", &["modest"]),
    ("terminals", &["modest"]),
    ("sockets", &["modest"]),
    ("stops", &["modest"]),
    ("tree", &[]),
    ("watches", &["modest"]),
    ("writer", &[]),
];

/// What some of them need; the words are the same for both.
const OPTIONS: &str = "--link-remap --file-locks";

#[test]
fn criu_restores_our_full_layers() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for (kind, args) in KINDS {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, args);
        target.check();
        let pids = target.members();
        let stopped = target.stopped();
        sandbox
            .icecore(&format!("dump -t {} -D 1 {OPTIONS}", target.pid))
            .ok();
        sandbox.wait_gone(&pids);
        eprintln!("{kind}");
        sandbox.criu("restore -D 1 -d -v2 --file-locks").ok();
        target.wait_for_stops(&stopped);
        target.check();
    }
}

#[test]
fn we_restore_the_full_layers_of_criu() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    for (kind, args) in KINDS {
        // CRIU asks prlimit(2) for the limits of a process of another user.
        if *kind == "creds" && !require(&[Need::SysResource]) {
            continue;
        }
        let root = match *kind {
            "internet" | "raw" if !require(&[Need::InternetByCriu]) => continue,
            "internet" | "raw" => criu_of_internet().unwrap(),
            _ => criu().unwrap(),
        };
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen(kind, args);
        target.check();
        let pids = target.members();
        fs::create_dir(sandbox.path("1")).unwrap();
        let dump = format!("dump -t {} -D 1 -v2 {OPTIONS}", target.pid);
        sandbox.criu_in(&root, &dump).ok();
        sandbox.wait_gone(&pids);
        eprintln!("{kind}");
        sandbox.icecore("restore -D 1 -d").ok();
        target.runs();
        target.check();
    }
}

/// Takes a program from CRIU to us and from us to CRIU; `check` finds it as it was. `restored`: CRIU can
/// restore it. What CRIU cannot dump is said: it has needs of its own, and without CAP_SYS_RESOURCE it
/// saves nobody of another user.
pub fn goes_between_criu_and_us(
    sandbox: &Sandbox,
    pid: i32,
    options: &str,
    restored: bool,
    check: &dyn Fn(),
) {
    if !require(&[Need::InternetByCriu]) {
        return;
    }
    let root = criu_of_internet().unwrap();
    let criu = |words: &str| {
        let words = format!("{words} -v1 --shell-job {options}");
        sandbox.criu_in(&root, &words)
    };
    let target = Target::silent(pid, sandbox.proc(""));
    let members = target.members();
    fs::create_dir(sandbox.path("theirs")).unwrap();
    // Connections may still be on their way out.
    let mut said = String::new();
    let dumped = (0..20).any(|_| {
        let run = criu(&format!("dump -t {pid} -D theirs"));
        said = run.stderr;
        run.code == 0
    });
    if dumped {
        sandbox.wait_gone(&members);
        sandbox
            .icecore(&format!("restore -D theirs -d {options}"))
            .ok();
        check();
    } else {
        let test = std::thread::current().name().unwrap_or("?").to_owned();
        let why = said
            .lines()
            .filter(|line| line.contains("Error") && !line.contains("rlimit"));
        let why = why.take(1).collect::<String>();
        let line = format!("skipped in part: {test}: CRIU cannot dump it: {why}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    wait_until("the dump is possible", || {
        let run = sandbox.icecore(&format!("dump -t {pid} -D ours {options}"));
        (run.code == 0).then_some(())
    });
    sandbox.wait_gone(&members);
    if restored {
        criu("restore -D ours -d").ok();
    } else {
        criu("restore -D ours -d").fails(1);
        sandbox
            .icecore(&format!("restore -D ours -d {options}"))
            .ok();
    }
    check();
}

#[test]
fn criu_restores_every_layer_of_our_incremental_stack() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["400"]);
    target.ask("map 60 3");
    let dump = |words: &str| {
        sandbox
            .icecore(&format!("dump -t {} {words}", target.pid))
            .ok()
    };
    dump("-D 1 -R --track-mem");
    target.ask("dirty 0 30 5");
    target.ask("shared 10 5");
    target.ask("heap 600 5");
    dump("-D 2 -R --track-mem --prev-images-dir ../1");
    target.ask("dirty 1 30 6");
    target.ask("shared 10 6");
    target.ask("drop 0 5 20");
    dump("-D 3 --track-mem --prev-images-dir ../2");
    sandbox.wait_gone(&[target.pid]);
    for layer in [2, 1, 3] {
        sandbox.criu(&format!("restore -D {layer} -d -v2")).ok();
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn a_layer_of_criu_can_be_the_parent_of_ours_after_a_restore() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["400"]);
    fs::create_dir(sandbox.path("1")).unwrap();
    sandbox
        .criu(&format!("dump -t {} -D 1 -v2", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.ask("dirty 0 30 5");
    let words = format!(
        "dump -t {} -D 2 --track-mem --prev-images-dir ../1",
        target.pid
    );
    eprintln!("{}", sandbox.icecore(&words).ok().stdout.trim());
    sandbox.wait_gone(&[target.pid]);
    for layer in [2, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn crit_decodes_every_file_of_ours() {
    if !require(&[Need::Root, Need::Criu, Need::Crit, Need::Program("ip")]) {
        return;
    }
    // What listens to changes of interfaces elsewhere shall not hear of those that packets make.
    let mut sandbox = Sandbox::with_network();
    for kind in [
        "memory",
        "tree",
        "pipes",
        "signals",
        "descriptors",
        "raw",
        "packets",
    ] {
        let target = sandbox.specimen(kind, &[]);
        sandbox
            .icecore(&format!("dump -t {} -D img-{kind} -R", target.pid))
            .ok();
        for entry in fs::read_dir(sandbox.path(format!("img-{kind}")))
            .unwrap()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Pages have no records, and our own notes are not CRIU's.
            let ours = name.starts_with("icecore");
            if name.starts_with("pages-") || ours || !name.ends_with(".img") {
                continue;
            }
            let said = sandbox.crit(&entry.path()).ok().stdout;
            assert!(said.contains("\"magic\""), "{name}: {said}");
            let shown = sandbox
                .icecore(&format!("show --json img-{kind} {name}"))
                .ok()
                .stdout;
            let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            let (mut theirs, mut ours) = (read(&said), read(&shown));
            join_lines(&mut theirs);
            forget_newer_fields(&mut ours);
            assert_eq!(theirs, ours, "{kind} {name}");
        }
        sandbox.kill(&target);
    }
}

/// This crit breaks the lines of bytes.
fn join_lines(value: &mut Value) {
    match value {
        Value::String(text) => text.retain(|c| c != '\n'),
        Value::Array(values) => values.iter_mut().for_each(join_lines),
        Value::Object(fields) => fields.values_mut().for_each(join_lines),
        _ => {}
    }
}

/// What this crit does not know: CRIU 4.2 renamed the count of pages, and we write both; the others
/// are fields of our own.
const NEWER: &[&str] = &[
    "never_left",
    "compat_nr_pages",
    "coredump_filter",
    "mdwe",
    "memory_merge",
    "lock_future",
    "autogroup_nice",
    "cgroups",
    "cpus",
    "timer_slack",
    "io_priority",
    "memory_policy",
    "memory_nodes",
    "memory_errors",
    "cpuid_faults",
    "sealed",
    "droppable",
    "packets",
    "tsc_faults",
    "speculation",
    "so_lock_filter",
    "options",
    "interface",
    "ip_options",
    "any_cpu",
    "sched_reset_on_fork",
    "sched_slice",
    "lock_on_fault",
    "protection_key",
    "protection_keys",
    "thp_disable_flags",
];

/// Takes it out.
fn forget_newer_fields(value: &mut Value) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(forget_newer_fields),
        Value::Object(fields) => {
            fields.retain(|name, _| !NEWER.contains(&name.as_str()));
            fields.values_mut().for_each(forget_newer_fields);
        }
        _ => {}
    }
}

/// A specimen with a network of its own goes from us to CRIU, where it is to `talk`, and from CRIU to us.
fn there_and_back(kind: &str, args: &[&str]) -> Option<(Sandbox, Target)> {
    let needs = [Need::Root, Need::Criu, Need::InternetByCriu];
    if !require(&[&needs[..], &[Need::Program("ip")]].concat()) {
        return None;
    }
    let mut sandbox = Sandbox::with_network();
    let target = sandbox.specimen(kind, args);
    let dump = |layer: &str| format!("dump -t {} -D {layer}", target.pid);
    sandbox.icecore(&dump("1")).ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.criu("restore -D 1 -d -v2").ok();
    target.check();
    target.ask("talk");
    fs::create_dir(sandbox.path("2")).unwrap();
    let root = criu_of_internet().unwrap();
    sandbox.criu_in(&root, &dump("2 -v2")).ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 2 -d").ok();
    target.check();
    Some((sandbox, target))
}

#[test]
fn sockets_that_ping_go_from_us_to_criu_and_back() {
    // CRIU learns of other ends from raw_diag only, which kernels may lack: no talk any more.
    drop(there_and_back("raw", &["ping"]));
}

#[test]
fn packet_sockets_go_from_us_to_criu_and_back_and_still_receive() {
    if let Some((_sandbox, target)) = there_and_back("packets", &["modest"]) {
        target.ask("talk");
    }
}
