//! Dialogs: what is in them is scrolled, and one begins at its first line.

use crossterm::event::{KeyCode, KeyEvent};

use crate::tui::model::Model;
use crate::tui::popup::Popup;
use crate::tui::view;

/// Scrolls the dialog, if that is what the key does.
pub(super) fn scrolled(model: &mut Model, key: KeyEvent) -> bool {
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
    model.popup = Some(popup);
}
