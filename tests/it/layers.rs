//! Layers looked at in a real terminal: a stack that CRIU made, without root.

use std::path::Path;

use portable_pty::CommandBuilder;

use crate::golden::golden;
use crate::support::Term;

const ICECORE: &str = env!("CARGO_BIN_EXE_icecore");

/// The screen on a stack of three layers, the newest selected.
fn browse(root: &Path, size: (u16, u16)) -> Term {
    let mut command = CommandBuilder::new(ICECORE);
    command.arg("--root");
    command.arg(root);
    let mut term = start(command, root, size);
    term.wait_text("Who owns each page of ");
    term
}

fn start(mut command: CommandBuilder, root: &Path, size: (u16, u16)) -> Term {
    for (name, value) in [("ICECORE_CONFIG", "/dev/null"), ("LANG", "C.UTF-8")] {
        command.env(name, value);
    }
    command.env_remove("LC_ALL");
    command.env("ICECORE_RUNTIME_DIR", root);
    Term::start(command, size.0, size.1)
}

#[test]
fn every_tab_of_a_layer_of_criu_tells_what_is_in_it() {
    let stack = golden();
    let mut term = browse(stack.path(), (120, 35));
    term.press("i");
    for told in [
        "A restore of this layer takes its pages from",
        "THREADS  NAME",
        "rw-p",
        "MAPPED  PATH",
        "BLOCKED SIGNALS",
        "WHAT",
        "process",
        "PSTREE, 1 record",
        "pages left to the parent",
        "icecore adopt makes them",
    ] {
        term.wait_text(told);
        term.press("\t");
    }
    // Around, and on the same tab of the layer below.
    term.wait_text("[figures]");
    term.press("\t\t\t");
    term.wait_text("[files]");
    term.press("[");
    term.wait_text("Layer 2");
    term.wait_text("[files]");
    term.wait_text("MAPPED  PATH");
    term.press("qq");
    assert_eq!(term.end(), 0);
}

/// Keys that open each view and popup, what is seen then, and the keys that close it again.
const SHOWN: &[(&str, &str, &str)] = &[
    ("", "? help", ""),
    ("\t", "? help", "\x1b[Z"),
    ("\t\t", "? help", "\x1b[Z\x1b[Z"),
    ("J", "? help", "J"),
    ("W", "? help", "W"),
    ("?", "Esc close", "q"),
    (":", "Esc leave", "\x1b"),
    ("s", "Esc cancel", "\x1b"),
    ("L", "Esc cancel", "\x1b"),
    ("i", "Esc close", "q"),
    ("v", "Esc close", "q"),
    ("c", "Esc back", "\x1b"),
    ("D", "? help", "D"),
    ("X", "Esc cancel", "\x1b"),
    ("/", "Esc all", "\x1b"),
];

#[test]
fn every_view_and_popup_follows_the_size_of_the_terminal_down_and_up_and_tells_the_way_out() {
    let stack = golden();
    let mut term = browse(stack.path(), (200, 60));
    for (open, told, close) in SHOWN {
        term.press(open);
        term.wait_text(told);
        for size in [
            (80, 24),
            (40, 10),
            (20, 5),
            (3, 1),
            (40, 10),
            (80, 24),
            (200, 60),
        ] {
            term.resize(size.0, size.1);
            let told = match size {
                (3, 1) => "40x",
                (20, 5) => "40x10 needed",
                _ => told,
            };
            term.wait(&format!("{told} at {size:?} after {open:?}"), |screen| {
                screen.contents().contains(told)
            });
        }
        term.press(close);
        term.wait(&format!("end of {told} after {open:?}"), |screen| {
            let screen = screen.contents();
            screen.contains("? help") && (*told == "? help" || !screen.contains(told))
        });
    }
    term.press("q");
    assert_eq!(term.end(), 0);
}

