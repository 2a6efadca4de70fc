//! The alternate signal stack of a thread (sigaltstack(2); `thread_core.sas`).

use super::words::{low, pair, words};
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::Result;
use crate::image::proto::ThreadSasEntry;

/// Set by the kernel while the thread runs on the stack; never an argument.
const SS_ONSTACK: u32 = 1;

/// See the module.
#[derive(Debug)]
pub(super) struct AltStack;

impl Resource for AltStack {
    fn name(&self) -> &'static str {
        "alternate signal stack"
    }

    fn ask(&self, questions: &mut Questions) {
        let place = questions.room(24);
        questions.call(libc::SYS_sigaltstack, &[0, place]);
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        answers.value(0, "sigaltstack")?;
        let [sp, flags, size] = [0, 1, 2].map(|n| answers.word(n));
        task.thread().sas = Some(ThreadSasEntry {
            ss_sp: sp,
            ss_size: size,
            ss_flags: low(flags) & !SS_ONSTACK,
        });
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(sas) = task.thread().and_then(|t| t.sas.as_ref()) else {
            return Ok(());
        };
        let stack = words(&[sas.ss_sp, pair(sas.ss_flags & !SS_ONSTACK, 0), sas.ss_size]);
        let place = task.remote.put(0, &stack)?;
        task.remote
            .call("sigaltstack", libc::SYS_sigaltstack, &[place, 0])?;
        Ok(())
    }
}
