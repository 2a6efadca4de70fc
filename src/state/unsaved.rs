//! What a thread has that the image format has no place for: CPU affinity (sched_setaffinity(2)),
//! timer slack (PR_SET_TIMERSLACK, prctl(2)), I/O priority (ioprio_set(2)), memory policy
//! (set_mempolicy(2)), core dump filter (core(5)); of the whole process the switches of prctl(2) in
//! [`SWITCHES`] and the signal at its end (clone(2)). CRIU loses them silently; here each is a warning of the dump.

use std::sync::OnceLock;

use super::words::low;
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Obstacle, Result};
use crate::task::proc;

const PR_GET_TIMERSLACK: u64 = 30;
/// What a thread has that never asked for another one, in ns.
const USUAL_SLACK: u64 = 50_000;
const IOPRIO_WHO_PROCESS: u64 = 1;
/// Never set: none at all, or (Linux before 5.18) best effort 4.
const USUAL_IO_PRIORITIES: [u64; 2] = [0, 2 << 13 | 4];
const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;

/// Switches of a process: what asks for them, what they are when nobody touched them, their name.
const SWITCHES: [(u64, u64, &str); 3] = [
    // PR_MCE_KILL_GET: PR_MCE_KILL_DEFAULT
    (34, 2, "a policy for memory errors (PR_MCE_KILL)"),
    // PR_GET_MDWE
    (
        66,
        0,
        "memory that is never both writable and executable (PR_SET_MDWE)",
    ),
    // PR_GET_MEMORY_MERGE
    (68, 0, "memory merging switched on (PR_SET_MEMORY_MERGE)"),
];

/// See the module.
#[derive(Debug)]
pub(super) struct Unsaved;

impl Resource for Unsaved {
    fn name(&self) -> &'static str {
        "what cannot be saved"
    }

    fn ask(&self, questions: &mut Questions) {
        let mode = questions.room(8);
        questions.call(libc::SYS_prctl, &[PR_GET_TIMERSLACK]);
        questions.call(libc::SYS_ioprio_get, &[IOPRIO_WHO_PROCESS, 0]);
        questions.call(libc::SYS_get_mempolicy, &[mode, 0, 0, 0, 0]);
        if questions.leader() {
            for (ask, _, _) in SWITCHES {
                questions.call(libc::SYS_prctl, &[ask, 0, 0, 0, 0]);
            }
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        let mut found = Vec::new();
        let cpus = &answers.status.cpus_allowed_list;
        if cpus != own_cpus() {
            found.push(format!(
                "is bound to CPUs {}",
                list(cpus.as_deref().unwrap_or(&[]))
            ));
        }
        // A kernel without one of these cannot have set it either. Real-time threads have no slack.
        let real_time = matches!(answers.stat.policy, Some(SCHED_FIFO | SCHED_RR));
        let slack = answers.value(0, "prctl").unwrap_or(USUAL_SLACK);
        if slack != USUAL_SLACK && !real_time {
            found.push(format!("has a timer slack of {slack} ns"));
        }
        let priority = answers.value(1, "ioprio_get").unwrap_or(0);
        if !USUAL_IO_PRIORITIES.contains(&priority) {
            found.push(format!(
                "has I/O priority {}/{}",
                priority >> 13,
                priority & 0x1fff
            ));
        }
        let policy = answers
            .value(2, "get_mempolicy")
            .map_or(0, |_| low(answers.word(0)));
        if policy != 0 {
            found.push(format!("has memory policy {policy}"));
        }
        for (i, (_, usual, what)) in SWITCHES.into_iter().enumerate() {
            if task.leader && answers.value(3 + i, "prctl").unwrap_or(usual) != usual {
                found.push(format!("has {what}"));
            }
        }
        let signal = answers.stat.exit_signal.unwrap_or(libc::SIGCHLD);
        if task.leader && signal != libc::SIGCHLD {
            found.push(format!(
                "ends with signal {signal} to its parent (clone(2))"
            ));
        }
        let filter = task.leader.then(|| proc::line(task.pid, "coredump_filter"));
        if let Some(Ok(filter)) = filter
            && proc::line(nix::unistd::getpid(), "coredump_filter").is_ok_and(|own| own != filter)
        {
            found.push(format!("has the core dump filter {filter}"));
        }
        for what in found {
            task.warnings.push(Obstacle::unsupported(
                format!("{} {what}", task.who()),
                "the image format has no place for it; set it again after a restore",
            ));
        }
        Ok(())
    }

    fn restore(&self, _task: &mut RestoreThread<'_>) -> Result<()> {
        Ok(())
    }
}

/// Our own affinity, taken as the usual one.
fn own_cpus() -> &'static Option<Vec<(u32, u32)>> {
    static CPUS: OnceLock<Option<Vec<(u32, u32)>>> = OnceLock::new();
    let me = nix::unistd::getpid();
    CPUS.get_or_init(|| proc::status(me, me).ok().and_then(|s| s.cpus_allowed_list))
}

/// CPUs as in `/proc/PID/status`, e.g. `0-3,8`.
fn list(cpus: &[(u32, u32)]) -> String {
    let range = |(first, last): &(u32, u32)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        }
    };
    cpus.iter().map(range).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_listed_as_proc_does() {
        assert_eq!(list(&[(0, 3), (8, 8)]), "0-3,8");
    }
}
