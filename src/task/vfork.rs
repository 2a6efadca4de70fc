//! Parents that wait in vfork(2), posix_spawn(3) and the like for a child that still uses their memory:
//! they cannot be stopped before it has started its program, or ended.

use procfs::process::Process as Proc;

use super::tree::Process;
use crate::sys::kcmp;
use crate::units::Pid;

/// True for a thread in such a wait, which nothing but the child can end.
pub(super) fn waits_for_child(tid: Pid) -> bool {
    let Ok(thread) = Proc::new(tid.as_raw()) else {
        return false;
    };
    let waits = thread.stat().is_ok_and(|stat| stat.state == 'D');
    let children = || {
        let task = thread.task_from_tid(tid.as_raw());
        task.and_then(|task| task.children()).unwrap_or_default()
    };
    waits
        && children().into_iter().any(|child| {
            let child = Pid::from_raw(child.cast_signed());
            kcmp::same(tid, child, kcmp::Resource::Vm).unwrap_or(false)
        })
}

/// The processes that wait so, each with the child that it waits for.
pub fn waiting(processes: &[Process]) -> impl Iterator<Item = (&Process, &Process)> {
    processes.iter().filter_map(|child| {
        let parent = processes.iter().find(|p| p.pid == child.ppid)?;
        let shares = kcmp::same(child.pid, parent.pid, kcmp::Resource::Vm).unwrap_or(false);
        let waits = shares && parent.threads.iter().any(|tid| waits_for_child(*tid));
        waits.then_some((parent, child))
    })
}
