//! The screen on a made-up model: what keys do, what it looks like, and that nothing makes it panic.

mod budget;
mod clicks;
mod dedup;
mod dialogs;
mod exports;
mod flows;
mod history;
mod inquiry;
mod leaving;
mod marks;
mod news;
mod returns;
mod room;
mod screens;
mod tour;
mod voices;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use icecore::chain::State;
use icecore::image::PagemapId;
use icecore::task::Tree;
use icecore::{Event, Pid};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::coloring::Coloring;
use super::guide::{Guide, Step};
use super::map::{Map, Owner};
use super::message::{
    Count, Displaced, Edit, Effect, Failure, Made, Manner, Msg, Part, Report, Survey, Wish,
};
use super::model::{Focus, Model};
use super::popup::{Mark, Popup, Preview};
use super::reader::{Look, Reader, Tab};
use super::stacks::{Figures, LayerRow, StackRow};
use super::theme::{self, Colors, Theme};
use super::update::update;
use super::view;

const RICH: Theme = Theme {
    colors: Colors::Indexed,
    ascii: false,
    palette: theme::DARK,
};
const PLAIN: Theme = Theme {
    colors: Colors::None,
    ascii: false,
    palette: theme::DARK,
};
const ASCII: Theme = Theme {
    colors: Colors::None,
    ascii: true,
    palette: theme::DARK,
};

/// The number of the first job.
const JOB: u64 = 1;

fn tree(pid: i32, cmdline: &str, children: Vec<Tree>) -> Tree {
    let name = cmdline.split(' ').next().unwrap();
    Tree {
        pid: Pid::from_raw(pid),
        ppid: Pid::from_raw(1),
        comm: name.rsplit('/').next().unwrap().into(),
        cmdline: cmdline.into(),
        rss: u64::from(pid.unsigned_abs()) << 14,
        threads: 2,
        uid: 0,
        state: 'S',
        start_time: 77,
        children,
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn survey() -> Msg {
    let workers = vec![
        tree(1040, "postgres: checkpointer", vec![]),
        tree(1041, "postgres: walwriter", vec![]),
    ];
    let trees = vec![
        tree(812, "/usr/sbin/cron -f", vec![]),
        tree(1031, "/usr/lib/postgresql/postgres -D /var/lib/pg", workers),
        tree(2207, "redis-server *:6379", vec![tree(2208, "bio", vec![])]),
        tree(3310, "evil\x1b[2J\u{9b}31m\u{202e} name 漢字漢字", vec![]),
    ];
    Msg::Processes(Survey {
        trees,
        tracked: [(2207, Some("c3".to_owned())), (2208, None)].into(),
        now: now(),
        status: None,
    })
}

fn layer(name: &str, graph: &str, state: State) -> StackRow {
    StackRow::Layer(Box::new(LayerRow {
        dir: PathBuf::from("/img/r").join(name),
        graph: graph.into(),
        name: name.into(),
        label: None,
        pinned: name == "1",
        id: Some(format!("c{name}")),
        root: Some(2207),
        comm: Some("redis-server".into()),
        parent: match name {
            "1" => None,
            "2" => Some("/img/r/1".into()),
            _ => Some("/img/r/2".into()),
        },
        incremental: name != "1",
        squashed: false,
        freeze: Some(21_400_000),
        stored: 9120,
        in_parent: if name == "1" { 0 } else { 302_104 },
        bytes: 38 << 20,
        tasks: 2,
        state,
        figures: Figures::default(),
        reason: (state != State::Complete).then(|| "pages were freed by dedup of layer 3".into()),
        created: name
            .parse()
            .ok()
            .map(|n: u64| now() - Duration::from_secs(4000 / n)),
    }))
}

fn stacks() -> Msg {
    Msg::Stacks(Ok(vec![
        StackRow::Head("r  redis-server 2207".into()),
        layer("3", "●", State::Complete),
        layer("4", "│ ●", State::Complete),
        StackRow::Fork("├─╯".into()),
        layer("2", "●", State::Consumed),
        layer("1", "●", State::Complete),
    ]))
}

fn map(dir: &str) -> Msg {
    let dir = PathBuf::from("/img/r").join(dir);
    let mut map = Map {
        levels: vec!["3".into(), "2".into(), "1".into()],
        dirs: ["3", "2", "1"]
            .map(|n| PathBuf::from("/img/r").join(n))
            .into(),
        spaces: vec!["process 2207".into()],
        ids: vec![PagemapId::Task(2207)],
        ..Map::default()
    };
    for (n, (pages, owner)) in
        (0u64..).zip([(3000, 2), (400, 0), (900, 1), (2500, 2), (500, 0), (60, 2)])
    {
        map.push(0x55d2_c000_0000 + (n << 28), pages, Owner::Layer(owner));
    }
    map.push(0x7ffd_2000_0000, 12, Owner::Missing);
    Msg::Map(dir, Ok(Arc::new(map)))
}

fn part(name: &str, dirty: u64, resident: u64) -> Part {
    Part {
        name: name.into(),
        dirty,
        resident,
        tracked: true,
    }
}

fn count(at: u64, dirty: u64) -> Msg {
    Msg::Counted(
        Pid::from_raw(2207),
        Ok(Count {
            at: Duration::from_secs(at),
            dirty,
            resident: 311_000,
            tracker: "uffd-wp",
            since: Some("c3".into()),
            top: vec![
                part("2207 [heap]", 9000, 250_000),
                part("2207 [stack]", 3, 30),
            ],
            ..Count::default()
        }),
    )
}

fn model(theme: Theme, size: (u16, u16)) -> Model {
    let mut model = Model::new("/img".into(), theme, size);
    for msg in [survey(), stacks(), map("3")] {
        update(&mut model, msg);
    }
    for (at, dirty) in [
        (0, 100),
        (1, 900),
        (2, 2100),
        (3, 2500),
        (4, 6000),
        (5, 9837),
    ] {
        update(&mut model, count(at, dirty));
    }
    model.select = Some(Pid::from_raw(2207));
    update(&mut model, survey());
    model
}

fn key(model: &mut Model, code: KeyCode) -> Vec<Effect> {
    update(model, Msg::Key(KeyEvent::new(code, KeyModifiers::NONE)))
}

fn screen(model: &Model) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(model.size.0, model.size.1)).unwrap();
    terminal.draw(|frame| view::draw(model, frame)).unwrap();
    terminal
}

