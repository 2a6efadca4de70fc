//! How two layers of one tree differ: processes, threads, descriptors, mappings, pages.
//!
//! Pages that both layers take from the same place in the same file are equal; only the others are
//! read. A process with the same pid but another start time is another process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::descriptors::{self, Descriptors};
use super::pages::{self, Pages};
use super::view::{Task, View};
use super::{Mapping, Space};
use crate::error::Result;
use crate::image::Sidecar;
use crate::image::proto::CoreEntry;

/// What became of something from the first layer to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// Only the second layer has it.
    Appeared,
    /// Only the first layer has it.
    Gone,
    /// Both have it, with differences.
    Changed,
    /// Both have it, and it is not the same one: a pid or address that was used again.
    Replaced,
}

/// Everything that differs between two layers.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// The first layer.
    pub from: PathBuf,
    /// The second layer.
    pub to: PathBuf,
    /// Processes that differ, in order of their pids.
    pub tasks: Vec<TaskDiff>,
    /// Shared segments that differ.
    pub segments: Vec<SegmentDiff>,
}

/// How one process differs.
#[derive(Clone, Debug, Serialize)]
pub struct TaskDiff {
    /// Its pid.
    pub pid: u32,
    /// Its name, in the second layer if it is there.
    pub comm: String,
    /// What became of it.
    pub change: Change,
    /// Threads that only the second layer has.
    pub threads_appeared: Vec<u32>,
    /// Threads that only the first layer has.
    pub threads_gone: Vec<u32>,
    /// Threads that stand at another instruction or have other registers.
    pub threads_moved: Vec<u32>,
    /// Descriptors that differ.
    pub descriptors: Vec<DescriptorDiff>,
    /// Mappings that differ.
    pub mappings: Vec<MappingDiff>,
    /// Pages that differ, by mapping.
    pub pages: Vec<Pages>,
}

impl TaskDiff {
    fn is_empty(&self) -> bool {
        self.change == Change::Changed
            && self.threads_appeared.is_empty()
            && self.threads_gone.is_empty()
            && self.threads_moved.is_empty()
            && self.descriptors.is_empty()
            && self.mappings.is_empty()
            && self.pages.is_empty()
    }
}

/// How one descriptor differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DescriptorDiff {
    /// Its number.
    pub fd: u32,
    /// What became of it.
    pub change: Change,
    /// What it was.
    pub from: Option<String>,
    /// What it is.
    pub to: Option<String>,
}

/// How one mapping differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MappingDiff {
    /// What became of it.
    pub change: Change,
    /// What it was.
    pub from: Option<Mapping>,
    /// What it is.
    pub to: Option<Mapping>,
}

/// How one shared segment differs.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentDiff {
    /// Its number.
    pub shmid: u64,
    /// What became of it.
    pub change: Change,
    /// Its pages.
    pub pages: Vec<Pages>,
}

/// Compares two layers. `progress` is told how many pages have been compared.
///
/// # Errors
/// When an image or pages cannot be read.
pub fn diff(from: &View, to: &View, progress: &mut dyn FnMut(u64)) -> Result<Diff> {
    let mut tasks = Vec::new();
    let pids: BTreeSet<u32> = [from, to]
        .iter()
        .flat_map(|view| view.tasks().iter().map(|task| task.pid))
        .collect();
    let started = |view: &View| -> BTreeMap<u32, u64> {
        let sidecar = view.stack().tip().sidecar();
        let noted = sidecar
            .map(|s: &Sidecar| s.tasks.as_slice())
            .unwrap_or_default();
        noted
            .iter()
            .map(|task| (task.pid, task.start_time))
            .collect()
    };
    let boot = |view: &View| view.stack().tip().sidecar().and_then(|s| s.boot_id.clone());
    let (before, after) = (started(from), started(to));
    // Start times tell two processes apart within one boot; and a restored process has a new one.
    let one_boot = boot(from).is_some() && boot(from) == boot(to);
    for pid in pids {
        let (a, b) = (from.task(pid).ok(), to.task(pid).ok());
        let other = match (before.get(&pid), after.get(&pid)) {
            (Some(before), Some(after)) => one_boot && before != after,
            _ => false,
        };
        let found = match (a, b) {
            (Some(a), Some(b)) => task(from, a, to, b, other, progress)?,
            (Some(only), None) => alone(only, Change::Gone),
            (None, Some(only)) => alone(only, Change::Appeared),
            (None, None) => continue,
        };
        if !found.is_empty() {
            tasks.push(found);
        }
    }
    Ok(Diff {
        from: from.dir().to_path_buf(),
        to: to.dir().to_path_buf(),
        tasks,
        segments: segments(from, to, progress)?,
    })
}

