//! The reader: tabs, a head that stays, lines that scroll.

use std::ops::Range;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;
use unicode_width::UnicodeWidthStr as _;

use super::super::model::Model;
use super::super::reader::{Reader, Tab};
use super::super::spots::Spot;
use super::super::text::{cut, fit};
use super::pane;
use crate::format::hex_columns;

/// Rows that are not lines of the text: title bar, frame, tabs, head.
const AROUND: u16 = 5;

/// How many lines are seen on a screen of this size.
pub(crate) fn room(size: (u16, u16)) -> usize {
    usize::from(size.1.saturating_sub(AROUND))
}

pub(super) fn draw(model: &Model, reader: &Reader, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let area = Rect {
        y: screen.y + 1,
        height: screen.height.saturating_sub(1),
        ..screen
    };
    frame.render_widget(Clear, area);
    let width = usize::from(area.width.saturating_sub(2));
    let Some(tab) = reader.tabs.get(reader.at) else {
        return;
    };
    // Beside where one is.
    let title = cut(&reader.title, width.saturating_sub(18).max(12));
    let inside = pane(frame, area, model.theme, true, &title, &reader.keys());
    super::named(model, area, &reader.keys());
    let tabs = strip(model, reader, inside);
    let rows = usize::from(inside.height.saturating_sub(2));
    let last = tab.lines.len().saturating_sub(rows);
    let scroll = reader.scroll.min(last);
    let mut lines = vec![
        Line::from(tabs),
        Line::styled(fit(&tab.head, width), model.theme.dim()),
    ];
    let shown = tab.lines.iter().skip(scroll).take(rows);
    lines.extend(shown.map(|line| match line.strip_prefix('*') {
        Some(_) if !tab.marked.is_empty() => starred(model, line, &tab.marked, width),
        _ => Line::from(cut(line, width)),
    }));
    if !tab.read {
        lines.push(Line::styled(
            " it is being read \u{2026}",
            model.theme.dim(),
        ));
    } else if tab.lines.is_empty() && tab.head.is_empty() {
        lines.push(Line::styled(" there is nothing", model.theme.dim()));
    }
    super::lines(frame, inside, lines);
    if last > 0 {
        let place = format!(" {} of {} ", scroll + 1, tab.lines.len());
        super::corner(model, frame, area, &place);
    }
}

/// A line of bytes of which some are marked: their digits and their letters stand out, beside the stars.
fn starred(model: &Model, line: &str, marked: &Range<u64>, width: usize) -> Line<'static> {
    let text = cut(line, width);
    let addr = line.get(1..13).unwrap_or_default();
    let addr = u64::from_str_radix(addr, 16).unwrap_or(0);
    let mut out = vec![false; text.chars().count()];
    if let Some(sign) = out.first_mut() {
        *sign = true;
    }
    for (at, _) in (0..16)
        .zip(addr..)
        .filter(|(_, addr)| marked.contains(addr))
    {
        // The line has a sign of its own before it.
        let (star, letter) = hex_columns(at);
        for column in [star + 1, star + 2, star + 3, letter + 1] {
            if let Some(column) = out.get_mut(column) {
                *column = true;
            }
        }
    }
    let strong = model.theme.warn().patch(model.theme.strong());
    let letters: Vec<(char, bool)> = text.chars().zip(out).collect();
    let span = |same: &[(char, bool)]| {
        let text: String = same.iter().map(|(letter, _)| *letter).collect();
        match same.first() {
            Some((_, true)) => Span::styled(text, strong),
            _ => Span::raw(text),
        }
    };
    let same = letters.chunk_by(|a, b| a.1 == b.1);
    Line::from(same.map(span).collect::<Vec<_>>())
}

/// The names of the tabs: all that fit, with the one that is shown among them.
fn strip(model: &Model, reader: &Reader, area: Rect) -> Vec<Span<'static>> {
    let width = usize::from(area.width);
    let wide = |tab: &Tab| tab.name.width() + 3;
    // Arrows tell that there are more.
    let room = width.saturating_sub(4);
    let mut first = 0;
    let fits = |first: usize| {
        let upto = reader.tabs.iter().skip(first).take(reader.at + 1 - first);
        upto.map(wide).sum::<usize>() <= room
    };
    while first < reader.at && !fits(first) {
        first += 1;
    }
    let mut spans = vec![if first > 0 {
        Span::styled("\u{2039}", model.theme.dim())
    } else {
        Span::raw(" ")
    }];
    let mut used = 0;
    for (n, tab) in reader.tabs.iter().enumerate().skip(first) {
        used += wide(tab);
        if used > room && n > reader.at {
            spans.push(Span::styled(" \u{203a}", model.theme.dim()));
            break;
        }
        // The one that is shown has brackets: reversing is not for every terminal.
        let (text, style) = if n == reader.at {
            (format!("[{}]", tab.name), model.theme.selected(true))
        } else {
            (format!(" {} ", tab.name), model.theme.dim())
        };
        if n > first {
            spans.push(Span::raw(" "));
        }
        let before: usize = spans.iter().map(Span::width).sum();
        let part = |n: usize| u16::try_from(n).unwrap_or(area.width);
        let place = Rect::new(area.x + part(before), area.y, part(text.width()), 1);
        model.spots.note(place.intersection(area), Spot::Tab(n));
        spans.push(Span::styled(text, style));
    }
    spans
}
