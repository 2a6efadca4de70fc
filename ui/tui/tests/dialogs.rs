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
