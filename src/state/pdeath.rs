//! The signal that a thread gets when its parent ends (PR_SET_PDEATHSIG, prctl(2);
//! `thread_core.pdeath_sig`). Any change of credentials clears it, so it is restored after them.

use super::words::low;
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::Result;

const PR_SET_PDEATHSIG: u64 = 1;
const PR_GET_PDEATHSIG: u64 = 2;

/// See the module.
#[derive(Debug)]
pub(super) struct ParentDeathSignal;

impl Resource for ParentDeathSignal {
    fn name(&self) -> &'static str {
        "parent-death signal"
    }

    fn ask(&self, questions: &mut Questions) {
        let place = questions.room(8);
        questions.call(libc::SYS_prctl, &[PR_GET_PDEATHSIG, place]);
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        answers.value(0, "prctl(PR_GET_PDEATHSIG)")?;
        task.thread().pdeath_sig = Some(low(answers.word(0))).filter(|s| *s != 0);
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(signal) = task.thread().and_then(|t| t.pdeath_sig) else {
            return Ok(());
        };
        let args = [PR_SET_PDEATHSIG, u64::from(signal)];
        task.remote
            .call("prctl(PR_SET_PDEATHSIG)", libc::SYS_prctl, &args)?;
        Ok(())
    }
}
