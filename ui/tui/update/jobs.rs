//! What jobs tell, and what is done about them.

use icecore::Event;

use crate::tui::board::{End, Ended, Stage};
use crate::tui::message::{Effect, Failure, Made, Report, Wish};
use crate::tui::model::Model;
use crate::tui::popup::{Mark, Popup};
use crate::tui::undo;

/// Takes in what a job tells.
pub(super) fn progress(model: &mut Model, id: u64, event: &Event) {
    if let Event::Warning(text) = event {
        model.note(Mark::Warn, crate::format::plain(text));
    }
    let now = model.clock;
    let Some(job) = model.board.job(id) else {
        return;
    };
    match event {
        Event::Phase(phase) => {
            job.phase = phase;
            job.progress = (0, 0);
            job.phase_at = (now, now);
        }
        Event::Progress { done, total } => {
            job.progress = (*done, *total);
            job.phase_at.1 = now;
        }
        Event::Frozen { .. } => job.phase = "frozen",
        Event::Thawed { .. } => job.phase = "thawed",
        Event::Warning(_) => {}
    }
}

/// Takes in how a job ended.
pub(super) fn done(
    model: &mut Model,
    id: u64,
    result: Result<Report, Failure>,
    effects: &mut Vec<Effect>,
) {
    let by_rule = model.board.job(id).and_then(|job| job.by_rule);
    if let (Some(root), Err(failure)) = (by_rule, &result)
        && failure.held
    {
        // Nothing went wrong, and nothing was done: no job to speak of.
        model.board.drop_silently(id);
        begin(model, effects);
        return super::watch::held_back(model, root, &failure.text);
    }
    let (end, text) = match &result {
        Ok(report) => (End::Done, report.text.clone()),
        Err(failure) if failure.cancelled => (End::Cancelled, "it has left nothing".into()),
        Err(failure) => (End::Failed, failure.text.clone()),
    };
    let job = model.board.end(id, end, &text, model.clock);
    begin(model, effects);
    effects.push(Effect::Scan);
    super::dedup::again(model, effects);
    let title = job.as_ref().map_or("job", |job| job.title.as_str());
    let (mark, how) = match end {
        End::Done => (Mark::Good, "done"),
        End::Cancelled => (Mark::Plain, "cancelled"),
        End::Failed => (Mark::Bad, "failed"),
    };
    let toast = match &result {
        // What the disk got back is what was wanted.
        Ok(report) if matches!(report.result, Made::Room) => report.text.clone(),
        _ => format!("{title}: {how}"),
    };
    model.toast(mark, toast);
    if let Some(root) = by_rule {
        super::watch::rule_done(model, root, end, &text);
    }
    let report = match result {
        Ok(report) => report,
        Err(failure) => {
            model.note(mark, failure.text.clone());
            // Nobody waits for what a rule wants; and who cancels knows what happened.
            if end == End::Failed && by_rule.is_none() {
                super::dialog::open(model, Popup::Failure(failure));
                // It is to be read.
                model.leaving = false;
            }
            return;
        }
    };
    model.note(Mark::Good, report.text);
    for warning in report.warnings {
        model.note(Mark::Warn, warning);
    }
    match report.result {
        Made::Layer(dir) => {
            model.facts.dumps += 1;
            model.facts.branches += usize::from(model.facts.restores > 0);
            model.select_layer = Some(dir);
        }
        Made::Tree {
            root,
            start_time,
            kept,
        } => {
            model.facts.restores += 1;
            model.facts.safeties += usize::from(kept.is_some());
            undo::rolled_back(model, root, start_time, kept);
            model.select = Some(root);
            model.missed = 0;
            effects.push(Effect::Survey);
        }
        Made::Stack => model.mapped = None,
        Made::Room => {
            model.facts.dedups += 1;
            model.mapped = None;
        }
    }
}

/// Lets those begin that waited for what has ended.
fn begin(model: &mut Model, effects: &mut Vec<Effect>) {
    let begun = model.board.next(model.clock);
    effects.extend(begun.into_iter().map(|(id, wish)| Effect::Apply(id, wish)));
}

/// Has a wish carried out, at once or when nothing is in its way any more.
pub(super) fn apply(model: &mut Model, wish: Wish, effects: &mut Vec<Effect>) -> u64 {
    let (id, begins) = model.board.start(&wish, model.clock);
    if begins {
        effects.push(Effect::Apply(id, wish));
        return id;
    }
    let jobs = &model.board.jobs;
    let blocker = jobs.last().and_then(|job| model.board.blocker(job));
    let blocker = blocker.map_or("another job", |job| job.title.as_str());
    let text = format!("{} waits for {blocker}", wish.title());
    model.note(Mark::Plain, text);
    id
}

/// Asks a job to stop; one that plans or waits is gone at once.
pub(super) fn cancel(model: &mut Model, id: u64, effects: &mut Vec<Effect>) {
    let now = model.clock;
    let Some(job) = model.board.job(id) else {
        return;
    };
    match &job.stage {
        Stage::Runs => {
            job.cancelled = true;
            effects.push(Effect::CancelJob(id));
        }
        // What it finds out is not shown.
        Stage::Plans => job.cancelled = true,
        Stage::Waits(_) => {
            model.board.end(id, End::Cancelled, "it had not begun", now);
            begin(model, effects);
        }
    }
}

/// The selected job, if it has ended.
pub(super) fn selected_end(model: &Model) -> Option<&Ended> {
    let at = model.job_cursor.at.checked_sub(model.board.jobs.len())?;
    model.board.ended.get(at)
}