fn alone(task: &Task, change: Change) -> TaskDiff {
    TaskDiff {
        pid: task.pid,
        comm: task.comm.clone(),
        change,
        threads_appeared: Vec::new(),
        threads_gone: Vec::new(),
        threads_moved: Vec::new(),
        descriptors: Vec::new(),
        mappings: Vec::new(),
        pages: Vec::new(),
    }
}

fn task(
    from: &View,
    a: &Task,
    to: &View,
    b: &Task,
    other: bool,
    progress: &mut dyn FnMut(u64),
) -> Result<TaskDiff> {
    let restarted = other && a.comm != b.comm;
    let mut found = alone(
        b,
        if restarted {
            Change::Replaced
        } else {
            Change::Changed
        },
    );
    if a.alive != b.alive {
        found.change = if b.alive {
            Change::Replaced
        } else {
            Change::Gone
        };
        return Ok(found);
    }
    if !a.alive {
        return Ok(found);
    }
    let only = |x: &Task, y: &Task| -> Vec<u32> {
        x.threads
            .iter()
            .copied()
            .filter(|tid| !y.threads.contains(tid))
            .collect()
    };
    found.threads_gone = only(a, b);
    found.threads_appeared = only(b, a);
    for tid in a.threads.iter().filter(|tid| b.threads.contains(tid)) {
        let registers = |view: &View| -> Result<_> {
            let core: Option<CoreEntry> = view.images().optional(&format!("core-{tid}.img"))?;
            Ok(core.and_then(|core| core.thread_info))
        };
        if registers(from)? != registers(to)? {
            found.threads_moved.push(*tid);
        }
    }
    found.descriptors = compare_descriptors(
        &descriptors::of_task(from, a.pid)?,
        &descriptors::of_task(to, b.pid)?,
    );
    let (a, b) = (from.space(a.pid)?, to.space(b.pid)?);
    found.mappings = compare_mappings(&a, &b);
    found.pages = pages::compare(from, &a, to, &b, progress)?;
    Ok(found)
}

fn compare_descriptors(a: &Descriptors, b: &Descriptors) -> Vec<DescriptorDiff> {
    let fds: BTreeSet<u32> = a.keys().chain(b.keys()).copied().collect();
    fds.into_iter()
        .filter_map(|fd| {
            let (from, to) = (a.get(&fd), b.get(&fd));
            let change = match (from, to) {
                (Some(a), Some(b)) if a.record == b.record => return None,
                (Some(a), Some(b)) if a.kind != b.kind || a.name != b.name => Change::Replaced,
                (Some(_), Some(_)) => Change::Changed,
                (None, _) => Change::Appeared,
                (_, None) => Change::Gone,
            };
            let text = |d: &descriptors::Descriptor| d.to_string();
            Some(DescriptorDiff {
                fd,
                change,
                from: from.map(text),
                to: to.map(text),
            })
        })
        .collect()
}

fn compare_mappings(a: &Space<'_>, b: &Space<'_>) -> Vec<MappingDiff> {
    let by_start = |space: &Space<'_>| -> BTreeMap<u64, Mapping> {
        space
            .mappings()
            .iter()
            .map(|m| (m.range.start, m.clone()))
            .collect()
    };
    let (a, b) = (by_start(a), by_start(b));
    let starts: BTreeSet<u64> = a.keys().chain(b.keys()).copied().collect();
    starts
        .into_iter()
        .filter_map(|start| {
            let (from, to) = (a.get(&start), b.get(&start));
            let change = match (from, to) {
                (Some(a), Some(b)) if a == b => return None,
                (Some(a), Some(b)) if a.name == b.name && a.backing == b.backing => Change::Changed,
                (Some(_), Some(_)) => Change::Replaced,
                (None, _) => Change::Appeared,
                (_, None) => Change::Gone,
            };
            Some(MappingDiff {
                change,
                from: from.cloned(),
                to: to.cloned(),
            })
        })
        .collect()
}

fn segments(from: &View, to: &View, progress: &mut dyn FnMut(u64)) -> Result<Vec<SegmentDiff>> {
    let (a, b) = (from.segments()?, to.segments()?);
    let all: BTreeSet<u64> = a.iter().chain(&b).copied().collect();
    let mut found = Vec::new();
    for shmid in all {
        let change = match (a.contains(&shmid), b.contains(&shmid)) {
            (true, true) => Change::Changed,
            (true, false) => Change::Gone,
            _ => Change::Appeared,
        };
        let pages = match change {
            Change::Changed => pages::compare(
                from,
                &from.segment(shmid)?,
                to,
                &to.segment(shmid)?,
                progress,
            )?,
            _ => Vec::new(),
        };
        if change != Change::Changed || !pages.is_empty() {
            found.push(SegmentDiff {
                shmid,
                change,
                pages,
            });
        }
    }
    Ok(found)
}
