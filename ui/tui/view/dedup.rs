//! What the stack of a layer stores for nothing: the strategies with their price, a picture of every layer,
//! and the ranges that would go.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::map::Owner;
use super::super::message::Failure;
use super::super::model::{Focus, Model};
use super::super::popup::Mark;
use super::super::surplus::{Cell, Choice, Layers, Surplus};
use super::super::text::{cut, fit, size, tally, wrap};
use super::chrome::style;
use super::processes::sign;
use super::{lines, pane};
use crate::format;

/// Columns of the names of layers.
const NAMES: usize = 14;

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some(surplus) = &model.surplus else {
        let inside = pane(frame, area, model.theme, true, "Dedup", "");
        return lines(frame, inside, vec![Line::from(" No layer is selected.")]);
    };
    // Strategies with head, detail and frame; then the pictures get what they need, but not all.
    let detail = if area.height < 26 { 1 } else { 2 };
    let upper = u16::try_from(surplus.options.len() + 3 + detail).unwrap_or(9);
    let upper = upper.min(area.height);
    let rest = area.height - upper;
    let layers = match &surplus.layers {
        Some(Ok(layers)) => layers.layers.len(),
        _ => 1,
    };
    let middle = u16::try_from(layers.saturating_add(3)).unwrap_or(u16::MAX);
    let middle = match &model.voice {
        // A picture is nothing for a screen reader.
        Some(_) => 0,
        None => middle.min((rest / 2).max(rest.min(6))),
    };
    let part = |y: u16, height: u16| Rect {
        y: area.y + y,
        height,
        ..area
    };
    strategies(model, surplus, frame, part(0, upper));
    pictures(model, surplus, frame, part(upper, middle));
    ranges(model, surplus, frame, part(upper + middle, rest - middle));
}

/// Paths below the images root without it: the rest of a line matters more.
fn inside_root(model: &Model, text: &str) -> String {
    let text = format::plain(text);
    text.replace(&format!("{}/", model.root.display()), "")
}

/// What is known of the price of a strategy.
fn price(model: &Model, choice: &Choice) -> (Mark, String) {
    let found = match &choice.found {
        None => return (Mark::Plain, "is being found out…".into()),
        Some(Err(failure)) => return (Mark::Bad, inside_root(model, &failure.text)),
        Some(Ok(found)) => found,
    };
    if let Some(obstacle) = found.plan.obstacles.first() {
        return (Mark::Bad, inside_root(model, &obstacle.what));
    }
    match (found.plan.is_empty(), found.plan.lossless) {
        (true, _) => (Mark::Plain, "finds nothing to free".into()),
        (false, true) => (
            Mark::Good,
            "every layer stays restorable, bit by bit".into(),
        ),
        (false, false) if found.lost.is_empty() => {
            (Mark::Good, "no layer that is restorable now is lost".into())
        }
        (false, false) => {
            // First, as a long list of layers is cut off.
            let stood_on = model.stood_on(&found.plan);
            let stood_on: String = stood_on
                .map(|(pid, layer)| format!("{pid} STANDS ON {layer}; "))
                .collect();
            let lost = found.lost.join(", ");
            let text = format!("{stood_on}NOT restorable any more: {lost}");
            (Mark::Warn, text)
        }
    }
}

/// What to know of the strategy that is looked at.
fn detail(choice: &Choice) -> String {
    match &choice.found {
        Some(Err(Failure {
            hint: Some(hint), ..
        })) => format!("→ {hint}"),
        Some(Ok(found)) => match found.plan.obstacles.first() {
            Some(obstacle) => format!("→ {}", format::plain(&obstacle.hint)),
            None => format!("{} {}", choice.name, choice.summary),
        },
        _ => format!("{} {}", choice.name, choice.summary),
    }
}

