//! The signal that a thread gets when its parent ends (PR_SET_PDEATHSIG, prctl(2);
//! `thread_core.pdeath_sig`). Any change of credentials clears it, so it is restored after them.

use super::words::{at, get, low};
use super::{DumpThread, Resource, RestoreThread};
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

    fn dump(&self, task: &mut DumpThread<'_>) -> Result<()> {
        let args = [PR_GET_PDEATHSIG, at(task.remote, 0)];
        task.remote
            .call("prctl(PR_GET_PDEATHSIG)", libc::SYS_prctl, &args)?;
        let [signal] = get(task.remote, 0)?;
        // An int: the high half is whatever was there.
        task.thread().pdeath_sig = Some(low(signal)).filter(|s| *s != 0);
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
