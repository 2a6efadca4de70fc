//! The keys over the whole screen.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::Line;
use ratatui::widgets::Clear;

use super::super::help::Help;
use super::super::model::Model;
use super::super::text::cut;
use super::{filter_note, pane};

/// How many lines are seen on a screen of this size: title bar and frame are not.
pub(crate) fn room(size: (u16, u16)) -> usize {
    usize::from(size.1.saturating_sub(3))
}

pub(super) fn draw(model: &Model, help: &Help, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let area = Rect {
        y: screen.y + 1,
        height: screen.height.saturating_sub(1),
        ..screen
    };
    frame.render_widget(Clear, area);
    let lines = help.lines();
    let rows = usize::from(area.height.saturating_sub(2));
    let scroll = help.scroll.min(lines.len().saturating_sub(rows));
    let title = match lines.len() {
        n if n > rows => format!("Keys, {} of {n}", scroll + 1),
        _ => "Keys".into(),
    };
    let note = match filter_note(&help.input, help.typing) {
        note if note.is_empty() => "/ filter  arrows scroll  Esc close".into(),
        note => note,
    };
    let inside = pane(frame, area, model.theme, true, &title, &note);
    let width = usize::from(inside.width);
    let mut shown: Vec<Line<'_>> = Vec::new();
    for line in lines.iter().skip(scroll).take(rows) {
        let line_of = Line::from(cut(line, width));
        shown.push(match line.ends_with(':') && !line.starts_with("  ") {
            true => line_of.style(model.theme.strong()),
            false => line_of,
        });
    }
    if lines.is_empty() {
        shown.push(Line::styled(" no key has this text", model.theme.dim()));
    }
    super::lines(frame, inside, shown);
}
