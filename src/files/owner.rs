//! Who gets a signal when a file is ready: `fown_entry`, on every kind of file.

use crate::image::proto::FownEntry;
use crate::sys::descriptor::Owner;
use crate::task::Ids;
use crate::units::Pid;

/// For the image, in which ids are those of the tree.
pub(super) fn entry(owner: Owner, ids: &Ids) -> FownEntry {
    FownEntry {
        uid: owner.uid,
        euid: owner.euid,
        signum: owner.signal.cast_unsigned(),
        pid_type: owner.kind.cast_unsigned(),
        pid: ids.number(Pid::from_raw(owner.pid)),
    }
}

/// From the image; `None` when there is neither owner nor signal.
pub(super) fn from_entry(entry: &FownEntry) -> Option<Owner> {
    (entry.pid != 0 || entry.signum != 0).then(|| Owner {
        kind: entry.pid_type.cast_signed(),
        pid: entry.pid.cast_signed(),
        signal: entry.signum.cast_signed(),
        uid: entry.uid,
        euid: entry.euid,
    })
}
