//! The check of a stack before it is restored, deduplicated, or trusted in any other way.
//!
//! Quick: reads the small images of all layers and asks for the sizes and holes of the pages files,
//! never for the pages. A restore refuses to begin while there is an obstacle.
//!
//! Only what the tip needs counts: a hole or a short file below is an obstacle where this stack
//! owns the pages, and a warning elsewhere, so that a layer above consumed ones stays sound.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::holes::lost as lost_in;
use super::{Level, Missing, Owned, Ownership, Ranges, Stack, Why, stack};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::PagemapId;
use crate::image::proto::{InventoryEntry, MmEntry, PstreeEntry};
use crate::units::PageRange;

/// What the check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The layer that was checked.
    pub dir: PathBuf,
    /// Layers in its stack.
    pub layers: usize,
    /// Pages that a restore would read.
    pub pages: u64,
    /// Why the layer cannot be restored.
    pub obstacles: Vec<Obstacle>,
    /// What is odd, but not in the way.
    pub warnings: Vec<Obstacle>,
}

impl Report {
    /// True when nothing is in the way.
    pub fn is_sound(&self) -> bool {
        self.obstacles.is_empty()
    }

    fn of(stack: &Stack) -> Self {
        let dir = stack.tip().dir().to_path_buf();
        Self {
            dir,
            layers: stack.depth(),
            ..Self::default()
        }
    }

    fn all_memory(&mut self, stack: &Stack) {
        match stack.tip().images().pagemaps() {
            Err(error) => self.failed(&error),
            Ok(ids) => {
                for id in ids {
                    if let Err(error) = memory(stack, id, self) {
                        self.failed(&error);
                    }
                }
            }
        }
    }

    fn obstacle(&mut self, kind: Kind, what: impl Into<String>, hint: impl Into<String>) {
        let obstacle = Obstacle::new(kind, what, hint);
        // A damaged image is met by several checks.
        if !self.obstacles.contains(&obstacle) {
            self.obstacles.push(obstacle);
        }
    }

    fn failed(&mut self, error: &Error) {
        let hint = error
            .next_step()
            .unwrap_or("Restore another layer")
            .to_owned();
        self.obstacle(error.kind(), error.one_line(), hint);
    }
}

/// Checks the layer in `dir` with all its ancestors; what keeps the stack from being opened is an
/// obstacle like any other.
pub fn check_dir(dir: impl AsRef<Path>) -> Report {
    let dir = dir.as_ref();
    match Stack::open(dir) {
        Ok(stack) => check(&stack),
        Err(error) => {
            let mut report = Report {
                dir: dir.to_path_buf(),
                ..Report::default()
            };
            report.failed(&error);
            report
        }
    }
}

/// Checks that the tip of `stack` can be restored, as far as its images and pages go.
pub fn check(stack: &Stack) -> Report {
    let mut report = Report::of(stack);
    if let Err(error) = tip(stack.tip(), &mut report) {
        report.failed(&error);
    }
    report.all_memory(stack);
    report
}

/// Checks only that all memory of the tip can be read, so that a layer can be dumped on top of it:
/// a pre-dump passes.
pub fn check_memory(stack: &Stack) -> Report {
    let mut report = Report::of(stack);
    report.all_memory(stack);
    report
}

/// The tip itself: finished, restorable, not consumed, with a pagemap of each live task.
fn tip(level: &Level, report: &mut Report) -> Result<()> {
    let name = level.dir().display();
    match level.images().optional::<InventoryEntry>("inventory.img")? {
        None => report.obstacle(
            Kind::Corrupt,
            format!("Layer {name} has no inventory.img: its dump was never finished"),
            "Restore another layer; remove this directory if no dump is running",
        ),
        Some(inventory) if inventory.img_version == 0 => report.obstacle(
            Kind::Unsupported,
            format!("Layer {name} was made by pre-dump: it holds memory only"),
            "Restore a layer made by dump on top of it",
        ),
        Some(_) => {}
    }
    if let Some(mark) = level.sidecar().and_then(|s| s.consumed.as_ref()) {
        report.obstacle(
            Kind::Corrupt,
            format!(
                "Layer {name} was consumed: dedup of layer {} freed pages of it",
                mark.by
            ),
            format!("Restore layer {}, or another layer above this one", mark.by),
        );
    }
    for task in level.images().all::<PstreeEntry>("pstree.img")? {
        let id = PagemapId::Task(task.pid);
        let alive = level.dir().join(format!("mm-{}.img", task.pid)).exists();
        if alive && level.images().pagemap(id)?.is_none() {
            report.obstacle(
                Kind::Corrupt,
                format!(
                    "Layer {name} has no {}: the memory of pid {} is missing",
                    id.file_name(),
                    task.pid
                ),
                "Restore another layer",
            );
        }
    }
    Ok(())
}

/// One pagemap: its owners and their files.
fn memory(stack: &Stack, id: PagemapId, report: &mut Report) -> Result<()> {
    if let PagemapId::Task(pid) = id {
        inside_mappings(stack.tip(), pid, report)?;
    }
    let ownership = stack.ownership(id)?;
    report.pages += ownership.pages();
    lost(stack, id, &ownership, report)?;
    stored(stack, &ownership, report)
}

