//! Restartable sequences: the per-thread area that the kernel keeps up to date (rseq(2);
//! `thread_core.rseq_entry`).
//!
//! The engine has unregistered what the new thread inherited from it. A thread that was frozen
//! inside a critical section continues at its abort handler: the registers in the image say so.

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Error, Obstacle, Result};
use crate::image::proto::RseqEntry;
use crate::sys::ptrace::rseq_configuration;
use nix::errno::Errno;

/// See the module.
#[derive(Debug)]
pub(super) struct Rseq;

impl Resource for Rseq {
    fn name(&self) -> &'static str {
        "restartable sequences"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        let found = match rseq_configuration(task.tid) {
            Ok(found) => found,
            // Linux before 5.13 cannot tell. The C library registers it in every thread.
            Err(Errno::EIO | Errno::EINVAL) => {
                task.warnings.push(Obstacle::unsupported(
                    format!("The kernel does not tell about rseq of {}", task.who()),
                    "after a restore it will have none (Linux 5.13 is needed)",
                ));
                None
            }
            Err(e) => {
                return Err(Error::os(
                    format!("Cannot ask for rseq of {}", task.who()),
                    e,
                ));
            }
        };
        task.thread().rseq_entry = found.map(|found| RseqEntry {
            rseq_abi_pointer: found.ptr,
            rseq_abi_size: found.size,
            signature: found.signature,
            ..RseqEntry::default()
        });
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(rseq) = task.thread().and_then(|t| t.rseq_entry.as_ref()) else {
            return Ok(());
        };
        if rseq.rseq_abi_pointer == 0 {
            return Ok(());
        }
        let size = u64::from(rseq.rseq_abi_size);
        let args = [rseq.rseq_abi_pointer, size, 0, u64::from(rseq.signature)];
        task.remote.call("rseq", libc::SYS_rseq, &args)?;
        Ok(())
    }
}
