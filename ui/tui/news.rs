//! Whether a message may change what is seen: a screen on which nothing happens is not drawn again.
//!
//! Every second the processes come, and what was found of them. On a quiet machine they are what they
//! were, and then only what is told as a span of time may look different.

use std::time::SystemTime;

use super::message::Msg;
use super::model::{Focus, Model};
use super::text::age;
use crate::format::plain;

/// Whether `msg`, which is not yet taken in, may change what is seen.
pub(super) fn is_news(model: &Model, msg: &Msg) -> bool {
    match msg {
        Msg::Probed(probes) => *probes != model.probes,
        Msg::Owned(uses) => *uses != model.owned,
        Msg::Processes(survey) => {
            survey.trees != model.trees
                || survey.tracked != model.tracked
                || survey.status.as_deref().map(plain) != model.status
                || moves(model)
                || ages(model, survey.now).ne(ages(model, model.now))
        }
        _ => true,
    }
}

/// Whether something is on the screen that goes on by itself.
fn moves(model: &Model) -> bool {
    !model.toasts.is_empty()
        || !model.board.jobs.is_empty()
        || model.focus == Focus::Jobs
        || model.select.is_some()
        || model.popup.is_some()
}

/// How long ago the layers were made.
fn ages(model: &Model, now: SystemTime) -> impl Iterator<Item = Option<String>> {
    model.layers().map(move |layer| {
        let since = now.duration_since(layer.created?).ok()?;
        Some(age(since.as_secs()))
    })
}
