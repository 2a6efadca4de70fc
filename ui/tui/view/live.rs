//! The live dirty-page counter.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::super::action::Act;
use super::super::live::Live;
use super::super::message::Count;
use super::super::model::Model;
use super::super::text::{cut, fit, size, tally, wrap};
use super::{lines, pane};

/// Eighths of a cell, lowest first.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    // The tree that was asked for, as long as it runs, or else the selected one when it is tracked anyway.
    let selected = model.process().map(|row| row.pid);
    let watched = model.watched.filter(|pid| model.running(*pid).is_some());
    let pid = watched.or(selected);
    let live = pid.and_then(|pid| model.live.get(&pid.as_raw()));
    let title = match pid {
        Some(pid) if live.is_some() || watched.is_some() => format!("Dirty pages of {pid}"),
        _ => "Dirty pages".into(),
    };
    let note = live
        .and_then(|live| live.last.as_ref())
        .map_or("", |c| c.tracker);
    let inside = pane(frame, area, model.theme, false, &title, note);
    let width = usize::from(inside.width);
    let text = match live {
        Some(
            live @ Live {
                last: Some(count), ..
            },
        ) => counted(model, live, count, width, usize::from(inside.height)),
        _ => {
            let text = match (live.and_then(|l| l.failure.as_ref()), watched) {
                (Some(failure), _) => failure.text.clone(),
                (None, Some(_)) => "attaching…".into(),
                (None, None) => format!(
                    "{} counts the pages that the selected process tree writes, live, while it \
                     runs. It is stopped for a moment to attach the tracker.",
                    model.keys.label(Act::Watch)
                ),
            };
            let text = wrap(&text, width.saturating_sub(2));
            text.into_iter()
                .map(|line| Line::from(format!(" {line}")))
                .collect()
        }
    };
    lines(frame, inside, text);
}

fn counted(
    model: &Model,
    live: &Live,
    count: &Count,
    width: usize,
    height: usize,
) -> Vec<Line<'static>> {
    let theme = model.theme;
    let percent = count.dirty as f64 * 100.0 / count.resident.max(1) as f64;
    let since = count.since.as_deref().and_then(|id| {
        let layer = model
            .layers()
            .find(|layer| layer.id.as_deref() == Some(id))?;
        Some(layer.name.clone())
    });
    let since = match (since, count.since.is_some()) {
        (Some(name), _) => format!("since layer {name}"),
        (None, true) => "since its last layer".into(),
        (None, false) => "since it is tracked".into(),
    };
    let head = format!(" {} pages", count.dirty);
    let rest = format!(
        "  {}, {percent:.1}% of {}",
        size(count.dirty * 4096),
        size(count.resident * 4096)
    );
    let rest = cut(&rest, width.saturating_sub(head.len()));
    let mut text = vec![
        Line::from(vec![Span::styled(head, theme.strong()), Span::raw(rest)]),
        Line::styled(cut(&format!(" {since}"), width), theme.dim()),
        Line::from(cut(
            &format!(
                " {} new pages/s now, {} at most",
                live.rate().map_or_else(|| "?".into(), tally),
                tally(live.peak())
            ),
            width,
        )),
        Line::from(cut(&format!(" {}", live.besides()), width)),
    ];
    let rows = if height > 9 {
        3
    } else {
        usize::from(height > 4)
    };
    text.extend(
        curve(live, width.saturating_sub(2), rows)
            .into_iter()
            .map(|line| Line::styled(format!(" {line}"), theme.good())),
    );
    let room = height.saturating_sub(text.len() + 1);
    if room > 0 && !count.top.is_empty() {
        text.push(Line::styled(" dirtiest mappings", theme.dim()));
        for part in count.top.iter().take(room) {
            let name = fit(&format!(" {}", part.name), width.saturating_sub(15));
            text.push(Line::from(format!(
                "{name} {:>5} of {:>5}",
                tally(part.dirty),
                tally(part.resident)
            )));
        }
    }
    text
}

/// The rates as `rows` lines of bars, the latest at the right.
fn curve(live: &Live, width: usize, rows: usize) -> Vec<String> {
    let peak = live.peak().max(1) as f64;
    let skip = live.rates.len().saturating_sub(width);
    let heights: Vec<usize> = live
        .rates
        .iter()
        .skip(skip)
        .map(|rate| (*rate as f64 / peak * (rows * 8) as f64).ceil() as usize)
        .collect();
    let line = |row: usize| -> String {
        let full = (rows - 1 - row) * 8;
        let bars = heights
            .iter()
            .map(|height| match height.saturating_sub(full) {
                0 if row + 1 == rows => BARS[0],
                0 => ' ',
                n => *BARS.get(n - 1).unwrap_or(&'█'),
            });
        std::iter::repeat_n(' ', width.saturating_sub(heights.len()))
            .chain(bars)
            .collect()
    };
    (0..rows).map(line).collect()
}
