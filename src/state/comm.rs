//! The name of a thread, as ps(1) shows it (PR_SET_NAME, prctl(2); `tc.comm`, `thread_core.comm`).

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Obstacle, Result};

/// Longest name, without the NUL at its end.
const LONGEST: usize = 15;
const PR_SET_NAME: u64 = 15;

/// See the module.
#[derive(Debug)]
pub(super) struct Comm;

impl Resource for Comm {
    fn name(&self) -> &'static str {
        "thread name"
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        let comm = answers.stat.comm.clone();
        if comm.contains(char::REPLACEMENT_CHARACTER) {
            // The image format has strings only.
            task.warnings.push(Obstacle::unsupported(
                format!("The name of {} is not UTF-8", task.who()),
                format!("after a restore it will be {comm:?}"),
            ));
        }
        if task.leader {
            task.task().comm.clone_from(&comm);
        }
        task.thread().comm = Some(comm);
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let of_thread = task.thread().and_then(|t| t.comm.as_ref());
        let Some(comm) = of_thread.or(task.task().map(|t| &t.comm)) else {
            return Ok(());
        };
        let place = task.remote.put(0, &name(comm))?;
        task.remote
            .call("prctl(PR_SET_NAME)", libc::SYS_prctl, &[PR_SET_NAME, place])?;
        Ok(())
    }
}

/// The name as the kernel takes it: at most 15 bytes, then NULs.
fn name(comm: &str) -> [u8; LONGEST + 1] {
    let mut name = [0; LONGEST + 1];
    for (to, from) in name.iter_mut().take(LONGEST).zip(comm.bytes()) {
        *to = from;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_nul_however_long_it_is() {
        assert_eq!(&name("sh"), b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(&name("0123456789abcdefgh"), b"0123456789abcde\0");
    }
}
