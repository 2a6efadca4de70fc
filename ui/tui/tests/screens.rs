//! Every view at every size in every look, as reviewed text: a row of the table is a scene.
//!
//! A file holds a scene at a size: the text (dark and light show the same one), the lines that are
//! different without colour, the text in ASCII, and what style each cell has in each look. After a change
//! run the test with `INSTA_UPDATE=always` and read the difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::tui::owned::Use;
use crate::tui::probe::{Dumpable, Probe};
use crate::tui::voice::{self, Voice};
use icecore::dump::{Mode, Past};
use ratatui::buffer::{Buffer, Cell};
use unicode_width::UnicodeWidthStr as _;

use super::*;
use crate::format;

const LIGHT: Theme = Theme {
    palette: theme::LIGHT,
    ..RICH
};
const LETTERS: Theme = Theme {
    ascii: true,
    ..RICH
};

/// A name and what it makes of the model.
type Scene = (&'static str, fn(&mut Model));

/// What is on the screen, beside 1,000 processes, 12 layers with two branches, and a live count.
const SCENES: &[Scene] = &[
    ("processes", |_| {}),
    ("stacks", |model| model.focus = Focus::Stacks),
    ("map", |model| {
        model.focus = Focus::Map;
        model.pixel = 77;
    }),
    ("processes-enlarged", |model| {
        key(model, KeyCode::Char('z'));
    }),
    ("stacks-enlarged", |model| {
        model.focus = Focus::Stacks;
        key(model, KeyCode::Char('z'));
    }),
    ("map-enlarged", |model| {
        model.focus = Focus::Map;
        key(model, KeyCode::Char('z'));
        model.pixel = 77;
    }),
    ("filter", |model| {
        key(model, KeyCode::Char('/'));
        for c in "redis".chars() {
            key(model, KeyCode::Char(c));
        }
    }),
    ("sorted", |model| drop(key(model, KeyCode::Char('o')))),
    ("nothing", nothing),
    ("stacks-error", |model| {
        let failure = failure("Cannot read /img: permission denied", "run it as root");
        update(model, Msg::Stacks(Err(failure)));
        model.focus = Focus::Stacks;
    }),
    ("map-error", |model| {
        let text = "pagemap-2207.img of layer 3 is truncated: 4100 of 8192 bytes are there";
        let failure = failure(
            text,
            "use another layer of the stack; icecore stacks lists them",
        );
        let dir = model.mapped.clone().unwrap();
        update(model, Msg::Map(dir, Err(failure)));
        model.focus = Focus::Map;
    }),
    ("watch-error", |model| {
        model.watched = Some(Pid::from_raw(2207));
        let failure = failure(
            "Cannot track process 2207: userfaultfd needs CAP_SYS_PTRACE",
            "sudo icecore, or setcap cap_sys_ptrace+ep icecore",
        );
        update(model, Msg::Counted(Pid::from_raw(2207), Err(failure)));
    }),
    ("dump-preview", dialogs::dump_preview),
    ("restore-obstacles", dialogs::restore_obstacles),
    ("restore-options", dialogs::restore_options),
    ("refused", dialogs::refused),
    ("search-asked", |model| {
        key(model, KeyCode::Char('s'));
        for c in "caf\u{e9} \u{6f22}".chars() {
            key(model, KeyCode::Char(c));
        }
    }),
    ("layer-read", |model| {
        key(model, KeyCode::Char('i'));
        let look = model.looking.clone().unwrap();
        update(model, Msg::Looked(look, Ok(Box::new(layer_read()))));
    }),
    ("palette", |model| {
        for letter in ":lay".chars() {
            drop(key(model, KeyCode::Char(letter)));
        }
        drop(key(model, KeyCode::Down));
    }),
    ("help", |model| drop(key(model, KeyCode::Char('?')))),
    ("job", |model| {
        model.note(
            Mark::Good,
            "Layer 12: 9.8k pages stored, 302k in parent, frozen 21 ms",
        );
        model.note(
            Mark::Warn,
            "the clock of layer 11 is ahead of this machine's",
        );
        start(model, "/img/r/12", 10, (3, 7));
    }),
    ("watch", |model| {
        key(model, KeyCode::Char('W'));
        order(model, 'A', "every 10 min, when dirty > 200 MiB");
        order(model, 'B', "50");
        let follow = model.follows.get_mut(&2207).unwrap();
        follow.said = "r/12: 14008 pages, 54.7 MiB, frozen 29.4 ms (31.2 expected)".into();
    }),
    ("watch-untracked", |model| {
        model.process_cursor.at = 0;
        key(model, KeyCode::Char('W'));
    }),
    ("rule-asked", |model| {
        key(model, KeyCode::Char('W'));
        key(model, KeyCode::Char('A'));
        for c in "every 10 lightyears".chars() {
            key(model, KeyCode::Char(c));
        }
    }),
    ("jobs", |model| {
        model.clock = Duration::from_secs(3);
        let (failed, _) = model.board.start(&flatten("/img/w/4"), model.clock);
        model.clock += Duration::from_secs(9);
        let text = "No space left on the device: 38 MiB are missing in /img/w";
        let failure = failure(text, "free some space, or choose another directory");
        update(model, Msg::Done(failed, Err(failure)));
        model.popup = None;
        model.clock += Duration::from_secs(100);
        start(model, "/img/r/12", 12, (700 << 10, 2 << 20));
        model.clock += Duration::from_secs(1);
        start(model, "/img/pg/3", 3, (1 << 10, 5 << 10));
        model.board.start(&flatten("/img/r/6"), model.clock);
        let text = "r/11: 9120 pages (9308 expected), 35.6 MiB, frozen 27.0 ms (29.0 expected)";
        model.note(Mark::Good, text);
        model.toast(Mark::Good, "dump postgres 1031: done");
        key(model, KeyCode::Char('J'));
    }),
    ("compare", inquiry::compared),
    ("found", inquiry::found),
    ("bytes", inquiry::bytes),
    ("dedup", |model| {
        model.focus = Focus::Stacks;
        dedup::known(model);
        for _ in 0..3 {
            key(model, KeyCode::Down);
        }
        key(model, KeyCode::Char(' '));
    }),
    ("jobs-empty", |model| drop(key(model, KeyCode::Char('J')))),
    ("filter-none", |model| {
        for c in "/xyzzy".chars() {
            key(model, KeyCode::Char(c));
        }
    }),
    ("tour", |model| {
        model.guide = Some(Guide {
            steps: vec![Step {
                text: "Press d: the plan of a dump. Enter makes the first layer.".into(),
                done: |_| false,
            }],
            at: 0,
        });
    }),
];

/// Types an order.
fn order(model: &mut Model, c: char, text: &str) {
    key(model, KeyCode::Char(c));
    for c in text.chars() {
        key(model, KeyCode::Char(c));
    }
    key(model, KeyCode::Enter);
}

fn flatten(dir: &str) -> Wish {
    Wish::Edit(Edit::Flatten(dir.into()))
}

/// A job that runs for `seconds`.
fn start(model: &mut Model, dir: &str, seconds: u64, (done, total): (u64, u64)) {
    let (id, _) = model.board.start(&flatten(dir), model.clock);
    update(model, Msg::Job(id, Event::Phase("compare")));
    model.clock += Duration::from_secs(seconds);
    update(model, Msg::Job(id, Event::Progress { done, total }));
}

const SIZES: [(u16, u16); 3] = [(80, 24), (120, 35), (200, 60)];

pub(super) fn failure(text: &str, hint: &str) -> Failure {
    Failure {
        text: text.into(),
        obstacles: Vec::new(),
        target: None,
        hint: Some(hint.into()),
        cancelled: false,
        held: false,
    }
}

fn nothing(model: &mut Model) {
    let voice = model.voice.take();
    *model = Model::new("/img".into(), model.theme, model.size);
    model.voice = voice;
    let survey = Survey {
        trees: Vec::new(),
        tracked: BTreeMap::new(),
        now: now(),
        status: None,
    };
    update(model, Msg::Processes(survey));
    update(model, Msg::Stacks(Ok(Vec::new())));
}

fn layer_read() -> Reader {
    let tab = |name: &str, head: &str, lines: &[&str]| Tab {
        name: name.into(),
        head: head.into(),
        lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        cells: Vec::new(),
        marked: 0..0,
        read: true,
    };
    let mut read = reader(1, 0);
    read.title = "Layer 12 of redis-server 2207".into();
    read.layer = Some("/img/r/12".into());
    read.tabs = vec![
        tab(
            "figures",
            "",
            &[
                " id        c12",
                " parent    8",
                " pages     9837 stored, 302104 in parent",
                " frozen    21 ms",
            ],
        ),
        tab(
            "processes",
            "    PID    PPID    PGID     SID  THREADS  NAME",
            &["   2207       1    2207    2207        5  redis-server"],
        ),
    ];
    for name in [
        "mappings",
        "files",
        "threads",
        "descriptors",
        "environment",
        "images",
        "statistics",
        "digests",
    ] {
        read.tabs.push(tab(name, "", &[]));
    }
    read
}

/// 1,000 processes: services with their workers.
fn crowd() -> Vec<Tree> {
    let names = ["nginx", "postgres", "php-fpm", "sshd", "python3", "java"];
    let mut trees = vec![
        tree(812, "/usr/sbin/cron -f", vec![]),
        tree(2207, "redis-server *:6379", vec![tree(2208, "bio", vec![])]),
        tree(2310, "/opt/\u{6f22}\u{5b57}/evil\x1b[2J", vec![]),
    ];
    for (service, pid) in (3000..).step_by(100).enumerate().take(36) {
        let name = names[service % names.len()];
        let workers = (1..=26)
            .map(|n| tree(pid + n, &format!("{name}: worker {n}"), vec![]))
            .collect();
        trees.push(tree(
            pid,
            &format!("/usr/sbin/{name} --config /etc/{name}.conf"),
            workers,
        ));
    }
    let more = (9000..9024).map(|pid| tree(pid, "/bin/bash -l", vec![]));
    trees.extend(more);
    trees
}

/// 12 layers; 9 and 10 branch off 6, 11 off 3.
fn redis() -> Vec<StackRow> {
    let row = |n: u64, graph: &str, parent: u64, state| {
        let StackRow::Layer(mut row) = layer(&n.to_string(), graph, state) else {
            panic!()
        };
        row.parent = (parent > 0).then(|| format!("/img/r/{parent}").into());
        row.created = Some(now() - Duration::from_secs((13 - n) * 600));
        row.stored = if n == 1 { 311_204 } else { 40 + n * n * 97 };
        row.bytes = row.stored << 12;
        let micros = |pages: u64| Duration::from_micros(2300 + pages * 2 + n * n % 7 * 180);
        row.figures = Figures {
            past: Some(Past {
                mode: if n == 1 { Mode::Full } else { Mode::Tracked },
                stored: row.stored,
                in_parent: row.in_parent,
                freeze: micros(row.stored),
            }),
            pages: (n > 1).then_some(row.stored + n * 13),
            freeze: (n > 2).then(|| micros(row.stored + n * 70)),
        };
        row.label = match n {
            3 => Some("before the import".into()),
            10 => Some("\u{8a66}\u{9a13}".into()),
            _ => None,
        };
        StackRow::Layer(row)
    };
    use State::{Complete, Consumed};
    vec![
        StackRow::Head("r  redis-server 2207".into()),
        row(12, "●", 8, Complete),
        row(8, "●", 7, Complete),
        row(7, "●", 6, Complete),
        row(10, "│ ●", 9, Complete),
        row(9, "│ ●", 6, Complete),
        StackRow::Fork("├─╯".into()),
        row(6, "●", 5, Complete),
        row(5, "●", 4, Consumed),
        row(4, "●", 3, Consumed),
        row(11, "│ ●", 3, Complete),
        StackRow::Fork("├─╯".into()),
        row(3, "●", 2, Complete),
        row(2, "●", 1, Complete),
        row(1, "●", 0, Complete),
    ]
}

fn redis_map() -> Map {
    let chain = ["12", "8", "7", "6", "5", "4", "3", "2", "1"];
    let mut map = Map {
        levels: chain.map(Into::into).into(),
        dirs: chain.map(|n| PathBuf::from("/img/r").join(n)).into(),
        spaces: vec!["process 2207".into()],
        ids: vec![PagemapId::Task(2207)],
        ..Map::default()
    };
    for n in 0..160u64 {
        let owner = [8, 0, 8, 3, 8, 1, 5, 8, 2, 8, 7, 4, 8, 6][usize::try_from(n % 14).unwrap()];
        let pages = 30 + n * 7919 % 613;
        map.push(0x55d2_c000_0000 + (n << 24), pages, Owner::Layer(owner));
    }
    map.push(0x7ffd_2000_0000, 12, Owner::Missing);
    map
}

fn scene(theme: Theme, size: (u16, u16), set: impl Fn(&mut Model)) -> Buffer {
    let model = staged(Model::new("/img".into(), theme, size), set);
    screen(&model).backend().buffer().clone()
}

fn staged(mut model: Model, set: impl Fn(&mut Model)) -> Model {
    model.select = Some(Pid::from_raw(2207));
    let survey = Survey {
        trees: crowd(),
        tracked: [(2207, Some("c12".to_owned())), (2208, None)].into(),
        now: now(),
        status: None,
    };
    update(&mut model, Msg::Processes(survey));
    update(&mut model, Msg::Stacks(Ok(redis())));
    let used = |layer: &LayerRow| {
        let superseded = layer.bytes / 16 * (12 - layer.name.parse::<u64>().unwrap());
        let owned = layer.bytes - superseded;
        (layer.dir.clone(), Some(Use { owned, superseded }))
    };
    // The oldest is still being counted.
    let uses = model.layers().filter(|layer| layer.name != "1").map(used);
    let uses = uses.collect();
    update(&mut model, Msg::Owned(uses));
    let dir = model.mapped.clone().unwrap();
    update(&mut model, Msg::Map(dir, Ok(Arc::new(redis_map()))));
    for at in 0..40 {
        let dirty = at * at * 7 + (at % 5) * 400;
        let Msg::Counted(pid, Ok(mut count)) = count(at, dirty) else {
            panic!()
        };
        // The layer in the middle is made while one looks.
        count.since = Some(if at < 18 { "c8" } else { "c12" }.into());
        count.shared = 200;
        for n in 1..9u64 {
            let name = format!("2207 libjemalloc.so.{n}");
            count.top.push(part(&name, 900 / n, 4000 / n));
        }
        let unknown = Part {
            tracked: false,
            ..part("2208 7f0c5a400000", 512, 512)
        };
        count.not_tracked = unknown.dirty;
        count.top.insert(1, unknown);
        update(&mut model, Msg::Counted(pid, Ok(count)));
    }
    let probe = |descriptors, dump| Probe {
        descriptors: Some(descriptors),
        dump: Some(dump),
    };
    let rule = "--file-locks keeps its locks";
    let ring = "Process 812 has an io_uring (descriptor 9)";
    let probes = [
        (812, probe(9, Dumpable::No(ring.into()))),
        (2207, probe(24, Dumpable::Yes)),
        (2310, probe(1204, Dumpable::Option(rule.into()))),
    ];
    update(&mut model, Msg::Probed(probes.into()));
    set(&mut model);
    model.settle();
    model
}

fn rows_of(buffer: &Buffer) -> impl Iterator<Item = &[Cell]> {
    buffer.content.chunks(usize::from(buffer.area.width).max(1))
}

fn read(buffer: &Buffer) -> Vec<String> {
    let row = |cells: &[Cell]| {
        let mut text = String::new();
        let mut at = 0;
        while let Some(cell) = cells.get(at) {
            text.push_str(cell.symbol());
            at += cell.symbol().width().max(1);
        }
        text.trim_end().to_owned()
    };
    rows_of(buffer).map(row).collect()
}

fn style(cell: &Cell) -> String {
    let mut words = Vec::new();
    for (name, color) in [("fg", cell.fg), ("bg", cell.bg)] {
        if color != Color::Reset {
            words.push(format!("{name} {color}"));
        }
    }
    words.extend(
        cell.modifier
            .iter_names()
            .map(|(name, _)| name.to_lowercase()),
    );
    if words.is_empty() {
        "plain".into()
    } else {
        words.join(" ")
    }
}

/// A scene at a size as a file.
fn picture(size: (u16, u16), set: impl Fn(&mut Model)) -> String {
    let [dark, light, plain, letters] =
        [RICH, LIGHT, PLAIN, LETTERS].map(|theme| scene(theme, size, &set));
    let (text, without, ascii) = (read(&dark), read(&plain), read(&letters));
    assert_eq!(text, read(&light), "a theme changes colours only");
    let colourless = |cell: &Cell| cell.fg == Color::Reset && cell.bg == Color::Reset;
    assert!(plain.content.iter().all(colourless));
    assert!(ascii.iter().all(|line| line.is_ascii()));

    let mut out = format!("dark, light\n{}\n", text.join("\n"));
    out.push_str("\nNO_COLOR, where it differs\n");
    for (n, (line, _)) in without
        .iter()
        .zip(&text)
        .enumerate()
        .filter(|(_, (a, b))| a != b)
    {
        let _infallible = writeln!(out, "{:>2} {line}", n + 1);
    }
    let _infallible = writeln!(out, "\nASCII\n{}", ascii.join("\n"));
    // Letters for the styles in the order in which they appear.
    let mut legend: Vec<[String; 3]> = Vec::new();
    out.push_str("\nstyles: columns of each, row by row\n");
    for ((dark, light), plain) in rows_of(&dark).zip(rows_of(&light)).zip(rows_of(&plain)) {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for ((dark, light), plain) in dark.iter().zip(light).zip(plain) {
            let looks = [dark, light, plain].map(style);
            let at = legend.iter().position(|known| *known == looks);
            let at = at.unwrap_or_else(|| {
                legend.push(looks);
                legend.len() - 1
            });
            match runs.last_mut() {
                Some((last, columns)) if *last == at => *columns += 1,
                _ => runs.push((at, 1)),
            }
        }
        let runs: Vec<String> = runs
            .iter()
            .map(|(at, n)| format!("{at}\u{d7}{n}"))
            .collect();
        let _infallible = writeln!(out, "{}", runs.join(" "));
    }
    for (n, [dark, light, plain]) in legend.iter().enumerate() {
        let _infallible = writeln!(out, "{n}: dark {dark}; light {light}; NO_COLOR {plain}");
    }
    out
}

#[test]
fn for_screen_readers_every_view_is_plain_lines_and_one_line_says_what_is_new() {
    let mut all = String::new();
    for (name, set) in SCENES {
        let mut model = Model::new("/img".into(), RICH, (100, 24));
        model.voice = Some(Voice::default());
        let mut model = staged(model, *set);
        voice::listen(&mut model);
        let terminal = screen(&model);
        let buffer = terminal.backend().buffer();
        assert!(
            buffer.content.iter().all(|cell| style(cell) == "plain"),
            "{name}"
        );
        let shown = read(buffer).join("\n");
        let drawn = |c: char| ('\u{2500}'..='\u{25ff}').contains(&c);
        assert!(!shown.contains(drawn), "{shown}");
        let _infallible = writeln!(all, "== {name}\n{shown}");
    }
    insta::with_settings!({ snapshot_path => "../snapshots/screens", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("in-words", all);
    });
}

#[test]
fn every_view_is_as_reviewed_at_every_size_in_every_look() {
    assert_eq!(crowd().iter().map(Tree::len).sum::<usize>(), 1000);
    insta::with_settings!({ snapshot_path => "../snapshots/screens", prepend_module_to_snapshot => false, omit_expression => true }, {
        for (name, set) in SCENES {
            for size in SIZES {
                insta::assert_snapshot!(format!("{name}-{}x{}", size.0, size.1), picture(size, set));
            }
        }
        // A view that nobody made a scene for is seen as it opens.
        for view in view::VIEWS {
            let name = format!("{:?}", view.focus).to_lowercase();
            if SCENES.iter().any(|(scene, _)| *scene == name) {
                continue;
            }
            for size in SIZES {
                let open = |model: &mut Model| model.focus = view.focus;
                insta::assert_snapshot!(format!("{name}-{}x{}", size.0, size.1), picture(size, open));
            }
        }
    });
}

#[test]
fn wide_and_combining_letters_in_names_move_no_column() {
    for size in [(80, 24), (120, 35), (200, 60)] {
        let mut model = Model::new("/img".into(), RICH, size);
        model.focus = Focus::Stacks;
        let mut model = staged(model, |_| {});
        let names = [
            "\u{6f22}\u{5b57}",
            "e\u{301}te\u{301}",
            "\u{1f469}\u{200d}\u{1f680}",
            "a\u{20dd}",
            "\u{ff76}\u{ff85}",
        ];
        let mut rows = redis();
        for (row, name) in rows
            .iter_mut()
            .filter_map(|row| match row {
                StackRow::Layer(row) => Some(row),
                _ => None,
            })
            .zip(names)
        {
            row.name = format::plain(name);
        }
        update(&mut model, Msg::Stacks(Ok(rows)));
        let terminal = screen(&model);
        let buffer = terminal.backend().buffer();
        let cells: Vec<&[Cell]> = rows_of(buffer).collect();
        let of = |row: &[Cell]| row.iter().map(Cell::symbol).collect::<Vec<_>>().concat();
        let head = cells
            .iter()
            .position(|row| of(row).contains(" STORED PARENT"))
            .unwrap();
        // The head is ASCII but for frames: a letter a cell.
        let letters: Vec<char> = cells[head]
            .iter()
            .map(|cell| cell.symbol().chars().next().unwrap_or(' '))
            .collect();
        let text: String = letters.iter().collect();
        let end = text[..text.find(" STORED PARENT").unwrap()].chars().count() + " STORED".len();
        for (n, name) in names.iter().enumerate() {
            // Below the name of the stack.
            let row = cells[head + 2 + n];
            let digit = |cell: &Cell| {
                cell.symbol()
                    .chars()
                    .all(|c| c.is_ascii_digit() || c == 'k')
            };
            assert!(
                digit(&row[end - 1]) && row[end].symbol() == " ",
                "{name}: {}",
                of(row)
            );
            assert!(
                row[usize::from(size.0) - 1].symbol() == "\u{2502}",
                "{name}: {}",
                of(row)
            );
        }
    }
}

#[test]
fn every_scene_fits_the_smallest_screens_and_tells_a_way_out() {
    for (name, set) in SCENES {
        for look in [RICH, PLAIN, LETTERS] {
            for size in [(40, 10), (41, 11), (69, 15), (39, 10), (20, 5), (1, 1)] {
                let shown = read(&scene(look, size, set)).join("\n");
                let told = if size.0 < 40 {
                    shown.starts_with(&"40x10 needed"[..usize::from(size.0).min(12)])
                } else {
                    ["Esc", "Enter close", "? help"]
                        .iter()
                        .any(|way| shown.contains(way))
                };
                assert!(told, "{name} at {size:?}:\n{shown}");
            }
        }
    }
}
