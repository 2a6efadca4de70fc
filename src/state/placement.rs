//! Where and how urgently a thread runs, beyond its priority: CPU affinity (sched_setaffinity(2)),
//! memory policy (set_mempolicy(2)), I/O priority (ioprio_set(2)), timer slack (PR_SET_TIMERSLACK,
//! prctl(2)). CRIU's images have no place for any of it and CRIU loses it in silence; ours is in
//! fields of our own (`thread_core.cpus` and following). The usual values are recorded, too: whoever
//! restores may have been started with others.

use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::words::{low, words};
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Kind, Obstacle, Result};
use crate::inject::Call;
use crate::task::proc;
use crate::units::Pid;

const PR_SET_TIMERSLACK: u64 = 29;
const PR_GET_TIMERSLACK: u64 = 30;
const IOPRIO_WHO_PROCESS: u64 = 1;
/// Never set, where the kernel gives what comes of that (Linux before 5.18): best effort 4.
const OLD_UNSET_IO_PRIORITY: u32 = 2 << 13 | 4;
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
/// Words of a node mask: room for every node that a kernel can have (MAX_NUMNODES is 1024).
const NODE_WORDS: u64 = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Placement;

impl Resource for Placement {
    fn name(&self) -> &'static str {
        "placement"
    }

    fn check(&self, _pid: Pid) -> Result<Vec<Obstacle>> {
        // Asked now, so that no target stands still meanwhile.
        let _known = every_cpu();
        Ok(Vec::new())
    }

    fn ask(&self, questions: &mut Questions) {
        let mode = questions.room(8);
        let nodes = questions.room(NODE_WORDS * 8);
        questions.call(libc::SYS_prctl, &[PR_GET_TIMERSLACK]);
        questions.call(libc::SYS_ioprio_get, &[IOPRIO_WHO_PROCESS, 0]);
        let bits = NODE_WORDS * 64;
        questions.call(libc::SYS_get_mempolicy, &[mode, nodes, bits, 0, 0]);
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        let cpus = &answers.status.cpus_allowed_list;
        if cpus == every_cpu() {
            task.thread().any_cpu = Some(true);
        } else {
            let cpus = cpus.iter().flatten();
            task.thread().cpus = cpus.flat_map(|(first, last)| *first..=*last).collect();
        }
        // A kernel without one of these cannot have set it either. Real-time threads have no slack.
        let real_time = matches!(answers.stat.policy, Some(SCHED_FIFO | SCHED_RR));
        let slack = answers.value(0, "prctl").ok();
        task.thread().timer_slack = slack.filter(|slack| *slack != 0 && !real_time);
        let priority = answers.value(1, "ioprio_get").map(low).ok();
        task.thread().io_priority = priority.map(|p| match p {
            OLD_UNSET_IO_PRIORITY => 0,
            set => set,
        });
        let policy = answers.value(2, "get_mempolicy").map(|_| answers.word(0));
        if let Ok(policy) = policy.map(low) {
            let nodes = answers.words.get(1..).unwrap_or_default();
            let used = nodes
                .iter()
                .rposition(|word| *word != 0)
                .map_or(0, |n| n + 1);
            task.thread().memory_policy = Some(policy);
            task.thread().memory_nodes = nodes[..used].to_vec();
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(thread) = task.thread() else {
            return Ok(());
        };
        if bind(task, &thread.cpus, thread.any_cpu == Some(true)).is_err() {
            lost(
                task,
                "CPUs",
                "this machine has none of them, or icecore may not use them",
            );
        }
        let mut present = [
            Call::new(libc::SYS_prctl, &[PR_GET_TIMERSLACK]),
            Call::new(libc::SYS_ioprio_get, &[IOPRIO_WHO_PROCESS, 0]),
        ];
        task.remote.run(&mut present)?;
        let is = |call: usize, wanted: u64| present[call].value() == Ok(wanted);
        let mut calls = Vec::new();
        if let Some(slack) = thread.timer_slack.filter(|slack| !is(0, *slack)) {
            let call = Call::new(libc::SYS_prctl, &[PR_SET_TIMERSLACK, slack]);
            calls.push((call, "timer slack", "it is set by prctl(2)"));
        }
        let priority = thread.io_priority.map(u64::from);
        if let Some(priority) = priority.filter(|priority| !is(1, *priority)) {
            let args = [IOPRIO_WHO_PROCESS, 0, priority];
            let hint = "the class real time needs CAP_SYS_NICE";
            calls.push((Call::new(libc::SYS_ioprio_set, &args), "I/O priority", hint));
        }
        if let Some(policy) = thread.memory_policy {
            let mask = task.remote.put(0, &words(&thread.memory_nodes))?;
            let (mask, bits) = match thread.memory_nodes.len() as u64 {
                0 => (0, 0),
                // One more than the bits that count (set_mempolicy(2), BUGS).
                n => (mask, n * 64 + 1),
            };
            let call = Call::new(libc::SYS_set_mempolicy, &[u64::from(policy), mask, bits]);
            calls.push((call, "memory policy", "this machine may lack its nodes"));
        }
        for (mut call, what, hint) in calls {
            task.remote.run(std::slice::from_mut(&mut call))?;
            if call.value().is_err() {
                lost(task, what, hint);
            }
        }
        Ok(())
    }
}

/// Nothing here is worth failing a restore: the program runs all the same.
fn lost(task: &mut RestoreThread<'_>, what: &str, hint: &str) {
    let text = format!("{} does not get back its {what}", task.who());
    task.warnings
        .push(Obstacle::new(Kind::Unsupported, text, hint));
}

/// Lets the thread run on `cpus`, or on `any`; a layer that says neither leaves it as it is.
fn bind(task: &RestoreThread<'_>, cpus: &[u32], any: bool) -> nix::Result<()> {
    let mut set = if any {
        all_there_could_be()?
    } else {
        CpuSet::new()
    };
    for cpu in cpus {
        set.set(usize::try_from(*cpu).unwrap_or(usize::MAX))?;
    }
    let allowed = proc::status(task.pid, task.tid).ok();
    let same = any && allowed.is_some_and(|s| s.cpus_allowed_list == *every_cpu());
    if same || set == CpuSet::new() || sched_getaffinity(task.tid) == Ok(set) {
        return Ok(());
    }
    sched_setaffinity(task.tid, &set)
}

fn all_there_could_be() -> nix::Result<CpuSet> {
    let mut set = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|cpu| set.set(cpu))?;
    Ok(set)
}

/// What a thread here is allowed that never chose: found by a thread that takes back what we were
/// started with.
fn every_cpu() -> &'static Option<Vec<(u32, u32)>> {
    static CPUS: OnceLock<Option<Vec<(u32, u32)>>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let found = std::thread::spawn(|| {
            sched_setaffinity(Pid::from_raw(0), &all_there_could_be().ok()?).ok()?;
            let status = proc::status(Pid::this(), nix::unistd::gettid()).ok()?;
            status.cpus_allowed_list
        });
        found.join().ok().flatten()
    })
}
