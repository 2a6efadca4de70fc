//! The ownership map: half blocks in the colours of the layers, or letters.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::map::{Map, Owner};
use super::super::model::{Focus, Model};
use super::super::text::{cut, size, tally};
use super::super::theme::Theme;
use super::pane;
use crate::format::count;

/// Rows of the pane that are not map: readout and legend.
const BELOW: u16 = 2;

/// Columns and pixel rows of the map in a pane.
pub(crate) fn grid(area: Rect, theme: Theme) -> (u16, u16) {
    let columns = area.width.saturating_sub(2);
    let rows = area.height.saturating_sub(2 + BELOW);
    (columns, if theme.letters() { rows } else { rows * 2 })
}

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let focused = model.focus == Focus::Map;
    let (title, note) = match &model.map {
        Some(map) => (
            format!(
                "{} {}{}",
                map.coloring.title(),
                map.levels.first().map_or("", String::as_str),
                map.part(model.zoom, model.pixels.first)
                    .map_or_else(String::new, |part| format!(", {part}"))
            ),
            format!(
                "{}{}, {}; 1 cell = {}",
                if map.coloring == model.coloring {
                    ""
                } else {
                    "computing… "
                },
                count(model.pixels.pages, "page"),
                size(model.pixels.pages * 4096),
                size(model.pixels.pages_per_pixel * 4096)
            ),
        ),
        None => ("Who owns each page".into(), String::new()),
    };
    let inside = pane(frame, area, model.theme, focused, &title, &note);
    let Some(map) = &model.map else {
        let text = match (&model.map_failure, model.mapped.is_some()) {
            (Some(failure), _) => return super::failure(model, failure, frame, inside),
            (None, true) => " computing…",
            (None, false) => " Select a layer.",
        };
        return super::lines(frame, inside, vec![Line::from(text)]);
    };
    let rows = inside.height.saturating_sub(BELOW);
    let canvas = Rect {
        height: rows,
        ..inside
    };
    pixels(model, map, frame.buffer_mut(), canvas);
    let below = Rect {
        y: inside.y + rows,
        height: inside.height - rows,
        ..inside
    };
    let width = usize::from(inside.width);
    super::lines(
        frame,
        below,
        vec![readout(model, map, width), legend(model, map, width)],
    );
}

fn pixels(model: &Model, map: &Map, buffer: &mut Buffer, canvas: Rect) {
    let columns = usize::from(model.grid.0);
    let at = |x: usize, y: usize| {
        let pixel = y * columns + x;
        model.pixels.pixels.get(pixel).map(|owner| (pixel, *owner))
    };
    let theme = model.theme;
    let chosen = |pixel: usize| model.focus == Focus::Map && pixel == model.pixel;
    for y in 0..canvas.height {
        for x in 0..canvas.width.min(model.grid.0) {
            let Some(cell) = buffer.cell_mut((canvas.x + x, canvas.y + y)) else {
                continue;
            };
            let (column, row) = (usize::from(x), usize::from(y));
            if theme.letters() {
                if let Some((pixel, owner)) = at(column, row) {
                    let mut style = theme.owner(owner, map.last());
                    if chosen(pixel) {
                        style = style.add_modifier(Modifier::REVERSED | Modifier::BOLD);
                    }
                    cell.set_char(map.letter(owner)).set_style(style);
                }
                continue;
            }
            let (upper, lower) = (at(column, row * 2), at(column, row * 2 + 1));
            let Some((pixel, owner)) = upper else {
                continue;
            };
            let color = |owner| theme.owner_color(owner, map.last()).unwrap_or(Color::Reset);
            let mut style = Style::new().fg(color(owner));
            if let Some((_, owner)) = lower {
                style = style.bg(color(owner));
            }
            cell.set_symbol("▀").set_style(style);
            if chosen(pixel) || lower.is_some_and(|(pixel, _)| chosen(pixel)) {
                // The cursor shows the letter of what it stands on.
                let owner = lower
                    .filter(|(pixel, _)| chosen(*pixel))
                    .map_or(owner, |(_, o)| o);
                cell.set_char(map.letter(owner))
                    .set_style(Style::reset().add_modifier(Modifier::REVERSED | Modifier::BOLD));
            }
        }
    }
}

