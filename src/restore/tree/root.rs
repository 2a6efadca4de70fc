//! The root of a tree that init adopts, or that has namespaces for itself: it is forked by a
//! go-between, which ends at once.
//!
//! Sources: clone(2) (`CLONE_PARENT`, `CLONE_NEWPID`), pid_namespaces(7).

use nix::sys::signal::{Signal, kill};

use super::{Newborn, USUAL_END, adopt, cannot_fork};
use crate::error::Result;
use crate::inject::{Foothold, Ground};
use crate::state::namespaces::{Anew, clocks};
use crate::sys::clone::fork_idle;
use crate::sys::ptrace::{self, Stop};
use crate::units::Pid;

/// The flag that makes a pid namespace.
pub(super) const NEW_PIDS: u64 = libc::CLONE_NEWPID as u64;

impl Newborn<'_> {
    /// Makes the root. With `detach` it is nobody's once the go-between has ended; without, it is born
    /// as a sibling of the go-between: a child of ours.
    pub(super) fn fork_root_by_another(
        &mut self,
        root: Pid,
        ground: &Ground,
        anew: &Anew,
        detach: bool,
    ) -> Result<Foothold> {
        let go_between = fork_idle(None).map_err(|e| cannot_fork(root, e))?;
        let (parent, exit_signal) = match detach {
            true => (0, USUAL_END),
            // It ends with the signal of the go-between, and may not be given another one.
            false => (libc::CLONE_PARENT as u64, 0),
        };
        let result = adopt(go_between)
            .and_then(|()| Foothold::establish(go_between, ground))
            .and_then(|foothold| {
                let own = (go_between, go_between);
                let mut remote = foothold.remote(go_between, go_between, own, 0)?;
                if let Some(clocks) = &anew.time {
                    clocks::set_for_children(&mut remote, go_between, clocks)?;
                }
                self.clone(&mut remote, root, anew.flags() | parent, exit_signal)?;
                self.pids.push(self.seen(root));
                Ok(foothold)
            });
        let _gone = kill(go_between, Signal::SIGKILL);
        while matches!(ptrace::wait_a_minute(go_between), Ok(stop) if !matches!(stop, Stop::Gone(_)))
        {
        }
        result
    }
}
