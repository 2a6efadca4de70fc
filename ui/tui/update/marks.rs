//! Marked trees: what is dumped, checked and counted together. They count while the list of processes has the
//! keyboard, where they are seen.

use icecore::Pid;

use crate::tui::action::Act;
use crate::tui::message::{Effect, Wish};
use crate::tui::model::{Focus, Model};
use crate::tui::popup::Mark;
use crate::tui::reader::Look;

/// Marks the selected process, or not any more, and goes on to the next one.
pub(super) fn toggle(model: &mut Model) {
    let Some(row) = model.process() else { return };
    let (pid, start) = (row.pid.as_raw(), row.start_time);
    if model.marks.remove(&pid).is_none() {
        model.marks.insert(pid, start);
    }
    super::travel(model, Act::Down);
}

/// Forgets those that have ended.
pub(super) fn forget(model: &mut Model) {
    let mut marks = std::mem::take(&mut model.marks);
    marks.retain(|pid, start| {
        let tree = model.running(Pid::from_raw(*pid));
        tree.is_some_and(|tree| tree.start_time == *start)
    });
    model.marks = marks;
}

/// The marked trees; one inside another is dumped with that.
pub(super) fn marked(model: &Model) -> Vec<(Pid, String, u64)> {
    if model.focus != Focus::Processes {
        return Vec::new();
    }
    let trees = model.marks.keys().filter_map(|pid| {
        let pid = Pid::from_raw(*pid);
        let inside = model.marks.keys().any(|other| {
            let tree = model.running(Pid::from_raw(*other));
            *other != pid.as_raw() && tree.is_some_and(|tree| tree.find(pid).is_some())
        });
        model.running(pid).filter(|_| !inside)
    });
    let trees = trees.map(|tree| (tree.pid, tree.comm.clone(), tree.start_time));
    trees.collect()
}

/// A dump of all of them.
pub(super) fn dump(model: &Model) -> Option<Wish> {
    let trees = marked(model).into_iter();
    let wishes = trees.map(|(root, comm, start_time)| Wish::Dump {
        root,
        comm,
        start_time: Some(start_time),
        parent: None,
        kill: false,
        allowing: false,
        rule: None,
    });
    let wishes: Vec<Wish> = wishes.collect();
    (!wishes.is_empty()).then_some(Wish::Each(wishes))
}

/// What they hold.
pub(super) fn check(model: &mut Model, effects: &mut Vec<Effect>) {
    let mut pids: Vec<Pid> = marked(model).into_iter().map(|(pid, ..)| pid).collect();
    if pids.is_empty() {
        pids.extend(model.target().map(|(pid, _)| pid));
    }
    if !pids.is_empty() {
        super::look(model, Look::Check(pids), effects);
    }
}

/// Counts them; false when none is marked.
pub(super) fn count(model: &mut Model, effects: &mut Vec<Effect>) -> bool {
    let pids: Vec<Pid> = marked(model).into_iter().map(|(pid, ..)| pid).collect();
    let Some(first) = pids.first() else {
        return false;
    };
    model.watched = Some(*first);
    let text = format!(
        "{} are counted",
        crate::format::count(pids.len() as u64, "tree")
    );
    model.note(Mark::Plain, text);
    effects.extend(pids.into_iter().map(Effect::Attach));
    true
}
