//! What lies over the screen: its keys, and how it is scrolled.

use crossterm::event::{KeyCode, KeyEvent};

use super::jobs::apply;
use super::{attempt, copy, inquiry, leave, look, plan, save, watch};
use crate::tui::help::Help;
use crate::tui::message::{Effect, Wish};
use crate::tui::model::Model;
use crate::tui::popup::{Outcome, Popup};
use crate::tui::view;

/// Gives the key to what lies over the screen; false when nothing does.
pub(super) fn press(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) -> bool {
    if let Some(Popup::Help(help)) = &mut model.popup {
        if help.key(key, view::help_room(model.size)) {
            model.popup = help.under.take().map(|popup| *popup);
        }
        return true;
    }
    if let Some(popup) = model.popup.take_if(|popup| explains(popup, key)) {
        let help = Help::of_popup(popup, model.size);
        model.popup = Some(Popup::Help(Box::new(help)));
        return true;
    }
    if scrolled(model, key) {
        return true;
    }
    let room = view::reader_room(model.size);
    let Some(popup) = &mut model.popup else {
        return false;
    };
    match popup.key(key, room) {
        Outcome::Stay => {}
        Outcome::Close => inquiry::close(model, effects),
        Outcome::Ask(wanted) => inquiry::ask(model, wanted, effects),
        Outcome::Instead(wanted) => inquiry::instead(model, wanted, effects),
        Outcome::Look(wanted) => look(model, wanted, effects),
        Outcome::Copy(text) => copy(model, text, "the text", effects),
        Outcome::Save(files) => save(model, files, effects),
        Outcome::Act(act) => {
            model.popup = None;
            attempt(model, act, effects);
        }
        Outcome::Leave(how) => {
            model.popup = None;
            leave::leave(model, how, effects);
        }
        Outcome::Order(root, order) => {
            model.popup = None;
            watch::order(model, root, order, effects);
        }
        Outcome::Do(Wish::Each(wishes)) => {
            model.popup = None;
            model.marks.clear();
            for wish in wishes {
                apply(model, wish, effects);
            }
        }
        Outcome::Do(wish) => {
            model.popup = None;
            apply(model, wish, effects);
        }
        Outcome::Again(wish) => plan(model, wish, effects),
    }
    true
}

/// Whether the key asks for the keys of a popup: where letters are typed, `?` is one of them.
fn explains(popup: &Popup, key: KeyEvent) -> bool {
    match key.code {
        KeyCode::F(1) => true,
        KeyCode::Char('?') => !popup.is_typed(),
        _ => false,
    }
}

/// Scrolls the dialog, if that is what the key does.
fn scrolled(model: &mut Model, key: KeyEvent) -> bool {
    // Where something is typed, letters are meant.
    let letters = match &model.popup {
        Some(Popup::Preview(_) | Popup::Failure(_)) => true,
        Some(Popup::Order { .. } | Popup::Ask { .. }) => false,
        _ => return false,
    };
    let (end, room) = view::extent(model);
    let at = model.scroll.min(end);
    let page = room.saturating_sub(1).max(1);
    let to = match key.code {
        KeyCode::Up => at.saturating_sub(1),
        KeyCode::Down => at + 1,
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::PageDown => at + page,
        KeyCode::Char('k') if letters => at.saturating_sub(1),
        KeyCode::Char('j') if letters => at + 1,
        KeyCode::Home | KeyCode::Char('g') if letters => 0,
        KeyCode::End | KeyCode::Char('G') if letters => end,
        _ => return false,
    };
    model.scroll = to.min(end);
    true
}

/// Opens a dialog. The same one, planned otherwise, stays where it is.
pub(super) fn open(model: &mut Model, popup: Popup) {
    let same = match (&model.popup, &popup) {
        (Some(Popup::Preview(before)), Popup::Preview(after)) => before.title == after.title,
        _ => false,
    };
    if !same {
        model.scroll = 0;
    }
    // Where its buttons are is known when it is drawn.
    model.spots.clear();
    model.popup = Some(popup);
}
