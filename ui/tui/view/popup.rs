//! Popups: previews, errors, help.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;
use unicode_width::UnicodeWidthStr as _;

use super::super::follow::Terms;
use super::super::message::Failure;
use super::super::model::Model;
use super::super::popup::{About, Button, Mark, Popup, Preview};
use super::super::spots::Spot;
use super::super::text::{cut, wrap};
use super::chrome::style;
use super::processes::sign;
use super::{field, palette, pane};
use crate::error;

/// The buttons, and where each is: its first column, its width, its number.
type Buttons = (Line<'static>, Vec<(usize, usize, usize)>);

/// A dialog, laid out on the screen.
struct Dialog {
    title: String,
    note: String,
    body: Vec<Line<'static>>,
    /// Lines of the body that a click chooses.
    spots: Vec<(usize, Spot)>,
    buttons: Option<Buttons>,
    area: Rect,
    /// Rows for the body.
    room: usize,
}

/// How far a dialog can be scrolled, and how many lines of it are seen.
pub(crate) fn extent(model: &Model) -> (usize, usize) {
    let (columns, rows) = model.size;
    let dialog = lay_out(model, Rect::new(0, 0, columns, rows));
    let Some(dialog) = dialog else { return (0, 0) };
    let lines = match &model.popup {
        // Who listens goes from line to line.
        Some(Popup::Preview(preview)) if model.voice.is_some() => preview.lines.len(),
        Some(Popup::Failure(failure)) if model.voice.is_some() => explain(failure).len(),
        _ => return (dialog.body.len().saturating_sub(dialog.room), dialog.room),
    };
    (lines.saturating_sub(1), dialog.room)
}

fn lay_out(model: &Model, screen: Rect) -> Option<Dialog> {
    let popup = model.popup.as_ref()?;
    let width = screen.width.saturating_sub(4).min(92);
    let columns = usize::from(width).saturating_sub(4);
    // It stays as high as it is while what it shows gets less.
    let palette_rows = usize::from(screen.height.saturating_sub(6)).min(18);
    let mut spots = Vec::new();
    let (title, note, mut body, buttons) = match popup {
        Popup::Preview(preview) => (
            preview.title.clone(),
            match preview.options.is_empty() {
                true => "Tab choose  Enter do  Esc cancel",
                false => "digits: otherwise  Tab choose  Enter do  Esc cancel",
            },
            {
                let body = previewed(model, preview, columns);
                let options = preview.options.len();
                let first = body.len().saturating_sub(options);
                spots.extend((0..options).map(|n| (first + n, Spot::Otherwise(n))));
                body
            },
            Some(buttons(model, preview, columns)),
        ),
        Popup::Failure(failure) => (
            "✗ That did not work".into(),
            "Enter close",
            marked(model, &explain(failure), columns),
            None,
        ),
        Popup::Order { root, terms, text } => {
            let (title, note) = match terms {
                Terms::Rule => (
                    format!("When to dump process {root} by itself"),
                    "Enter follow it  nothing: no rule  Esc cancel",
                ),
                Terms::Budget => (
                    format!("How many ms a dump by rule may freeze process {root}"),
                    "Enter hold to it  nothing: any time  Esc cancel",
                ),
            };
            let mut body = vec![Line::from(format!(
                " {}_",
                crate::format::plain(text.value())
            ))];
            let said = match terms.read(text.value()) {
                Ok(_) => Vec::new(),
                Err(error) => explain(&Failure::from(&error)),
            };
            body.extend(marked(model, &said, columns));
            (title, note, body, None)
        }
        Popup::Ask { dir, about, text } => {
            let name = dir.file_name().unwrap_or_default().to_string_lossy();
            let name = crate::format::plain(&name);
            let (title, keys) = match about {
                About::Search(sought) => (
                    format!("Search {} in layer {name} and those below", sought.name()),
                    "Tab text, bytes, regex  Enter search  Esc cancel",
                ),
                About::Label => (
                    format!("What to call layer {name}"),
                    "Enter call it so  nothing: no label  Esc cancel",
                ),
            };
            let mut body = vec![field(model, text, columns)];
            if let About::Search(sought) = about
                && !text.value().is_empty()
                && let Err(error) = sought.pattern(text.value())
            {
                body.extend(marked(model, &explain(&Failure::from(&error)), columns));
            }
            (title, keys, body, None)
        }
        Popup::Palette(palette) => (
            "What to do".into(),
            "↑↓ choose  Enter do  Esc leave",
            {
                let (body, entries) = palette::body(model, palette, columns, palette_rows);
                spots = entries;
                body
            },
            None,
        ),
        Popup::Reader(_) | Popup::Answer(_) | Popup::Help(_) => return None,
    };
    if matches!(popup, Popup::Palette(_)) {
        body.resize(palette_rows, Line::default());
    }
    let frame_rows = if buttons.is_some() { 4 } else { 2 };
    let wanted = u16::try_from(body.len())
        .unwrap_or(u16::MAX)
        .saturating_add(frame_rows);
    let height = wanted.min(screen.height.saturating_sub(2));
    let area = Rect::new(
        screen.x + (screen.width - width) / 2,
        screen.y + (screen.height - height) / 2,
        width,
        height,
    );
    let room = usize::from(height.saturating_sub(frame_rows));
    let note = match body.len() > room && !matches!(popup, Popup::Palette(_)) {
        true => format!("↑↓ scroll  {note}"),
        false => note.to_owned(),
    };
    Some(Dialog {
        title,
        note,
        body,
        spots,
        buttons,
        area,
        room,
    })
}

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>) {
    match &model.popup {
        None => return,
        Some(Popup::Answer(answer)) => return super::answer::draw(model, answer, frame),
        Some(Popup::Help(help)) => return super::help::draw(model, help, frame),
        Some(Popup::Reader(reader)) => return super::reader::draw(model, reader, frame),
        Some(_) => {}
    }
    let Some(dialog) = lay_out(model, frame.area()) else {
        return;
    };
    let (area, room, len) = (dialog.area, dialog.room, dialog.body.len());
    frame.render_widget(Clear, area);
    let scroll = model.scroll.min(len.saturating_sub(room));
    let place = match len > room {
        true => format!(" {}-{} of {len} ", scroll + 1, (scroll + room).min(len)),
        false => String::new(),
    };
    let columns = usize::from(area.width).saturating_sub(4 + place.len());
    let title = cut(&dialog.title, columns);
    let inside = pane(frame, area, model.theme, true, &title, &dialog.note);
    super::corner(model, frame, area, &place);
    super::named(model, area, &dialog.note);
    for (line, spot) in dialog.spots {
        let seen = line.checked_sub(scroll).filter(|row| *row < room);
        if let Some(row) = seen.and_then(|row| u16::try_from(row).ok()) {
            model.spots.note(super::row(inside, row), spot);
        }
    }
    let shown = dialog.body.into_iter().skip(scroll).take(room).collect();
    let above = Rect {
        height: u16::try_from(room).unwrap_or(inside.height),
        ..inside
    };
    super::lines(frame, above, shown);
    if let Some((buttons, places)) = dialog.buttons {
        let last = Rect {
            y: inside.y + inside.height.saturating_sub(1),
            height: inside.height.min(1),
            ..inside
        };
        let columns = |n: usize| u16::try_from(n).unwrap_or(last.width);
        for (x, width, n) in places {
            let place = Rect::new(last.x + columns(x), last.y, columns(width), last.height);
            model.spots.note(place.intersection(last), Spot::Button(n));
        }
        super::lines(frame, last, vec![buttons]);
    }
}