fn text(model: &Model) -> String {
    let terminal = screen(model);
    let buffer = terminal.backend().buffer();
    let width = usize::from(buffer.area.width);
    buffer
        .content
        .chunks(width.max(1))
        .map(|row| {
            let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            row.trim_end().to_owned() + "\n"
        })
        .collect()
}

fn reader(tabs: usize, lines: usize) -> Reader {
    let tab = |n: usize| Tab {
        name: format!("tab {n}"),
        head: " head".into(),
        lines: (0..lines)
            .map(|line| format!(" line {line} of {n}"))
            .collect(),
        cells: Vec::new(),
        marked: 0..0,
        read: true,
    };
    Reader {
        title: "Layer 3".into(),
        tabs: (0..tabs).map(tab).collect(),
        at: 0,
        scroll: 0,
        beside: [None, None],
        through: [
            Some(Look::Layer {
                dir: "/img/r/2".into(),
                tab: 0,
            }),
            None,
        ],
        layer: None,
    }
}

#[test]
fn the_screen_at_120x35_in_colour() {
    insta::assert_snapshot!(text(&model(RICH, (120, 35))));
}

#[test]
fn the_screen_at_80x24_without_colour() {
    insta::assert_snapshot!(text(&model(PLAIN, (80, 24))));
}

#[test]
fn the_screen_at_80x24_in_ascii() {
    let text = text(&model(ASCII, (80, 24)));
    assert!(text.is_ascii());
    insta::assert_snapshot!(text);
}

#[test]
fn a_preview_lies_over_the_screen() {
    let mut model = model(RICH, (80, 24));
    let mut preview = Preview::new("Restore 2 — nothing has been started yet");
    preview.line(
        Mark::Warn,
        "process 2207 runs: it and everything below it (2 tasks) is KILLED first",
    );
    preview.line(Mark::Bad, "Task id 2208 is taken by a running process");
    preview.line(
        Mark::Hint,
        "end it first (kill 2208), or restore with --new-pid-namespace",
    );
    let wish = Wish::Restore {
        dir: "/img/r/2".into(),
        displaced: Some(Displaced {
            root: Pid::from_raw(2207),
            start_time: 77,
            keep: false,
        }),
        manner: Manner::default(),
    };
    let apart = Wish::Restore {
        dir: "/img/r/2".into(),
        displaced: None,
        manner: Manner {
            apart: true,
            ..Manner::default()
        },
    };
    let label = "in a new pid namespace: its ids there, whoever has them here";
    preview.option(label, false, apart.clone());
    preview.offer("Kill and restore", wish, false);
    update(&mut model, Msg::Planned(JOB, Ok(preview)));
    insta::assert_snapshot!(text(&model));
    // Another plan is made, and this one stays until that is there.
    assert!(key(&mut model, KeyCode::Char('2')).is_empty());
    let effects = key(&mut model, KeyCode::Char('1'));
    assert!(
        matches!(effects.as_slice(), [Effect::Plan(_, wish)] if *wish == apart),
        "{effects:?}"
    );
    assert!(model.popup.is_some());
}

