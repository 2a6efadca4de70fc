//! Title bar, banner of the tour, log.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::board::{Job, Stage};
use super::super::logbook::{Entry, time};
use super::super::model::Model;
use super::super::popup::Mark;
use super::super::text::{cut, fit, wrap};
use super::BESIDE_BANNER;
use super::processes::sign;
use crate::tui::theme::Theme;

pub(super) fn header(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width);
    let jobs = &model.board.jobs;
    let working = jobs.iter().rfind(|job| job.stage == Stage::Runs);
    let right = match (working.or(jobs.last()), &model.status) {
        (Some(job), _) => {
            let then = if model.leaving { ", then quits" } else { "" };
            format!("{}{then} ", progress(job, model.board.jobs.len()))
        }
        (None, Some(status)) => format!("{status} "),
        (None, None) => format!("{} tracked ", model.tracked.len()),
    };
    let right = cut(&right, width.saturating_sub(12));
    let left = format!(
        " icecore  {}",
        crate::format::plain(&model.root.to_string_lossy())
    );
    // A long path does not run into what stands beside it.
    let left = fit(&left, width.saturating_sub(right.width() + 1));
    let line = Line::styled(cut(&format!("{left} {right}"), width), model.theme.bar());
    super::lines(frame, area, vec![line]);
}

fn progress(job: &Job, jobs: usize) -> String {
    let more = match jobs {
        0 | 1 => String::new(),
        n => format!("{n} jobs "),
    };
    let cancelled = if job.cancelled { " (stopping)" } else { "" };
    let percent = match job.progress {
        (_, 0) => String::new(),
        (done, total) => format!(" {}%", done.saturating_mul(100) / total),
    };
    format!("▶ {more}{}: {}{percent}{cancelled}", job.title, job.phase)
}

pub(super) fn banner(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let Some(guide) = &model.guide else { return };
    let text = wrap(
        &guide.banner(),
        usize::from(area.width).saturating_sub(BESIDE_BANNER),
    );
    let room = usize::from(area.height);
    // A very small screen shows that there is more.
    let more = text.len() > room;
    let text = text.into_iter().take(room).enumerate().map(|(n, line)| {
        let end = if more && n + 1 == room { "…" } else { "" };
        Line::styled(format!(" {line}{end}"), model.theme.strong())
    });
    super::lines(frame, area, text.collect());
}

pub(super) fn log(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let width = usize::from(area.width);
    let room = usize::from(area.height);
    let skip = model.log.len().saturating_sub(room);
    let text = model.log.iter().skip(skip);
    let text = text.map(|entry| logged(model, entry, width));
    super::lines(frame, area, text.collect());
}

/// A line of the log of this run.
fn logged(
    model: &Model,
    (second, mark, text): &(u64, Mark, String),
    width: usize,
) -> Line<'static> {
    let entry = Entry {
        when: time(*second),
        mark: *mark,
        text,
        earlier: false,
    };
    entered(model, &entry, false, width)
}

/// A line of the log.
pub(super) fn entered(
    model: &Model,
    entry: &Entry<'_>,
    chosen: bool,
    width: usize,
) -> Line<'static> {
    let before = if chosen { ">" } else { " " };
    // Times stand below each other.
    let text = format!("{} {}", fit(&entry.when, 8), entry.text);
    Line::from(vec![
        Span::styled(
            format!("{before}{} ", sign(entry.mark)),
            style(model.theme, entry.mark),
        ),
        Span::raw(cut(&text, width.saturating_sub(3))),
    ])
}

/// The style of a mark.
pub(super) fn style(theme: Theme, mark: Mark) -> ratatui::style::Style {
    match mark {
        Mark::Plain => ratatui::style::Style::new(),
        Mark::Good => theme.good(),
        Mark::Warn => theme.warn(),
        Mark::Bad => theme.bad(),
        Mark::Hint => theme.dim(),
    }
}
