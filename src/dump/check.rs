//! What a process tree holds, each thing with its verdict, before any dump.
//!
//! The verdicts are those of [`plan()`](super::plan()): as wished, and once more with everything allowed. What is in the
//! way of the first only needs an option. There are no rules here.

use std::collections::BTreeMap;

use serde::Serialize;

use super::plan::look;
use super::{Options, Plan};
use crate::error::{Obstacle, Result};
use crate::memory::{Backing, Mapping};
use crate::task::{Process, proc};

/// Whether a thing can be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It cannot.
    No,
    /// It can, with an option that the hint names.
    WithOption,
    /// It can.
    Supported,
}

/// One thing, or several that are told together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Whether it can be dumped.
    pub verdict: Verdict,
    /// How many there are.
    pub count: usize,
    /// What it is; of several that are in the way, the first.
    pub what: String,
    /// The next thing to try, where it cannot.
    pub hint: Option<String>,
}

/// Everything that was seen.
#[derive(Debug)]
pub struct Report {
    /// The plan as wished.
    pub plan: Plan,
    /// What is in the way first.
    pub lines: Vec<Line>,
}

/// Looks at the tree without stopping it; `all` tells each thing on a line of its own.
///
/// # Errors
/// As for [`plan()`](super::plan()).
pub fn check(options: &Options, all: bool) -> Result<Report> {
    let planned = look(options)?;
    let lenient = if planned.obstacles.is_empty() {
        Vec::new()
    } else {
        let mut options = options.clone();
        options.allow = options.allow.everything();
        look(&options)?.obstacles
    };
    let mut lines = judged(&planned.obstacles, &lenient, all);
    lines.extend(supported(&planned, all));
    Ok(Report {
        plan: planned,
        lines,
    })
}

/// Lines of what is in the way; what is not in `lenient` needs an option only.
fn judged(obstacles: &[Obstacle], lenient: &[Obstacle], all: bool) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for obstacle in obstacles {
        let verdict = match lenient.contains(obstacle) {
            true => Verdict::No,
            false => Verdict::WithOption,
        };
        let hint = Some(obstacle.hint.clone());
        let alike = |line: &&mut Line| !all && line.verdict == verdict && line.hint == hint;
        match lines.iter_mut().find(alike) {
            Some(line) => line.count += 1,
            None => lines.push(Line {
                verdict,
                count: 1,
                what: obstacle.what.clone(),
                hint,
            }),
        }
    }
    lines.sort_by_key(|line| line.verdict);
    lines
}

fn supported(plan: &Plan, all: bool) -> Vec<Line> {
    let mut counts: BTreeMap<(u8, String), usize> = BTreeMap::new();
    let mut add = |group, what: String| *counts.entry((group, what)).or_default() += 1;
    for process in &plan.processes {
        match all {
            true => add(0, format!("process {} ({})", process.pid, process.comm)),
            false => add(0, "process".into()),
        }
        for tid in &process.threads {
            match all {
                true => add(1, format!("thread {tid} of process {}", process.pid)),
                false => add(1, "thread".into()),
            }
        }
    }
    for (process, mapped) in plan.processes.iter().zip(&plan.mappings) {
        for mapping in mapped.iter().filter(|m| m.obstacle(process.pid).is_none()) {
            let kind = kind(mapping);
            match all {
                true => add(2, format!("{kind} at {} of {}", mapping.range, process.pid)),
                false => add(2, kind),
            }
        }
    }
    for file in plan.files.iter().filter(|file| !file.refused) {
        match all {
            true => add(3, format!("{} {} of {}", file.kind, file.place, file.pid)),
            false => add(3, file.kind.to_owned()),
        }
    }
    for (kind, name) in &plan.held {
        match all {
            true => add(2, name.to_lowercase().replace("system v", "System V")),
            false => add(2, (*kind).to_owned()),
        }
    }
    for process in &plan.processes {
        for what in held(process) {
            match all {
                true => add(4, format!("{what} of process {}", process.pid)),
                false => add(4, what.to_owned()),
            }
        }
    }
    for what in plan.namespaces.names() {
        add(5, format!("{what} namespace of its own"));
    }
    let lines = counts.into_iter().map(|((_, what), count)| Line {
        verdict: Verdict::Supported,
        count,
        what,
        hint: None,
    });
    lines.collect()
}

/// What of a process is in no file and no mapping, as far as /proc tells, which knows nothing of interval
/// timers; each thing as often as there is one (proc_pid_status(5), proc_pid_timers(5), proc_locks(5)).
fn held(process: &Process) -> Vec<&'static str> {
    let mut all = Vec::new();
    let pid = process.pid.as_raw();
    for tid in &process.threads {
        let Ok(status) = proc::status(process.pid, *tid) else {
            continue;
        };
        // One queue of each thread, and one of all.
        let shared = if *tid == process.pid {
            status.shdpnd
        } else {
            0
        };
        let pending = status.sigpnd.count_ones() + shared.count_ones();
        all.extend((0..pending).map(|_| "pending signal"));
        if status.seccomp == Some(2) {
            all.push("thread with seccomp filters");
        }
    }
    let timers = std::fs::read_to_string(format!("/proc/{pid}/timers")).unwrap_or_default();
    let timers = timers.lines().filter(|line| line.starts_with("ID:"));
    all.extend(timers.map(|_| "POSIX timer"));
    let locks = procfs::locks().unwrap_or_default().into_iter();
    let locks = locks.filter(|lock| lock.pid == Some(pid));
    all.extend(locks.map(|_| "lock on a file"));
    all
}

/// What a mapping is, in words.
fn kind(mapping: &Mapping) -> String {
    let sharing = if mapping.shared { "shared" } else { "private" };
    match mapping.backing {
        Backing::Anonymous => format!("{sharing} anonymous mapping"),
        Backing::File(_) => format!("{sharing} mapping of a file"),
        Backing::Segment(_) => format!("{sharing} mapping of a segment"),
        Backing::AioRing => "ring of asynchronous I/O".into(),
        Backing::SystemV => "System V shared memory".into(),
        Backing::Vdso | Backing::Vvar | Backing::Vsyscall => "mapping of the kernel's".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_everything_allowed_does_not_mend_is_not_said_to_need_an_option() {
        let ring = Obstacle::unsupported("a ring", "close it");
        let locks = ["lock 1", "lock 2"].map(|what| Obstacle::unsupported(what, "--file-locks"));
        let obstacles = [locks[0].clone(), ring.clone(), locks[1].clone()];
        let told = |all| {
            let lines = judged(&obstacles, std::slice::from_ref(&ring), all);
            let told = lines.into_iter().map(|l| (l.verdict, l.count, l.what));
            told.collect::<Vec<_>>()
        };
        let no = (Verdict::No, 1, "a ring".to_owned());
        assert_eq!(
            told(false),
            [no.clone(), (Verdict::WithOption, 2, "lock 1".into())]
        );
        assert_eq!(told(true).len(), 3);
        assert_eq!(told(true)[0], no);
    }
}
