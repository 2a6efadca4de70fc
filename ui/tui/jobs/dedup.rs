//! Freeing what a stack stores for nothing: the price first. What costs no layer anything is one
//! choice, what a layer overrides below it (CRIU's dedup) another.

use std::path::{Path, PathBuf};

use icecore::dedup::{self, Plan};
use icecore::{Cancel, Error, Kind, Reporter, Result};

use super::{obstacles, shown};
use crate::format;
use crate::tui::message::{Made, Report, Wish};
use crate::tui::popup::{Mark, Preview};

/// Strategies that cost no layer anything and work on every file system.
const LOSSLESS: [&str; 2] = ["unchanged", "zero"];
/// CRIU's.
const SUPERSEDED: &str = "superseded";

/// What dedup of the stack of `dir` would free.
pub(super) fn plan(dir: &Path) -> Result<Preview> {
    let title = format!("Dedup below {} — nothing has been freed yet", name(dir));
    let mut preview = Preview::new(title);
    let mut free = 0;
    let mut possible = Vec::new();
    for strategy in LOSSLESS {
        let plan = planned(dir, strategy)?;
        figures(&mut preview, &plan, Mark::Good);
        if plan.is_possible() && !plan.is_empty() {
            free += plan.bytes;
            possible.push(strategy);
        } else {
            obstacles(&mut preview, &plan.obstacles, &[]);
        }
    }
    if !possible.is_empty() {
        let wish = Wish::Dedup {
            dir: dir.to_path_buf(),
            strategies: possible,
            lost: Vec::new(),
        };
        preview.line(
            Mark::Good,
            "every layer can be restored as before, to the last byte",
        );
        preview.offer(format!("Free {}", format::bytes(free)), wish, true);
    }
    let plan = planned(dir, SUPERSEDED)?;
    figures(&mut preview, &plan, Mark::Warn);
    for cut in &plan.cuts {
        let file = cut.file();
        let file = file.file_name().unwrap_or_default().to_string_lossy();
        let bytes = format::bytes(cut.bytes);
        preview.line(
            Mark::Plain,
            format!("{bytes:>10}  layer {} {file}", name(&cut.dir)),
        );
    }
    let lost: Vec<String> = plan
        .lost_layers()
        .map(|victim| format::plain(&victim.name))
        .collect();
    if !lost.is_empty() {
        let lost = lost.join(", ");
        preview.line(
            Mark::Bad,
            format!("can NOT be restored any more afterwards: {lost}"),
        );
    }
    obstacles(&mut preview, &plan.obstacles, &plan.warnings);
    if plan.is_possible() && !plan.is_empty() {
        let wish = Wish::Dedup {
            dir: dir.to_path_buf(),
            strategies: vec![SUPERSEDED],
            lost: plan.lost_layers().map(|v| v.dir.clone()).collect(),
        };
        let label = format!("Free {} that it overrides", format::bytes(plan.bytes));
        preview.offer(label, wish, false);
    }
    Ok(preview)
}

/// Frees it, if no layer but `lost` is lost by that.
pub(super) fn apply(
    dir: &Path,
    strategies: &[&str],
    lost: &[PathBuf],
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Report> {
    let (mut bytes, mut pages) = (0, 0);
    let mut warnings = Vec::new();
    for strategy in strategies {
        let plan = planned(dir, strategy)?;
        if let Some(other) = plan
            .lost_layers()
            .find(|victim| !lost.contains(&victim.dir))
        {
            let name = &other.name;
            let what =
                format!("The stack changed since the preview: layer {name} would be lost too");
            return Err(Error::new(Kind::TargetGone, what).hint("look at the preview again"));
        }
        let freed = dedup::apply(&plan, reporter, cancel)?;
        bytes += freed.bytes;
        pages += freed.pages;
        warnings.extend(plan.warnings.iter().map(shown));
    }
    let (bytes, pages) = (format::bytes(bytes), format::count(pages, "page"));
    Ok(Report {
        text: format!("dedup {}: {bytes} freed ({pages})", name(dir)),
        warnings,
        result: Made::Room,
    })
}

fn planned(dir: &Path, strategy: &str) -> Result<Plan> {
    dedup::plan(dir, dedup::strategy(strategy)?)
}

fn figures(preview: &mut Preview, plan: &Plan, mark: Mark) {
    let strategy = plan.strategy;
    if plan.is_empty() {
        preview.line(Mark::Plain, format!("{strategy}: nothing to free"));
    } else {
        let (pages, bytes) = (format::count(plan.pages, "page"), format::bytes(plan.bytes));
        preview.line(mark, format!("{strategy}: {pages} ({bytes})"));
    }
}

fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    format::plain(&name.to_string_lossy())
}
