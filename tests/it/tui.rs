//! The terminal UI in a real terminal: a pty, its screen read back by a terminal emulator.

use std::io::Read as _;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use portable_pty::{CommandBuilder, PtySize, native_pty_system};

use crate::support::Term;

const ICECORE: &str = env!("CARGO_BIN_EXE_icecore");

fn browse(root: &std::path::Path, set: &[(&str, &str)]) -> Term {
    let mut command = CommandBuilder::new(ICECORE);
    command.arg("--root");
    command.arg(root);
    command.env_remove("NO_COLOR");
    command.env("ICECORE_CONFIG", "/dev/null");
    command.env("LANG", "C.UTF-8");
    command.env_remove("LC_ALL");
    command.env("ICECORE_RUNTIME_DIR", root);
    for (name, value) in set {
        command.env(name, value);
    }
    let mut term = Term::start(command, 80, 24);
    term.wait_text("PID");
    term
}

/// The ticks of the demo's tree, in the order in which it came to them.
fn ticks(home: &std::path::Path) -> Vec<u64> {
    let demo = std::fs::read_dir(home).unwrap().flatten().find(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with("icecore-demo-")
    });
    let lines = demo.and_then(|demo| std::fs::read_to_string(demo.path().join("lines")).ok());
    lines
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(1)?.parse().ok())
        .collect()
}

/// How often the demo's tree went on at another tick than the one after its last.
fn jumps(home: &std::path::Path) -> usize {
    let jump = |pair: &&[u64]| pair[1] != pair[0] + 1;
    ticks(home).windows(2).filter(jump).count()
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn watch_dump_look_and_roll_back_a_live_tree() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    // Its own pid namespace: the pids that are rolled back to are nobody else's.
    let mut command = CommandBuilder::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["sh", "-c", &format!("{ICECORE} demo; echo exit $?")]);
    command.env("LANG", "C.UTF-8");
    command.env("TMPDIR", home.path());
    command.env("ICECORE_RUNTIME_DIR", home.path());
    let mut term = Term::start(command, 120, 35);
    term.wait_text("1 of 7");
    term.press("w");
    term.wait_text("pages/s now");
    for number in 1..=3 {
        term.press("d");
        term.wait_text("[>Dump ]");
        term.press("\r");
        term.wait_text(&format!("/{number}: "));
        term.wait_text(&format!("Who owns each page of {number} "));
    }
    // All about the layer, then what differs from the one below, then a text in it.
    term.press("i");
    term.wait_text("A restore of this layer takes its pages from");
    term.press("qc");
    term.wait_text("From layer 2 to layer 3");
    // From mappings to pages to the bytes of both, and back.
    term.wait_text("[heap]");
    term.press("\r");
    term.wait_text("WHERE IN THE PAGE");
    term.press("\r");
    term.wait_text("Tab next difference");
    term.press("qqqsPATH=\r");
    term.wait_text("IN LAYERS");
    term.press("\r");
    term.wait_text("[bytes]");
    term.press("qqv");
    term.wait_text("and those below: sound");
    term.press("qLnight\r");
    term.wait_text("“night” now");
    term.press("\t\t");
    term.wait_text("5 of 7");
    term.press("\r");
    term.wait_text("[bytes]");
    term.press("q");
    term.wait_text("Who owns each page");
    // Back to the stacks, down to the oldest layer.
    term.press("\x1b[Z\x1b[F");
    term.wait_text("Who owns each page of 1 ");
    term.press("r");
    term.wait_text("[ Keep and restore ]");
    assert!(term.text().contains("[>Cancel ]"), "cancel has the focus");
    term.press("\t\r");
    term.wait_text("runs again");
    term.wait("an earlier tick", |_| jumps(home.path()) == 1);
    assert!(term.text().contains("all right"));
    term.press("d");
    term.wait_text("[>Dump ]");
    term.press("\r");
    term.wait_text("├─╯");
    // Undo: back to the layer that was kept of what ran before.
    term.press("u");
    term.wait_text("Restore 4 ");
    term.wait_text("[ Kill and restore ]");
    term.press("\t\t\r");
    term.wait("the tick it had come to", |_| jumps(home.path()) == 2);
    // A layer goes; those above take over what they need of it.
    term.wait_text("◆ 4");
    term.press("X");
    term.wait_text("GOES");
    term.press("\t\r");
    term.wait_text("1 layer removed");
    term.press("q");
    term.end();
    let text = term.text();
    assert!(text.contains("5 layers, 2 restores"), "{text}");
    assert!(text.contains("none wrong"), "{text}");
    assert!(text.contains("exit 0"), "{text}");
    assert!(!term.screen.screen().alternate_screen());
    assert!(!term.screen.screen().hide_cursor());
}

