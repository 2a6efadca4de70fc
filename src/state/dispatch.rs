//! Syscall user dispatch (PR_SET_SYSCALL_USER_DISPATCH, prctl(2)): which system calls of a thread come
//! back to it as SIGSYS. CRIU's images have no place for it; ours is in a field of our own
//! (`thread_core.syscall_dispatch`). Read and set by ptrace, so it is no [`super::Resource`].

use crate::error::{Error, Result};
use crate::image::proto::CoreEntry;
use crate::sys::ptrace;
use crate::units::Pid;

/// Dump half, of a frozen thread. A kernel that cannot tell (before 6.4) leaves it out.
pub fn dump(tid: Pid, core: &mut CoreEntry) {
    let config = ptrace::syscall_dispatch(tid).unwrap_or_default();
    if config[0] != 0 {
        core.thread_core.get_or_insert_default().syscall_dispatch = config.to_vec();
    }
}

/// Restore half, when the thread runs no calls of ours any more.
///
/// # Errors
/// When the record is damaged, or the kernel refuses.
pub fn restore(tid: Pid, core: &CoreEntry) -> Result<()> {
    let config = core.thread_core.as_ref().map(|t| &*t.syscall_dispatch);
    match config.unwrap_or_default() {
        [] => Ok(()),
        &[mode, selector, offset, length] => {
            ptrace::set_syscall_dispatch(tid, [mode, selector, offset, length]).map_err(|e| {
                let what = format!("Thread {tid} cannot catch its own system calls again");
                Error::os(what, e).hint("restore on Linux 6.4 or newer")
            })
        }
        _ => Err(Error::corrupt(format!(
            "core-{tid}.img has half a syscall dispatch"
        ))),
    }
}