fn strategies(model: &Model, surplus: &Surplus, frame: &mut Frame<'_>, area: Rect) {
    let focused = model.focus == Focus::Dedup;
    let tip = surplus.dir.file_name().unwrap_or(surplus.dir.as_os_str());
    let tip = format::plain(&tip.to_string_lossy());
    let columns = usize::from(area.width.saturating_sub(4));
    let title = cut(
        &format!("What the stack of {tip} stores for nothing"),
        columns,
    );
    let chosen: Vec<&Choice> = surplus.options.iter().filter(|c| c.is_chosen()).collect();
    let bytes = |choice: &&Choice| choice.usable().map_or(0, |found| found.plan.bytes);
    let note = match chosen.len() {
        0 => "Space choose  Enter preview".to_owned(),
        n => {
            let up_to = if n > 1 { "up to " } else { "" };
            let all = size(chosen.iter().map(bytes).sum());
            format!("chosen: {n}, {up_to}{all}  Space choose  Enter preview")
        }
    };
    let inside = pane(
        frame,
        area,
        model.theme,
        focused,
        &title,
        &cut(&note, columns),
    );
    let width = usize::from(inside.width);
    let head = format!("      {} PAGES   FREES  PRICE", fit("STRATEGY", 11));
    let mut shown = vec![Line::styled(fit(&head, width), model.theme.dim())];
    // On a low screen they scroll.
    let room = usize::from(inside.height).saturating_sub(2).max(1);
    let from = (surplus.at + 1).saturating_sub(room);
    for (n, choice) in surplus.options.iter().enumerate().skip(from).take(room) {
        let selected = n == surplus.at;
        let (mark, text) = price(model, choice);
        let figures = match &choice.found {
            Some(Ok(found)) => (tally(found.plan.pages), size(found.plan.bytes)),
            Some(Err(_)) => ("-".into(), "-".into()),
            None => ("…".into(), "…".into()),
        };
        let tick = match (choice.is_chosen(), choice.usable()) {
            (true, _) => "[x]",
            (false, Some(_)) => "[ ]",
            (false, None) => "   ",
        };
        let plain = if selected {
            model.theme.selected(focused)
        } else {
            Style::new()
        };
        let front = format!(
            "{} {tick} {} {:>5} {:>7} ",
            if selected { ">" } else { " " },
            fit(choice.name, 11),
            figures.0,
            figures.1
        );
        let used = front.width() + 2;
        shown.push(Line::from(vec![
            Span::styled(front, plain),
            Span::styled(format!("{} ", sign(mark)), style(model.theme, mark)),
            Span::raw(cut(&text, width.saturating_sub(used))),
        ]));
    }
    if let Some(choice) = surplus.options.get(surplus.at) {
        let text = detail(choice);
        let room = usize::from(inside.height).saturating_sub(shown.len());
        let text = if room > 1 {
            wrap(&text, width.saturating_sub(2))
        } else {
            vec![cut(&text, width.saturating_sub(2))]
        };
        let text = text.iter().map(|line| format!(" {line}"));
        shown.extend(text.map(|line| Line::styled(line, model.theme.dim())));
    }
    lines(frame, inside, shown);
}

fn pictures(model: &Model, surplus: &Surplus, frame: &mut Frame<'_>, area: Rect) {
    if area.height < 4 {
        return;
    }
    let name = surplus.options.get(surplus.at).map_or("", |c| c.name);
    let title = format!("What {name} would free in each layer");
    let columns = usize::from(area.width.saturating_sub(4));
    let layers = match &surplus.layers {
        Some(Ok(layers)) => layers,
        Some(Err(failure)) => {
            let inside = pane(frame, area, model.theme, false, &title, "");
            return super::failure(model, failure, frame, inside);
        }
        None => {
            let inside = pane(frame, area, model.theme, false, &title, "");
            return lines(
                frame,
                inside,
                vec![Line::from(" The layers are being read…")],
            );
        }
    };
    let room = usize::from(area.height.saturating_sub(3));
    let all = layers.layers.len();
    let from = surplus.layer.min(all.saturating_sub(room));
    let width = usize::from(area.width.saturating_sub(2));
    let strip = width.saturating_sub(NAMES + 4 + 18).max(8);
    let mut note = scale(layers, strip);
    if all > room {
        let to = (from + room).min(all);
        note = format!("{note}  layers {} to {to} of {all}, ←→", from + 1);
    }
    let inside = pane(
        frame,
        area,
        model.theme,
        false,
        &cut(&title, columns),
        &cut(&note, columns),
    );
    let mut shown: Vec<Line<'_>> = Vec::new();
    for stored in layers.layers.iter().skip(from).take(room) {
        let mut spans = vec![Span::raw(format!(" {} ", fit(&stored.name, NAMES)))];
        let cells = surplus.cells(stored, strip);
        spans.extend(cells.chunk_by(|a, b| a == b).map(|same| {
            let (glyph, style) = glyph(model, same.first().copied());
            Span::styled(glyph.repeat(same.len()), style)
        }));
        let freed = surplus
            .found()
            .and_then(|found| found.pages.get(&stored.dir));
        let freed: u64 = freed.into_iter().flatten().sum();
        let kept: u64 = stored.pages.iter().sum();
        let text = match (&surplus.found(), freed) {
            (None, _) => format!(" {:>5} pages", tally(kept)),
            (_, 0) => format!(" {:>5} stay", tally(kept)),
            _ => format!(" {:>5} of {:>5} go", tally(freed), tally(kept)),
        };
        spans.push(Span::raw(cut(
            &text,
            width.saturating_sub(NAMES + 2 + strip),
        )));
        shown.push(Line::from(spans));
    }
    shown.push(legend(model));
    lines(frame, inside, shown);
}