#[test]
fn without_colour_nothing_sets_a_colour_and_plain_text_never_does() {
    let colours = |model: &Model| -> usize {
        let terminal = screen(model);
        let cells = &terminal.backend().buffer().content;
        cells
            .iter()
            .filter(|cell| cell.bg != Color::Reset || cell.fg != Color::Reset)
            .count()
    };
    assert_eq!(colours(&model(PLAIN, (120, 35))), 0);
    assert!(colours(&model(RICH, (120, 35))) > 100);
}

#[test]
fn the_map_without_colour_has_a_letter_for_each_layer() {
    let text = text(&model(PLAIN, (120, 35)));
    for letter in ["aaa", "bbb", "ccc", "!"] {
        assert!(text.contains(letter), "{letter} in {text}");
    }
}

#[test]
fn the_selected_row_is_reversed_and_marked() {
    let model = model(PLAIN, (80, 24));
    let terminal = screen(&model);
    let reversed: String = terminal
        .backend()
        .buffer()
        .content
        .iter()
        .filter(|cell| cell.modifier.contains(Modifier::REVERSED))
        .map(ratatui::buffer::Cell::symbol)
        .collect();
    assert!(reversed.contains("> 2207"), "{reversed}");
}

#[test]
fn names_of_processes_cannot_send_escape_codes() {
    let text = text(&model(RICH, (120, 35)));
    assert!(text.contains("evil?[2J?31m?"));
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}

