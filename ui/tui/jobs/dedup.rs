//! Freeing what a stack stores for nothing: the price first, then what was agreed to, one strategy after
//! the other.

use std::path::Path;
use std::sync::Arc;

use icecore::dedup::{self, Plan};
use icecore::{Cancel, Error, Kind, Reporter, Result};

use super::obstacles;
use crate::format;
use crate::standing::Standing;
use crate::tui::message::{Made, Report, Wish};
use crate::tui::popup::{Mark, Preview};

/// What these plans would do, also to live processes.
pub(super) fn preview(dir: &Path, plans: &[Arc<Plan>], standing: &Standing) -> Preview {
    let title = format!("Dedup below {} — nothing has been freed yet", name(dir));
    let mut preview = Preview::new(title);
    let mut lost: Vec<String> = Vec::new();
    let mut stood_on: Vec<String> = Vec::new();
    for plan in plans {
        let mark = if plan.lossless {
            Mark::Good
        } else {
            Mark::Warn
        };
        let (pages, bytes) = (format::count(plan.pages, "page"), format::bytes(plan.bytes));
        preview.line(mark, format!("{}: {pages} ({bytes})", plan.strategy));
        // The cuts of a layer follow each other.
        for cuts in plan.cuts.chunk_by(|a, b| a.dir == b.dir) {
            let Some(first) = cuts.first() else { continue };
            let bytes = format::bytes(cuts.iter().map(|cut| cut.bytes).sum());
            let files = match cuts {
                [cut] => {
                    let file = cut.file();
                    let file = file.file_name().unwrap_or_default().to_string_lossy();
                    file.into_owned()
                }
                _ => format::count(cuts.len() as u64, "file"),
            };
            let text = format!("{bytes:>10}  layer {} {files}", name(&first.dir));
            preview.line(Mark::Plain, text);
        }
        lost.extend(plan.lost_layers().map(|v| format::plain(&v.name)));
        stood_on.extend(standing.warnings(plan));
        obstacles(&mut preview, &plan.obstacles, &plan.warnings);
    }
    lost.sort();
    lost.dedup();
    if lost.is_empty() {
        preview.line(
            Mark::Good,
            "every layer can be restored as before, to the last byte",
        );
    } else {
        let lost = lost.join(", ");
        preview.line(
            Mark::Bad,
            format!("can NOT be restored any more afterwards: {lost}"),
        );
    }
    stood_on.sort();
    stood_on.dedup();
    for text in stood_on {
        preview.line(Mark::Warn, text);
    }
    if plans.len() > 1 {
        preview.line(
            Mark::Plain,
            "one after the other; what one frees, the next finds no more, so together it may be less",
        );
    }
    let wish = Wish::Dedup {
        dir: dir.to_path_buf(),
        plans: plans.to_vec(),
    };
    let bytes = format::bytes(plans.iter().map(|plan| plan.bytes).sum());
    let harmless = plans.iter().all(|plan| plan.lossless);
    let label = match (plans.len(), harmless) {
        (0 | 1, true) => format!("Free {bytes}"),
        (_, true) => format!("Free up to {bytes}"),
        (0 | 1, false) if !lost.is_empty() => format!("Free {bytes} that it overrides"),
        (0 | 1, false) => format!("Free {bytes}"),
        (_, false) => format!("Free up to {bytes}"),
    };
    preview.offer(label, wish, harmless);
    preview
}

/// Carries the plans out. The first as it was shown: the engine refuses it when the layers have changed.
/// Those after it are made anew, for the layers are others by then, and may cost no more than was shown.
pub(super) fn apply(
    dir: &Path,
    plans: &[Arc<Plan>],
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Report> {
    let (mut bytes, mut pages) = (0, 0);
    let (mut warnings, mut lost) = (Vec::new(), Vec::new());
    for (n, agreed) in plans.iter().enumerate() {
        let freed = if n == 0 {
            dedup::apply(agreed, reporter, cancel)
        } else {
            renewed(agreed).and_then(|plan| dedup::apply(&plan, reporter, cancel))
        };
        match freed {
            Ok(freed) => {
                bytes += freed.bytes;
                pages += freed.pages;
                let names = agreed.lost_layers().map(|v| format::plain(&v.name));
                lost.extend(
                    names
                        .filter(|name| !lost.contains(name))
                        .collect::<Vec<_>>(),
                );
            }
            Err(error) if n == 0 => return Err(error),
            // What was freed before is told in any case.
            Err(error) => {
                let why = format::plain(&error.one_line());
                warnings.push(format!("{} was not done: {why}", agreed.strategy));
                break;
            }
        }
    }
    if !lost.is_empty() {
        warnings.push(format!("not restorable any more: {}", lost.join(", ")));
    }
    let (bytes, pages) = (format::bytes(bytes), format::count(pages, "page"));
    Ok(Report {
        text: format!("dedup {}: {bytes} freed ({pages})", name(dir)),
        warnings,
        result: Made::Room,
    })
}

/// The same plan for the layers as they are now.
fn renewed(agreed: &Plan) -> Result<Plan> {
    let plan = dedup::plan(&agreed.dir, dedup::strategy(agreed.strategy)?)?;
    let known = |dir: &Path| agreed.lost_layers().any(|victim| victim.dir == dir);
    let other = plan.lost_layers().find(|victim| !known(&victim.dir));
    if let Some(other) = other {
        let name = format::plain(&other.name);
        let what = format!("The stack changed since the preview: layer {name} would be lost too");
        return Err(Error::new(Kind::TargetGone, what).hint("look at the preview again"));
    }
    Ok(plan)
}

fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    format::plain(&name.to_string_lossy())
}
