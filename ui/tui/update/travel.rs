//! Cursors: how they move, and what follows them.

use super::newest_of_process;
use crate::tui::action::Act;
use crate::tui::logbook;
use crate::tui::model::{Focus, Model};
use crate::tui::stacks::StackRow;
use crate::tui::voice;

/// Moves the cursor of the pane with the keyboard.
pub(in crate::tui) fn travel(model: &mut Model, act: Act) {
    let page = usize::from(model.size.1 / 3).max(1);
    match model.focus {
        Focus::Jobs if model.in_log => {
            let len = logbook::entries(model).len();
            let to = moved(logbook::at(model, len), act, 1, page, len.saturating_sub(1));
            model.log_back = len.saturating_sub(1 + to);
        }
        Focus::Jobs => {
            let jobs = model.board.jobs.len() + model.board.ended.len();
            let at = model.job_cursor.at;
            model.job_cursor.at = moved(at, act, 1, page, jobs.saturating_sub(1));
        }
        // The view shows the selected process: going up and down shows another one.
        Focus::Processes | Focus::Watch => {
            fold(model, act);
            let last = model.processes.len().saturating_sub(1);
            let at = moved(model.process_cursor.at, act, 1, page, last);
            if at != model.process_cursor.at {
                model.process_cursor.at = at;
                // The layers follow the process.
                if let Some(at) = newest_of_process(model) {
                    model.stack_cursor.at = at;
                }
            }
        }
        Focus::Dedup => super::dedup::travel(model, act, page),
        Focus::Stacks => {
            let last = model.stacks.len().saturating_sub(1);
            let from = model.stack_cursor.at;
            let at = moved(from, act, 1, page, last);
            model.stack_cursor.at = nearest_layer(&model.stacks, from, at);
        }
        Focus::Map if model.voice.is_some() => voice::travel(model, act),
        Focus::Map => {
            let columns = usize::from(model.grid.0).max(1);
            let last = model.pixels.pixels.len().saturating_sub(1);
            let at = model.pixel;
            model.pixel = match act {
                Act::Left => at.saturating_sub(1),
                Act::Right => (at + 1).min(last),
                _ => moved(at, act, columns, columns * 4, last),
            };
        }
    }
}

/// `at` after a movement; a step is `row`, a page is `page`.
fn moved(at: usize, act: Act, row: usize, page: usize, last: usize) -> usize {
    match act {
        Act::Up => at.saturating_sub(row),
        Act::Down => (at + row).min(last),
        Act::PageUp => at.saturating_sub(page),
        Act::PageDown => (at + page).min(last),
        Act::Home => 0,
        Act::End => last,
        _ => at,
    }
}

/// The layer next to row `to`, searched first in the direction of the movement.
pub(in crate::tui) fn nearest_layer(rows: &[StackRow], from: usize, to: usize) -> usize {
    let is_layer = |at: &usize| rows.get(*at).is_some_and(|row| row.layer().is_some());
    let down = || (to..rows.len()).find(is_layer);
    let up = || (0..=to).rev().find(is_layer);
    let found = if to >= from {
        down().or_else(up)
    } else {
        up().or_else(down)
    };
    found.unwrap_or(0)
}

/// Folds and unfolds the tree; left on a leaf goes to its parent.
fn fold(model: &mut Model, act: Act) {
    let Some(row) = model.process() else { return };
    let (pid, parent, folded) = (row.pid, row.parent, row.folded > 0);
    match act {
        Act::Left if parent && !folded => drop(model.folded.insert(pid.as_raw())),
        Act::Right => drop(model.folded.remove(&pid.as_raw())),
        Act::Left => {
            let above = model.running(pid).map(|tree| tree.ppid);
            let at = above.and_then(|ppid| model.processes.iter().position(|r| r.pid == ppid));
            model.process_cursor.at = at.unwrap_or(model.process_cursor.at);
        }
        _ => return,
    }
    model.list_processes();
}
