//! What the kernel does with futexes when a thread ends: the robust list (get_robust_list(2);
//! `thread_core.futex_rla`) and the thread id that is cleared (set_tid_address(2);
//! `thread_info.clear_tid_addr`).

use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Error, Result};
use crate::sys;

const PR_GET_TID_ADDRESS: u64 = 40;

/// The robust futex list.
#[derive(Debug)]
pub(super) struct RobustList;

impl Resource for RobustList {
    fn name(&self) -> &'static str {
        "robust futex list"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        let (head, len) = sys::robust::robust_list(task.tid).map_err(|e| {
            Error::os(
                format!("Cannot ask for the robust futex list of {}", task.who()),
                e,
            )
        })?;
        task.thread().futex_rla = head;
        // Always sizeof(struct robust_list_head), 24.
        task.thread().futex_rla_len = u32::try_from(len).unwrap_or(24);
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(thread) = task.thread().filter(|t| t.futex_rla != 0) else {
            return Ok(());
        };
        let args = [thread.futex_rla, u64::from(thread.futex_rla_len)];
        task.remote
            .call("set_robust_list", libc::SYS_set_robust_list, &args)?;
        Ok(())
    }
}

/// The address at which the kernel clears the thread id.
#[derive(Debug)]
pub(super) struct ClearTid;

impl Resource for ClearTid {
    fn name(&self) -> &'static str {
        "address of the thread id"
    }

    fn ask(&self, questions: &mut Questions) {
        let place = questions.room(8);
        questions.call(libc::SYS_prctl, &[PR_GET_TID_ADDRESS, place]);
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        answers.value(0, "prctl(PR_GET_TID_ADDRESS)")?;
        task.info().clear_tid_addr = answers.word(0);
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(info) = task.core.thread_info.as_ref() else {
            return Ok(());
        };
        task.remote.call(
            "set_tid_address",
            libc::SYS_set_tid_address,
            &[info.clear_tid_addr],
        )?;
        Ok(())
    }
}
