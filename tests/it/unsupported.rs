//! What no image can hold yet is an obstacle, named before anything is frozen; the target does not
//! notice.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Need, Sandbox, assert_same_portrait, portrait, require, wait_until};

/// Dumps a holder of `what` in every way: it is refused with `words`, and nothing has happened.
fn refused(what: &str, words: &[&str]) {
    refused_at("main", what, words);
}

/// The same; afterwards the process at `desk` is asked.
fn refused_at(desk: &str, what: &str, words: &[&str]) {
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
        for word in words.iter().chain(&["try: "]) {
            assert!(run.stderr.contains(word), "no {word} in: {}", run.stderr);
        }
        target.runs();
        assert!(!sandbox.path("1").exists());
        assert!(!sandbox.path("1.partial").exists());
    }
    assert_same_portrait(what, &before, &portrait(&target));
    assert_eq!(target.ask_at(desk, "check"), "1");
    assert_eq!(target.ask_at(desk, "check"), "2");
}

#[test]
fn an_io_uring_descriptor_is_an_obstacle() {
    refused("io_uring", &["io_uring", "descriptor 4", "pid 2"]);
}

#[test]
fn a_bpf_map_is_an_obstacle() {
    refused("bpf", &["BPF map", "descriptor 4", "pid 2"]);
}

#[test]
fn a_socket_is_an_obstacle() {
    refused("socket", &["a socket of XDP", "descriptor 4", "pid 2"]);
}

#[test]
fn a_connection_of_several_paths_is_an_obstacle_unless_it_is_dropped() {
    refused("mptcp", &["a connection of MPTCP", "descriptor 5", "pid 2"]);
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &["mptcp"]);
    sandbox
        .icecore(&format!("dump -t {} -D 1 --tcp-close", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.runs();
    assert_eq!(target.check(), "1");
}

#[test]
fn what_was_sent_to_a_server_that_has_not_accepted_is_an_obstacle() {
    let what = "a unix socket that has sent something to a server that has not accepted it yet";
    refused("unaccepted", &[what, "descriptor 5", "pid 2"]);
}

#[test]
fn a_waiting_connection_whose_client_has_closed_it_is_an_obstacle() {
    let what = "a unix socket with a connection to be accepted whose client has closed it";
    refused("left-unaccepted", &[what, "descriptor 4", "pid 2"]);
}

#[test]
fn a_socket_with_an_extended_filter_is_an_obstacle() {
    let what = "an internet socket with an extended BPF filter";
    refused("extended-filter", &[what, "descriptor 5", "pid 2"]);
}

#[test]
fn a_packet_socket_with_a_ring_is_an_obstacle() {
    refused(
        "ring",
        &["a packet socket with a ring", "descriptor 4", "pid 2"],
    );
}

#[test]
fn an_inotify_instance_that_watches_a_deleted_file_is_an_obstacle() {
    refused("inotify", &["inotify", "inode", "descriptor 5", "pid 2"]);
}

#[test]
fn a_fanotify_group_is_an_obstacle() {
    refused("fanotify", &["fanotify", "descriptor 4", "pid 2"]);
}

#[test]
fn a_pidfd_of_an_outsider_is_an_obstacle() {
    refused("pidfd", &["a pidfd of process 1", "descriptor 4", "pid 2"]);
}

#[test]
fn a_namespace_that_only_its_descriptor_holds_is_an_obstacle() {
    let what = "a net namespace (net:[";
    let words = [what, "in which no process of the tree is", "descriptor 4"];
    refused("foreign-namespace", &words);
}

#[test]
fn a_userfaultfd_is_an_obstacle() {
    refused("userfaultfd", &["userfaultfd", "descriptor 4", "pid 2"]);
}

#[test]
fn each_namespace_of_its_own_is_an_obstacle_by_name() {
    for kind in ["mnt", "net", "cgroup", "user"] {
        let namespace = format!("a {kind} namespace of its own");
        refused(&format!("namespace-{kind}"), &[&namespace, "Process 2"]);
    }
}

#[test]
fn a_child_in_a_namespace_of_its_own_is_an_obstacle() {
    for kind in ["pid", "time"] {
        let own = format!("a {kind} namespace of its own");
        let next = format!("starts its children in another {kind} namespace");
        refused(&format!("child-{kind}"), &["Process 2", &own, &next]);
    }
}

#[test]
fn deleted_files_that_are_large_are_obstacles() {
    let words = ["deleted", "1028 KiB", "pid 2"];
    refused("deleted-file", &[&words[..], &["descriptor 4"]].concat());
    refused("deleted-mapping", &[&words[..], &["mapping"]].concat());
}

#[test]
fn a_file_that_has_lost_its_name_but_not_all_is_an_obstacle() {
    refused("lost-name", &["lost this name", "descriptor 4", "pid 2"]);
}

#[test]
fn a_file_that_is_watched_and_open_in_another_process_only_is_an_obstacle() {
    let words = ["closed: 5", "descriptor 4", "pid 2"];
    refused("watched-elsewhere", &words);
}

#[test]
fn a_file_lock_is_an_obstacle() {
    refused(
        "file-lock",
        &["a lock (flock)", "descriptor 4", "pid 2", "--file-locks"],
    );
}

#[test]
fn a_child_that_shares_the_memory_of_its_parent_is_an_obstacle() {
    refused("shared-memory-child", &["share their memory"]);
}

#[test]
fn descriptors_that_are_shared_with_a_sibling_only_are_an_obstacle() {
    let words = [
        "share their descriptors",
        "not by birth",
        "Processes 3 and 4",
    ];
    refused("shared-with-sibling", &words);
    refused(
        "shared-memory-sibling",
        &["Processes 3 and 4 share their memory"],
    );
}

#[test]
fn what_is_shared_with_a_parent_outside_of_the_tree_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("commons", &[]);
    let members = target.members();
    // The first child shares nothing; the next one shares its descriptors with the root.
    let words = format!("dump -t {} -D 1 -R", members[2]);
    let run = sandbox.icecore(&words).fails(5);
    let what = "shares its descriptors with process 2 outside of the tree";
    assert!(run.stderr.contains(what), "{}", run.stderr);
    let words = format!("dump -t {} -D 1 -R", members[1]);
    let run = sandbox.icecore(&words).fails(5);
    assert!(!run.stderr.contains("shares its"), "{}", run.stderr);
    target.check();
}

