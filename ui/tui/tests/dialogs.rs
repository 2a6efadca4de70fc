//! What is asked before something is done, as scenes of the reviewed screens.

use icecore::{Kind, Obstacle};

use super::screens::failure;
use super::*;
use crate::tui::jobs::checklist::{Checklist, Otherwise, Replaced, Room};

pub(super) fn dump_preview(model: &mut Model) {
    let mut preview = Preview::new("Dump redis-server 2207 \u{2014} nothing has been done yet");
    for (mark, text) in [
        (Mark::Plain, "into redis-server-2207/13"),
        (Mark::Plain, "2 tasks, 6 threads, 1.19 GiB in memory"),
        (
            Mark::Good,
            "incremental on layer 12: about 9837 pages changed (38.4 MiB)",
        ),
        (
            Mark::Plain,
            "unchanged pages: uffd-wp (armed when the parent layer was made)",
        ),
        (
            Mark::Plain,
            "expected: 9837 pages (38.4 MiB), frozen 21.4 ms (18.0 ms to 26.1 ms)",
        ),
        (
            Mark::Warn,
            "redis-server (pid 2207) has rings of asynchronous I/O",
        ),
        (
            Mark::Hint,
            "requests that are under way are lost: the kernel does not tell of them",
        ),
        (Mark::Plain, "The processes stop for a moment and go on."),
    ] {
        preview.line(mark, text);
    }
    preview.offer("Dump", edit(), true);
    preview.offer("Dump and kill", edit(), false);
    update(model, Msg::Planned(JOB, Ok(preview)));
}

pub(super) fn restore_obstacles(model: &mut Model) {
    let taken = |what: &str, hint: &str| Obstacle::new(Kind::Busy, what, hint);
    let list = Checklist {
        obstacles: vec![taken(
            "Task id 2208 is taken by sleep",
            "end it first (kill 2208), or restore with --new-pid-namespace",
        )],
        options: vec![Otherwise::Apart],
        ..checklist()
    };
    update(model, Msg::Planned(JOB, Ok(list.preview())));
}

pub(super) fn restore_options(model: &mut Model) {
    let list = Checklist {
        manner: Manner {
            with_files: true,
            closed: true,
            ..Manner::default()
        },
        replaced: vec![Replaced {
            path: "/var/lib/redis/appendonly.aof".into(),
            bytes: 3 << 20,
            now: Some(5 << 20),
        }],
        displaced: Some(Displaced {
            root: Pid::from_raw(2207),
            start_time: 77,
            keep: false,
        }),
        room: Some(Room {
            tasks: 2,
            lost: None,
        }),
        options: vec![
            Otherwise::Apart,
            Otherwise::Files(1),
            Otherwise::Connected,
            Otherwise::Closed,
        ],
        ..checklist()
    };
    update(model, Msg::Planned(JOB, Ok(list.preview())));
}

pub(super) fn refused(model: &mut Model) {
    let mut failure = failure("The process tree 2207 cannot be dumped", "icecore doctor");
    failure.obstacles = vec![
        (
            "redis-server (pid 2208) has an io_uring instance (anon_inode:[io_uring]) as descriptor 9".into(),
            "have the program close it before the dump, or run it without this feature".into(),
        ),
        (
            "Process 2207 maps a device at 7f20c0000000-7f20c0200000 (/dev/nvidia0)".into(),
            "run the program without what uses it".into(),
        ),
    ];
    failure.target = Some("running as before".into());
    update(model, Msg::Done(JOB, Err(failure)));
}

/// A preflight with much in the way, and a refusal with as much.
fn long() -> (Preview, Failure) {
    let mut preview = Preview::new("Restore 6");
    let mut failure = failure("It cannot be dumped", "icecore doctor");
    for n in 0..40 {
        preview.line(Mark::Bad, format!("obstacle {n}."));
        failure
            .obstacles
            .push((format!("obstacle {n}."), String::new()));
    }
    (preview, failure)
}

#[test]
fn every_dialog_with_more_lines_than_fit_scrolls_to_its_end_and_says_where_one_is() {
    let (preview, failure) = long();
    for popup in [Popup::Preview(preview), Popup::Failure(failure)] {
        for size in [(120, 35), (80, 24), (40, 10)] {
            let mut model = model(RICH, size);
            model.popup = Some(popup.clone());
            let shown = text(&model);
            assert!(shown.contains("1-") && shown.contains(" of 4"), "{shown}");
            assert!(!shown.contains("obstacle 39."), "{shown}");
            for (code, seen) in [
                (KeyCode::End, "obstacle 39."),
                (KeyCode::Home, "obstacle 0."),
            ] {
                key(&mut model, code);
                assert!(text(&model).contains(seen), "{code:?}: {}", text(&model));
            }
            let first = text(&model);
            key(&mut model, KeyCode::PageDown);
            assert_ne!(text(&model), first);
            key(&mut model, KeyCode::PageUp);
            assert_eq!(text(&model), first);
            for _ in 0..60 {
                key(&mut model, KeyCode::Down);
            }
            assert!(text(&model).contains("obstacle 39."), "{}", text(&model));
            // No line is gone through twice on the way back.
            key(&mut model, KeyCode::Up);
            let before = text(&model);
            let wheel = MouseEvent {
                kind: MouseEventKind::ScrollUp,
                column: 1,
                row: 1,
                modifiers: KeyModifiers::NONE,
            };
            update(&mut model, Msg::Mouse(wheel));
            assert!(model.popup.is_some() && text(&model) != before);
        }
    }
}

#[test]
fn a_dialog_begins_at_its_first_line_and_the_same_one_planned_otherwise_stays() {
    let mut model = model(RICH, (80, 24));
    let (preview, failure) = long();
    update(&mut model, Msg::Planned(JOB, Ok(preview.clone())));
    key(&mut model, KeyCode::End);
    let at = model.scroll;
    assert!(at > 0);
    update(&mut model, Msg::Planned(JOB, Ok(preview)));
    assert_eq!(model.scroll, at);
    update(&mut model, Msg::Planned(JOB, Err(failure)));
    assert_eq!(model.scroll, 0);
}

#[test]
fn an_empty_text_takes_the_label_away() {
    let mut model = model(RICH, (120, 35));
    model.focus = Focus::Stacks;
    key(&mut model, KeyCode::Char('L'));
    assert!(text(&model).contains("nothing: no label"));
    let label = Wish::Edit(Edit::Label {
        dir: "/img/r/3".into(),
        text: String::new(),
    });
    assert_eq!(key(&mut model, KeyCode::Enter), [Effect::Apply(1, label)]);
    // Nothing can be searched for nothing.
    key(&mut model, KeyCode::Char('s'));
    assert!(key(&mut model, KeyCode::Enter).is_empty());
    assert!(model.popup.is_some());
}

/// The restore of layer 6, with nothing in its way.
fn checklist() -> Checklist {
    Checklist {
        dir: "/img/r/6".into(),
        manner: Manner::default(),
        root: Pid::from_raw(2207),
        tasks: 2,
        threads: 6,
        ids: 6,
        pages: 311_224,
        layers: 6,
        obstacles: Vec::new(),
        warnings: vec![Obstacle::new(
            Kind::Differs,
            "File /var/log/redis/redis-server.log was written to since the layer was made",
            "the restored process will find the new contents",
        )],
        replaced: Vec::new(),
        displaced: None,
        room: None,
        options: Vec::new(),
    }
}

fn edit() -> Wish {
    Wish::Restore {
        dir: "/img/r/12".into(),
        displaced: None,
        manner: Manner::default(),
    }
}
