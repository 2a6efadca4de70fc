//! What is asked of layers, and the way on and back.

use crate::tui::inquiry::{Answer, Inquiry};
use crate::tui::message::{Effect, Failure};
use crate::tui::model::Model;
use crate::tui::popup::Popup;

/// Asks; what was shown is found again on the way back.
pub(super) fn ask(model: &mut Model, inquiry: Inquiry, effects: &mut Vec<Effect>) {
    model.looking = None;
    if let Some(Popup::Answer(before)) = model.popup.take() {
        model.trail.push(*before);
    }
    instead(model, inquiry, effects);
}

/// Asks something else.
pub(super) fn instead(model: &mut Model, inquiry: Inquiry, effects: &mut Vec<Effect>) {
    model.popup = Some(Popup::Answer(Box::new(Answer::waits(inquiry.clone()))));
    effects.push(Effect::Inquire(Some(inquiry)));
}

/// Shows an answer, unless the user has gone elsewhere meanwhile.
pub(super) fn answered(model: &mut Model, inquiry: &Inquiry, result: Result<Box<Answer>, Failure>) {
    match &model.popup {
        Some(Popup::Answer(waits)) if waits.inquiry == *inquiry => {}
        _ => return,
    }
    model.scroll = 0;
    model.popup = Some(match result {
        Ok(answer) => Popup::Answer(answer),
        Err(failure) => Popup::Failure(failure),
    });
}

/// Goes back, to where a popup was opened from.
pub(super) fn close(model: &mut Model, effects: &mut Vec<Effect>) {
    if matches!(model.popup, Some(Popup::Answer(_))) {
        effects.push(Effect::Inquire(None));
    }
    model.looking = None;
    model.popup = model.trail.pop().map(Box::new).map(Popup::Answer);
}