#[test]
fn a_parent_that_waits_in_vfork_is_waited_for_or_an_obstacle() {
    let waits = ["Process 2", "waits for its child", "(vfork)"];
    refused("vfork", &waits);
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &["vfork"]);
    wait_until("there is a child", || target.members().get(1).copied());
    target.ask("start");
    for layer in ["1", "2"] {
        sandbox
            .icecore(&format!("dump -t {} -D {layer} -R", target.pid))
            .ok();
    }
    target.check();
}

#[test]
fn a_tree_in_which_one_traces_another_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &["traced"]);
    let run = sandbox.icecore(&format!("dump -t {} -D 1 --dry-run", target.pid));
    let run = run.fails(7);
    let tracer = format!("is traced by process {} (specimen)", target.pid);
    assert!(run.stderr.contains(&tracer), "{}", run.stderr);
    target.check();
}

#[test]
fn a_process_without_its_first_thread_is_an_obstacle() {
    refused_at("thread", "ended-leader", &["first thread", "process 2"]);
}

#[test]
fn a_session_led_from_outside_of_the_tree_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &["former-session"]);
    let (child, grandchild) = wait_until("the child leads a session", || {
        let members = target.members();
        let (child, grandchild) = (*members.get(1)?, *members.get(2)?);
        let stat = fs::read_to_string(target.proc(child, "stat")).ok()?;
        let session = stat.rsplit(") ").next()?.split(' ').nth(3)?.parse();
        (session == Ok(child)).then_some((child, grandchild))
    });
    let run = sandbox.icecore(&format!("dump -t {child} -D 1")).fails(5);
    let words = format!(
        "Process {grandchild} (specimen) is in session {}",
        target.pid
    );
    assert!(run.stderr.contains(&words), "{}", run.stderr);
    assert!(
        run.stderr.contains("leader is not in the tree"),
        "{}",
        run.stderr
    );
    target.runs();
    assert_eq!(target.check(), "1");
}

