//! Switches of a process or thread that CRIU's images have no place for and that CRIU loses in
//! silence: the policy for memory errors (PR_MCE_KILL), CPUID faulting (arch_prctl(2)), the time stamp
//! counter (PR_SET_TSC), speculation (PR_SET_SPECULATION_CTRL), the core dump
//! filter (core(5)), memory that is never both writable and executable (PR_SET_MDWE), memory merging
//! (PR_SET_MEMORY_MERGE, prctl(2)), the locking of future mappings (mlockall(2)), the nice value of a
//! session's autogroup (sched(7)). They are in fields of our own (`tc.coredump_filter` and
//! following).

use std::fs;

use super::words::{get, low};
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Kind, Obstacle, Result};
use crate::inject::Call;
use crate::task::proc;

const PR_MCE_KILL: u64 = 33;
const PR_MCE_KILL_SET: u64 = 1;
const PR_MCE_KILL_GET: u64 = 34;
const PR_SET_MDWE: u64 = 65;
const PR_GET_MDWE: u64 = 66;
const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_GET_MEMORY_MERGE: u64 = 68;
const PR_GET_TSC: u64 = 25;
const PR_SET_TSC: u64 = 26;
const PR_TSC_ENABLE: u64 = 1;
const PR_TSC_SIGSEGV: u64 = 2;
const PR_GET_SPECULATION_CTRL: u64 = 52;
const PR_SET_SPECULATION_CTRL: u64 = 53;
/// Bits of PR_GET_SPECULATION_CTRL: it can be chosen; it is on; it is off, in one of three ways.
const PR_SPEC_PRCTL: u32 = 1;
const PR_SPEC_ENABLE: u32 = 2;
const PR_SPEC_OFF: u32 = 4 | 8 | 16;
/// What can be chosen, with the bits that are not the usual.
const SPECULATION: [(u64, u32); 3] = [(0, PR_SPEC_OFF), (1, PR_SPEC_OFF), (2, PR_SPEC_ENABLE)];
const ARCH_GET_CPUID: u64 = 0x1011;
const ARCH_SET_CPUID: u64 = 0x1012;
const MS_INVALIDATE: u64 = 2;
const MCL_FUTURE: u32 = 2;
const MCL_ONFAULT: u32 = 4;

/// A page of our working memory in the task that nothing has touched.
const UNTOUCHED: u64 = 12 << 10;
const PAGE: u64 = crate::units::PAGE_SIZE;

/// The calls of the leader, by their place.
mod call {
    pub(super) const MCE: usize = 0;
    pub(super) const CPUID: usize = 1;
    pub(super) const TSC: usize = 2;
    pub(super) const SPECULATION: usize = 3;
    pub(super) const MDWE: usize = 6;
    pub(super) const MERGE: usize = 7;
    pub(super) const LOCKED: usize = 8;
    pub(super) const RESIDENT: usize = 9;
}

/// See the module.
#[derive(Debug)]
pub(super) struct Switches;

