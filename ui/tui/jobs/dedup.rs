//! Freeing what a layer overrides below it: the price first.

use std::path::{Path, PathBuf};

use icecore::{Cancel, Error, Kind, Reporter, Result, dedup};

use super::{obstacles, shown};
use crate::format;
use crate::tui::message::{Made, Report, Wish};
use crate::tui::popup::{Mark, Preview};

/// What dedup below `dir` would free.
pub(super) fn plan(dir: &Path) -> Result<Preview> {
    let plan = dedup::plan(dir, dedup::strategy("superseded")?)?;
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    let mut preview = Preview::new(format!(
        "Dedup below {} — nothing has been freed yet",
        format::plain(&name)
    ));
    if plan.is_empty() {
        preview.line(Mark::Plain, "There is nothing to free.");
    } else {
        preview.line(
            Mark::Plain,
            format!(
                "{} ({}) that this layer overrides would be freed:",
                format::count(plan.pages, "page"),
                format::bytes(plan.bytes)
            ),
        );
    }
    for cut in &plan.cuts {
        let file = cut.file();
        let owner = cut.dir.file_name().unwrap_or_default().to_string_lossy();
        preview.line(
            Mark::Plain,
            format!(
                "{:>10}  layer {} {}",
                format::bytes(cut.bytes),
                format::plain(&owner),
                file.file_name().unwrap_or_default().to_string_lossy()
            ),
        );
    }
    let lost: Vec<String> = plan
        .lost_layers()
        .map(|victim| format::plain(&victim.name))
        .collect();
    if !lost.is_empty() {
        preview.line(
            Mark::Bad,
            format!(
                "can NOT be restored any more afterwards: {}",
                lost.join(", ")
            ),
        );
    }
    obstacles(&mut preview, &plan.obstacles, &plan.warnings);
    if plan.is_possible() && !plan.is_empty() {
        let wish = Wish::Dedup {
            dir: dir.to_path_buf(),
            lost: plan.lost_layers().map(|v| v.dir.clone()).collect(),
        };
        let label = format!("Free {}", format::bytes(plan.bytes));
        preview.offer(label, wish, lost.is_empty());
    }
    Ok(preview)
}

/// Frees it, if no layer but `lost` is lost by that.
pub(super) fn apply(
    dir: &Path,
    lost: &[PathBuf],
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Report> {
    let plan = dedup::plan(dir, dedup::strategy("superseded")?)?;
    if let Some(other) = plan
        .lost_layers()
        .find(|victim| !lost.contains(&victim.dir))
    {
        return Err(Error::new(
            Kind::TargetGone,
            format!(
                "The stack changed since the preview: layer {} would be lost too",
                other.name
            ),
        )
        .hint("look at the preview again"));
    }
    let freed = dedup::apply(&plan, reporter, cancel)?;
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    Ok(Report {
        text: format!(
            "dedup {}: {} freed ({})",
            format::plain(&name),
            format::bytes(freed.bytes),
            format::count(freed.pages, "page")
        ),
        warnings: plan.warnings.iter().map(shown).collect(),
        result: Made::Room,
    })
}