#[test]
fn a_message_queue_of_posix_is_an_obstacle_open_or_in_an_ipc_namespace_of_its_own() {
    let open = ["the POSIX message queue", "descriptor 4", "pid 2"];
    refused("posix-queue", &open);
    let there = ["has a POSIX message queue", "mq_unlink"];
    refused("posix-queue-apart", &there);
}

#[test]
fn a_namespace_of_one_thread_is_an_obstacle() {
    refused("thread-net", &["net namespace", "Thread", "process 2"]);
}

#[test]
fn a_pid_namespace_that_waits_for_its_first_child_is_an_obstacle() {
    refused("next-pids", &["may be in a namespace", "Process 2"]);
}

#[test]
fn a_thread_that_catches_its_own_system_calls_is_let_go_unharmed() {
    let_go("dispatch", "catches its own system calls at this moment");
}

#[test]
fn a_thread_with_a_supervisor_of_its_system_calls_is_let_go_unharmed() {
    let_go("supervised", "asks another process");
}

/// Dumps a holder of what only who traces it can tell: the freeze comes first.
fn let_go(what: &str, words: &str) {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("holder", &[what]);
    for command in ["dump -D 1", "dump -D 1 -R", "dump -D 1 -R --track-mem"] {
        let run = sandbox
            .icecore(&format!("{command} -t {}", target.pid))
            .fails(5);
        assert!(run.stderr.contains(words), "{}", run.stderr);
        target.runs();
        assert!(!sandbox.path("1").exists());
        assert!(!sandbox.path("1.partial").exists());
    }
    assert_eq!(target.check(), "1");
}

#[test]
fn a_32_bit_program_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let program = sandbox.path("small");
    fs::write(&program, program_of_32_bits()).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let pid = sandbox.start("log", &[program.to_str().unwrap()]);
    let proc = sandbox.proc(&pid.to_string());
    wait_until("the program runs, or its first process has ended", || {
        let runs = fs::read_link(proc.join("exe")).is_ok_and(|exe| exe == program);
        (runs || !proc.exists()).then_some(())
    });
    if !proc.exists() {
        eprintln!("skipped: this kernel runs no 32-bit programs");
        return;
    }
    for mode in ["", "-R", "--dry-run"] {
        let run = sandbox
            .icecore(&format!("dump -t {pid} -D 1 {mode}"))
            .fails(5);
        assert!(run.stderr.contains("is a 32-bit program"), "{}", run.stderr);
        assert!(!sandbox.path("1").exists());
    }
    assert!(proc.exists());
    let status = fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.contains("TracerPid:\t0\n"), "{status}");
}

/// An ELF file of one page that calls pause(2) for ever.
fn program_of_32_bits() -> Vec<u8> {
    let code = [
        0xb8, 29, 0, 0, 0, // mov eax, pause
        0xcd, 0x80, // int 0x80
        0xeb, 0xf7, // jmp to the beginning
    ];
    let [base, headers] = [0x0804_8000u32, 84];
    let size = headers + u32::try_from(code.len()).unwrap();
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        file.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    };
    // ET_EXEC, EM_386, version, entry, program headers behind this one.
    half(&mut file, &[2, 3]);
    word(&mut file, &[1, base + headers, 52, 0, 0]);
    half(&mut file, &[52, 32, 1, 0, 0, 0]);
    // PT_LOAD of the whole file, readable and executable.
    word(&mut file, &[1, 0, base, base, size, size, 5, 0x1000]);
    file.extend(code);
    file
}
