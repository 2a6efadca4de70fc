//! How a thread is scheduled: policy, real-time priority, nice value (sched(7), setpriority(2);
//! `thread_core.sched_*`); in fields of our own whether its children inherit that, and the slice that it
//! has chosen (sched_setattr(2)).

use std::sync::OnceLock;

use procfs::process::Stat;

use super::words::{halves, pair, words};
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Kind, Obstacle, Result};
use crate::inject::Call;
use crate::task::proc;
use crate::units::Pid;

const SCHED_FIFO: u32 = 1;
const SCHED_RR: u32 = 2;
const SCHED_IDLE: u32 = 5;
const SCHED_BATCH: u32 = 3;
/// Beside the policy in sched_getscheduler(2) and sched_setscheduler(2): children do not inherit it.
const RESET_ON_FORK: u64 = 0x4000_0000;
/// The same in sched_setattr(2).
const FLAG_RESET_ON_FORK: u64 = 1;
/// Bytes of `struct sched_attr`, first version, and the word in it that holds the slice.
const ATTRIBUTES: u32 = 48;
const SLICE: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Scheduling;

/// Policy, real-time priority and nice value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    policy: u32,
    priority: u32,
    nice: i32,
}

impl Place {
    fn of(pid: Pid, tid: Pid) -> Result<Self> {
        proc::stat(pid, tid).map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for Place {
    fn from(stat: &Stat) -> Self {
        Self {
            policy: stat.policy.unwrap_or(0),
            priority: stat.rt_priority.unwrap_or(0),
            nice: i32::try_from(stat.nice).unwrap_or(0),
        }
    }
}

/// What a thread has that has not chosen a slice; `None` for kernels that know no other one.
fn usual_slice() -> Option<u64> {
    static USUAL: OnceLock<Option<u64>> = OnceLock::new();
    *USUAL.get_or_init(crate::sys::sched::usual_slice)
}

/// Only policies of this sort have slices.
fn is_fair(policy: u32) -> bool {
    policy == 0 || policy == SCHED_BATCH
}

fn is_real_time(policy: u32) -> bool {
    policy == SCHED_FIFO || policy == SCHED_RR
}

impl Resource for Scheduling {
    fn name(&self) -> &'static str {
        "scheduling"
    }

    fn check(&self, pid: Pid) -> Result<Vec<Obstacle>> {
        let mut obstacles = Vec::new();
        // Asked now, so that no target stands still meanwhile.
        let _known = usual_slice();
        for (tid, place) in proc::of_threads(pid, Place::of)? {
            let policy = place.policy;
            // SCHED_OTHER, FIFO, RR, BATCH and IDLE are what the image format has words for.
            if policy > SCHED_IDLE || policy == 4 {
                obstacles.push(Obstacle::unsupported(
                    format!("{} has scheduling policy {policy}", super::who(pid, tid)),
                    "only SCHED_OTHER, BATCH, IDLE, FIFO and RR can be saved; change it with chrt",
                ));
            }
        }
        Ok(obstacles)
    }

    fn ask(&self, questions: &mut Questions) {
        questions.call(libc::SYS_sched_getscheduler, &[0]);
        let place = questions.room(ATTRIBUTES.into());
        let args = [0, place, ATTRIBUTES.into(), 0];
        questions.call(libc::SYS_sched_getattr, &args);
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        let place = Place::from(answers.stat);
        let policy = answers.value(0, "sched_getscheduler")?;
        let slice = answers.value(1, "sched_getattr").ok();
        let slice = slice.map(|_| answers.word(SLICE));
        let thread = task.thread();
        thread.sched_nice = Some(place.nice);
        thread.sched_policy = Some(place.policy);
        thread.sched_prio = is_real_time(place.policy).then_some(place.priority);
        thread.sched_reset_on_fork = (policy & RESET_ON_FORK != 0).then_some(true);
        // 0 asks for the usual one.
        thread.sched_slice = usual_slice()
            .zip(slice)
            .map(|(usual, slice)| match slice == usual {
                true => 0,
                false => slice,
            });
        thread.sched_slice = thread.sched_slice.filter(|_| is_fair(place.policy));
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(thread) = task.thread() else {
            return Ok(());
        };
        let present = Place::of(task.pid, task.tid)?;
        let wanted = Place {
            policy: thread.sched_policy.unwrap_or(0),
            priority: thread.sched_prio.unwrap_or(0),
            nice: thread.sched_nice.unwrap_or(0),
        };
        // Nice first: it counts for the policies that are not real-time, and is kept for the others.
        let mut calls = Vec::new();
        if wanted.nice != present.nice {
            let nice = i64::from(wanted.nice).cast_unsigned();
            calls.push(Call::new(libc::SYS_setpriority, &[0, 0, nice]));
        }
        let reset = thread.sched_reset_on_fork == Some(true);
        if reset || (wanted.policy, wanted.priority) != (present.policy, present.priority) {
            let param = task.remote.put(0, &halves(&[wanted.priority]))?;
            let flag = if reset { RESET_ON_FORK } else { 0 };
            let args = [0, u64::from(wanted.policy) | flag, param];
            calls.push(Call::new(libc::SYS_sched_setscheduler, &args));
        }
        if let Some(slice) = thread.sched_slice.filter(|_| usual_slice().is_some()) {
            let flags = if reset { FLAG_RESET_ON_FORK } else { 0 };
            let attributes = [
                pair(ATTRIBUTES, wanted.policy),
                flags,
                pair(wanted.nice.cast_unsigned(), 0),
                slice,
                0,
                0,
            ];
            let place = task.remote.put(64, &words(&attributes))?;
            calls.push(Call::new(libc::SYS_sched_setattr, &[0, place, 0]));
        }
        task.remote.run(&mut calls)?;
        if calls.iter().any(|call| call.value().is_err()) {
            let got = Place::of(task.pid, task.tid)?;
            task.warnings.push(Obstacle::new(
                Kind::Permission,
                format!("{} is scheduled with {got:?}, not {wanted:?}", task.who()),
                "changing it needs CAP_SYS_NICE",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_scheduled_as_the_kernel_says_and_nothing_is_in_the_way() {
        let (pid, tid) = (nix::unistd::getpid(), nix::unistd::gettid());
        let place = Place::of(pid, tid).unwrap();
        assert_eq!((place.policy, place.priority), (0, 0));
        assert_eq!(Scheduling.check(pid).unwrap(), []);
    }
}
