//! What a restore would do, as a checklist: what was found out, and the preview of that. Pure: finding
//! out is the other half, in `restore`.

use std::path::PathBuf;

use icecore::{Obstacle, PAGE_SIZE, Pid};

use super::obstacles;
use crate::tui::message::{Displaced, Manner, Wish};
use crate::tui::popup::{Mark, Preview};
use crate::{format, rights};

/// What was found out about the restore of a layer.
#[derive(Clone, Debug)]
pub(crate) struct Checklist {
    /// The layer.
    pub(crate) dir: PathBuf,
    /// How it is restored.
    pub(crate) manner: Manner,
    /// The root of the tree.
    pub(crate) root: Pid,
    /// Its processes.
    pub(crate) tasks: usize,
    /// Its threads.
    pub(crate) threads: usize,
    /// Ids that must be free.
    pub(crate) ids: usize,
    /// Pages that are read.
    pub(crate) pages: u64,
    /// From so many layers.
    pub(crate) layers: usize,
    /// What is in the way.
    pub(crate) obstacles: Vec<Obstacle>,
    /// What will not be as it was.
    pub(crate) warnings: Vec<Obstacle>,
    /// Files that are replaced.
    pub(crate) replaced: Vec<Replaced>,
    /// The tree that runs where this one would.
    pub(crate) displaced: Option<Displaced>,
    /// It has the ids, and would end first.
    pub(crate) room: Option<Room>,
    /// What can be had otherwise.
    pub(crate) options: Vec<Otherwise>,
}

/// A file that is put back.
#[derive(Clone, Debug)]
pub(crate) struct Replaced {
    /// Its path.
    pub(crate) path: String,
    /// Bytes in the layer.
    pub(crate) bytes: u64,
    /// Bytes that it has now, if it is there.
    pub(crate) now: Option<u64>,
}

/// A running tree that makes room.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Its processes.
    pub(crate) tasks: usize,
    /// Why its present state cannot be kept: first the whole of it, then what is in the way.
    pub(crate) lost: Option<Vec<String>>,
}

/// Something that can be had otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// A pid namespace of its own.
    Apart,
    /// So many files put back.
    Files(usize),
    /// Connections that go on.
    Connected,
    /// Connections that come back closed.
    Closed,
}

impl Otherwise {
    /// The option of the command line.
    fn word(self) -> &'static str {
        match self {
            Self::Apart => "--new-pid-namespace",
            Self::Files(_) => "--with-files",
            Self::Connected => "--tcp-established",
            Self::Closed => "--tcp-close",
        }
    }

    /// What it is called, whether it is so, and the other way.
    fn of(self, manner: Manner) -> (String, bool, Manner) {
        match self {
            Self::Apart => (
                "in a new pid namespace: its ids there, whoever has them here".into(),
                manner.apart,
                Manner {
                    apart: !manner.apart,
                    ..manner
                },
            ),
            Self::Files(files) => (
                format!(
                    "put {} back as the layer has them",
                    format::count(files as u64, "file")
                ),
                manner.with_files,
                Manner {
                    with_files: !manner.with_files,
                    ..manner
                },
            ),
            Self::Connected => (
                "TCP connections go on".into(),
                manner.connected,
                Manner {
                    connected: !manner.connected,
                    closed: false,
                    ..manner
                },
            ),
            Self::Closed => (
                "TCP connections come back closed".into(),
                manner.closed,
                Manner {
                    connected: false,
                    closed: !manner.closed,
                    ..manner
                },
            ),
        }
    }
}

impl Checklist {
    fn wish(&self, displaced: Option<Displaced>, manner: Manner) -> Wish {
        Wish::Restore {
            dir: self.dir.clone(),
            displaced,
            manner,
        }
    }

    /// An obstacle whose hint speaks of what is to be pressed here, instead of the command line.
    fn on_screen(&self, obstacle: &Obstacle) -> Obstacle {
        // The command that helps is another one here: see `rootless`.
        let hint = obstacle.hint.split(": unshare").next().unwrap_or_default();
        let mut hint = hint.to_owned();
        for (n, option) in self.options.iter().enumerate() {
            let word = format!("with {}", option.word());
            hint = hint.replace(&word, &format!("with {} below", n + 1));
        }
        Obstacle::new(obstacle.kind, obstacle.what.clone(), hint)
    }

