//! What the processes of a tree call each other. In a pid namespace of its own (pid_namespaces(7)) a
//! tree has ids that differ from those we see; images hold the tree's own.

use std::collections::BTreeMap;

use procfs::process::Status;

use super::proc;
use super::tree::Process;
use crate::error::Result;
use crate::units::Pid;

/// From the ids that we see to those of the tree.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// `None` when they are the same.
    own: Option<BTreeMap<Pid, Pid>>,
}

impl Ids {
    /// Those of `processes`, whose root is the first: threads, groups and sessions too.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn read(processes: &[Process]) -> Result<Self> {
        let Some(root) = processes.first() else {
            return Ok(Self::default());
        };
        if !is_inside(&proc::status(root.pid, root.pid)?) {
            return Ok(Self::default());
        }
        let mut own = BTreeMap::new();
        for process in processes {
            let status = proc::status(process.pid, process.pid)?;
            own.insert(process.pgid, last(status.nspgid.as_ref()));
            own.insert(process.sid, last(status.nssid.as_ref()));
            own.insert(process.pid, last(status.nspid.as_ref()));
            for tid in process.threads.iter().filter(|tid| **tid != process.pid) {
                let status = proc::status(process.pid, *tid)?;
                own.insert(*tid, last(status.nspid.as_ref()));
            }
        }
        Ok(Self { own: Some(own) })
    }

    /// True when they differ from ours.
    pub fn differ(&self) -> bool {
        self.own.is_some()
    }

    /// What the tree calls `seen`; 0 for what is not in it, as for a process that cannot see it.
    pub fn own(&self, seen: Pid) -> Pid {
        let nobody = Pid::from_raw(0);
        let known = self.own.as_ref();
        known.map_or(seen, |own| own.get(&seen).copied().unwrap_or(nobody))
    }

    /// The same, as images have it.
    pub fn number(&self, seen: Pid) -> u32 {
        self.own(seen).as_raw().cast_unsigned()
    }
}

/// True for a task of another pid namespace than ours.
pub fn is_inside(status: &Status) -> bool {
    status.nspid.as_ref().is_some_and(|ids| ids.len() > 1)
}

/// The id in the innermost namespace (`NSpid` and so on, proc_pid_status(5)).
fn last(ids: Option<&Vec<i32>>) -> Pid {
    Pid::from_raw(ids.and_then(|ids| ids.last().copied()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_our_own_namespace_are_what_we_see() {
        let me = super::super::tree::process(Pid::this()).unwrap();
        let ids = Ids::read(std::slice::from_ref(&me)).unwrap();
        assert!(!ids.differ());
        assert_eq!(ids.own(me.pid), me.pid);
    }

    #[test]
    fn who_is_not_in_the_tree_is_nobody() {
        let of = Pid::from_raw;
        let ids = Ids {
            own: Some([(of(77), of(1)), (of(80), of(4))].into()),
        };
        assert_eq!([77, 80, 81].map(|id| ids.number(of(id))), [1, 4, 0]);
    }
}
