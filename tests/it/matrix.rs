//! What comes back, kind by kind, with the test behind every tick: the table in README is made of this
//! one and of the registries. `ICECORE_TEST_UPDATE=1` writes it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use icecore::{files, state};

use crate::dump_restore::LAYERED;
use crate::interop;

/// What shows that a kind comes back from each layer of a stack.
enum Proof {
    /// A specimen that holds it, among those of `what_tasks_hold_comes_back_from_each_layer_of_a_stack`.
    Held(&'static str),
    /// A test of several layers.
    Test(&'static str),
}

/// What shows that CRIU and we understand each other.
enum Criu {
    /// A specimen that holds it, among those that go both ways.
    Both(&'static str),
    /// Tests: CRIU restores ours; we restore CRIU's.
    Tests(&'static str, &'static str),
    /// CRIU cannot, or does not.
    No(&'static str),
}

use Criu::{Both, No, Tests};
use Proof::{Held, Test};

const NO_PLACE: &str = "CRIU's images have no place for it; CRIU passes over ours";

type Row = (&'static str, Proof, Criu);

/// Kinds of open files, by the names in `files::KINDS`.
const FILES: &[Row] = &[
    ("pipe", Held("pipes"), Both("pipes")),
    ("FIFO", Held("pipes"), Both("pipes")),
    ("memfd", Held("shared"), Both("shared")),
    ("eventfd", Held("events"), Both("events")),
    ("timerfd", Held("events"), Both("events")),
    ("signalfd", Held("events"), Both("events")),
    ("epoll instance", Held("events"), Both("events")),
    (
        "inotify instance",
        Test("watches_come_back_from_every_layer_and_no_event_with_them"),
        Both("watches"),
    ),
    (
        "pidfd",
        Test("pidfds_come_back_from_every_layer"),
        Both("pidfds"),
    ),
    (
        "namespace",
        Test("descriptors_of_namespaces_of_the_tree_come_back_from_every_layer"),
        Both("namespaces"),
    ),
    (
        "terminal",
        Test("bash_with_a_coprocess_and_a_pipeline_goes_on_from_any_of_three_layers"),
        Both("terminals"),
    ),
    (
        "unix socket",
        Test("unix_sockets_come_back_from_every_layer_with_what_was_under_way"),
        Both("sockets"),
    ),
    (
        "internet socket",
        Test("internet_sockets_come_back_from_every_layer"),
        Both("internet"),
    ),
    (
        "netlink socket",
        Test("internet_sockets_come_back_from_every_layer"),
        Both("internet"),
    ),
    (
        "packet socket",
        Test("packet_sockets_come_back_from_every_layer_and_find_their_interfaces_by_name"),
        Tests(
            "packet_sockets_go_from_us_to_criu_and_back_and_still_receive",
            "packet_sockets_go_from_us_to_criu_and_back_and_still_receive",
        ),
    ),
    ("file", Held("descriptors"), Both("descriptors")),
];

/// State of tasks, by the names in `state::RESOURCES`.
const STATE: &[Row] = &[
    ("permission for AMX", Held("tiles"), No(NO_PLACE)),
    ("local descriptor table", Held("settings"), No(NO_PLACE)),
    (
        "personality",
        Held("surroundings"),
        No("CRIU records it and does not restore it"),
    ),
    ("recorded facts", Held("surroundings"), Both("surroundings")),
    ("thread name", Held("threads"), Both("threads")),
    ("robust futex list", Held("threads"), Both("threads")),
    ("address of the thread id", Held("threads"), Both("threads")),
    ("restartable sequences", Held("threads"), Both("threads")),
    (
        "child subreaper",
        Held("surroundings"),
        Both("surroundings"),
    ),
    (
        "membarrier registrations",
        Held("surroundings"),
        Both("surroundings"),
    ),
    ("scheduling", Held("surroundings"), Both("surroundings")),
    ("placement", Held("settings"), No(NO_PLACE)),
    ("signal actions", Held("signals"), Both("signals")),
    ("alternate signal stack", Held("signals"), Both("signals")),
    ("signal mask", Held("signals"), Both("signals")),
    ("pending signals", Held("signals"), Both("signals")),
    ("interval timers", Held("timers"), Both("timers")),
    ("POSIX timers", Held("timers"), Both("timers")),
    ("switches", Held("settings"), No(NO_PLACE)),
    (
        "resource limits",
        Held("surroundings"),
        Both("surroundings"),
    ),
    (
        "out-of-memory score",
        Held("surroundings"),
        Both("surroundings"),
    ),
    (
        "control groups",
        Test("a_tree_comes_back_into_its_control_group_from_each_layer"),
        No("CRIU moves trees between groups by rules of its own"),
    ),
    ("credentials", Held("creds"), Both("creds")),
    (
        "parent-death signal",
        Held("surroundings"),
        Both("surroundings"),
    ),
    ("seccomp", Held("confined"), Both("confined")),
];

/// Memory, processes, and what belongs to several of them: no registry, one row for each kind.
const REST: &[Row] = &[
    (
        "private memory, anonymous and of files",
        Held("memory"),
        Both("memory"),
    ),
    (
        "shared memory, anonymous and of files",
        Held("shared"),
        Both("shared"),
    ),
    ("guard pages", Held("guards"), No(NO_PLACE)),
    (
        "pages shared since fork",
        Test("pages_that_processes_share_since_fork_are_shared_after_a_restore_from_each_layer"),
        No("each stores and compares as it likes"),
    ),
    (
        "huge pages",
        Test("huge_pages_come_back_from_each_layer_and_what_is_missing_is_named"),
        Tests(
            "criu_restores_huge_pages_of_ours",
            "huge_pages_of_criu_come_back",
        ),
    ),
    (
        "POSIX shared memory and semaphores",
        Test("posix_shared_memory_and_semaphores_come_back_from_each_layer_with_a_name_or_without"),
        Both("shared"),
    ),
    (
        "System V shared memory",
        Test(
            "shared_memory_of_system_v_comes_back_from_each_layer_whether_it_is_still_there_or_not",
        ),
        Tests(
            "ipc_namespaces_go_from_us_to_criu_and_back",
            "ipc_namespaces_go_from_us_to_criu_and_back",
        ),
    ),
    (
        "System V semaphores and queues",
        Test(
            "semaphores_and_message_queues_come_back_from_each_layer_whether_they_are_still_there_or_not",
        ),
        Tests(
            "ipc_namespaces_go_from_us_to_criu_and_back",
            "ipc_namespaces_go_from_us_to_criu_and_back",
        ),
    ),
    ("rings of asynchronous I/O", Held("aio"), Both("aio")),
    ("threads and registers", Held("threads"), Both("threads")),
    (
        "process trees, sessions, zombies",
        Held("tree"),
        Both("tree"),
    ),
    (
        "descriptors that processes share (CLONE_FILES)",
        Test("what_processes_share_without_being_threads_is_shared_again_from_every_layer"),
        Both("commons"),
    ),
    (
        "directories and umask that processes share (CLONE_FS)",
        Test("what_processes_share_without_being_threads_is_shared_again_from_every_layer"),
        No("CRIU does not dump it"),
    ),
    ("stopped processes", Held("stops"), Both("stops")),
    (
        "calls that a thread catches itself",
        Held("dispatch"),
        No(NO_PLACE),
    ),
    (
        "deleted files",
        Test("files_without_a_name_come_back_with_their_contents"),
        Both("nameless"),
    ),
    (
        "files of /proc, places (O_PATH)",
        Test("files_of_its_own_processes_and_places_come_back_from_every_layer"),
        Both("places"),
    ),
    (
        "files of /proc in a pid namespace",
        Test(
            "files_of_its_own_processes_come_back_from_every_layer_of_a_pid_namespace_with_its_own_proc_and_without",
        ),
        No(
            "CRIU notes the ids that processes have outside of the namespace, and finds nothing there",
        ),
    ),
    (
        "signals of files (F_SETOWN)",
        Test("who_is_told_about_a_file_comes_back_from_every_layer"),
        Both("owners"),
    ),
    (
        "locks on files",
        Test("locks_come_back_from_every_layer"),
        Both("locks"),
    ),
    (
        "established TCP connections",
        Test("established_connections_need_a_word_and_go_on_with_everything_under_way"),
        Tests(
            "criu_restores_established_connections_of_ours",
            "established_connections_of_criu_go_on",
        ),
    ),
    (
        "raw sockets, and those that ping",
        Test("raw_sockets_and_filters_come_back_from_every_layer"),
        Tests(
            "sockets_that_ping_go_from_us_to_criu_and_back",
            "sockets_that_ping_go_from_us_to_criu_and_back",
        ),
    ),
    (
        "listeners of MPTCP",
        Test("listeners_of_mptcp_and_the_connections_that_they_accepted_go_on_from_every_layer"),
        No("CRIU has no MPTCP"),
    ),
    (
        "a pid namespace of its own",
        Test("every_layer_of_a_stack_of_a_pid_namespace_comes_back"),
        Tests(
            "criu_restores_every_layer_of_our_stack_of_a_pid_namespace",
            "we_restore_layers_of_a_pid_namespace_that_criu_made",
        ),
    ),
    (
        "clocks that never go back",
        Test("clocks_go_on_from_each_layer_of_a_stack"),
        Tests(
            "clocks_go_on_between_criu_and_us",
            "clocks_go_on_between_criu_and_us",
        ),
    ),
    (
        "contents of files, on request",
        Test("files_that_a_process_writes_go_back_to_the_layer_with_it"),
        No(NO_PLACE),
    ),
];

/// The names of all tests of this program.
fn tests() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.trim() == "#[test]"
                && let Some(name) = lines.peek().and_then(|line| line.strip_prefix("fn "))
            {
                names.extend(name.split_once('(').map(|(name, _)| name.to_owned()));
            }
        }
    }
    names
}

fn checked(rows: &[Row], known: &BTreeSet<String>) {
    let test = |name: &str| assert!(known.contains(name), "there is no test {name}");
    let among = |list: &[(&str, &[&str])], name: &str| list.iter().any(|(kind, _)| *kind == name);
    for (kind, proof, criu) in rows {
        match proof {
            Held(specimen) => assert!(among(LAYERED, specimen), "{kind}: {specimen}"),
            Test(name) => test(name),
        }
        match criu {
            Both(specimen) => assert!(among(interop::KINDS, specimen), "{kind}: {specimen}"),
            Tests(ours, theirs) => [ours, theirs].into_iter().for_each(|name| test(name)),
            No(why) => assert!(!why.is_empty()),
        }
    }
}

fn table(title: &str, rows: &[Row], notes: &mut Vec<&'static str>) -> String {
    let mut text = String::new();
    let _infallible = writeln!(
        text,
        "| {title} | dump, restore | from each layer | CRIU restores ours | we restore CRIU's |\n|---|---|---|---|---|"
    );
    for (kind, _, criu) in rows {
        let with = match criu {
            Both(_) | Tests(..) => "✓".to_owned(),
            No(why) => {
                let at = notes.iter().position(|note| note == why);
                let at = at.unwrap_or_else(|| {
                    notes.push(why);
                    notes.len() - 1
                });
                format!("– ({})", at + 1)
            }
        };
        let _infallible = writeln!(text, "| {kind} | ✓ | ✓ | {with} | {with} |");
    }
    text
}

const BEGIN: &str = "<!-- matrix: made by tests/it/matrix.rs -->\n";
const END: &str = "<!-- end of matrix -->\n";

#[test]
fn the_matrix_in_readme_has_every_registered_kind_and_a_test_behind_every_tick() {
    let named = |rows: &[Row]| -> Vec<&str> { rows.iter().map(|row| row.0).collect() };
    let kinds: Vec<&str> = files::KINDS.iter().map(|kind| kind.name()).collect();
    assert_eq!(named(FILES), kinds);
    let resources: Vec<&str> = state::RESOURCES.iter().map(|r| r.name()).collect();
    assert_eq!(named(STATE), resources);
    let known = tests();
    [FILES, STATE, REST]
        .iter()
        .for_each(|rows| checked(rows, &known));

    let mut notes = Vec::new();
    let mut wanted = String::from(BEGIN);
    for (title, rows) in [
        ("open files", FILES),
        ("state of tasks", STATE),
        ("the rest", REST),
    ] {
        let _infallible = writeln!(wanted, "{}", table(title, rows, &mut notes));
    }
    for (n, note) in notes.iter().enumerate() {
        let _infallible = writeln!(wanted, "{}. {note}.", n + 1);
    }
    wanted.push_str(END);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let made = format!("{before}{wanted}{after}");
    if std::env::var_os("ICECORE_TEST_UPDATE").is_some() {
        fs::write(&path, &made).unwrap();
    } else {
        assert!(made == readme, "run this with ICECORE_TEST_UPDATE=1");
    }
}
