//! What this user may not do, so that no restore can be: choosing ids (clone(2), `set_tid`), and making a pid
//! namespace for them, where there is to be one.

use std::fs::File;
use std::os::fd::AsFd as _;

use nix::errno::Errno;

use crate::error::{Error, Kind, Obstacle, Result};
use crate::kernel::privileges::Privileges;
use crate::sys::namespace;

/// The pid namespace in which new processes of ours are.
const IDS: &str = "/proc/self/ns/pid_for_children";
/// What helps who is not root; unshare(1).
const WITHOUT_ROOT: &str = "run it as root; a tree of your own goes on without root, too: unshare \
     --map-current-user --keep-caps icecore restore … --new-pid-namespace";

/// What is missing, if something is. `namespace`: the tree gets a pid namespace of its own.
///
/// # Errors
/// When `/proc` is not there.
pub(super) fn missing(namespace: bool) -> Result<Option<Obstacle>> {
    let privileges = Privileges::read()?;
    let (what, hint) = if namespace && !privileges.may_make_namespaces() {
        (
            "A new pid namespace cannot be made: that takes CAP_SYS_ADMIN",
            WITHOUT_ROOT,
        )
    } else if !privileges.may_choose_ids() {
        (
            "The task ids cannot be chosen: that takes CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN",
            WITHOUT_ROOT,
        )
    } else if !namespace && privileges.in_user_namespace && !ids_are_ours()? {
        (
            "The task ids cannot be chosen: the pid namespace belongs to another user namespace, where our \
             capabilities do not hold",
            "restore with --new-pid-namespace, or outside of this user namespace as root",
        )
    } else {
        return Ok(None);
    };
    Ok(Some(Obstacle::new(Kind::Permission, what, hint)))
}

/// Whether our capabilities hold over the ids of new processes.
fn ids_are_ours() -> Result<bool> {
    // A namespace that was made, and has no process yet, is made by who has rights over it.
    let Ok(ids) = File::open(IDS) else {
        return Ok(true);
    };
    match namespace::owner(ids.as_fd()) {
        Ok(_) => Ok(true),
        Err(Errno::EPERM) => Ok(false),
        Err(e) => Err(Error::os(format!("Cannot find the owner of {IDS}"), e)),
    }
}