/// Waits until the demo's tree has gone on for some ticks after `jumped` jumps, with a self-check that
/// is right.
fn goes_on(term: &mut Term, home: &std::path::Path, jumped: usize) {
    let before = ticks(home).len();
    term.wait("the tree goes on", |_| ticks(home).len() > before + 3);
    assert_eq!(jumps(home), jumped, "{:?}", ticks(home));
    let screen = term.text();
    assert!(screen.contains("all right"), "{screen}");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn a_sitting_from_the_first_layer_to_dedup_roll_back_and_undo_and_the_tree_goes_on_all_along() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let mut command = CommandBuilder::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["sh", "-c", &format!("{ICECORE} demo; echo exit $?")]);
    command.env("LANG", "C.UTF-8");
    command.env("TMPDIR", home);
    command.env("ICECORE_RUNTIME_DIR", home);
    let mut term = Term::start(command, 120, 35);
    term.wait_text("1 of 7");
    term.press("w");
    term.wait_text("pages/s now");
    // The tour goes on by one step each time that one does what it says.
    term.wait_text("2 of 7");
    goes_on(&mut term, home, 0);
    for number in 1..=4 {
        term.press("d");
        term.wait_text("[>Dump ]");
        term.press("\r");
        term.wait_text(&format!("Who owns each page of {number} "));
        term.wait_text(["3 of 7", "3 of 7", "4 of 7", "4 of 7"][number - 1]);
        goes_on(&mut term, home, 0);
    }
    term.press("\t\t");
    term.wait_text("5 of 7");
    // Back to the second layer; what is dumped then is a branch.
    term.press("[[");
    term.wait_text("Who owns each page of 2 ");
    term.press("r");
    term.wait_text("[ Keep and restore ]");
    term.press("\t\r");
    term.wait("an earlier tick", |_| jumps(home) == 1);
    term.wait_text("◆ 2");
    goes_on(&mut term, home, 1);
    // The layer that was kept is not the one that the tour waits for.
    assert!(term.text().contains("6 of 7"), "{}", term.text());
    term.press("d");
    term.wait_text("[>Dump ]");
    term.press("\r");
    term.wait_text("Who owns each page of 6 ");
    term.wait_text("├─╯");
    term.wait_text("7 of 7");
    goes_on(&mut term, home, 1);
    // How much of it is still read, counted in the background.
    term.wait_text(" owned, ");
    // The map in other colours, and closer.
    term.press("C");
    term.wait_text("What changed in 6 ");
    term.wait_text("c changed");
    term.press("++");
    term.wait_text("What changed in 6, icecore of process 3");
    term.press("--CCCC");
    term.wait_text("Who owns each page of 6 ");
    // What differs from the layer below.
    term.press("c");
    term.wait_text("From layer 2 to layer 6");
    term.press("q");
    // What could be freed, at which price; what costs no layer is offered.
    term.press("D");
    term.wait_text("What the stack of 6 stores for nothing");
    term.wait_text("[x] unchanged");
    term.wait_text("That was all.");
    term.wait_text("What unchanged would free in each layer");
    term.press("\r");
    term.wait_text("every layer can be restored as before");
    term.wait_text("[>Free ");
    term.press("\r");
    term.wait_text(" freed (");
    goes_on(&mut term, home, 1);
    term.press("\x1b");
    term.wait_text("Who owns each page of 6 ");
    // To the first layer, which the branch stands on too, and back to what ran before.
    term.press("[[");
    term.wait_text("Who owns each page of 1 ");
    term.press("r");
    term.wait_text("[ Keep and restore ]");
    term.press("\t\r");
    term.wait("the first layer's tick", |_| jumps(home) == 2);
    term.wait_text("◆ 1");
    goes_on(&mut term, home, 2);
    term.press("u");
    term.wait_text("Restore 7 ");
    term.wait_text("[ Kill and restore ]");
    term.press("\t\t\r");
    term.wait("the tick it had come to", |_| jumps(home) == 3);
    term.wait_text("◆ 7");
    goes_on(&mut term, home, 3);
    term.press("q");
    term.end();
    let text = term.text();
    assert!(text.contains("7 layers, 3 restores"), "{text}");
    assert!(text.contains("none wrong"), "{text}");
    assert!(text.contains("exit 0"), "{text}");
    assert!(!term.screen.screen().alternate_screen());
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn a_rule_that_is_typed_dumps_a_live_tree_until_it_is_taken_back() {
    if !geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut command = CommandBuilder::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.args(["sh", "-c", &format!("{ICECORE} demo; echo exit $?")]);
    command.env("LANG", "C.UTF-8");
    command.env("TMPDIR", home.path());
    command.env("ICECORE_RUNTIME_DIR", home.path());
    let mut term = Term::start(command, 120, 35);
    term.wait_text("1 of 7");
    term.press("W");
    term.wait_text("Nothing tracks this tree");
    term.press("w");
    term.wait_text("New dirty pages a second");
    term.wait_text("known after the first dump");
    term.press("Awhen dirty > 1 apples");
    term.wait_text("is no unit of memory");
    term.press("\x7f\x7f\x7f\x7f\x7f\x7fpages\r");
    // The second is expected from the first.
    term.wait_text("learned from 2 dumps");
    term.wait_text("tracked");
    term.press("J");
    term.wait_text("done");
    term.press("/expected");
    term.wait_text("Log with expected");
    term.press("\x1b");
    term.wait("the filter gone", |screen| {
        !screen.contents().contains("Log with")
    });
    term.press("W");
    term.wait_text("when dirty > 1 pages");
    term.press(&format!("A{}\r", "\x7f".repeat(24)));
    term.wait_text("none (A sets one)");
    // The end of tracking. A dump that the rule began is waited for: leaving would ask about it.
    term.press("w");
    term.wait_text("Nothing tracks this tree");
    term.wait("no job runs", |screen| !screen.contents().contains('▶'));
    term.press("q");
    term.end();
    let text = term.text();
    assert!(text.contains("none wrong"), "{text}");
    assert!(text.contains("exit 0"), "{text}");
}

