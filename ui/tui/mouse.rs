//! What the mouse does: a click selects what is under it, or does what is written there; the wheel moves in
//! the pane under it.

use crossterm::event::{KeyCode, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::{Position, Rect};

use super::action::Act;
use super::message::Effect;
use super::model::{Focus, Model};
use super::popup::Popup;
use super::reader::Turn;
use super::spots::Spot;
use super::update::{attempt, look, nearest_layer, press, travel};
use super::view;

/// Lines that one notch of the wheel moves.
const NOTCH: usize = 3;
/// Rows of a pane above its list: frame and head.
const ABOVE: u16 = 2;

/// Takes an event in.
pub(super) fn mouse(model: &mut Model, event: MouseEvent, effects: &mut Vec<Effect>) {
    let at = Position::new(event.column, event.row);
    let spot = model.spots.at(at);
    // Who drags has pressed elsewhere.
    if event.kind == MouseEventKind::Down(MouseButton::Left)
        && spot.is_some_and(|spot| hit(model, spot, effects))
    {
        return;
    }
    let turn = match event.kind {
        MouseEventKind::ScrollUp => Some(Act::Up),
        MouseEventKind::ScrollDown => Some(Act::Down),
        MouseEventKind::Down(MouseButton::Left) | MouseEventKind::Drag(MouseButton::Left) => None,
        _ => return,
    };
    match &mut model.popup {
        Some(Popup::Reader(reader)) => {
            let room = view::reader_room(model.size);
            for _ in 0..NOTCH {
                match turn {
                    Some(Act::Up) => reader.scroll(-1, room),
                    Some(_) => reader.scroll(1, room),
                    None => {}
                }
            }
            return;
        }
        Some(Popup::Help(help)) => {
            let room = view::help_room(model.size);
            let code = match turn {
                Some(Act::Up) => KeyCode::Up,
                Some(_) => KeyCode::Down,
                None => return,
            };
            if !help.typing {
                for _ in 0..NOTCH {
                    let _stays = help.key(code.into(), room);
                }
            }
            return;
        }
        Some(Popup::Answer(answer)) => {
            let code = match turn {
                Some(Act::Up) => KeyCode::Up,
                Some(_) => KeyCode::Down,
                None => {
                    let row = view::row_at(answer, model.size, event.row);
                    answer.at = row.unwrap_or(answer.at);
                    return;
                }
            };
            for _ in 0..NOTCH {
                let _stays = answer.key(code.into(), NOTCH);
            }
            return;
        }
        Some(Popup::Palette(palette)) => {
            let code = match turn {
                Some(Act::Up) => KeyCode::Up,
                Some(_) => KeyCode::Down,
                None => return,
            };
            let _none_is_chosen = palette.key(code.into());
            return;
        }
        Some(_) => {
            let (end, _) = view::extent(model);
            model.scroll = match turn {
                Some(Act::Up) => model.scroll.min(end).saturating_sub(NOTCH),
                Some(_) => (model.scroll + NOTCH).min(end),
                None => return,
            };
            return;
        }
        None => {}
    }
    let areas = model.areas();
    let Some((focus, area)) = areas.views.into_iter().find(|(_, area)| area.contains(at)) else {
        return;
    };
    if let (Some(act), Some(Spot::Line(_))) = (turn, spot) {
        return roll(model, act);
    }
    if let Some(act) = turn {
        let before = std::mem::replace(&mut model.focus, focus);
        let notch = if focus == Focus::Map { 1 } else { NOTCH };
        let act = match (focus, act) {
            (Focus::Dedup, Act::Up) => Act::PageUp,
            (Focus::Dedup, _) => Act::PageDown,
            (_, act) => act,
        };
        let notch = if focus == Focus::Dedup { 1 } else { notch };
        (0..notch).for_each(|_| travel(model, act));
        model.focus = before;
        return;
    }
    model.focus = focus;
    match focus {
        Focus::Processes => {
            if let Some(row) = row(area, at, model.process_cursor.offset, model.processes.len()) {
                model.process_cursor.at = row;
            }
        }
        Focus::Stacks => {
            if let Some(row) = row(area, at, model.stack_cursor.offset, model.stacks.len()) {
                let from = model.stack_cursor.at;
                model.stack_cursor.at = nearest_layer(&model.stacks, from, row);
            }
        }
        Focus::Map => pixel(model, area, at),
        // Jobs and lines of the log are spots.
        Focus::Watch | Focus::Jobs => {}
        Focus::Dedup => {
            if let Some(surplus) = &mut model.surplus
                && let Some(row) = row(area, at, 0, surplus.options.len())
            {
                surplus.at = row;
                surplus.range = 0;
            }
        }
    }
}

/// Does what a key would do there; false when that is nothing now.
fn hit(model: &mut Model, spot: Spot, effects: &mut Vec<Effect>) -> bool {
    match (spot, &mut model.popup) {
        (Spot::Button(n), Some(Popup::Preview(preview))) => {
            preview.focus = n;
            press(model, KeyCode::Enter.into(), effects);
        }
        (Spot::Otherwise(n), Some(Popup::Preview(_))) => {
            let digit = u32::try_from(n + 1).ok();
            let digit = digit.and_then(|n| char::from_digit(n, 10));
            if let Some(digit) = digit {
                press(model, KeyCode::Char(digit).into(), effects);
            }
        }
        (Spot::Tab(n), Some(Popup::Reader(reader))) => {
            if let Turn::Look(wanted) = reader.turn_to(n) {
                look(model, wanted, effects);
            }
        }
        (Spot::Entry(n), Some(Popup::Palette(palette))) => {
            palette.at = n;
            press(model, KeyCode::Enter.into(), effects);
        }
        (Spot::Key(code), Some(_)) => press(model, code.into(), effects),
        (Spot::Key(code), None) if model.filtering => press(model, code.into(), effects),
        (Spot::Act(act), None) => attempt(model, act, effects),
        (Spot::Job(n), None) => {
            model.in_log = false;
            model.job_cursor.at = n;
        }
        (Spot::Line(back), None) => {
            model.in_log = true;
            model.log_back = back;
        }
        _ => return false,
    }
    true
}

/// Rolls the log; at its end it goes on with what is said.
fn roll(model: &mut Model, act: Act) {
    let Some((last, first)) = model.spots.lines() else {
        return;
    };
    // The uppermost line is selected; settling keeps it in the log.
    model.log_back = match act {
        Act::Up => first + NOTCH,
        _ if last <= NOTCH => 0,
        _ => first.saturating_sub(NOTCH),
    };
}

/// The row of a list under the mouse.
fn row(area: Rect, at: Position, offset: usize, len: usize) -> Option<usize> {
    let inside = at.y.checked_sub(area.y + ABOVE)?;
    let row = offset + usize::from(inside);
    (row < len && at.y + 1 < area.bottom()).then_some(row)
}

/// Puts the cursor of the map under the mouse.
fn pixel(model: &mut Model, area: Rect, at: Position) {
    let (columns, rows) = model.grid;
    let (Some(x), Some(y)) = (at.x.checked_sub(area.x + 1), at.y.checked_sub(area.y + 1)) else {
        return;
    };
    // Without letters a character shows two pixels, one above the other.
    let y = if model.theme.letters() { y } else { y * 2 };
    if x < columns && y < rows {
        let pixel = usize::from(y) * usize::from(columns) + usize::from(x);
        if pixel < model.pixels.pixels.len() {
            model.pixel = pixel;
        }
    }
}
