//! Small switches of a whole process: personality (personality(2); `tc.personality`), child
//! subreaper (PR_SET_CHILD_SUBREAPER, prctl(2); `tc.child_subreaper`), membarrier registrations
//! (membarrier(2); `tc.membarrier_registration_mask`), and what is only recorded, because it is
//! CRIU's: kernel flags of the task and login uid (`tc.flags`, `tc.loginuid`).

use super::words::low;
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::Result;
use crate::inject::Call;
use crate::task::proc;

const PR_SET_CHILD_SUBREAPER: u64 = 36;
const PR_GET_CHILD_SUBREAPER: u64 = 37;

/// The personality. It can change what mmap does, so memory must be mapped before.
#[derive(Debug)]
pub(super) struct Personality;

impl Resource for Personality {
    fn name(&self) -> &'static str {
        "personality"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        let of = |name: &str| {
            let value = u32::from_str_radix(&proc::line(task.pid, name)?, 16);
            value.map_err(|e| proc::unreadable(name, e))
        };
        let process = of("personality")?;
        if task.leader {
            task.task().personality = process;
        } else {
            let own = of(&format!("task/{}/personality", task.tid))?;
            task.thread().personality = Some(own).filter(|own| *own != process);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        // The personality belongs to each thread, but CRIU's image has one for all.
        let Some(tc) = task.leader_core.tc.as_ref() else {
            return Ok(());
        };
        let own = task.thread().and_then(|t| t.personality);
        let wanted = u64::from(own.unwrap_or(tc.personality));
        task.remote
            .call("personality", libc::SYS_personality, &[wanted])?;
        Ok(())
    }
}

/// Whether orphaned descendants become children of this process.
#[derive(Debug)]
pub(super) struct ChildSubreaper;

impl Resource for ChildSubreaper {
    fn name(&self) -> &'static str {
        "child subreaper"
    }

    fn ask(&self, questions: &mut Questions) {
        if questions.leader() {
            let place = questions.room(8);
            questions.call(libc::SYS_prctl, &[PR_GET_CHILD_SUBREAPER, place]);
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        if task.leader {
            answers.value(0, "prctl(PR_GET_CHILD_SUBREAPER)")?;
            task.task().child_subreaper = Some(low(answers.word(0)) != 0);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(wanted) = task.task().and_then(|t| t.child_subreaper) else {
            return Ok(());
        };
        let args = [PR_SET_CHILD_SUBREAPER, u64::from(wanted)];
        task.remote
            .call("prctl(PR_SET_CHILD_SUBREAPER)", libc::SYS_prctl, &args)?;
        Ok(())
    }
}

/// The registrations that make expedited barriers work.
#[derive(Debug)]
pub(super) struct Membarrier;

/// MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3.
const GET_REGISTRATIONS: u64 = 1 << 9;

impl Resource for Membarrier {
    fn name(&self) -> &'static str {
        "membarrier registrations"
    }

    fn ask(&self, questions: &mut Questions) {
        if questions.leader() {
            questions.call(libc::SYS_membarrier, &[GET_REGISTRATIONS, 0, 0]);
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        if task.leader {
            // A kernel that cannot tell (or has no membarrier) leaves the field out, as CRIU does.
            let mask = answers.value(0, "membarrier").map_or(0, low);
            task.task().membarrier_registration_mask = Some(mask).filter(|m| *m != 0);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let mask = task
            .task()
            .and_then(|t| t.membarrier_registration_mask)
            .unwrap_or(0);
        // Each bit is the command that makes the registration.
        let mut calls: Vec<Call> = (0..32)
            .map(|bit| 1 << bit)
            .filter(|command| u64::from(mask) & command != 0)
            .map(|command| Call::new(libc::SYS_membarrier, &[command, 0, 0]))
            .collect();
        super::run(task.remote, "membarrier", &mut calls)
    }
}

/// What CRIU records and nobody restores.
#[derive(Debug)]
pub(super) struct Recorded;

impl Resource for Recorded {
    fn name(&self) -> &'static str {
        "recorded facts"
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        if task.leader {
            task.task().flags = answers.stat.flags;
            // Kernels without audit have no such file: unset.
            let loginuid = proc::line(task.pid, "loginuid")
                .ok()
                .and_then(|t| t.parse().ok());
            task.task().loginuid = Some(loginuid.unwrap_or(u32::MAX));
        }
        Ok(())
    }

    fn restore(&self, _task: &mut RestoreThread<'_>) -> Result<()> {
        Ok(())
    }
}
