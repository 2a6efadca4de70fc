//! Everything about a thread and its process that is neither memory, nor registers, nor a file:
//! signals, timers, credentials, limits, … One file per kind, dump half and restore half side by
//! side; a new kind is one file and one line in [`RESOURCES`].
//!
//! Per thread: [`dump`] while it is frozen and infected. [`restore`] for all threads of a process at
//! once, after its memory and descriptors are there. What belongs to the address space and to the
//! file system view has images of its own: [`mm`] and [`fs`].
//!
//! Sources: the man pages named in each file; CRIU's `core-TID.img`, `mm-PID.img`, `fs-PID.img`.

mod altstack;
mod answers;
mod caps;
mod cgroup;
mod comm;
mod creds;
pub mod dispatch;
pub mod fs;
mod futex;
mod itimers;
mod ldt;
pub mod mm;
pub mod namespaces;
mod oom;
mod pdeath;
mod pending;
mod placement;
mod posix_timers;
mod process;
mod rlimits;
mod rseq;
mod sched;
pub mod seccomp;
mod sigactions;
mod switches;
pub mod sysv;
mod tiles;
mod words;

use crate::error::{Error, Obstacle, Result};
use crate::image::proto::{CoreEntry, TaskCoreEntry, ThreadCoreEntry, ThreadInfoX86};
use crate::inject::{Call, Remote};
use crate::units::Pid;

pub use answers::{Answers, Questions};
pub use pending::pending_signals;
pub use switches::forget_merging;

/// One kind of state.
pub trait Resource: Sync {
    /// What it is, in a few words.
    fn name(&self) -> &'static str;

    /// What of it this engine cannot save, seen before the freeze (cheap: /proc only).
    ///
    /// # Errors
    /// When /proc cannot be read.
    fn check(&self, pid: Pid) -> Result<Vec<Obstacle>> {
        let _ = pid;
        Ok(Vec::new())
    }

    /// What of it in the record of thread `tid` this engine cannot restore (pure).
    fn check_image(&self, tid: Pid, core: &CoreEntry) -> Vec<Obstacle> {
        let _ = (tid, core);
        Vec::new()
    }

    /// Dump half, first step: system calls whose results it needs. Those of all kinds run in one
    /// batch, because each batch is time that the target stands still.
    fn ask(&self, questions: &mut Questions) {
        let _ = questions;
    }

    /// Dump half, second step: fills in its fields of `task.core`; those of the process only for the
    /// leader.
    ///
    /// # Errors
    /// When the thread died or does not tell.
    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()>;

    /// Restore half: makes the thread (and for the leader, its process) as `task.core` says.
    ///
    /// # Errors
    /// When the thread died or the kernel refuses.
    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()>;
}

/// All kinds, in the order in which they are restored. Rules behind the order:
/// signal actions before pending signals (SIG_IGN flushes); pending signals and timers, which take
/// queue entries, and scheduling before limits; the permission for AMX, which asks for large
/// alternate stacks, before these; all that needs rights before credentials; the
/// parent-death signal after credentials (changing them clears it).
pub static RESOURCES: &[&dyn Resource] = &[
    &tiles::TilePermission,
    &ldt::LocalDescriptors,
    &process::Personality,
    &process::Recorded,
    &comm::Comm,
    &futex::RobustList,
    &futex::ClearTid,
    &rseq::Rseq,
    &process::ChildSubreaper,
    &process::Membarrier,
    &sched::Scheduling,
    &placement::Placement,
    &sigactions::SignalActions,
    &altstack::AltStack,
    &pending::SignalMask,
    &pending::PendingSignals,
    &itimers::IntervalTimers,
    &posix_timers::PosixTimers,
    &switches::Switches,
    &rlimits::Limits,
    &oom::OomScoreAdj,
    &cgroup::ControlGroups,
    &creds::Credentials,
    &pdeath::ParentDeathSignal,
    &seccomp::Seccomp,
];

/// A frozen, infected thread on its way into a `core-TID.img`.
#[derive(Debug)]
pub struct DumpThread<'a> {
    /// Its process.
    pub pid: Pid,
    /// The thread.
    pub tid: Pid,
    /// True when the parts of the whole process are due.
    pub leader: bool,
    /// System calls inside the thread.
    pub remote: &'a mut Remote,
    /// What is being filled in.
    pub core: &'a mut CoreEntry,
    /// Its real signal mask (the infection has changed the present one).
    pub sigmask: u64,
    /// What will not be as it was after a restore.
    pub warnings: Vec<Obstacle>,
}

