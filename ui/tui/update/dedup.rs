//! The view of what a stack stores for nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use icecore::chain::State;

use crate::tui::action::Act;
use crate::tui::message::{Effect, Wish};
use crate::tui::model::{Focus, Model};
use crate::tui::popup::Mark;
use crate::tui::stacks::LayerRow;
use crate::tui::surplus::{News, Surplus};

/// Opens it for the selected layer, or goes back.
pub(super) fn open(model: &mut Model, effects: &mut Vec<Effect>) {
    super::over(model, Focus::Dedup);
    turn(model, effects);
}

/// Turns to the selected layer, when it is open.
pub(super) fn turn(model: &mut Model, effects: &mut Vec<Effect>) {
    let dir = model.layer().map(|layer| layer.dir.clone());
    if let (Focus::Dedup, Some(dir)) = (model.focus, dir) {
        model.facts.dedup_seen = true;
        model.surplus = Some(Surplus::new(dir.clone()));
        effects.push(Effect::Surplus(Some(dir)));
    }
}

/// Begins when it was open at the end of the last run. Lets it go when nobody looks at it any more: finding
/// out reads whole layers.
pub(super) fn follow(model: &mut Model, effects: &mut Vec<Effect>) {
    if model.focus == Focus::Dedup && model.surplus.is_none() {
        turn(model, effects);
    }
    if model.focus != Focus::Dedup && model.surplus.take().is_some() {
        effects.push(Effect::Surplus(None));
    }
}

/// Finds out everything again: the layers have changed. What was chosen stays chosen.
pub(super) fn again(model: &mut Model, effects: &mut Vec<Effect>) {
    if let Some(surplus) = &mut model.surplus {
        for choice in &mut surplus.options {
            choice.found = None;
        }
        effects.push(Effect::Surplus(Some(surplus.dir.clone())));
    }
}

/// What tells that the layers have changed.
pub(super) fn layers(model: &Model) -> Vec<(PathBuf, State, u64, u64)> {
    if model.surplus.is_none() {
        return Vec::new();
    }
    let told = |l: &LayerRow| (l.dir.clone(), l.state, l.bytes, l.stored);
    model.layers().map(told).collect()
}

/// Takes in what was found out.
pub(super) fn news(model: &mut Model, dir: &Path, news: News) {
    let Some(surplus) = model.surplus.as_mut().filter(|s| s.dir == dir) else {
        return;
    };
    match news {
        News::Layers(layers) => surplus.layers = Some(layers),
        News::Plan(n, found) => {
            if let Some(choice) = surplus.options.get_mut(n) {
                choice.found = Some(found);
            }
        }
    }
}

/// Chooses the strategy that is looked at, or not any more.
pub(super) fn choose(model: &mut Model) {
    let Some(surplus) = &mut model.surplus else {
        return;
    };
    let Some(choice) = surplus.options.get_mut(surplus.at) else {
        return;
    };
    if choice.usable().is_some() {
        choice.said = Some(!choice.is_chosen());
        return;
    }
    let why = match &choice.found {
        None => "its plan is still being made",
        Some(Ok(found)) if found.plan.is_empty() => "it finds nothing to free here",
        Some(_) => "it is not possible here",
    };
    let text = format!("{}: {why}", choice.name);
    model.note(Mark::Hint, text.clone());
    model.toast(Mark::Hint, text);
}

/// Shows what the chosen strategies would do.
pub(super) fn preview(model: &mut Model, effects: &mut Vec<Effect>) {
    let Some(surplus) = &model.surplus else {
        return;
    };
    let plans: Vec<Arc<_>> = surplus.chosen();
    if plans.is_empty() {
        return choose(model);
    }
    let wish = Wish::Dedup {
        dir: surplus.dir.clone(),
        plans,
    };
    let id = model.board.plan(&wish, model.clock);
    effects.push(Effect::Plan(id, wish));
}

/// Up and down go through the strategies, left and right through the layers, pages through the ranges.
pub(super) fn travel(model: &mut Model, act: Act, page: usize) {
    let Some(surplus) = &mut model.surplus else {
        return;
    };
    let ranges = surplus.found().map_or(0, |found| found.ranges.len());
    let layers = match &surplus.layers {
        Some(Ok(layers)) => layers.layers.len(),
        _ => 0,
    };
    match act {
        Act::Up | Act::Down => {
            let last = surplus.options.len().saturating_sub(1);
            let at = if act == Act::Up {
                surplus.at.saturating_sub(1)
            } else {
                (surplus.at + 1).min(last)
            };
            if at != surplus.at {
                surplus.at = at;
                surplus.range = 0;
            }
        }
        Act::Left => surplus.layer = surplus.layer.saturating_sub(1),
        Act::Right => surplus.layer = (surplus.layer + 1).min(layers.saturating_sub(1)),
        Act::PageUp => surplus.range = surplus.range.saturating_sub(page),
        Act::PageDown => {
            surplus.range = (surplus.range + page).min(ranges.saturating_sub(1));
        }
        Act::Home => surplus.range = 0,
        Act::End => surplus.range = ranges.saturating_sub(1),
        _ => {}
    }
}