/// How a cell looks: no two look the same without colour.
fn glyph(model: &Model, cell: Option<Cell>) -> (&'static str, Style) {
    match cell {
        None | Some(Cell::Nothing) => ("·", model.theme.dim()),
        Some(Cell::Stays) => ("█", model.theme.owner(Owner::Layer(1), 1)),
        Some(Cell::Thin) => ("▄", model.theme.owner(Owner::Layer(1), 1)),
        Some(Cell::Part) => ("x", model.theme.warn()),
        Some(Cell::Goes) => ("X", model.theme.bad()),
    }
}

/// What a cell stands for.
fn scale(layers: &Layers, strip: usize) -> String {
    let cell = layers.pages as f64 / strip.max(1) as f64;
    let cell = if cell >= 10.0 {
        tally(cell.round() as u64)
    } else {
        format!("{cell:.1}")
    };
    format!("by address, a cell is {cell} pages")
}

fn legend(model: &Model) -> Line<'static> {
    let mut spans = vec![Span::raw(" ")];
    for (cell, text) in [
        (Cell::Goes, "goes"),
        (Cell::Part, "a part of it"),
        (Cell::Stays, "stays"),
        (Cell::Thin, "less than half"),
        (Cell::Nothing, "not here"),
    ] {
        let (glyph, style) = glyph(model, Some(cell));
        spans.push(Span::styled(glyph, style));
        spans.push(Span::raw(format!(" {text}  ")));
    }
    Line::from(spans)
}

fn ranges(model: &Model, surplus: &Surplus, frame: &mut Frame<'_>, area: Rect) {
    if area.height < 3 {
        return;
    }
    let columns = usize::from(area.width.saturating_sub(4));
    let Some(found) = surplus.found() else {
        let inside = pane(frame, area, model.theme, false, "Ranges", "");
        return lines(
            frame,
            inside,
            vec![Line::from(" The plan is not there yet.")],
        );
    };
    let room = usize::from(area.height.saturating_sub(3));
    let all = found.ranges.len();
    let from = surplus.range.min(all.saturating_sub(room));
    let mut note = match all {
        0 => String::new(),
        _ => format!("{} to {} of {all}", from + 1, (from + room).min(all)),
    };
    if all > room {
        note.push_str(", PgUp PgDn scroll");
    }
    if found.more.0 > 0 {
        let (ranges, bytes) = found.more;
        note.push_str(&format!(
            "; {ranges} smaller ones, {}, are not shown",
            size(bytes)
        ));
    }
    let title = cut("Ranges, the largest first", columns);
    let inside = pane(
        frame,
        area,
        model.theme,
        false,
        &title,
        &cut(&note, columns),
    );
    let width = usize::from(inside.width);
    let names = if width < 100 { 8 } else { NAMES };
    let head = format!(
        " {} {} {} {:>6} {:>7}  MAPPING",
        fit("LAYER", names),
        fit("TASK", 10),
        fit("RANGE", 26),
        "PAGES",
        "FREES"
    );
    let mut shown = vec![Line::styled(fit(&head, width), model.theme.dim())];
    for freed in found.ranges.iter().skip(from).take(room) {
        let line = format!(
            " {} {} {} {:>6} {:>7}  {}",
            fit(&freed.layer, names),
            fit(&freed.whose, 10),
            fit(&freed.range.to_string(), 26),
            tally(freed.range.pages()),
            size(freed.bytes),
            freed.mapping
        );
        shown.push(Line::from(cut(&line, width)));
    }
    if all == 0 {
        shown.push(Line::from(" There is nothing to free."));
    }
    lines(frame, inside, shown);
}
