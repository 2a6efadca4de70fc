//! Changing a stack: layers go, get together, stand alone, get names and pins. The plan first, where
//! layers go or much is written.

use std::path::Path;

use icecore::{Cancel, Error, Kind, Obstacle, Reporter, Result, edit};

use super::{obstacles, shown};
use crate::format;
use crate::tui::message::{Edit, Made, Report, Wish};
use crate::tui::popup::{Mark, Preview};

/// The plan of a change; none of a name or a pin, which do no harm.
fn planned(wish: &Edit) -> Result<Option<edit::Plan>> {
    match wish {
        Edit::Drop(dir) => edit::drop_layers(std::slice::from_ref(dir)).map(Some),
        Edit::Squash { from, to } => edit::squash(from, to).map(Some),
        Edit::Flatten(dir) => edit::flatten(dir, None).map(Some),
        Edit::Label { .. } | Edit::Pin { .. } => Ok(None),
    }
}

/// What a change would do. `pin` is the key that pins and unpins.
pub(super) fn plan(wish: &Edit, pin: &str) -> Result<Preview> {
    let mut preview = Preview::new(format!("{} — nothing has been changed yet", wish.title()));
    let Some(plan) = planned(wish)? else {
        preview.offer("Do it", Wish::Edit(wish.clone()), true);
        return Ok(preview);
    };
    for rewrite in &plan.rewrites {
        let on = match &rewrite.parent {
            Some(parent) => format!("stands on {} then", name(parent)),
            None => "stands alone then".to_owned(),
        };
        let pages = format::count(rewrite.pages, "page");
        let bytes = format::bytes(rewrite.bytes);
        let text = format!(
            "{} {on}, takes over {pages} (writes {bytes})",
            name(&rewrite.dir)
        );
        preview.line(Mark::Good, text);
    }
    for gone in &plan.removals {
        let bytes = format::bytes(gone.bytes);
        let label = gone
            .label
            .as_deref()
            .map(|label| format!(" “{}”", format::plain(label)));
        let text = format!(
            "{}{} GOES ({bytes})",
            format::plain(&gone.name),
            label.unwrap_or_default()
        );
        preview.line(Mark::Bad, text);
    }
    let here: Vec<Obstacle> = plan.obstacles.iter().map(|o| on_screen(o, pin)).collect();
    obstacles(&mut preview, &here, &plan.warnings);
    if plan.is_empty() {
        preview.line(Mark::Plain, "There is nothing to do.");
    } else if plan.is_possible() {
        if !plan.removals.is_empty() {
            let rest = "every other layer can be restored as before, to the last byte";
            preview.line(Mark::Good, rest);
        }
        let label = wish.verb();
        preview.offer(label, Wish::Edit(wish.clone()), plan.removals.is_empty());
    }
    Ok(preview)
}

/// An obstacle whose hint names the key, too, where a key does what the command does.
fn on_screen(obstacle: &Obstacle, pin: &str) -> Obstacle {
    let hint = match obstacle.hint.strip_prefix("icecore unpin ") {
        Some(rest) if !pin.is_empty() => format!("{pin} on it, or icecore unpin {rest}"),
        _ => obstacle.hint.clone(),
    };
    Obstacle::new(obstacle.kind, obstacle.what.clone(), hint)
}

/// Does it.
pub(super) fn apply(wish: &Edit, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Report> {
    let (text, warnings) = match wish {
        Edit::Label { dir, text } => {
            edit::label(dir, text)?;
            let how = match text.trim() {
                "" => "has no label any more".to_owned(),
                text => format!("is “{}” now", format::plain(text)),
            };
            (format!("{} {how}", name(dir)), Vec::new())
        }
        Edit::Pin { dir, pinned } => {
            edit::pin(dir, *pinned)?;
            let how = if *pinned {
                "pinned"
            } else {
                "not pinned any more"
            };
            (format!("{} is {how}", name(dir)), Vec::new())
        }
        Edit::Drop(_) | Edit::Squash { .. } | Edit::Flatten(_) => {
            let plan = planned(wish)?
                .ok_or_else(|| Error::new(Kind::Failed, "A change without a plan"))?;
            let done = edit::apply(&plan, reporter, cancel)?;
            let text = format!(
                "{}: {} removed, {} written anew ({})",
                wish.title(),
                format::count(done.removed as u64, "layer"),
                done.rewritten,
                format::bytes(done.bytes_written)
            );
            (text, plan.warnings.iter().map(shown).collect())
        }
    };
    Ok(Report {
        text,
        warnings,
        result: Made::Stack,
    })
}

fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    format::plain(&name.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_layer_names_the_key_that_unpins_it_beside_the_command() {
        let obstacle = |hint: &str| Obstacle::new(Kind::Busy, "Layer /img/1 is pinned", hint);
        let unpin = obstacle("icecore unpin /img/1, if you do not need it any more");
        let hint = on_screen(&unpin, "P").hint;
        assert_eq!(
            hint,
            "P on it, or icecore unpin /img/1, if you do not need it any more"
        );
        assert_eq!(on_screen(&unpin, "").hint, unpin.hint, "no key does it");
        let other = obstacle("wait for it");
        assert_eq!(on_screen(&other, "P").hint, other.hint);
    }
}