fn marked(model: &Model, text: &[(Mark, String)], columns: usize) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for (mark, text) in text {
        for (n, part) in wrap(text, columns.saturating_sub(3))
            .into_iter()
            .enumerate()
        {
            let sign = if n == 0 { sign(*mark) } else { " " };
            let plain = if *mark == Mark::Hint {
                model.theme.dim()
            } else {
                ratatui::style::Style::new()
            };
            lines.push(Line::from(vec![
                Span::styled(format!(" {sign} "), style(model.theme, *mark)),
                Span::styled(part, plain),
            ]));
        }
    }
    lines
}

/// What would be done, and what can be had otherwise.
fn previewed(model: &Model, preview: &Preview, columns: usize) -> Vec<Line<'static>> {
    let mut lines = marked(model, &preview.lines, columns);
    for (n, option) in preview.options.iter().enumerate() {
        let sign = if option.on { "x" } else { " " };
        let text = cut(&option.label, columns.saturating_sub(8));
        let key = Span::styled(format!(" {} ", n + 1), model.theme.strong());
        lines.push(Line::from(vec![key, Span::raw(format!("[{sign}] {text}"))]));
    }
    lines
}

/// The buttons; where there is no room for all, those around the one with the focus.
fn buttons(model: &Model, preview: &Preview, columns: usize) -> Buttons {
    let text = |n: usize, button: &Button| {
        let sign = if n == preview.focus { ">" } else { " " };
        format!("[{sign}{} ]", button.label)
    };
    let all: Vec<String> = preview
        .buttons
        .iter()
        .enumerate()
        .map(|(n, b)| text(n, b))
        .collect();
    let wide = |part: &[String]| part.iter().map(|text| text.width() + 2).sum::<usize>();
    let upto = (preview.focus + 1).min(all.len());
    let fits = |first: &usize| wide(&all[*first..upto]) <= columns;
    let first = (0..upto).find(fits).unwrap_or(preview.focus.min(upto));
    let mut spans = vec![Span::raw(if first > 0 { " \u{2039}" } else { "  " })];
    let mut room = columns;
    let mut places = Vec::new();
    for (n, text) in all.iter().enumerate().skip(first) {
        if room < text.width() + 2 && n > preview.focus {
            spans.push(Span::raw("\u{203a}"));
            break;
        }
        room = room.saturating_sub(text.width() + 2);
        let style = if n == preview.focus {
            model.theme.selected(true)
        } else {
            ratatui::style::Style::new()
        };
        let before = spans.iter().map(Span::width).sum();
        let text = cut(text, columns.saturating_sub(2));
        places.push((before, text.width(), n));
        spans.push(Span::styled(text, style));
        spans.push(Span::raw("  "));
    }
    (Line::from(spans), places)
}

/// An error in lines: the error itself first, then what is in the way.
pub(crate) fn explain(failure: &Failure) -> Vec<(Mark, String)> {
    let mut text = vec![(Mark::Bad, failure.text.clone())];
    let obstacles = failure.obstacles.iter();
    for (what, hint) in error::once(obstacles.map(|(what, hint)| (what.as_str(), hint.as_str()))) {
        text.push((Mark::Bad, what.to_owned()));
        text.extend(hint.map(|hint| (Mark::Hint, hint.to_owned())));
    }
    if let Some(target) = &failure.target {
        text.push((Mark::Plain, format!("The target is {target}.")));
    }
    if let Some(hint) = &failure.hint {
        text.push((Mark::Hint, hint.clone()));
    }
    text
}
