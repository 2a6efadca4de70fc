//! What was asked of layers: lists that lead on, and a page of two layers side by side. Bytes that differ have
//! a star before them, not only a colour.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;

use super::super::inquiry::{Answer, Body, Side};
use super::super::model::Model;
use super::super::text::{cut, fit};
use super::chrome::style;
use super::pane;

/// The first line shown of `len`, of which `at` is selected.
fn first(at: usize, len: usize, rows: usize) -> usize {
    let from = (at + 1 + rows / 4).saturating_sub(rows);
    from.min(len.saturating_sub(rows))
}

/// The line of a list in a row of the screen.
pub(crate) fn row_at(answer: &Answer, size: (u16, u16), row: u16) -> Option<usize> {
    let Body::Rows(all) = &answer.body else {
        return None;
    };
    // Title bar, frame, head; the frame below.
    let rows = usize::from(size.1.saturating_sub(4));
    let inside = usize::from(row.checked_sub(3)?);
    let line = first(answer.at, all.len(), rows) + inside;
    (inside < rows && line < all.len()).then_some(line)
}

pub(super) fn draw(model: &Model, answer: &Answer, frame: &mut Frame<'_>) {
    let screen = frame.area();
    let area = Rect {
        y: screen.y + 1,
        height: screen.height.saturating_sub(1),
        ..screen
    };
    frame.render_widget(Clear, area);
    let width = usize::from(area.width.saturating_sub(2));
    let place = match &answer.body {
        Body::Rows(rows) if rows.len() > 1 => format!(", line {} of {}", answer.at + 1, rows.len()),
        _ => String::new(),
    };
    let title = cut(&answer.title, width.saturating_sub(place.len() + 2));
    let title = format!("{title}{place}");
    let inside = pane(frame, area, model.theme, true, &title, &answer.keys());
    super::named(model, area, &answer.keys());
    let rows = usize::from(inside.height.saturating_sub(1));
    let mut lines = Vec::new();
    match &answer.body {
        Body::Waits => lines.push(Line::styled(" it is being found out…", model.theme.dim())),
        Body::Rows(all) => {
            lines.push(Line::styled(fit(&answer.head, width), model.theme.dim()));
            let from = first(answer.at, all.len(), rows);
            for (n, row) in all.iter().enumerate().skip(from).take(rows) {
                let selected = n == answer.at;
                let text = row.text.strip_prefix(' ').unwrap_or(&row.text);
                let text = format!("{}{text}", if selected { ">" } else { " " });
                let line = Line::styled(cut(&text, width), style(model.theme, row.mark));
                lines.push(if selected {
                    line.style(model.theme.selected(true))
                } else {
                    line
                });
            }
        }
        Body::Bytes(sides) => lines = bytes(model, sides, answer.at, rows, width),
    }
    super::lines(frame, inside, lines);
}

/// A page of both, so many bytes a line as there is room for.
fn bytes(
    model: &Model,
    sides: &[(String, Side); 2],
    at: usize,
    rows: usize,
    width: usize,
) -> Vec<Line<'static>> {
    // Offset, then for each side three columns a byte, a blank, and the letters where they fit.
    let columns = |bytes: usize, letters: bool| {
        let side = bytes * 3 + 1 + if letters { bytes + 3 } else { 0 };
        6 + 2 * side
    };
    let (step, letters) = [(16, true), (16, false), (8, true), (8, false)]
        .into_iter()
        .find(|(step, letters)| columns(*step, *letters) <= width)
        .unwrap_or((4, false));
    let side_width = (columns(step, letters) - 6) / 2;
    let mut head = " ".repeat(6);
    for (name, side) in sides {
        let text = match side {
            Ok(_) => format!("layer {name}"),
            Err(why) => format!("layer {name}: {why}"),
        };
        head.push_str(&fit(&text, side_width));
    }
    let mut lines = vec![Line::styled(cut(&head, width), model.theme.strong())];
    let page: &[u8] = &[];
    let [a, b] = sides
        .each_ref()
        .map(|(_, side)| side.as_deref().unwrap_or(page));
    let end = a.len().max(b.len());
    // What one side does not have is no difference of its bytes.
    let differs = |n: usize| a.get(n).zip(b.get(n)).is_some_and(|(a, b)| a != b);
    // Some lines of what is before.
    let before = (rows / 4).min(2) * step;
    let first = (at * 16).saturating_sub(before);
    let first = first.min(end.saturating_sub(rows * step)) / step * step;
    for from in (first..end).step_by(step).take(rows) {
        let here = from..(from + step).min(end);
        let changed = here.clone().any(differs);
        let sign = if changed { '*' } else { ' ' };
        let mut spans = vec![Span::styled(
            format!("{sign}{from:03x}  "),
            if changed {
                model.theme.warn()
            } else {
                model.theme.dim()
            },
        )];
        for side in [a, b] {
            for n in here.clone() {
                let byte = side
                    .get(n)
                    .map_or("  ".to_owned(), |byte| format!("{byte:02x}"));
                spans.push(if differs(n) {
                    Span::styled(
                        format!("*{byte}"),
                        model.theme.warn().patch(model.theme.strong()),
                    )
                } else {
                    Span::raw(format!(" {byte}"))
                });
            }
            if letters {
                let letter = |n: usize| match side.get(n) {
                    Some(byte @ 0x20..0x7f) => char::from(*byte),
                    Some(_) => '.',
                    None => ' ',
                };
                let text: String = here.clone().map(letter).collect();
                spans.push(Span::styled(format!(" |{text}|"), model.theme.dim()));
            }
            spans.push(Span::raw(" "));
        }
        lines.push(Line::from(spans));
    }
    lines
}
