//! The stacks and their layers.

use std::time::Duration;

use icecore::chain::State;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::action::Act;
use super::super::coloring::Coloring;
use super::super::map::Owner;
use super::super::model::{Focus, Model};
use super::super::stacks::{LayerRow, StackRow};
use super::super::text::{age, cut, fit, size, tally, wrap};
use super::super::theme::letter;
use super::{filter_note, lines, pane};
use crate::format;

/// Inside a pane as narrow as this, some columns are left out.
const NARROW: usize = 50;
/// Inside one as wide as this, there are more.
const WIDE: usize = 76;
/// Inside one as wide as this, none of them is narrowed.
const ROOMY: usize = 84;
/// Columns of the longest bar.
const BAR: u64 = 8;

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let focused = model.focus == Focus::Stacks;
    let root = format::plain(&model.root.to_string_lossy());
    let width = usize::from(area.width.saturating_sub(2));
    let title = cut(&format!("Stacks in {root}"), width.saturating_sub(2));
    let note = match filter_note(&model.stack_filter, model.filtering && focused) {
        filter if filter.is_empty() => note(model, width),
        filter => filter,
    };
    let inside = pane(frame, area, model.theme, focused, &title, &note);
    if model.stacks.is_empty() {
        let text = match &model.stacks_failure {
            Some(failure) => return super::failure(model, failure, frame, inside),
            None if !model.catalog.is_empty() => "No layer has this text.".into(),
            None => format!(
                "No layers here yet. Choose a process on the left and press {}: its first dump \
                 becomes a layer, and the process goes on running.",
                model.keys.label(Act::Dump)
            ),
        };
        let text = wrap(&text, usize::from(inside.width).saturating_sub(2));
        let text = text.into_iter().map(|line| Line::from(format!(" {line}")));
        return lines(frame, inside, text.collect());
    }
    let names = model
        .layers()
        .map(|l| l.graph.width() + l.name.width() + 2)
        .max();
    let others = if width < WIDE { 30 } else { 68 };
    let names = names
        .unwrap_or(0)
        .clamp(6, width.saturating_sub(others).max(6));
    let names_head = fit("LAYER", names);
    let head = if width < NARROW {
        format!("   {names_head}  AGE STORED PARENT")
    } else if width < WIDE {
        let owned = if has_owned(names, width) {
            " OWNED"
        } else {
            ""
        };
        format!("   {names_head}  AGE KIND STORED PARENT  DISK{owned}")
    } else {
        let superseded = superseded_head(width);
        format!("   {names_head}  AGE KIND STORED PARENT  DISK          OWNED {superseded}  FREEZE")
    };
    let mut shown = vec![Line::styled(fit(&head, width), model.theme.dim())];
    let room = usize::from(inside.height).saturating_sub(1);
    let from = model.stack_cursor.offset;
    for (n, row) in model.stacks.iter().enumerate().skip(from).take(room) {
        let selected = n == model.stack_cursor.at;
        shown.push(match row {
            StackRow::Head(text) => {
                Line::styled(cut(&format!(" {text}"), width), model.theme.strong())
            }
            StackRow::Fork(graph) => Line::styled(format!("   {graph}"), model.theme.dim()),
            StackRow::Layer(layer) => line(model, layer, selected, names, width),
        });
    }
    lines(frame, inside, shown);
}

/// Why the selected layer cannot be used, or what it is called.
fn note(model: &Model, width: usize) -> String {
    let Some(layer) = model.layer() else {
        return String::new();
    };
    let text = match (&layer.reason, &layer.label) {
        (Some(reason), _) => format!("{}: {reason}", layer.state.as_str()),
        (None, Some(label)) => format!("“{label}”"),
        (None, None) => format::count(layer.tasks as u64, "task"),
    };
    let text = match model.owned.get(&layer.dir) {
        Some(Some(known)) if layer.reason.is_none() => {
            let (owned, superseded) = (size(known.owned), size(known.superseded));
            format!("{text}; {owned} owned, {superseded} superseded")
        }
        _ => text,
    };
    cut(&text, width.saturating_sub(4))
}

/// Its bytes on the disk, beside those of the largest layer; what is superseded is lighter.
fn bar(model: &Model, layer: &LayerRow) -> String {
    let largest = model.layers().map(|layer| layer.bytes).max().unwrap_or(0);
    let filled = layer.bytes.saturating_mul(BAR).div_ceil(largest.max(1));
    let filled = filled.min(BAR);
    let superseded = model.owned.get(&layer.dir).copied().flatten();
    let superseded = superseded.map_or(0, |known| known.superseded);
    let lighter = (superseded.saturating_mul(filled) / layer.bytes.max(1)).min(filled);
    let cells = |n: u64| usize::try_from(n).unwrap_or(0);
    let bar = "█".repeat(cells(filled - lighter)) + &"░".repeat(cells(lighter));
    fit(&bar, cells(BAR))
}

