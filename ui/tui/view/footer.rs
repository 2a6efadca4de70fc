//! The keys at the bottom: first what the present view is for, then what can be done everywhere, as many
//! as there is room for, and help always.

use crossterm::event::KeyCode;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::action::{ACTIONS, Act};
use super::super::model::{Focus, Model};
use super::super::spots::Spot;

/// Actions, each in a word or two.
type Keys = &'static [(Act, &'static str)];

/// A key, what it does in a word or two, and what a click on that does.
type Told = (String, String, Spot);

/// What each view is for.
const fn of(focus: Focus) -> Keys {
    match focus {
        Focus::Processes => &[
            (Act::Dump, "dump"),
            (Act::Watch, "count"),
            (Act::WatchView, "watch"),
            (Act::Check, "check"),
            (Act::Sort, "sort"),
        ],
        Focus::Stacks => &[
            (Act::Restore, "restore"),
            (Act::Inspect, "read"),
            (Act::Compare, "compare"),
            (Act::Search, "search"),
            (Act::Dedup, "dedup"),
            (Act::Dump, "dump"),
        ],
        Focus::Map => &[
            (Act::Enter, "bytes"),
            (Act::Colors, "colours"),
            (Act::Closer, "closer"),
            (Act::Farther, "farther"),
            (Act::Older, "below"),
            (Act::Newer, "above"),
            (Act::Export, "export"),
        ],
        Focus::Jobs => &[
            (Act::Cancel, "cancel job"),
            (Act::Enter, "all of it"),
            (Act::Next, "jobs, log"),
            (Act::Filter, "filter"),
            (Act::Jobs, "back"),
        ],
        Focus::Watch => &[
            (Act::Next, "box"),
            (Act::Dump, "dump"),
            (Act::Watch, "track"),
            (Act::Rule, "rule"),
            (Act::Budget, "budget"),
            (Act::WatchView, "back"),
            (Act::Export, "export"),
        ],
        Focus::Dedup => &[
            (Act::Enter, "preview"),
            (Act::Dedup, "back"),
            (Act::Older, "layer below"),
            (Act::Newer, "above"),
        ],
    }
}

/// What else can be done, whatever has the keyboard.
const EVERYWHERE: Keys = &[
    (Act::Cancel, "cancel job"),
    (Act::Undo, "undo"),
    (Act::Next, "pane"),
    (Act::Enlarge, "enlarge"),
    (Act::Filter, "filter"),
    (Act::Dump, "dump"),
    (Act::Restore, "restore"),
    (Act::Dedup, "dedup"),
    (Act::Inspect, "read"),
    (Act::Jobs, "jobs"),
];

/// What stays when nothing else fits: the ways to everything else.
const ALWAYS: Keys = &[
    (Act::Palette, "all"),
    (Act::Quit, "quit"),
    (Act::Help, "help"),
];
/// How to leave a pane that has the whole screen.
const BACK: Keys = &[(Act::Enlarge, "back")];

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if model.popup.is_some() {
        // It has keys of its own, and tells them.
        return;
    }
    if model.filtering {
        return keys(model, frame, area, &typing());
    }
    let possible = |act: Act| {
        if (model.focus, act) == (Focus::Jobs, Act::Enter) {
            let jobs = &model.board;
            return match model.in_log {
                true => !model.log.is_empty() || !model.earlier.is_empty(),
                false => !jobs.ended.is_empty(),
            };
        }
        if (model.focus, act) == (Focus::Watch, Act::Next) && !model.has_panels() {
            return false;
        }
        let mut rows = ACTIONS.iter().filter(|action| action.act == act);
        rows.any(|action| (action.missing)(model).is_none())
    };
    let told = |(act, name): &(Act, &str)| {
        let keyed = !model.keys.of(*act).is_empty();
        let key = format!(" {}", model.keys.label(*act));
        (keyed && possible(*act)).then(|| (key, format!(" {name} "), Spot::Act(*act)))
    };
    let enlarged = match model.has_panels() {
        true => model.panels.alone,
        false => model.enlarged,
    };
    let back = if enlarged { BACK } else { &[] };
    let always: Vec<_> = back.iter().chain(ALWAYS).filter_map(told).collect();
    let wide = |(key, name, _): &Told| key.width() + name.width();
    // The blank after the last one need not be seen.
    let mut room = usize::from(area.width) + 1;
    room = room.saturating_sub(always.iter().map(wide).sum());
    let here = of(model.focus);
    let known = |act: Act| here.iter().chain(back).any(|(known, _)| *known == act);
    let besides = EVERYWHERE.iter().filter(|(act, _)| !known(*act));
    let first = here.iter().chain(besides).filter_map(told);
    let fitting = first.take_while(|keys| {
        let fits = wide(keys) <= room;
        room = room.saturating_sub(wide(keys));
        fits
    });
    let shown: Vec<_> = fitting.chain(always).collect();
    keys(model, frame, area, &shown);
}

/// While a filter is typed every letter belongs to it.
fn typing() -> [Told; 2] {
    [
        ("Enter", "keep the filter", KeyCode::Enter),
        ("Esc", "show all", KeyCode::Esc),
    ]
    .map(|(key, name, code)| (format!(" {key}"), format!(" {name} "), Spot::Key(code)))
}

fn keys(model: &Model, frame: &mut Frame<'_>, area: Rect, shown: &[Told]) {
    let mut spans = Vec::new();
    let mut x = area.x;
    for (key, name, spot) in shown {
        let width = u16::try_from(key.width() + name.width()).unwrap_or(0);
        let place = Rect::new(x, area.y, width, area.height);
        model.spots.note(place.intersection(area), *spot);
        x = x.saturating_add(width);
        spans.push(Span::styled(key.clone(), model.theme.strong()));
        spans.push(Span::raw(name.clone()));
    }
    super::lines(frame, area, vec![Line::from(spans)]);
}
