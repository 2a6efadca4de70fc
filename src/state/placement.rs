//! Where and how urgently a thread runs, beyond its priority: CPU affinity (sched_setaffinity(2)),
//! memory policy (set_mempolicy(2)), I/O priority (ioprio_set(2)), timer slack (PR_SET_TIMERSLACK,
//! prctl(2)). CRIU's images have no place for any of it and CRIU loses it in silence; ours is in
//! fields of our own (`thread_core.cpus` and following).

use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_setaffinity};

use super::words::{low, words};
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Kind, Obstacle, Result};
use crate::inject::Call;
use crate::task::proc;

const PR_SET_TIMERSLACK: u64 = 29;
const PR_GET_TIMERSLACK: u64 = 30;
/// What a thread has that never asked for another one, in ns.
const USUAL_SLACK: u64 = 50_000;
const IOPRIO_WHO_PROCESS: u64 = 1;
/// Never set: none at all, or (Linux before 5.18) best effort 4.
const USUAL_IO_PRIORITIES: [u32; 2] = [0, 2 << 13 | 4];
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
        if cpus != own_cpus() {
            let cpus = cpus.iter().flatten();
            task.thread().cpus = cpus.flat_map(|(first, last)| *first..=*last).collect();
        }
        // A kernel without one of these cannot have set it either. Real-time threads have no slack.
        let real_time = matches!(answers.stat.policy, Some(SCHED_FIFO | SCHED_RR));
        let slack = answers.value(0, "prctl").ok();
        task.thread().timer_slack = slack.filter(|slack| *slack != USUAL_SLACK && !real_time);
        let priority = answers.value(1, "ioprio_get").map(low).ok();
        task.thread().io_priority = priority.filter(|p| !USUAL_IO_PRIORITIES.contains(p));
        let policy = answers.value(2, "get_mempolicy").map(|_| answers.word(0));
        if let Ok(policy) = policy.map(low)
            && policy != 0
        {
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
        if !thread.cpus.is_empty() && bind(task, &thread.cpus).is_err() {
            lost(
                task,
                "CPUs",
                "this machine has none of them, or icecore may not use them",
            );
        }
        let mut calls = Vec::new();
        if let Some(slack) = thread.timer_slack {
            let call = Call::new(libc::SYS_prctl, &[PR_SET_TIMERSLACK, slack]);
            calls.push((call, "timer slack", "it is set by prctl(2)"));
        }
        if let Some(priority) = thread.io_priority {
            let args = [IOPRIO_WHO_PROCESS, 0, u64::from(priority)];
            let hint = "the class real time needs CAP_SYS_NICE";
            calls.push((Call::new(libc::SYS_ioprio_set, &args), "I/O priority", hint));
        }
        if let Some(policy) = thread.memory_policy {
            let mask = task.remote.put(0, &words(&thread.memory_nodes))?;
            // One more than the bits that count (set_mempolicy(2), BUGS).
            let bits = match thread.memory_nodes.len() as u64 {
                0 => 0,
                n => n * 64 + 1,
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

fn bind(task: &RestoreThread<'_>, cpus: &[u32]) -> nix::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(usize::try_from(*cpu).unwrap_or(usize::MAX))?;
    }
    sched_setaffinity(task.tid, &set)
}

/// Our own affinity, taken as the usual one.
fn own_cpus() -> &'static Option<Vec<(u32, u32)>> {
    static CPUS: OnceLock<Option<Vec<(u32, u32)>>> = OnceLock::new();
    let me = nix::unistd::getpid();
    CPUS.get_or_init(|| proc::status(me, me).ok().and_then(|s| s.cpus_allowed_list))
}