#[test]
fn a_dump_is_planned_first_and_done_on_enter() {
    let mut model = model(RICH, (120, 35));
    let effects = key(&mut model, KeyCode::Char('d'));
    let [Effect::Plan(_, wish)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    let Wish::Dump { root, kill, .. } = wish else {
        panic!("{wish:?}")
    };
    assert_eq!((root.as_raw(), *kill), (2207, false));
    assert!(!model.board.jobs.is_empty(), "planning shows");
    let mut preview = Preview::new("Dump");
    preview.offer("Dump", wish.clone(), true);
    update(&mut model, Msg::Planned(JOB, Ok(preview)));
    assert_eq!(
        key(&mut model, KeyCode::Enter),
        [Effect::Apply(2, wish.clone())]
    );
    update(&mut model, Msg::Job(2, Event::Phase("pages")));
    let report = Report {
        text: "made".into(),
        warnings: vec![],
        result: Made::Layer("/img/r/4".into()),
    };
    assert_eq!(update(&mut model, Msg::Done(2, Ok(report))), [Effect::Scan]);
    assert_eq!(
        update(&mut model, stacks()),
        [Effect::LoadMap("/img/r/4".into(), Coloring::Owner)]
    );
}

#[test]
fn a_layer_is_read_and_leafed_through_on_the_same_tab() {
    let mut model = model(RICH, (80, 24));
    let wanted = Look::Layer {
        dir: "/img/r/3".into(),
        tab: 0,
    };
    let effects = key(&mut model, KeyCode::Char('i'));
    assert_eq!(effects, [Effect::Look(wanted.clone())]);
    update(&mut model, Msg::Looked(wanted, Ok(Box::new(reader(3, 50)))));
    key(&mut model, KeyCode::Tab);
    key(&mut model, KeyCode::PageDown);
    insta::assert_snapshot!(text(&model));
    let below = Look::Layer {
        dir: "/img/r/2".into(),
        tab: 1,
    };
    let effects = key(&mut model, KeyCode::Char('['));
    assert_eq!(effects, [Effect::Look(below.clone())]);
    update(&mut model, Msg::Looked(below, Ok(Box::new(reader(3, 50)))));
    let Some(Popup::Reader(reader)) = &model.popup else {
        panic!("{:?}", model.popup)
    };
    assert_eq!((reader.at, reader.scroll), (1, 19));
    key(&mut model, KeyCode::Esc);
    assert!(model.popup.is_none());
}

#[test]
fn the_cursor_stays_on_its_process_when_others_come_and_go() {
    let mut model = model(RICH, (80, 24));
    let before = model.process().unwrap().pid;
    let Msg::Processes(mut survey) = survey() else {
        unreachable!()
    };
    survey.trees.insert(0, tree(5, "new", vec![]));
    update(&mut model, Msg::Processes(survey));
    assert_eq!(model.process().unwrap().pid, before);
}

#[test]
fn a_filter_keeps_matching_processes_and_their_ancestors() {
    let mut model = model(RICH, (80, 24));
    for c in "/walw".chars() {
        key(&mut model, KeyCode::Char(c));
    }
    let pids: Vec<i32> = model.processes.iter().map(|row| row.pid.as_raw()).collect();
    assert_eq!(pids, [1031, 1041]);
    assert_eq!(model.process().unwrap().pid.as_raw(), 1041);
    key(&mut model, KeyCode::Esc);
    assert_eq!(model.processes.len(), 7);
}

#[test]
fn a_tour_goes_on_when_its_step_is_done() {
    let mut model = model(RICH, (80, 24));
    let step = |text: &str, done| Step {
        text: text.into(),
        done,
    };
    model.guide = Some(Guide {
        steps: vec![
            step("make a layer", |facts| facts.dumps > 0),
            step("look at the map", |facts| facts.map_visited),
        ],
        at: 0,
    });
    assert!(text(&model).contains("1 of 2: make a layer"));
    let report = Report {
        text: String::new(),
        warnings: vec![],
        result: Made::Layer("/img/r/3".into()),
    };
    update(&mut model, Msg::Done(JOB, Ok(report)));
    assert!(text(&model).contains("2 of 2: look at the map"));
    key(&mut model, KeyCode::Tab);
    key(&mut model, KeyCode::Tab);
    assert!(text(&model).contains("That was all"));
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    let model = model(RICH, (30, 5));
    assert!(text(&model).contains("40x10 needed"));
}

fn any_msg() -> impl Strategy<Value = (u8, u16, u16)> {
    (0u8..60, 0u16..150, 0u16..60)
}

fn made(model: &Model, (kind, a, b): (u8, u16, u16)) -> Msg {
    let codes = [
        KeyCode::Char('d'),
        KeyCode::Char('r'),
        KeyCode::Char('D'),
        KeyCode::Char('w'),
        KeyCode::Char('/'),
        KeyCode::Char('?'),
        KeyCode::Char('x'),
        KeyCode::Char('R'),
        KeyCode::Char('漢'),
        KeyCode::Tab,
        KeyCode::BackTab,
        KeyCode::Enter,
        KeyCode::Esc,
        KeyCode::Backspace,
        KeyCode::Up,
        KeyCode::Down,
        KeyCode::Left,
        KeyCode::Right,
        KeyCode::PageUp,
        KeyCode::PageDown,
        KeyCode::Home,
        KeyCode::End,
        KeyCode::Char('q'),
    ];
    let failure = || Failure {
        text: "no ".repeat(usize::from(a)),
        obstacles: vec![("a pipe".into(), "close it".into())],
        target: Some("running".into()),
        hint: None,
        cancelled: a % 2 == 1,
        held: false,
    };
    match kind {
        0..6 => Msg::Resize(a, b),
        6 => stacks(),
        7 => Msg::Stacks(Ok(vec![])),
        8 => Msg::Stacks(Err(failure())),
        9 => survey(),
        10 => Msg::Processes(Survey {
            trees: vec![],
            tracked: std::collections::BTreeMap::default(),
            now: now(),
            status: Some("漢字".into()),
        }),
        11 => map("3"),
        12 => Msg::Map(model.mapped.clone().unwrap_or_default(), Err(failure())),
        13 => count(u64::from(a), u64::from(b)),
        14 => Msg::Counted(Pid::from_raw(2207), Err(failure())),
        15 => Msg::Planned(JOB, Err(failure())),
        16 => {
            let mut preview = Preview::new("Plan ".repeat(usize::from(b)));
            for n in 0..a {
                preview.line(Mark::Warn, format!("line {n} 漢字"));
            }
            preview.offer(
                "Do",
                Wish::Dedup {
                    dir: "/x".into(),
                    plans: vec![],
                },
                true,
            );
            Msg::Planned(JOB, Ok(preview))
        }
        17 => Msg::Job(
            JOB,
            Event::Progress {
                done: u64::from(a),
                total: u64::from(b),
            },
        ),
        18 => Msg::Job(JOB, Event::Warning("w\x1b".into())),
        19 => Msg::Done(JOB, Err(failure())),
        _ => {
            let code = codes[usize::from(a) % codes.len()];
            Msg::Key(KeyEvent::new(code, KeyModifiers::NONE))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn keys_sizes_and_messages_in_any_order_never_panic(
        script in prop::collection::vec(any_msg(), 1..80),
        look in 0usize..3,
    ) {
        let mut model = model([RICH, PLAIN, ASCII][look], (80, 24));
        for step in script {
            let msg = made(&model, step);
            update(&mut model, msg);
            let shown = text(&model);
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(look != 2 || shown.is_ascii());
            if !matches!(model.popup, Some(Popup::Preview(_))) {
                prop_assert!(model.process_cursor.at < model.processes.len().max(1));
                prop_assert!(model.stack_cursor.at < model.stacks.len().max(1));
            }
        }
    }
}