/// The head of what is superseded, as wide as its column.
fn superseded_head(width: usize) -> &'static str {
    if width < ROOMY {
        "SUPERS"
    } else {
        "SUPERSEDED"
    }
}

/// Whether there is room for what is owned, beside the state.
fn has_owned(names: usize, width: usize) -> bool {
    width >= names + 50
}

/// What is still read of it, and what is not.
fn uses(model: &Model, layer: &LayerRow) -> (String, String) {
    match model.owned.get(&layer.dir) {
        None => ("…".into(), "…".into()),
        Some(None) => ("-".into(), "-".into()),
        Some(Some(known)) => (size(known.owned), size(known.superseded)),
    }
}

/// How long its tree stood still.
fn freeze(layer: &LayerRow) -> String {
    let freeze = layer.freeze.map(Duration::from_nanos);
    freeze.map_or_else(|| "-".into(), format::duration)
}

fn line(
    model: &Model,
    layer: &LayerRow,
    selected: bool,
    names: usize,
    width: usize,
) -> Line<'static> {
    let focused = model.focus == Focus::Stacks;
    let theme = model.theme;
    let (mut mark, mut style) = (' ', Style::new());
    if let Some(map) = &model.map
        && map.coloring == Coloring::Owner
        && let Some(level) = map.dirs.iter().position(|dir| *dir == layer.dir)
    {
        let owner = Owner::Layer(level);
        mark = letter(owner);
        style = theme.owner(owner, map.last());
    }
    let marked = model.marked.as_ref() == Some(&layer.dir);
    let pointer = match (selected, marked) {
        (true, _) => ">",
        (false, true) => "*",
        (false, false) => " ",
    };
    let plain = if selected {
        theme.selected(focused)
    } else {
        Style::new()
    };
    let seconds = layer
        .created
        .and_then(|at| model.now.duration_since(at).ok())
        .map_or_else(String::new, |d| age(d.as_secs()));
    let kind = layer.kind();
    // "You are here": what the live process writes goes on top of this layer.
    let here = model.standing_on(layer);
    let graph = match here {
        Some(_) => layer.graph.replace('●', "◆"),
        None => layer.graph.clone(),
    };
    let name = fit(&format!("{graph} {}", layer.name), names);
    let (stored, in_parent) = (tally(layer.stored), tally(layer.in_parent));
    let body = if width < NARROW {
        format!("{name} {seconds:>4} {stored:>6} {in_parent:>6} ")
    } else {
        let disk = size(layer.bytes);
        let (owned, superseded) = uses(model, layer);
        let more = if width >= WIDE {
            let (bar, freeze) = (bar(model, layer), freeze(layer));
            let column = superseded_head(width).len();
            format!("{bar} {owned:>5} {superseded:>column$} {freeze:>7} ")
        } else if has_owned(names, width) {
            format!("{owned:>5} ")
        } else {
            String::new()
        };
        format!("{name} {seconds:>4} {kind:<4} {stored:>6} {in_parent:>6} {disk:>5} {more}")
    };
    let state = match (layer.state, here) {
        (State::Complete, Some(pid)) => (format!("← {pid}"), theme.good()),
        (State::Complete, None) if layer.pinned => ("pinned".to_owned(), theme.dim()),
        (State::Complete, None) => (String::new(), theme.good()),
        (State::Partial | State::PreDump, _) => (layer.state.as_str().to_owned(), theme.warn()),
        (State::Consumed | State::Orphan | State::Damaged, _) => {
            (layer.state.as_str().to_owned(), theme.bad())
        }
    };
    let used = 3 + body.width();
    // What the user did to it, where there is room.
    let mut remarks = String::new();
    if layer.pinned && state.0 != "pinned" {
        remarks.push_str(" pinned");
    }
    if let Some(label) = &layer.label {
        remarks.push_str(&format!(" “{label}”"));
    }
    let remarks = if state.0.is_empty() {
        remarks.trim_start()
    } else {
        &remarks
    };
    let rest = width.saturating_sub(used + state.0.width());
    Line::from(vec![
        Span::styled(pointer, plain),
        Span::styled(mark.to_string(), style),
        Span::styled(cut(&format!(" {body}"), width.saturating_sub(2)), plain),
        Span::styled(cut(&state.0, width.saturating_sub(used)), state.1),
        Span::styled(cut(remarks, rest), theme.dim()),
    ])
}