#[test]
fn a_terminal_that_has_its_old_size_again_before_anybody_looks_is_drawn_again() {
    let stack = golden();
    let mut term = browse(stack.path(), (80, 24));
    term.wait_text("? help");
    for _ in 0..20 {
        term.resize(60, 20);
        // Neither a key nor a change of size gets lost when both come at once.
        term.press("\t");
        term.resize(80, 24);
        term.wait("whole screen", |screen| {
            let screen = screen.contents();
            screen.starts_with(" icecore") && screen.contains("? help")
        });
    }
    term.press("q");
    assert_eq!(term.end(), 0);
}

#[test]
fn the_screen_starts_where_one_was_and_a_damaged_file_is_told_once() {
    let stack = golden();
    let state = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let again = |words: &[&str]| {
        let mut command = CommandBuilder::new("env");
        command.arg(format!("XDG_STATE_HOME={}", state.path().display()));
        command.arg(ICECORE);
        command.args(words);
        command.cwd(elsewhere.path());
        start(command, stack.path(), (120, 35))
    };
    let root = stack.path().display().to_string();
    let mut term = again(&["--root", &root]);
    term.wait_text("Who owns each page of 3");
    // Sorted by memory; the oldest layer, what changed in it.
    term.press("o\t[[C");
    term.wait_text("What changed in 1");
    term.wait_text(" by memory");
    term.press("q");
    assert_eq!(term.end(), 0);
    // Neither directory nor anything else has to be said again.
    let mut term = again(&[]);
    term.wait_text("as last time: --root . shows what is here");
    term.wait_text("What changed in 1");
    term.wait_text(" by memory");
    term.press("q");
    assert_eq!(term.end(), 0);
    let file = state.path().join("icecore/screen.json");
    let kept = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &kept[..kept.len() / 2]).unwrap();
    let mut term = again(&["--root", &root]);
    term.wait_text("screen.json is not read");
    term.wait_text("Who owns each page of 3");
    term.press("q");
    assert_eq!(term.end(), 0);
    // Nothing is read and nothing written when nobody wants that.
    std::fs::write(&file, &kept).unwrap();
    let mut term = again(&["--no-state", "--root", &root]);
    term.wait_text("Who owns each page of 3");
    term.press("oq");
    assert_eq!(term.end(), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), kept);
}

#[test]
fn for_a_screen_reader_one_line_says_what_was_selected_and_nothing_is_drawn() {
    let stack = golden();
    let mut command = CommandBuilder::new(ICECORE);
    command.args(["--screen-reader", "--root"]);
    command.arg(stack.path());
    let mut term = start(command, stack.path(), (120, 24));
    let says = |term: &mut Term, text: &str| {
        term.wait(text, |screen| {
            // A long sentence goes on in the rows below its first one; the last row is the last of it.
            let (row, column) = screen.cursor_position();
            let said = screen.contents_between(row, 0, 23, 120);
            !screen.hide_cursor() && row > 18 && column == 0 && said.contains(text)
        });
    };
    says(&mut term, "; 1 of ");
    term.press("\t");
    says(&mut term, "Layer 3, on 2");
    term.press("\x1b[B");
    says(&mut term, "Layer 2, on 1");
    term.press("m");
    says(&mut term, "marked");
    term.press("\r");
    says(&mut term, "Map: Who owns each page of 2");
    term.press("\x1b[F");
    says(&mut term, "; 5 of 5.");
    term.press("\r");
    says(&mut term, "Page ");
    term.press("qX");
    says(&mut term, "Button Cancel");
    term.press("\x1b");
    says(&mut term, "of layer");
    term.press("q");
    assert_eq!(term.end(), 0);
    let shown = String::from_utf8(std::mem::take(&mut term.bytes)).unwrap();
    let drawn = |line: &&str| line.contains(|c| ('\u{2500}'..='\u{25ff}').contains(&c));
    assert_eq!(shown.lines().find(drawn), None);
    for colour in ["[38;", "[48;", ";38;", ";48;", "[7m"] {
        assert!(!shown.contains(colour), "{colour}");
    }
}