impl DumpThread<'_> {
    /// The record of the process.
    fn task(&mut self) -> &mut TaskCoreEntry {
        self.core.tc.get_or_insert_default()
    }

    /// The record of the thread.
    fn thread(&mut self) -> &mut ThreadCoreEntry {
        self.core.thread_core.get_or_insert_default()
    }

    /// The record of the thread that depends on the architecture.
    fn info(&mut self) -> &mut ThreadInfoX86 {
        self.core.thread_info.get_or_insert_default()
    }

    /// Names the thread, for messages.
    fn who(&self) -> String {
        who(self.pid, self.tid)
    }
}

/// A new, stopped thread on its way back to what an image says.
#[derive(Debug)]
pub struct RestoreThread<'a> {
    /// Its process, as this engine sees it.
    pub pid: Pid,
    /// The thread, as this engine sees it.
    pub tid: Pid,
    /// True when the parts of the whole process are due.
    pub leader: bool,
    /// System calls inside the thread.
    pub remote: &'a mut Remote,
    /// What it should become.
    pub core: &'a CoreEntry,
    /// The record of its leader (the same one for the leader).
    pub leader_core: &'a CoreEntry,
    /// What could not be made as it was.
    pub warnings: Vec<Obstacle>,
}

impl<'a> RestoreThread<'a> {
    /// The record of the process; `None` for threads other than the leader.
    fn task(&self) -> Option<&'a TaskCoreEntry> {
        self.core.tc.as_ref().filter(|_| self.leader)
    }

    /// The record of the thread.
    fn thread(&self) -> Option<&'a ThreadCoreEntry> {
        self.core.thread_core.as_ref()
    }

    /// Names the thread, for messages.
    fn who(&self) -> String {
        who(self.pid, self.tid)
    }
}

fn who(pid: Pid, tid: Pid) -> String {
    if pid == tid {
        format!("process {pid}")
    } else {
        format!("thread {tid} of process {pid}")
    }
}

/// What of a running process cannot be saved.
///
/// # Errors
/// When /proc cannot be read, because the process is gone or the right is missing.
pub fn check(pid: Pid) -> Result<Vec<Obstacle>> {
    let mut obstacles = Vec::new();
    for resource in RESOURCES {
        obstacles.extend(resource.check(pid)?);
    }
    Ok(obstacles)
}

/// What of the record of thread `tid` cannot be restored (pure).
pub fn check_image(tid: Pid, core: &CoreEntry) -> Vec<Obstacle> {
    RESOURCES
        .iter()
        .flat_map(|resource| resource.check_image(tid, core))
        .collect()
}

/// Fills in all that [`RESOURCES`] know of a frozen thread.
///
/// # Errors
/// When the thread died or does not tell.
pub fn dump(task: &mut DumpThread<'_>) -> Result<()> {
    let mut questions = Questions::new(task.remote.scratch().start, task.leader);
    for resource in RESOURCES {
        questions.begin();
        resource.ask(&mut questions);
    }
    let asked = questions.put_to(task.pid, task.remote)?;
    for (index, resource) in RESOURCES.iter().enumerate() {
        tracing::trace!(tid = %task.tid, resource = resource.name(), "dump");
        resource.dump(task, &asked.answers(index))?;
    }
    Ok(())
}

/// Restores the threads of one process: each kind for all threads before the next kind, so that the
/// order of [`RESOURCES`] also holds between threads. Memory, descriptors and [`mm`] come before;
/// [`mm::restore_dumpable`], masks and registers after.
///
/// # Errors
/// When a thread died or the kernel refuses.
pub fn restore(threads: &mut [RestoreThread<'_>]) -> Result<()> {
    for resource in RESOURCES {
        for thread in &mut *threads {
            tracing::trace!(tid = %thread.tid, resource = resource.name(), "restore");
            resource.restore(thread)?;
        }
    }
    Ok(())
}

/// Runs `calls`; the first one that fails is the error, named `what`.
fn run(remote: &mut Remote, what: &str, calls: &mut [Call]) -> Result<()> {
    remote.run(calls)?;
    for call in calls {
        call.value()
            .map_err(|e| Error::os(format!("{what} failed in thread {}", remote.tid()), e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
