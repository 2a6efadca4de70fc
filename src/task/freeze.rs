//! Stopping a whole tree, and letting it go whatever happens.

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::tree::{Life, Process, members};
use crate::error::{Error, Kind, Result, TargetState};
use crate::sys::ptrace::{self, Stop};
use crate::units::Pid;

/// A tree all of whose threads are stopped and traced by this OS thread. Dropping it thaws it.
#[derive(Debug)]
pub struct Frozen {
    processes: Vec<Process>,
    seized: BTreeSet<Pid>,
    /// Signals to be sent when the tree runs again: (process, signal).
    held: Vec<(Pid, i32)>,
    since: Instant,
    /// ptrace belongs to the thread that attached.
    _this_thread: PhantomData<*mut ()>,
}

impl Frozen {
    /// Seizes and stops every thread of every process under `root`, until no new one appears.
    ///
    /// # Errors
    /// [`Kind::Permission`] without the right to trace, [`Kind::Busy`] when another tracer has it;
    /// the tree then runs on as before.
    pub fn freeze(root: Pid) -> Result<Self> {
        let mut frozen = Self {
            processes: Vec::new(),
            seized: BTreeSet::new(),
            held: Vec::new(),
            since: Instant::now(),
            _this_thread: PhantomData,
        };
        let mut stopped_by = std::collections::BTreeMap::new();
        loop {
            let tree = members(root)?;
            let new: Vec<Pid> = tree
                .iter()
                .filter(|p| !matches!(p.life, Life::Zombie(_)))
                .flat_map(|p| p.threads.iter().copied())
                .filter(|tid| !frozen.seized.contains(tid))
                .collect();
            if new.is_empty() {
                frozen.processes = tree;
                break;
            }
            let mut asked = Vec::with_capacity(new.len());
            for tid in new {
                match ptrace::seize(tid, 0).and_then(|()| ptrace::interrupt(tid)) {
                    Ok(()) => asked.push(tid),
                    Err(Errno::ESRCH) => {}
                    Err(e) => {
                        for tid in asked {
                            let _stopped = await_stop(tid);
                            frozen.seized.insert(tid);
                        }
                        return Err(refused(tid, e));
                    }
                }
            }
            for tid in asked {
                match await_stop(tid)? {
                    Some(stop) => {
                        frozen.seized.insert(tid);
                        if let Stop::Group(signal) = stop {
                            stopped_by.insert(tid, signal);
                        }
                    }
                    None => continue,
                }
            }
        }
        for process in &mut frozen.processes {
            if !matches!(process.life, Life::Zombie(_)) {
                process.life = stopped_by
                    .get(&process.pid)
                    .map_or(Life::Alive, |s| Life::Stopped(*s));
            }
        }
        Ok(frozen)
    }

    /// The processes, parents before children.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    /// Number of stopped threads.
    pub fn threads(&self) -> usize {
        self.seized.len()
    }

    /// When freezing began.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Notes signals that must be sent to `pid` again once it runs.
    pub fn hold(&mut self, pid: Pid, signals: Vec<i32>) {
        self.held.extend(signals.into_iter().map(|s| (pid, s)));
    }

    /// Lets the tree go on; returns how long it was stopped.
    pub fn thaw(mut self) -> Duration {
        self.release(0);
        self.since.elapsed()
    }

    /// Lets go of the tree but leaves it stopped by SIGSTOP.
    pub fn leave_stopped(mut self) -> Duration {
        let alive = self
            .processes
            .iter()
            .filter(|p| !matches!(p.life, Life::Zombie(_)));
        for process in alive {
            let _gone = kill(process.pid, Signal::SIGSTOP);
        }
        self.release(0);
        self.since.elapsed()
    }

    /// Kills every process of the tree and waits until they are gone.
    ///
    /// # Errors
    /// When a process cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        let seized = std::mem::take(&mut self.seized);
        for process in &self.processes {
            match kill(process.pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    return Err(Error::os(format!("Cannot kill process {}", process.pid), e)
                        .target(TargetState::Unknown));
                }
            }
        }
        // Other threads first: a leader is reported only when it is the last one.
        let (leaders, others): (Vec<_>, Vec<_>) = seized
            .into_iter()
            .partition(|tid| self.processes.iter().any(|p| p.pid == *tid));
        for tid in others.into_iter().chain(leaders) {
            while let Ok(stop) = ptrace::wait(tid) {
                if matches!(stop, Stop::Gone(_)) {
                    break;
                }
                // An exit stop or a leftover: let it die.
                let _gone = ptrace::cont(tid, 0);
            }
        }
        if let Some(root) = self.processes.first() {
            await_reaped(root.pid);
        }
        Ok(())
    }

    fn release(&mut self, signal: i32) {
        for tid in std::mem::take(&mut self.seized) {
            let _gone = ptrace::detach(tid, signal);
        }
        for (pid, signal) in std::mem::take(&mut self.held) {
            if let Ok(signal) = Signal::try_from(signal) {
                let _gone = kill(pid, signal);
            }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.release(0);
    }
}

/// Waits, a second at most, until init has taken note of the end of `pid`: until then its pid is not
/// free for a restore. Another parent may take as long as it likes.
fn await_reaped(pid: Pid) {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        match super::tree::process(pid) {
            Ok(zombie) if zombie.ppid.as_raw() == 1 => {}
            _ => return,
        }
        let _timed_out = poll(&mut [], PollTimeout::from(5u8));
    }
}

/// Waits for the stop that was asked for. Signals that come first are delivered.
fn await_stop(tid: Pid) -> Result<Option<Stop>> {
    loop {
        match ptrace::wait(tid) {
            Ok(stop @ (Stop::Interrupt | Stop::Group(_))) => return Ok(Some(stop)),
            Ok(Stop::Signal(signal)) => {
                let _gone = ptrace::cont(tid, signal);
            }
            Ok(Stop::Event(_)) => {
                let _gone = ptrace::cont(tid, 0);
            }
            Ok(Stop::Gone(_)) | Err(Errno::ECHILD | Errno::ESRCH) => return Ok(None),
            Err(e) => return Err(Error::os(format!("Cannot wait for thread {tid}"), e)),
        }
    }
}

fn refused(tid: Pid, errno: Errno) -> Error {
    let tracer = procfs::process::Process::new(tid.as_raw())
        .and_then(|p| p.status())
        .map_or(0, |s| s.tracerpid);
    if tracer != 0 {
        return Error::new(
            Kind::Busy,
            format!("Thread {tid} is traced by process {tracer}"),
        )
        .hint("detach the debugger or the other dump first");
    }
    Error::os(format!("Cannot attach to thread {tid}"), errno)
        .hint("run icecore as root, or as the owner of the process; see icecore doctor")
}
