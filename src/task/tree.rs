//! The processes of a tree, from /proc (proc_pid_stat(5), proc_pid_task(5)).

use procfs::process::{Process as Proc, Stat};

use crate::error::{Error, Kind, Result};
use crate::units::Pid;

/// What a process is doing, as far as a dump must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Running or sleeping.
    Alive,
    /// Stopped by this job-control signal.
    Stopped(i32),
    /// Ended but not waited for; the raw wait status.
    Zombie(i32),
}

/// One process of a tree.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its pid, in our pid namespace.
    pub pid: Pid,
    /// Its parent.
    pub ppid: Pid,
    /// Its process group.
    pub pgid: Pid,
    /// Its session.
    pub sid: Pid,
    /// Thread ids, the leader first. A zombie has its leader only.
    pub threads: Vec<Pid>,
    /// Alive, stopped or zombie.
    pub life: Life,
    /// Name of the leader.
    pub comm: String,
    /// Start time in clock ticks after boot: with the pid, its identity until the next boot.
    pub start_time: u64,
    /// Kernel flags (`PF_*`) of the leader.
    pub flags: u32,
    /// The signal that its parent gets at its end (clone(2)).
    pub exit_signal: i32,
}

impl Process {
    /// When it was started, in seconds since 1970; not more exact than one.
    pub fn started(&self) -> Option<u64> {
        let boot = procfs::boot_time_secs().ok()?;
        Some(boot + self.start_time / procfs::ticks_per_second())
    }
}

/// Reads one process. Threads are those of this moment.
///
/// # Errors
/// [`Kind::NotFound`] when there is no such process.
pub fn process(pid: Pid) -> Result<Process> {
    let read = |e| not_found(pid, e);
    let proc = Proc::new(pid.as_raw()).map_err(read)?;
    let stat = proc.stat().map_err(read)?;
    Ok(from_stat(pid, &stat, threads(&proc).map_err(read)?))
}

fn from_stat(pid: Pid, stat: &Stat, threads: Vec<Pid>) -> Process {
    let life = match stat.state {
        'Z' | 'X' | 'x' => Life::Zombie(stat.exit_code.unwrap_or(0)),
        'T' => Life::Stopped(libc::SIGSTOP),
        _ => Life::Alive,
    };
    let zombie = matches!(life, Life::Zombie(_));
    Process {
        pid,
        ppid: Pid::from_raw(stat.ppid),
        pgid: Pid::from_raw(stat.pgrp),
        sid: Pid::from_raw(stat.session),
        threads: if zombie { vec![pid] } else { threads },
        life,
        comm: stat.comm.clone(),
        start_time: stat.starttime,
        flags: stat.flags,
        exit_signal: stat.exit_signal.unwrap_or(libc::SIGCHLD),
    }
}

/// Thread ids of a process, the leader first, the others ascending.
fn threads(proc: &Proc) -> procfs::ProcResult<Vec<Pid>> {
    let mut tids: Vec<i32> = proc
        .tasks()?
        .filter_map(|t| t.ok().map(|t| t.tid))
        .collect();
    tids.sort_unstable_by_key(|tid| (*tid != proc.pid, *tid));
    Ok(tids.into_iter().map(Pid::from_raw).collect())
}

/// Children of every thread of a process.
fn children(proc: &Proc) -> procfs::ProcResult<Vec<Pid>> {
    let mut all = Vec::new();
    for task in proc.tasks()? {
        // A thread that just ended has no children left.
        if let Ok(children) = task.and_then(|t| t.children()) {
            all.extend(children.into_iter().filter_map(|c| i32::try_from(c).ok()));
        }
    }
    all.sort_unstable();
    Ok(all.into_iter().map(Pid::from_raw).collect())
}

/// All processes of the tree under `root`, parents before children. A running tree may change while
/// it is read; a frozen one may not.
///
/// # Errors
/// [`Kind::NotFound`] when there is no `root`.
pub fn members(root: Pid) -> Result<Vec<Process>> {
    let mut found = vec![process(root)?];
    let mut next = 0;
    while next < found.len() {
        let pid = found[next].pid;
        next += 1;
        let Ok(proc) = Proc::new(pid.as_raw()) else {
            continue;
        };
        for child in children(&proc).unwrap_or_default() {
            if let Ok(process) = process(child) {
                found.push(process);
            }
        }
    }
    Ok(found)
}

fn not_found(pid: Pid, error: procfs::ProcError) -> Error {
    match error {
        procfs::ProcError::NotFound(_) => {
            Error::new(Kind::NotFound, format!("There is no process {pid}"))
                .hint("icecore ps lists the running process trees")
        }
        procfs::ProcError::PermissionDenied(_) => Error::new(
            Kind::Permission,
            format!("Process {pid} belongs to another user"),
        )
        .hint(
            "reading processes of others takes CAP_SYS_PTRACE: run icecore as root, or as the user who \
             owns the process",
        ),
        other => Error::new(Kind::NotFound, format!("Cannot read process {pid}")).because(other),
    }
}