impl Resource for Switches {
    fn name(&self) -> &'static str {
        "switches"
    }

    fn ask(&self, questions: &mut Questions) {
        questions.call(libc::SYS_prctl, &[PR_MCE_KILL_GET, 0, 0, 0, 0]);
        questions.call(libc::SYS_arch_prctl, &[ARCH_GET_CPUID, 0]);
        let counter = questions.room(8);
        questions.call(libc::SYS_prctl, &[PR_GET_TSC, counter, 0, 0, 0]);
        for (which, _) in SPECULATION {
            questions.call(libc::SYS_prctl, &[PR_GET_SPECULATION_CTRL, which, 0, 0, 0]);
        }
        if questions.leader() {
            let resident = questions.room(8);
            questions.call(libc::SYS_prctl, &[PR_GET_MDWE, 0, 0, 0, 0]);
            questions.call(libc::SYS_prctl, &[PR_GET_MEMORY_MERGE, 0, 0, 0, 0]);
            // Our working memory is the newest mapping of the process: locked when future ones are.
            let page = questions.base() + UNTOUCHED;
            questions.call(libc::SYS_msync, &[page, PAGE, MS_INVALIDATE]);
            questions.call(libc::SYS_mincore, &[page, PAGE, resident]);
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        // A kernel or CPU without one of these cannot have set it either. What is usual is recorded, too:
        // whoever restores may have been started with something else.
        let value = |call| answers.value(call, "prctl").ok();
        task.thread().memory_errors = value(call::MCE).map(low);
        task.thread().cpuid_faults = value(call::CPUID).map(|on| on == 0);
        let counter = value(call::TSC).map(|_| u64::from(low(answers.word(0))));
        task.thread().tsc_faults = counter.map(|counter| counter == PR_TSC_SIGSEGV);
        let chosen = (call::SPECULATION..).zip(SPECULATION).map(|(call, _)| {
            let now = value(call).map_or(0, low);
            if now & PR_SPEC_PRCTL == 0 {
                0
            } else {
                now & !PR_SPEC_PRCTL
            }
        });
        task.thread().speculation = chosen.collect();
        if !task.leader {
            return Ok(());
        }
        task.task().mdwe = value(call::MDWE).map(low).filter(|bits| *bits != 0);
        task.task().memory_merge = value(call::MERGE).map(|on| on != 0);
        let locked = answers.calls.get(call::LOCKED);
        if locked.is_some_and(|call| call.value() == Err(nix::errno::Errno::EBUSY)) {
            let resident = value(call::RESIDENT).is_some() && answers.word(1) & 1 != 0;
            let flags = if resident {
                MCL_FUTURE
            } else {
                MCL_FUTURE | MCL_ONFAULT
            };
            task.task().lock_future = Some(flags);
        }
        let filter = proc::line(task.pid, "coredump_filter").ok();
        let filter = filter.and_then(|text| u32::from_str_radix(&text, 16).ok());
        task.task().coredump_filter = filter;
        if answers.stat.session == task.pid.as_raw() {
            task.task().autogroup_nice = autogroup(task.pid).filter(|nice| *nice != 0);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let mut calls: Vec<(Call, &str)> = Vec::new();
        if let Some(thread) = task.thread() {
            let now = Present::of(task)?;
            if let Some(policy) = thread.memory_errors.filter(|p| now.errors != Some(*p)) {
                let args = [PR_MCE_KILL, PR_MCE_KILL_SET, u64::from(policy), 0, 0];
                calls.push((
                    Call::new(libc::SYS_prctl, &args),
                    "policy for memory errors",
                ));
            }
            if let Some(faults) = thread.cpuid_faults
                && now.cpuid_faults.unwrap_or(false) != faults
            {
                let args = [ARCH_SET_CPUID, u64::from(!faults)];
                calls.push((Call::new(libc::SYS_arch_prctl, &args), "CPUID faulting"));
            }
            if let Some(faults) = thread.tsc_faults.filter(|f| now.tsc_faults != *f) {
                let value = if faults {
                    PR_TSC_SIGSEGV
                } else {
                    PR_TSC_ENABLE
                };
                let args = [PR_SET_TSC, value, 0, 0, 0];
                calls.push((Call::new(libc::SYS_prctl, &args), "time stamp faulting"));
            }
            for (index, ((which, unusual), choice)) in
                SPECULATION.iter().zip(&thread.speculation).enumerate()
            {
                let is = now.speculation[index];
                // A CPU or kernel that leaves no choice does what is usual.
                let settled = is & !PR_SPEC_PRCTL == *choice
                    || is & PR_SPEC_PRCTL == 0 && choice & unusual == 0;
                if *choice != 0 && !settled {
                    let args = [PR_SET_SPECULATION_CTRL, *which, u64::from(*choice), 0, 0];
                    calls.push((Call::new(libc::SYS_prctl, &args), "control of speculation"));
                }
            }
        }
        if let Some(process) = task.task() {
            if process.memory_merge == Some(true) {
                let call = Call::new(libc::SYS_prctl, &[PR_SET_MEMORY_MERGE, 1, 0, 0, 0]);
                calls.push((call, "memory merging"));
            }
            if let Some(flags) = process.lock_future {
                let call = Call::new(libc::SYS_mlockall, &[u64::from(flags)]);
                calls.push((call, "locking of future mappings"));
            }
            if let Some(bits) = process.mdwe {
                let call = Call::new(libc::SYS_prctl, &[PR_SET_MDWE, u64::from(bits), 0, 0, 0]);
                calls.push((call, "rule against writable and executable memory"));
            }
            for (name, value) in [
                (
                    "coredump_filter",
                    process.coredump_filter.map(|f| format!("{f:#x}")),
                ),
                ("autogroup", process.autogroup_nice.map(|n| n.to_string())),
            ] {
                let path = format!("/proc/{}/{name}", task.pid);
                if value.is_some_and(|value| fs::write(path, value).is_err()) {
                    lost(task, name);
                }
            }
        }
        for (mut call, what) in calls {
            task.remote.run(std::slice::from_mut(&mut call))?;
            if call.value().is_err() {
                lost(task, what);
            }
        }
        Ok(())
    }
}

/// What a new thread has of its maker.
struct Present {
    errors: Option<u32>,
    cpuid_faults: Option<bool>,
    tsc_faults: bool,
    speculation: [u32; SPECULATION.len()],
}

impl Present {
    fn of(task: &mut RestoreThread<'_>) -> Result<Self> {
        let counter = task.remote.put(0, &[0; 8])?;
        let mut calls = vec![
            Call::new(libc::SYS_prctl, &[PR_MCE_KILL_GET, 0, 0, 0, 0]),
            Call::new(libc::SYS_arch_prctl, &[ARCH_GET_CPUID, 0]),
            Call::new(libc::SYS_prctl, &[PR_GET_TSC, counter, 0, 0, 0]),
        ];
        let ask = |which| Call::new(libc::SYS_prctl, &[PR_GET_SPECULATION_CTRL, which, 0, 0, 0]);
        calls.extend(SPECULATION.map(|(which, _)| ask(which)));
        task.remote.run(&mut calls)?;
        let value = |call: usize| calls.get(call).and_then(|call| call.value().ok());
        let [counter] = get(task.remote, 0)?;
        let mut speculation = [0; SPECULATION.len()];
        for (index, is) in speculation.iter_mut().enumerate() {
            *is = value(call::SPECULATION + index).map_or(0, low);
        }
        Ok(Self {
            errors: value(call::MCE).map(low),
            cpuid_faults: value(call::CPUID).map(|on| on == 0),
            tsc_faults: counter == PR_TSC_SIGSEGV,
            speculation,
        })
    }
}

/// Turns off the merging of memory in the first process of a tree, which has it of whoever restores, as
/// all have that it forks: before anything is mapped, because afterwards that would take back what single
/// mappings wish. A kernel without it says so and is right.
///
/// # Errors
/// When the thread died.
pub fn forget_merging(remote: &mut crate::inject::Remote) -> Result<()> {
    let mut call = [Call::new(
        libc::SYS_prctl,
        &[PR_GET_MEMORY_MERGE, 0, 0, 0, 0],
    )];
    remote.run(&mut call)?;
    if call[0].value() == Ok(1) {
        call[0] = Call::new(libc::SYS_prctl, &[PR_SET_MEMORY_MERGE, 0, 0, 0, 0]);
        remote.run(&mut call)?;
    }
    Ok(())
}

/// Nothing here is worth failing a restore: the program runs all the same.
fn lost(task: &mut RestoreThread<'_>, what: &str) {
    let text = format!("{} does not get back its {what}", task.who());
    let hint = "a right, or this kernel or CPU, lacks it; icecore doctor tells";
    task.warnings
        .push(Obstacle::new(Kind::Unsupported, text, hint));
}

/// The nice value in `/proc/PID/autogroup`, e.g. `/autogroup-12 nice 5`; `None` without autogroups.
fn autogroup(pid: crate::units::Pid) -> Option<i32> {
    proc::line(pid, "autogroup")
        .ok()?
        .rsplit(' ')
        .next()?
        .parse()
        .ok()
}
