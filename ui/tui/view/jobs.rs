//! The jobs: those that run or wait, what became of the others, and the log.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;
use unicode_width::UnicodeWidthStr as _;

use super::super::action::Act;
use super::super::board::{End, Ended, Job, Stage};
use super::super::history::seconds;
use super::super::logbook;
use super::super::model::{Focus, Model};
use super::super::popup::Mark;
use super::super::spots::Spot;
use super::super::text::{age, cut, fit, tally, wrap};
use super::chrome::{entered, style};
use super::processes::sign;
use super::{lines, pane};
use crate::format;

/// Columns of the bar.
const BAR: usize = 16;
/// A pane as narrow as this shows neither bar nor rate.
const NARROW: usize = 100;

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let rows = model.board.jobs.len() + model.board.ended.len();
    let wanted = u16::try_from(rows.max(3) + 3).unwrap_or(u16::MAX);
    let upper = wanted.min(area.height * 3 / 5).max(area.height.min(5));
    // Where there is no room for both, the one with the keyboard is seen.
    let upper = match (area.height.saturating_sub(upper) < 3, model.in_log) {
        (true, true) => 0,
        (true, false) => area.height,
        _ => upper,
    };
    let above = Rect {
        height: upper,
        ..area
    };
    let below = Rect {
        y: area.y + upper,
        height: area.height - upper,
        ..area
    };
    if upper > 0 {
        jobs(model, frame, above);
    }
    log(model, frame, below);
}

fn jobs(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let focused = model.focus == Focus::Jobs && !model.filtering && !model.in_log;
    let note = format!(
        "{} running, {} ended",
        model.board.jobs.len(),
        model.board.ended.len()
    );
    let inside = pane(frame, area, model.theme, focused, "Jobs", &note);
    let width = usize::from(inside.width);
    if model.board.jobs.is_empty() && model.board.ended.is_empty() {
        let text = format!(
            "No jobs yet. {} dumps the selected process; jobs run beside each other, and those on \
             one stack one after the other.",
            model.keys.label(Act::Dump)
        );
        let text = wrap(&text, width.saturating_sub(2));
        let text = text.into_iter().map(|line| Line::from(format!(" {line}")));
        return lines(frame, inside, text.collect());
    }
    let title = titles(width);
    let head = if width < NARROW {
        format!("   {} STATE", fit("JOB", title))
    } else {
        format!(
            "   {} {} RATE     LEFT  STATE",
            fit("JOB", title),
            fit("PROGRESS", BAR + 5)
        )
    };
    let mut shown = vec![Line::styled(fit(&head, width), model.theme.dim())];
    let room = usize::from(inside.height).saturating_sub(1);
    let running = model
        .board
        .jobs
        .iter()
        .map(|job| running(model, job, width));
    let ended = model.board.ended.iter().map(|job| over(model, job, width));
    let earlier = |n: usize| {
        let at = n.checked_sub(model.board.jobs.len());
        let job = at.and_then(|at| model.board.ended.get(at));
        job.is_some_and(|job| job.earlier.is_some())
    };
    for (n, (begun, mark, text)) in running
        .chain(ended)
        .enumerate()
        .skip(model.job_cursor.offset)
        .take(room)
    {
        let selected = n == model.job_cursor.at;
        let row = u16::try_from(shown.len()).unwrap_or(0);
        model.spots.note(super::row(inside, row), Spot::Job(n));
        let line = Line::from(vec![
            Span::raw(if selected { ">" } else { " " }),
            Span::styled(
                format!("{} ", if begun { "▶" } else { sign(mark) }),
                style(model.theme, mark),
            ),
            Span::raw(fit(&text, width.saturating_sub(3))),
        ]);
        shown.push(if selected {
            line.style(model.theme.selected(focused))
        } else if earlier(n) {
            line.style(model.theme.dim())
        } else {
            line
        });
    }
    lines(frame, inside, shown);
}

/// Columns of the titles.
fn titles(width: usize) -> usize {
    (width * 2 / 5).clamp(16, 48)
}

