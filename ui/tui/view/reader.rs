//! The reader: tabs, a head that stays, lines that scroll.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;

use super::super::model::Model;
use super::super::reader::Reader;
use super::super::text::{cut, fit};
use super::pane;

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
    let title = cut(&reader.title, width.saturating_sub(2));
    let keys = cut(&reader.keys(), width.saturating_sub(2));
    let inside = pane(frame, area, model.theme, true, &title, &keys);
    let Some(tab) = reader.tabs.get(reader.at) else {
        return;
    };
    let mut tabs = Vec::new();
    for (n, tab) in reader.tabs.iter().enumerate() {
        let style = if n == reader.at {
            model.theme.selected(true)
        } else {
            model.theme.dim()
        };
        // The one that is shown has brackets: reversing is not for every terminal.
        let text = if n == reader.at {
            format!("[{}]", tab.name)
        } else {
            format!(" {} ", tab.name)
        };
        tabs.push(Span::raw(" "));
        tabs.push(Span::styled(text, style));
    }
    let rows = usize::from(inside.height.saturating_sub(2));
    let last = tab.lines.len().saturating_sub(rows);
    let scroll = reader.scroll.min(last);
    let mut lines = vec![
        Line::from(tabs),
        Line::styled(fit(&tab.head, width), model.theme.dim()),
    ];
    let shown = tab.lines.iter().skip(scroll).take(rows);
    lines.extend(shown.map(|line| Line::from(cut(line, width))));
    super::lines(frame, inside, lines);
    if last > 0 {
        let place = format!(" {} of {} ", scroll + 1, tab.lines.len());
        let corner = Rect {
            x: area.x
                + area
                    .width
                    .saturating_sub(u16::try_from(place.len() + 2).unwrap_or(0)),
            y: area.y,
            width: u16::try_from(place.len()).unwrap_or(0),
            height: 1,
        };
        super::lines(frame, corner, vec![Line::styled(place, model.theme.dim())]);
    }
}