#[test]
fn the_terminal_is_given_back_on_sigterm() {
    let root = tempfile::tempdir().unwrap();
    let mut term = browse(root.path(), &[]);
    assert!(term.screen.screen().alternate_screen());
    let pid = i32::try_from(term.child.process_id().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
    assert_eq!(term.end(), 128 + 15);
    assert!(!term.screen.screen().alternate_screen());
    assert!(!term.screen.screen().hide_cursor());
}

#[test]
fn a_terminal_that_hangs_up_ends_the_program_and_not_by_a_panic() {
    let root = tempfile::tempdir().unwrap();
    let pair = native_pty_system().openpty(PtySize::default()).unwrap();
    let mut command = CommandBuilder::new(ICECORE);
    command.arg("--no-state");
    command.arg("--root");
    command.arg(root.path());
    command.env("TERM", "xterm-256color");
    command.env("ICECORE_CONFIG", "/dev/null");
    let mut child = pair.slave.spawn_command(command).unwrap();
    drop(pair.slave);
    let mut reader = pair.master.try_clone_reader().unwrap();
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("PID") {
        let n = reader.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..n]);
    }
    drop((reader, pair.master));
    // By the signal, or by the first write that fails.
    let code = child.wait().unwrap().exit_code();
    assert!([1, 128 + 1].contains(&code), "{code}");
}

#[test]
fn ctrl_z_gives_the_terminal_to_the_shell_and_fg_comes_back_redrawn() {
    let home = tempfile::tempdir().unwrap();
    let mut command = CommandBuilder::new("bash");
    command.args([
        "--norc",
        "-c",
        "set -m; \"$0\" --root \"$1\"; echo STOP; read x; fg; echo END$?",
    ]);
    command.arg(ICECORE);
    command.arg(home.path());
    command.env("ICECORE_CONFIG", "/dev/null");
    command.env("LANG", "C.UTF-8");
    command.env("ICECORE_RUNTIME_DIR", home.path());
    let mut term = Term::start(command, 80, 24);
    term.wait_text("PID");
    term.press("\x1a");
    term.wait("the terminal is given back", |screen| {
        !screen.alternate_screen() && screen.contents().contains("STOP")
    });
    term.press("\r");
    term.wait("the screen is back", |screen| {
        screen.alternate_screen() && screen.contents().contains("PID")
    });
    term.press("q");
    term.wait_text("END0");
    assert_eq!(term.end(), 0);
}

#[test]
fn no_color_means_no_colour_and_lang_c_means_ascii() {
    let root = tempfile::tempdir().unwrap();
    let mut term = browse(root.path(), &[("NO_COLOR", "1"), ("LANG", "C")]);
    term.press("?");
    term.wait_text("Keys");
    term.press("\x1b");
    term.wait("the help gone", |screen| {
        !screen.contents().contains("Keys")
    });
    term.press("q");
    assert_eq!(term.end(), 0);
    assert!(term.bytes.is_ascii());
    let text = String::from_utf8(std::mem::take(&mut term.bytes)).unwrap();
    for colour in ["[38;", "[48;", ";38;", ";48;"] {
        assert!(!text.contains(colour), "{colour} in {text:?}");
    }
}

#[test]
fn without_a_terminal_it_says_so() {
    let output = std::process::Command::new(ICECORE)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a terminal"));
}