/// Pages that no mapping of the task contains would be lost, or hit something else.
fn inside_mappings(tip: &Level, pid: u32, report: &mut Report) -> Result<()> {
    let id = PagemapId::Task(pid);
    let Some(mm) = tip.images().optional::<MmEntry>(&format!("mm-{pid}.img"))? else {
        return Ok(()); // a pre-dump; reported elsewhere
    };
    let Some(pagemap) = stack::pagemap(tip.images(), id)? else {
        return Ok(());
    };
    let mappings: Ranges = mm
        .vmas
        .iter()
        .map(|vma| PageRange::new(vma.start, vma.end))
        .collect();
    let outside = Ranges::covered(&pagemap).minus(&mappings);
    if let Some(first) = outside.iter().next() {
        report.obstacle(
            Kind::Corrupt,
            format!(
                "{}: {} outside of every mapping of pid {pid}, first {first}",
                tip.dir().join(id.file_name()).display(),
                count(outside.pages()),
            ),
            "The images contradict each other; restore another layer",
        );
    }
    Ok(())
}

/// In-parent pages without an owner: one obstacle for each layer where the search ended.
fn lost(stack: &Stack, id: PagemapId, ownership: &Ownership, report: &mut Report) -> Result<()> {
    let mut ends: BTreeMap<usize, Vec<&Missing>> = BTreeMap::new();
    for gap in ownership.missing() {
        ends.entry(gap.layer).or_default().push(gap);
    }
    for (layer, gaps) in ends {
        let Some(first) = gaps.first() else { continue };
        let pages = gaps.iter().map(|gap| gap.range.pages()).sum();
        let pagemap = stack.level(layer)?.dir().join(id.file_name());
        let parent = stack
            .level(layer + 1)
            .map(|level| level.dir().display().to_string());
        let what = format!(
            "{}: {} in the parent, first {}, but ",
            pagemap.display(),
            count(pages),
            first.range
        );
        let (cause, hint) = match (first.why, parent) {
            (Why::NoPagemap, Ok(parent)) => (
                format!("{parent} has no {}", id.file_name()),
                format!("Put the file back into {parent}, or restore another layer"),
            ),
            (Why::NotCovered, Ok(parent)) => (
                format!(
                    "{} does not cover them",
                    Path::new(&parent).join(id.file_name()).display()
                ),
                format!("{parent} is damaged or not the layer it was; restore another layer"),
            ),
            _ => (
                "the layer has no parent".to_owned(),
                "Link the parent again: ln -s ../PARENT LAYER/parent".to_owned(),
            ),
        };
        report.obstacle(Kind::Corrupt, what + &cause, hint);
    }
    Ok(())
}

/// The pages files: long enough, and no hole where this stack owns the bytes.
fn stored(stack: &Stack, ownership: &Ownership, report: &mut Report) -> Result<()> {
    let mut files: BTreeMap<(usize, u32), Vec<&Owned>> = BTreeMap::new();
    for run in ownership.runs() {
        files
            .entry((run.layer, run.pages_id))
            .or_default()
            .push(run);
    }
    for ((layer, pages_id), runs) in files {
        let level = stack.level(layer)?;
        if let Err(error) = pages_file(level, pages_id, &runs, report) {
            report.failed(&error);
        }
    }
    Ok(())
}

fn pages_file(level: &Level, pages_id: u32, runs: &[&Owned], report: &mut Report) -> Result<()> {
    let path = level.dir().join(format!("pages-{pages_id}.img"));
    let file = level.images().pages_file(pages_id)?;
    let meta = file.metadata().map_err(|e| Error::path("read", &path, e))?;
    // Offsets ascend with addresses in every pages file.
    let needed: Ranges = runs
        .iter()
        .map(|run| PageRange::new(run.offset, run.end_offset()))
        .collect();
    let beyond = needed.minus(&PageRange::new(0, meta.len()).into());
    if !beyond.is_empty() {
        report.obstacle(
            Kind::Corrupt,
            format!(
                "{} is too short: {} bytes, {} of this stack missing",
                path.display(),
                meta.len(),
                count(beyond.pages())
            ),
            "The file was truncated; restore a layer that does not need it",
        );
        return Ok(());
    }
    if meta.blocks() * 512 >= meta.len() {
        return Ok(()); // no byte is missing
    }
    let known = level.sidecar().and_then(|s| s.known_pages(pages_id));
    let holes = lost_in(&file, meta.len(), known).map_err(|e| Error::path("read", &path, e))?;
    let punched = holes.intersect(&needed);
    let Some(first) = punched.iter().next() else {
        return Ok(());
    };
    let at = runs
        .iter()
        .find(|run| PageRange::new(run.offset, run.end_offset()).contains(first.start));
    let at = at.map_or(0, |run| run.range.start + (first.start - run.offset));
    let (by, hint) = match level
        .sidecar()
        .and_then(|sidecar| sidecar.consumed.as_ref())
    {
        Some(mark) => (
            format!("freed by dedup of layer {}", mark.by),
            format!("Restore layer {}, or another layer above it", mark.by),
        ),
        None => (
            "the file has holes there".to_owned(),
            "`criu dedup` frees pages without a mark; restore a layer above this one".to_owned(),
        ),
    };
    report.obstacle(
        Kind::Corrupt,
        format!(
            "{}: {} gone, first at {at:x}: {by}",
            path.display(),
            count(punched.pages())
        ),
        hint,
    );
    Ok(())
}

fn count(pages: u64) -> String {
    if pages == 1 {
        "1 page".to_owned()
    } else {
        format!("{pages} pages")
    }
}
