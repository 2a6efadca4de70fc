//! The palette: a line to type into, and the actions that have what is there.

use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::action::ACTIONS;
use super::super::keymap::label;
use super::super::model::Model;
use super::super::palette::{Palette, title};
use super::super::spots::Spot;
use super::super::text::{cut, fit};
use super::field;

/// Columns of the key, and of the name.
const KEY: usize = 10;
const NAME: usize = 12;

/// The lines, and which of them are entries.
pub(super) fn body(
    model: &Model,
    palette: &Palette,
    columns: usize,
    rows: usize,
) -> (Vec<Line<'static>>, Vec<(usize, Spot)>) {
    let mut spots = Vec::new();
    let found = palette.found();
    let room = rows.saturating_sub(2).max(1);
    let first = (palette.at + 1).saturating_sub(room);
    let mut lines = vec![field(model, &palette.input, columns), Line::default()];
    for (n, row) in found.iter().enumerate().skip(first).take(room) {
        let Some(action) = ACTIONS.get(*row) else {
            continue;
        };
        let missing = (action.missing)(model);
        let key = model.keys.of_row(*row).first();
        let key = key.map_or_else(String::new, |key| label(*key));
        let chosen = n == palette.at;
        let sign = if chosen { ">" } else { " " };
        let head = format!("{sign} {}{}", fit(&key, KEY), fit(&title(action.act), NAME));
        let text = missing.map_or_else(|| action.help.into(), |why| format!("not now: {why}"));
        let text = cut(&text, columns.saturating_sub(head.width() + 1));
        let text = fit(&text, columns.saturating_sub(head.width()));
        let style = match (chosen, missing) {
            (true, _) => model.theme.selected(true),
            (false, Some(_)) => model.theme.dim(),
            (false, None) => ratatui::style::Style::new(),
        };
        spots.push((lines.len(), Spot::Entry(n)));
        lines.push(Line::from(vec![
            Span::styled(head, style),
            Span::styled(text, style),
        ]));
    }
    if found.is_empty() {
        lines.push(Line::styled("  no action is called so", model.theme.dim()));
    }
    (lines, spots)
}