/// What is under the cursor.
fn readout(model: &Model, map: &Map, width: usize) -> Line<'static> {
    let size = model.pixels.pages_per_pixel.max(1);
    let first = model.page();
    let mut owners: Vec<(Owner, u64)> = Vec::new();
    let mut place = None;
    for (run, pages) in map.within(first, size) {
        place.get_or_insert((run.addr + first.saturating_sub(run.first) * 4096, run.space));
        match owners.iter_mut().find(|(owner, _)| *owner == run.owner) {
            Some((_, sum)) => *sum += pages,
            None => owners.push((run.owner, pages)),
        }
    }
    let Some((addr, space)) = place else {
        return Line::from("");
    };
    owners.sort_unstable_by_key(|(owner, _)| *owner);
    let shares: Vec<String> = owners
        .iter()
        .map(|(owner, pages)| format!("{} {} {pages}", map.letter(*owner), map.name(*owner)))
        .collect();
    let mapping = match map.mapping_at(space, addr) {
        Some((range, "")) => format!(" in {range}"),
        // The file's name without its directory: the owners are worth more room.
        Some((range, name)) => {
            let name = name.rsplit('/').next().unwrap_or(name);
            format!(" {name}+{:x}", addr - range.start)
        }
        None => String::new(),
    };
    let space = map.spaces.get(space).map_or("", String::as_str);
    let text = format!(" {addr:x} {space}{mapping}: {}", shares.join(" · "));
    Line::styled(cut(&text, width), model.theme.dim())
}

/// How much the legend says of a layer: all, without pages, the letter with its share, the letter.
const DETAILS: u8 = 4;

/// The layers with their colours, letters and shares: as much of each as lets all of them be seen.
fn legend(model: &Model, map: &Map, width: usize) -> Line<'static> {
    // What is missing is never left out for want of room.
    let shown = &model.pixels;
    let mut shares: Vec<&(Owner, u64)> = shown.shares.iter().collect();
    shares.sort_by_key(|(owner, _)| *owner != Owner::Missing);
    let letters = model.theme.letters();
    let entry = |(owner, pages): &(Owner, u64), detail: u8| {
        let (letter, name) = (map.letter(*owner), map.name(*owner));
        let share = percent(*pages, shown.pages);
        let sign = if letters {
            letter.to_string()
        } else {
            format!("■{letter}")
        };
        // The stacks pane tells which layer a letter is; nothing tells what is missing.
        let detail = match owner {
            Owner::Missing => detail.min(1),
            Owner::Layer(_) => detail,
        };
        let text = match detail {
            0 => format!(" {name} {} {share} ", tally(*pages)),
            1 => format!(" {name} {share} "),
            2 => format!(" {share}"),
            _ => String::new(),
        };
        (sign, text)
    };
    let wide = |detail: u8| -> usize {
        let entries = shares.iter().map(|share| entry(share, detail));
        entries
            .map(|(sign, text)| sign.width() + text.width() + 1)
            .sum()
    };
    let detail = (0..DETAILS).find(|detail| wide(*detail) <= width);
    let detail = detail.unwrap_or(DETAILS - 1);
    let mut spans = Vec::new();
    let mut used = 0;
    for share in shares {
        let (sign, text) = entry(share, detail);
        used += sign.width() + text.width() + 1;
        if used > width {
            break;
        }
        let style = model.theme.owner(share.0, map.last());
        spans.push(Span::styled(format!(" {sign}"), style));
        spans.push(Span::raw(text));
    }
    Line::from(spans)
}

/// A share of what is shown; what is there is never nothing.
fn percent(pages: u64, total: u64) -> String {
    let percent = pages as f64 * 100.0 / total.max(1) as f64;
    if pages > 0 && percent < 0.5 {
        return "<1%".into();
    }
    format!("{percent:.0}%")
}