fn running(model: &Model, job: &Job, width: usize) -> (bool, Mark, String) {
    let title = fit(&format!("{} {}", job.id, job.title), titles(width));
    let state = match (&job.stage, job.cancelled) {
        (_, true) => "stopping".into(),
        (Stage::Plans, _) => "plans".into(),
        (Stage::Waits(_), _) => match model.board.blocker(job) {
            Some(other) => format!("waits for {} {}", other.id, other.title),
            None => "waits".into(),
        },
        (Stage::Runs, _) => job.phase.to_owned(),
    };
    let for_long = model.clock.saturating_sub(job.began).as_secs();
    let state = format!("{state}, for {}", age(for_long));
    let begun = job.stage == Stage::Runs;
    let mark = if begun { Mark::Good } else { Mark::Plain };
    if width < NARROW {
        let percent = match job.progress {
            (_, 0) => String::new(),
            (done, total) => format!("{}% ", done.saturating_mul(100) / total),
        };
        return (begun, mark, format!("{title} {percent}{state}"));
    }
    let bar = match job.progress {
        (_, 0) => fit("", BAR + 5),
        (done, total) => {
            let full = usize::try_from(done.min(total) * BAR as u64 / total).unwrap_or(0);
            let percent = done.saturating_mul(100) / total;
            format!(
                "{}{} {percent:>3}%",
                "█".repeat(full),
                "░".repeat(BAR - full)
            )
        }
    };
    let rate = job.rate().map_or_else(String::new, |rate| {
        format!("{}/s", tally(rate.round() as u64))
    });
    let left = job
        .remaining()
        .map_or_else(String::new, |left| age(left.as_secs()));
    (
        begun,
        mark,
        format!("{title} {bar} {rate:<8} {left:<5} {state}"),
    )
}

fn over(model: &Model, job: &Ended, width: usize) -> (bool, Mark, String) {
    let (number, since, run) = match job.earlier {
        Some(at) => (
            "-".into(),
            seconds(model.now).saturating_sub(at),
            ", earlier run",
        ),
        None => {
            let since = model.clock.saturating_sub(job.at).as_secs();
            (job.id.to_string(), since, "")
        }
    };
    let title = fit(&format!("{number} {}", job.title), titles(width));
    let since = age(since);
    let took = format::duration(job.took);
    let (mark, how) = match job.end {
        End::Done => (Mark::Good, "done"),
        End::Cancelled => (Mark::Plain, "cancelled"),
        End::Failed => (Mark::Bad, "failed"),
    };
    (
        false,
        mark,
        format!("{title} {how} {since} ago in {took}{run}: {}", job.text),
    )
}

fn log(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.height < 3 {
        return;
    }
    let here = model.focus == Focus::Jobs && model.in_log;
    let focused = here || model.filtering;
    let title = match (model.log_filter.value(), model.filtering) {
        ("", false) => "Log".to_owned(),
        (text, true) => format!("Log with {}_", format::plain(text)),
        (text, false) => format!("Log with {}", format::plain(text)),
    };
    let all = logbook::entries(model);
    let rows = usize::from(area.height.saturating_sub(2));
    let first = logbook::first(model, all.len(), rows);
    let place = if all.len() > rows {
        let last = (first + rows).min(all.len());
        format!("{}-{last} of {}  ", first + 1, all.len())
    } else {
        String::new()
    };
    let keys = &model.keys;
    let note = match here {
        true => format!("{place}{} whole line", keys.label(Act::Enter)),
        false => format!(
            "{place}{} here  {} filters",
            keys.label(Act::Next),
            keys.label(Act::Filter)
        ),
    };
    let inside = pane(frame, area, model.theme, focused, &title, &note);
    let selected = logbook::at(model, all.len());
    let shown = all.iter().enumerate().skip(first).take(rows);
    let shown = shown.map(|(n, entry)| {
        let chosen = here && n == selected;
        let row = u16::try_from(n - first).unwrap_or(0);
        let back = all.len().saturating_sub(n + 1);
        model.spots.note(super::row(inside, row), Spot::Line(back));
        let line = entered(model, entry, chosen, usize::from(inside.width));
        match (chosen, entry.earlier) {
            (true, _) => line.style(model.theme.selected(true)),
            (false, true) => line.style(model.theme.dim()),
            (false, false) => line,
        }
    });
    lines(frame, inside, shown.collect());
}

/// What has just ended, the latest, at the upper right on a frame, where it covers nothing that is read; it goes
/// away. The log has all of them.
pub(super) fn toasts(model: &Model, frame: &mut Frame<'_>) {
    let Some((_, mark, text)) = model.toasts.back() else {
        return;
    };
    let screen = frame.area();
    let room = usize::from(screen.width.saturating_sub(4));
    let more = match model.toasts.len() {
        1 => String::new(),
        n => format!("(+{}) ", n - 1),
    };
    let text = cut(text, room.saturating_sub(4 + more.len()).min(60));
    let width = u16::try_from(text.width() + more.len() + 4).unwrap_or(0);
    let area = Rect {
        x: screen.width.saturating_sub(width + 1),
        // What a tour says is not covered.
        y: model.areas().banner.bottom().max(1),
        width,
        height: 1,
    };
    if area.bottom() >= screen.height {
        return;
    }
    frame.render_widget(Clear, area);
    let line = Line::from(vec![
        Span::styled(format!(" {} ", sign(*mark)), style(model.theme, *mark)),
        Span::raw(format!("{text} {more}")),
    ]);
    lines(frame, area, vec![line.style(model.theme.bar())]);
}
