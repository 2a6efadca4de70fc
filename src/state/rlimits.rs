//! Resource limits (setrlimit(2); `tc.rlimits`: 16 records by RLIMIT number). They are read from
//! `/proc/PID/limits`, because prlimit(2) on the process of another user needs CAP_SYS_RESOURCE,
//! which even root may lack. Raising a hard limit needs it too: without it a restored limit stays as
//! near as it can, with a warning.

use procfs::FromBufRead as _;
use procfs::process::{LimitValue, Limits as Table};

use super::words::words;
use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Kind, Obstacle, Result};
use crate::image::proto::{RlimitEntry, TaskRlimitsEntry};
use crate::inject::Call;
use crate::task::proc;

/// See the module.
#[derive(Debug)]
pub(super) struct Limits;

/// RLIM_INFINITY.
const UNLIMITED: u64 = u64::MAX;
/// Bytes of `struct rlimit64`.
const SIZE: u64 = 16;

/// Names by RLIMIT number, as in setrlimit(2).
const NAMES: [&str; 16] = [
    "RLIMIT_CPU",
    "RLIMIT_FSIZE",
    "RLIMIT_DATA",
    "RLIMIT_STACK",
    "RLIMIT_CORE",
    "RLIMIT_RSS",
    "RLIMIT_NPROC",
    "RLIMIT_NOFILE",
    "RLIMIT_MEMLOCK",
    "RLIMIT_AS",
    "RLIMIT_LOCKS",
    "RLIMIT_SIGPENDING",
    "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE",
    "RLIMIT_RTPRIO",
    "RLIMIT_RTTIME",
];

impl Resource for Limits {
    fn name(&self) -> &'static str {
        "resource limits"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        if task.leader {
            let rlimits = present(task.pid)?.to_vec();
            task.task().rlimits = Some(TaskRlimitsEntry { rlimits });
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(limits) = task.task().and_then(|t| t.rlimits.as_ref()) else {
            return Ok(());
        };
        let present = present(task.pid)?;
        let differing: Vec<(u64, &RlimitEntry, &RlimitEntry)> = (0..)
            .zip(limits.rlimits.iter().zip(&present))
            .filter(|(_, (wanted, present))| wanted != present)
            .map(|(number, (wanted, present))| (number, wanted, present))
            .collect();
        let mut calls = Vec::new();
        for (number, wanted, _) in &differing {
            calls.push(call(task, *number, wanted)?);
        }
        task.remote.run(&mut calls)?;
        let mut second = Vec::new();
        for ((number, wanted, present), call) in differing.iter().zip(&calls) {
            if call.value().is_err() {
                let near = nearest(wanted, present);
                second.push(self::call(task, *number, &near)?);
                task.warnings
                    .push(warning(&task.who(), *number, wanted, &near));
            }
        }
        super::run(task.remote, "prlimit64", &mut second)
    }
}

/// The call that sets one limit; each has a slot of its own in the scratch area.
fn call(task: &mut RestoreThread<'_>, number: u64, limit: &RlimitEntry) -> Result<Call> {
    let place = task
        .remote
        .put(number * SIZE, &words(&[limit.cur, limit.max]))?;
    Ok(Call::new(libc::SYS_prlimit64, &[0, number, place, 0]))
}

/// What can be had of `wanted` below the `present` hard limit.
fn nearest(wanted: &RlimitEntry, present: &RlimitEntry) -> RlimitEntry {
    let max = wanted.max.min(present.max);
    RlimitEntry {
        cur: wanted.cur.min(max),
        max,
    }
}

fn warning(who: &str, number: u64, wanted: &RlimitEntry, near: &RlimitEntry) -> Obstacle {
    let name = NAMES.get(number as usize).copied().unwrap_or("limit");
    let text = |limit: &RlimitEntry| format!("{}/{}", show(limit.cur), show(limit.max));
    Obstacle::new(
        Kind::Permission,
        format!(
            "{name} of {who} becomes {}, not {}",
            text(near),
            text(wanted)
        ),
        "raising a hard limit needs CAP_SYS_RESOURCE",
    )
}

fn show(value: u64) -> String {
    if value == UNLIMITED {
        "unlimited".to_owned()
    } else {
        value.to_string()
    }
}

/// The limits that a process has now, by RLIMIT number.
fn present(pid: crate::units::Pid) -> Result<[RlimitEntry; 16]> {
    let text = proc::line(pid, "limits")?;
    Table::from_buf_read(text.as_bytes())
        .map(|table| by_number(&table))
        .map_err(|e| proc::unreadable(&format!("/proc/{pid}/limits"), e))
}

fn by_number(table: &Table) -> [RlimitEntry; 16] {
    let value = |v: &LimitValue| match v {
        LimitValue::Unlimited => UNLIMITED,
        LimitValue::Value(v) => *v,
    };
    [
        &table.max_cpu_time,
        &table.max_file_size,
        &table.max_data_size,
        &table.max_stack_size,
        &table.max_core_file_size,
        &table.max_resident_set,
        &table.max_processes,
        &table.max_open_files,
        &table.max_locked_memory,
        &table.max_address_space,
        &table.max_file_locks,
        &table.max_pending_signals,
        &table.max_msgqueue_size,
        &table.max_nice_priority,
        &table.max_realtime_priority,
        &table.max_realtime_timeout,
    ]
    .map(|l| RlimitEntry {
        cur: value(&l.soft_limit),
        max: value(&l.hard_limit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::{Resource as Rlimit, getrlimit};

    #[test]
    fn the_limits_of_proc_are_those_of_getrlimit_in_its_order() {
        let ours = present(nix::unistd::getpid()).unwrap();
        for (number, resource) in [
            (0, Rlimit::RLIMIT_CPU),
            (3, Rlimit::RLIMIT_STACK),
            (6, Rlimit::RLIMIT_NPROC),
            (7, Rlimit::RLIMIT_NOFILE),
            (8, Rlimit::RLIMIT_MEMLOCK),
            (11, Rlimit::RLIMIT_SIGPENDING),
            (12, Rlimit::RLIMIT_MSGQUEUE),
            (15, Rlimit::RLIMIT_RTTIME),
        ] {
            let (cur, max) = getrlimit(resource).unwrap();
            assert_eq!(ours[number], RlimitEntry { cur, max }, "{}", NAMES[number]);
        }
    }

    #[test]
    fn a_limit_that_cannot_be_raised_gets_as_near_as_the_hard_limit_allows() {
        let limit = |cur, max| RlimitEntry { cur, max };
        let present = limit(100, 1000);
        assert_eq!(nearest(&limit(500, UNLIMITED), &present), limit(500, 1000));
        assert_eq!(
            nearest(&limit(UNLIMITED, UNLIMITED), &present),
            limit(1000, 1000)
        );
        assert_eq!(nearest(&limit(50, 60), &present), limit(50, 60));
        let warning = warning("process 7", 7, &limit(500, UNLIMITED), &limit(500, 1000));
        assert_eq!(
            warning.to_string(),
            "RLIMIT_NOFILE of process 7 becomes 500/1000, not 500/unlimited: \
             raising a hard limit needs CAP_SYS_RESOURCE"
        );
    }
}
