//! Leaving: at once where nothing ends with it, or else after a question.

use super::jobs::cancel;
use crate::format::plain;
use crate::tui::board::{Job, Stage};
use crate::tui::message::Effect;
use crate::tui::model::Model;
use crate::tui::popup::{Leave, Mark, Popup, Preview};

/// Jobs that do something, or will.
fn at_work(model: &Model) -> impl Iterator<Item = &Job> {
    let jobs = model.board.jobs.iter();
    jobs.filter(|job| job.stage != Stage::Plans)
}

/// Leaves, or asks first: rules end with the program, and jobs need not.
pub(super) fn ask(model: &mut Model) {
    // Who asks again has not decided yet.
    model.leaving = false;
    let mut preview = Preview::new("Quit \u{2014} nothing has been ended yet");
    for job in at_work(model) {
        let how = match job.stage {
            Stage::Waits(_) => "waits for another job",
            _ => job.phase,
        };
        preview.line(Mark::Plain, format!("job {}, {}: {how}", job.id, job.title));
    }
    let jobs = preview.lines.len();
    for (pid, follow) in &model.follows {
        let Some(auto) = &follow.auto else { continue };
        let tree = model.running(icecore::Pid::from_raw(*pid));
        let name = tree.map_or(String::new(), |tree| format!(" ({})", plain(&tree.comm)));
        let text = format!("the rule of process {pid}{name} ends: {}", auto.rule());
        preview.line(Mark::Warn, text);
    }
    if preview.lines.is_empty() {
        model.quit = true;
        return;
    }
    if jobs > 0 {
        if let Some(button) = preview.buttons.first_mut() {
            button.label = "Stay".into();
        }
        let them = if jobs == 1 { "it" } else { "them" };
        preview.offer(format!("Wait for {them} and quit"), Leave::Later, false);
        preview.offer(format!("Cancel {them} and quit"), Leave::Cancelling, false);
    } else {
        preview.offer("Quit", Leave::Now, false);
    }
    super::dialog::open(model, Popup::Preview(preview));
}

/// Leaves so.
pub(super) fn leave(model: &mut Model, how: Leave, effects: &mut Vec<Effect>) {
    model.leaving = true;
    match how {
        Leave::Now => model.quit = true,
        Leave::Later => {}
        Leave::Cancelling => {
            // Those that wait are to go before those that they wait for.
            let ids: Vec<u64> = at_work(model).map(|job| job.id).collect();
            for id in ids.into_iter().rev() {
                cancel(model, id, effects);
            }
        }
    }
}

/// Leaves when nothing is to be waited for any more.
pub(super) fn follow(model: &mut Model) {
    model.quit |= model.leaving && at_work(model).next().is_none();
}