#[test]
fn the_clipboard_the_mouse_and_the_files_of_an_export_get_what_is_shown() {
    let stack = golden();
    let here = tempfile::tempdir().unwrap();
    let mut command = CommandBuilder::new(ICECORE);
    command.arg("--root");
    command.arg(stack.path());
    command.cwd(here.path());
    let mut term = start(command, stack.path(), (80, 24));
    term.wait_text("Who owns each page of 3");
    term.press("\ty");
    term.wait_text("copied");
    // "Manipulate Selection Data" with the directory of the layer, in base64.
    let shown = String::from_utf8_lossy(&term.bytes).into_owned();
    let copied = shown.split("\u{1b}]52;c;").nth(1).unwrap();
    let copied = copied.split('\u{1b}').next().unwrap();
    let copied = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, copied);
    let layer = stack.path().join("3");
    assert_eq!(copied.unwrap(), layer.to_str().unwrap().as_bytes());
    // A click on the map, then a drag to its end: the line below tells what is under the cursor.
    let row = |term: &Term| {
        let text = term.text();
        text.lines()
            .position(|line| line.contains("Who owns"))
            .unwrap()
            + 2
    };
    let row = row(&term);
    term.press(&format!("\x1b[<0;2;{row}M"));
    term.wait_text("401000 process 218");
    term.press(&format!("\x1b[<32;13;{row}M\x1b[<0;13;{row}m"));
    term.wait_text("7fff8b4e6000 process 218");
    term.press("E");
    term.wait_text("written: ");
    term.press("q");
    assert_eq!(term.end(), 0);
    let files = std::fs::read_dir(here.path()).unwrap().flatten();
    let names: Vec<String> = files
        .map(|file| file.file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".svg")), "{names:?}");
}

#[test]
fn as_many_colours_as_the_terminal_has_and_no_more() {
    let stack = golden();
    let config = tempfile::tempdir().unwrap();
    let themes = config.path().join("themes");
    std::fs::create_dir(&themes).unwrap();
    std::fs::write(config.path().join("config.toml"), "theme = 'mine'").unwrap();
    std::fs::write(
        themes.join("mine.toml"),
        "base = 'dark'\naccent = '#123456'",
    )
    .unwrap();
    let config = format!(
        "ICECORE_CONFIG={}",
        config.path().join("config.toml").display()
    );
    let run = |set: &[(&str, &str)], words: &[&str]| {
        let mut command = CommandBuilder::new("env");
        command.args(["-u", "NO_COLOR", "-u", "COLORTERM"]);
        command.arg(&config);
        command.args(set.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(ICECORE);
        command.args(words);
        command.arg("--root");
        command.arg(stack.path());
        let mut term = start(command, stack.path(), (120, 35));
        term.wait_text("Who owns each page of 3");
        term.press("q");
        assert_eq!(term.end(), 0);
        let shown = String::from_utf8(std::mem::take(&mut term.bytes)).unwrap();
        let indexed: Vec<u16> = shown
            .split("38;5;")
            .skip(1)
            .filter_map(|rest| {
                rest.split(|c: char| !c.is_ascii_digit())
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        let rich = indexed.iter().any(|n| *n > 15);
        (shown.contains("38;2;"), rich, !indexed.is_empty())
    };
    assert_eq!(run(&[("COLORTERM", "truecolor")], &[]), (true, true, true));
    assert_eq!(run(&[], &[]), (false, true, true));
    assert_eq!(run(&[("TERM", "linux")], &[]), (false, false, true));
    assert_eq!(run(&[("TERM", "dumb")], &[]), (false, false, false));
    assert_eq!(
        run(&[("COLORTERM", "truecolor")], &["--colors", "16"]),
        (false, false, true)
    );
    assert_eq!(
        run(&[("NO_COLOR", "1"), ("COLORTERM", "24bit")], &[]),
        (false, false, false)
    );
}
