//! What the engine does for the terminal UI, in a thread: plans become previews, wishes are carried
//! out.

mod dedup;
mod dump;
mod edit;
mod restore;

use std::path::PathBuf;
use std::sync::mpsc::Sender;

use icecore::{Cancel, Event, Obstacle};

use super::message::{Msg, Wish};
use super::popup::{Mark, Preview};
use crate::{error, format};

/// What jobs need to know.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    /// The images root.
    pub(crate) root: PathBuf,
    /// Our own executable, which serves as keeper.
    pub(crate) keeper: PathBuf,
}

impl Jobs {
    /// Finds out what `wish` would do.
    pub(crate) fn plan(&self, id: u64, wish: &Wish, messages: &Sender<Msg>) {
        let mut preview = match wish {
            Wish::Dump { .. } => self.plan_dump(wish),
            Wish::Restore { dir, displaced } => self.plan_restore(dir, displaced.as_ref()),
            Wish::Dedup { dir, .. } => dedup::plan(dir),
            Wish::Edit(wish) => edit::plan(wish),
        };
        for (_, text) in preview.iter_mut().flat_map(|preview| &mut preview.lines) {
            *text = self.inside(text);
        }
        let _closed = messages.send(Msg::Planned(id, preview.map_err(|e| (&e).into())));
    }

    /// Does it.
    pub(crate) fn apply(&self, id: u64, wish: &Wish, cancel: &Cancel, messages: &Sender<Msg>) {
        let events = messages.clone();
        let reporter = move |event: Event| {
            let _closed = events.send(Msg::Job(id, event));
        };
        let report = match wish {
            Wish::Dump { .. } => self.dump(wish, &reporter, cancel),
            Wish::Restore { dir, displaced } => {
                self.restore(dir, displaced.as_ref(), &reporter, cancel)
            }
            Wish::Dedup {
                dir,
                strategies,
                lost,
            } => dedup::apply(dir, strategies, lost, &reporter, cancel),
            Wish::Edit(wish) => edit::apply(wish, &reporter, cancel),
        };
        let _closed = messages.send(Msg::Done(id, report.map_err(|e| (&e).into())));
    }

    /// Paths below the images root without it.
    fn inside(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.root.display()), "")
    }
}

fn obstacles(preview: &mut Preview, obstacles: &[Obstacle], warnings: &[Obstacle]) {
    for (mark, list) in [(Mark::Bad, obstacles), (Mark::Warn, warnings)] {
        let list = list.iter().map(|o| (o.what.as_str(), o.hint.as_str()));
        for (what, hint) in error::once(list) {
            preview.line(mark, format::plain(what));
            if let Some(hint) = hint {
                preview.line(Mark::Hint, format::plain(hint));
            }
        }
    }
}

fn shown(obstacle: &Obstacle) -> String {
    format::plain(&obstacle.to_string())
}

fn first_line(text: &str) -> String {
    format::plain(text.lines().next().unwrap_or_default())
}
