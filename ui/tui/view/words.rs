//! The screen for screen readers: plain lines, no frames, no colours, nothing beside anything else.
//!
//! The last lines say what was selected or happened, whole, with the terminal's cursor in front of it. A list
//! shows whole pages of rows, so that lines stay where they are until one leaves the page.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::Line;
use unicode_width::UnicodeWidthStr as _;

use super::super::action::Act;
use super::super::model::Model;
use super::super::popup::{Mark, Popup};
use super::super::text::{cut, wrap};
use super::super::voice::{self, Voice, undrawn};
use super::{VIEWS, lines, popup};

/// Rows for what is said. They stay free when it is short, so that the lines above stay where they are.
const SAID: usize = 3;

pub(super) fn draw(model: &Model, voice: &Voice, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let width = usize::from(screen.width);
    let height = usize::from(screen.height);
    let mut said = wrap(&voice.said, width);
    // The title and a line of what is shown stay.
    said.truncate(height.saturating_sub(2).max(1));
    let room = height.saturating_sub(1 + SAID.max(said.len()));
    let (title, mut shown) = contents(model, frame, room);
    if let Some(guide) = &model.guide {
        shown.splice(0..0, wrap(&guide.banner(), width));
    }
    if matches!(model.popup, Some(Popup::Preview(_))) && shown.len() > room {
        // Its buttons and its keys stay.
        let last = shown.split_off(shown.len().saturating_sub(2));
        shown.truncate(room.saturating_sub(2));
        shown.extend(last);
    }
    shown.truncate(room);
    frame.buffer_mut().reset();
    let keys = &model.keys;
    // In a dialog other keys count, and it tells them.
    let title = match &model.popup {
        Some(_) => title,
        None => format!(
            "{title}. {} help, {} next pane, {} quit.",
            keys.label(Act::Help),
            keys.label(Act::Next),
            keys.label(Act::Quit)
        ),
    };
    let mut all = vec![Line::from(cut(&title, width))];
    all.extend(shown.into_iter().map(|line| Line::from(cut(&line, width))));
    all.resize(height.saturating_sub(said.len()), Line::default());
    // Where something is typed the cursor is behind it, or else where one begins to read.
    let typed = matches!(
        model.popup,
        Some(Popup::Ask { .. } | Popup::Order { .. } | Popup::Palette(_))
    );
    let (row, column) = if typed || model.filtering {
        let last = said.last().map_or(0, |line| line.width());
        (
            said.len().saturating_sub(1),
            last.min(width.saturating_sub(1)),
        )
    } else {
        (0, 0)
    };
    let row = all.len() + row;
    all.extend(said.into_iter().map(Line::from));
    lines(frame, screen, all);
    let at = |n: usize| u16::try_from(n).unwrap_or(0);
    frame.set_cursor_position(Position::new(screen.x + at(column), screen.y + at(row)));
}

/// The title, and the lines that are to be seen.
fn contents(model: &Model, frame: &mut Frame<'_>, room: usize) -> (String, Vec<String>) {
    match &model.popup {
        Some(Popup::Reader(reader)) => {
            let tab = reader.tabs.get(reader.at);
            let (name, head) = tab.map_or(("", ""), |tab| (&tab.name, &tab.head));
            let mut shown: Vec<String> = Some(undrawn(head))
                .filter(|h| !h.is_empty())
                .into_iter()
                .collect();
            let rest = tab
                .into_iter()
                .flat_map(|tab| &tab.lines)
                .skip(reader.scroll);
            shown.extend(rest.take(room).map(|line| undrawn(line)));
            let tab = match reader.tabs.len() {
                1 => String::new(),
                _ => format!(", {name}"),
            };
            return (format!("{}{tab}. {}.", reader.title, reader.keys()), shown);
        }
        Some(_) => {
            popup::draw(model, frame);
            let shown = picture(frame);
            return ("Dialog: Escape leaves it".into(), shown);
        }
        None => {}
    }
    if let Some(told) = voice::told(model) {
        if told.count == 0 {
            return (told.title, vec![voice::empty(model)]);
        }
        let first = told.at - told.at % room.max(1);
        let rows = (first..told.count).take(room);
        let row = |n: usize| {
            let mark = if n == told.at { "> " } else { "  " };
            format!("{mark}{}", (told.row)(n))
        };
        let title = format!("{}, {} of {}", told.title, told.at + 1, told.count);
        return (title, rows.map(row).collect());
    }
    let Some(view) = VIEWS.iter().find(|view| view.focus == model.focus) else {
        return (String::new(), Vec::new());
    };
    let title = voice::empty(model);
    let area = Rect { ..frame.area() };
    (view.draw)(model, frame, area);
    (title.trim_end_matches('.').to_owned(), picture(frame))
}

/// What was drawn, as far as it is written; then it is gone.
fn picture(frame: &mut Frame<'_>) -> Vec<String> {
    let buffer = frame.buffer_mut();
    let width = usize::from(buffer.area.width).max(1);
    let mut shown = Vec::new();
    for row in buffer.content.chunks(width) {
        let mut text = String::new();
        let mut at = 0;
        while let Some(cell) = row.get(at) {
            text.push_str(cell.symbol());
            at += cell.symbol().width().max(1);
        }
        let mut text = undrawn(&text);
        if let Some(rest) = text.strip_prefix("! ") {
            text = format!("{}{rest}", voice::word(Mark::Warn));
        }
        if text.chars().any(char::is_alphanumeric) {
            shown.push(text);
        }
    }
    buffer.reset();
    shown
}