    /// As it is asked.
    pub(crate) fn preview(&self) -> Preview {
        let name = self.dir.file_name().unwrap_or(self.dir.as_os_str());
        let mut preview = Preview::new(format!(
            "Restore {} — nothing has been started yet",
            format::plain(&name.to_string_lossy())
        ));
        let layers = format::count(self.layers as u64, "layer");
        preview.line(
            Mark::Plain,
            format!(
                "process {} with {} and {}, {} from {layers}",
                self.root,
                format::count(self.tasks as u64, "task"),
                format::count(self.threads as u64, "thread"),
                format::bytes(self.pages * PAGE_SIZE),
            ),
        );
        let here = |all: &[Obstacle]| all.iter().map(|o| self.on_screen(o)).collect::<Vec<_>>();
        obstacles(&mut preview, &here(&self.obstacles), &here(&self.warnings));
        let rootless = self.obstacles.iter().any(|o| o.hint.contains(": unshare"));
        let apart = self.options.iter().position(|o| *o == Otherwise::Apart);
        if let (true, Some(command), Some(n)) = (rootless, rights::rootless(), apart) {
            let command = format::plain(&command);
            let line = format!("without root: leave, then {command}, and {} here", n + 1);
            preview.line(Mark::Hint, line);
        }
        if self.obstacles.is_empty() {
            preview.line(Mark::Good, format!("its pages are all there, in {layers}"));
            let ids = format::count(self.ids as u64, "task id");
            let ids = match (self.manner.apart, &self.room) {
                (true, _) => format!("{ids} in a namespace of its own, whoever has them here"),
                (false, Some(_)) => format!("{ids}: had by the tree that makes room"),
                (false, None) => format!("{ids}, free"),
            };
            preview.line(Mark::Good, ids);
            for file in &self.replaced {
                let bytes = format::bytes(file.bytes);
                let now = file.now.map(format::bytes);
                let now = now.map_or("is not there now".into(), |now| format!("has {now} now"));
                let path = format::plain(&file.path);
                preview.line(Mark::Warn, format!("{path} is put back: {bytes}, {now}"));
            }
            preview.line(
                Mark::Plain,
                "it runs on by itself, also when you leave the screen",
            );
            match (&self.displaced, &self.room) {
                (Some(tree), Some(room)) => self.displacing(&mut preview, tree, room),
                _ => {
                    let wish = self.wish(None, self.manner);
                    // Files that are replaced are gone.
                    preview.offer("Restore", wish, self.replaced.is_empty());
                }
            }
        }
        for option in &self.options {
            let (label, on, manner) = option.of(self.manner);
            preview.option(label, on, self.wish(self.displaced.clone(), manner));
        }
        preview
    }

    /// The ways to restore over a running tree: with a layer of its present state, or without.
    fn displacing(&self, preview: &mut Preview, tree: &Displaced, room: &Room) {
        preview.line(
            Mark::Warn,
            format!(
                "process {} runs: it and everything below it ({}) ends first",
                tree.root,
                format::count(room.tasks as u64, "task")
            ),
        );
        let wish = |keep| {
            let tree = Displaced {
                keep,
                ..tree.clone()
            };
            self.wish(Some(tree), self.manner)
        };
        match &room.lost {
            None => {
                preview.line(
                    Mark::Good,
                    "its present state can be kept as a layer: u takes you back",
                );
                preview.offer("Keep and restore", wish(true), false);
            }
            Some(why) => {
                for line in why {
                    preview.line(Mark::Warn, format::plain(line));
                }
            }
        }
        if self.manner.connected {
            // Its end would be told to the other ends of the very connections.
            preview.line(
                Mark::Warn,
                "killed without a layer, its connections end: then none can go on",
            );
            preview.line(
                Mark::Warn,
                "a connection that carried anything since the layer was made hangs",
            );
            return;
        }
        preview.line(
            Mark::Warn,
            "killed without a layer, what it did since its last one is lost",
        );
        preview.offer("Kill and restore", wish(false), false);
    }
}
