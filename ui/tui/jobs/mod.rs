//! What the engine does for the terminal UI, in a thread: plans become previews, wishes are carried
//! out.

mod apart;
pub(super) mod checklist;
mod dedup;
mod dump;
mod each;
mod edit;
mod restore;

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use icecore::{Cancel, Error, Event, Kind, Obstacle, Result};

use super::message::{Msg, Wish};
use super::popup::{Mark, Preview};
use super::{feed, surplus};
use crate::standing::Standing;
use crate::{error, format, rights};

/// What jobs need to know.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    /// The images root.
    pub(crate) root: PathBuf,
    /// Our own executable, which serves as keeper.
    pub(crate) keeper: PathBuf,
    /// The key that pins and unpins; empty when there is none.
    pub(crate) pin: String,
}

impl Jobs {
    /// Finds out what `wish` would do.
    pub(crate) fn plan(&self, id: u64, wish: &Wish, messages: &Sender<Msg>) {
        let mut preview = match wish {
            Wish::Dump { .. } => self.plan_dump(wish),
            Wish::Each(wishes) => Ok(self.plan_each(wishes)),
            Wish::Restore {
                dir,
                displaced,
                manner,
            } => self.plan_restore(dir, displaced.as_ref(), *manner),
            Wish::Dedup { dir, plans } => Ok(dedup::preview(dir, plans, &Standing::now())),
            Wish::Edit(wish) => edit::plan(wish, &self.pin),
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
            Wish::Each(_) => Err(Error::new(Kind::Usage, "Each of these is a job of its own")),
            Wish::Restore { dir, manner, .. } if manner.apart => apart::restore(dir, *manner),
            Wish::Restore {
                dir,
                displaced,
                manner,
            } => self.restore(dir, displaced.as_ref(), *manner, &reporter, cancel),
            Wish::Dedup { dir, plans } => dedup::apply(dir, plans, &reporter, cancel),
            Wish::Edit(wish) => edit::apply(wish, &reporter, cancel),
        };
        let _closed = messages.send(Msg::Done(id, report.map_err(|e| (&e).into())));
    }

    /// Paths below the images root without it.
    fn inside(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.root.display()), "")
    }
}

/// Finds out what a stack stores for nothing, as long as somebody looks at that.
#[derive(Clone, Debug, Default)]
pub(crate) struct Planner {
    latest: Arc<Mutex<Cancel>>,
    working: Arc<Mutex<()>>,
}

impl Planner {
    /// Turns to the stack of another layer, or to none.
    pub(crate) fn turn_to(&self, dir: Option<PathBuf>, messages: &Sender<Msg>) -> Result<()> {
        let cancel = self.renew();
        let Some(dir) = dir else { return Ok(()) };
        let planner = self.clone();
        feed::spawn("dedup", messages, move |messages| {
            let _working = planner.working.lock();
            if cancel.check().is_err() {
                return;
            }
            surplus::plan(&dir, &cancel, &mut |news| {
                let wanted = cancel.check().is_ok();
                wanted && messages.send(Msg::Surplus(dir.clone(), news)).is_ok()
            });
        })?;
        Ok(())
    }

    /// Stops it; nothing is found out as long as the answer is kept.
    pub(crate) fn stop(&self) -> MutexGuard<'_, ()> {
        let _new = self.renew();
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renew(&self) -> Cancel {
        let new = Cancel::default();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *latest, new.clone()).cancel();
        new
    }
}

fn obstacles(preview: &mut Preview, obstacles: &[Obstacle], warnings: &[Obstacle]) {
    for (mark, list) in [(Mark::Bad, obstacles), (Mark::Warn, warnings)] {
        let list = error::gathered(list);
        let list = list.iter().map(|o| (o.what.as_str(), o.hint.as_str()));
        for (what, hint) in error::once(list) {
            preview.line(mark, format::plain(what));
            if let Some(hint) = hint {
                preview.line(Mark::Hint, format::plain(hint));
            }
        }
    }
    let denied = obstacles.iter().any(|o| o.kind == Kind::Permission);
    if let Some(command) = rights::as_root().filter(|_| denied) {
        preview.line(
            Mark::Hint,
            format!("with the rights: leave, then {}", format::plain(&command)),
        );
    }
}

fn shown(obstacle: &Obstacle) -> String {
    format::plain(&obstacle.to_string())
}

fn first_line(text: &str) -> String {
    format::plain(text.lines().next().unwrap_or_default())
}
