//! Stopping a whole tree, and letting it go whatever happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::tree::{Life, Process, members};
use super::vfork::waits_for_child;
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
    /// A parent that waits in vfork(2) for a child that we have stopped would never stop itself: then
    /// all is let go, and tried again when the child has started its program.
    ///
    /// # Errors
    /// [`Kind::Permission`] without the right to trace, [`Kind::Busy`] when another tracer has it or
    /// programs are started all the time; the tree then runs on as before.
    pub fn freeze(root: Pid) -> Result<Self> {
        for _ in 0..ATTEMPTS {
            if let Some(frozen) = Self::attempt(root)? {
                return Ok(frozen);
            }
            let _timed_out = poll(&mut [], PollTimeout::from(2u8));
        }
        Err(Error::new(
            Kind::Busy,
            format!("The tree of process {root} is starting programs all the time (vfork)"),
        )
        .hint("try again when it is less busy"))
    }

    /// One try; `None` when a thread cannot stop before another one goes on.
    fn attempt(root: Pid) -> Result<Option<Self>> {
        let mut frozen = Self {
            processes: Vec::new(),
            seized: BTreeSet::new(),
            held: Vec::new(),
            since: Instant::now(),
            _this_thread: PhantomData,
        };
        let mut stopped_by = BTreeMap::new();
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
            let mut asked = VecDeque::with_capacity(new.len());
            for tid in new {
                match seize(tid, 0).and_then(|()| ptrace::interrupt(tid)) {
                    Ok(()) => asked.push_back(tid),
                    Err(Errno::ESRCH) => {}
                    // The kernel's answer for a thread that is ending.
                    Err(Errno::EPERM) if has_ended(tid) => {}
                    Err(e) => {
                        drop(frozen);
                        let _left = let_go(asked);
                        return Err(refused(tid, e));
                    }
                }
            }
            while let Some(tid) = asked.pop_front() {
                match await_stop(tid) {
                    Ok(Waited::Stopped(stop)) => {
                        frozen.seized.insert(tid);
                        if let Stop::Group(signal) = stop {
                            stopped_by.insert(tid, signal);
                        }
                    }
                    Ok(Waited::Gone) => {}
                    Ok(Waited::Blocked) => {
                        asked.push_back(tid);
                        drop(frozen);
                        return match let_go(asked) {
                            None => Ok(None),
                            Some(stuck) => Err(blocked(stuck)),
                        };
                    }
                    Err(e) => {
                        asked.push_back(tid);
                        drop(frozen);
                        let _left = let_go(asked);
                        return Err(e);
                    }
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
        Ok(Some(frozen))
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
        await_ends(seized.into_iter().collect());
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

/// Waits until threads that have been killed are gone, in whichever order: a leader is reported when it
/// is the last one, and the last thread of a pid namespace's first process waits for all others there.
pub fn await_ends(mut tids: Vec<Pid>) {
    loop {
        let before = tids.len();
        tids.retain(|tid| {
            loop {
                match ptrace::try_wait(*tid) {
                    Ok(None) => return true,
                    Ok(Some(Stop::Gone(_))) | Err(_) => return false,
                    // An exit stop or a leftover: let it die.
                    Ok(Some(_)) => {
                        let _gone = ptrace::cont(*tid, 0);
                    }
                }
            }
        });
        if tids.is_empty() {
            return;
        }
        if tids.len() == before {
            let _timed_out = poll(&mut [], PollTimeout::from(1u8));
        }
    }
}

/// Attaches to a thread without stopping it; where we have the right, its seccomp filters do not hold
/// for what it does while we trace it (PTRACE_O_SUSPEND_SECCOMP).
///
/// # Errors
/// As [`ptrace::seize`].
pub fn seize(tid: Pid, options: i32) -> nix::Result<()> {
    if !may_suspend_seccomp() {
        return ptrace::seize(tid, options);
    }
    let suspend = linux_raw_sys::ptrace::PTRACE_O_SUSPEND_SECCOMP;
    match ptrace::seize(tid, options | suspend.cast_signed()) {
        // No right after all (in a user namespace), or not a matter of seccomp: then for the same reason.
        Err(Errno::EPERM | Errno::EINVAL) => ptrace::seize(tid, options),
        result => result,
    }
}

/// True when the confinement of others can be suspended: with CAP_SYS_ADMIN, when we are not confined.
pub fn may_suspend_seccomp() -> bool {
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let status = procfs::process::Process::myself().and_then(|me| me.status());
        status.is_ok_and(|s| s.capeff & CAP_SYS_ADMIN != 0 && s.seccomp.unwrap_or(0) == 0)
    })
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

/// How often to try to stop a tree that starts programs.
const ATTEMPTS: u32 = 100;

/// How long to wait for threads that were asked to stop and are to go on.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long to wait for a thread that waits for something that no signal ends (a file system that does
/// not answer).
const LONGEST: Duration = Duration::from_secs(10);

/// How long a thread may take to stop before we ask what it is doing.
const USUAL: Duration = Duration::from_micros(500);

/// What came of asking a thread to stop.
enum Waited {
    Stopped(Stop),
    Gone,
    /// It waits for a child that is stopped.
    Blocked,
}

/// Waits for the stop that was asked for.
fn await_stop(tid: Pid) -> Result<Waited> {
    let asked = Instant::now();
    loop {
        if let Some(waited) = look(tid)? {
            return Ok(waited);
        }
        if asked.elapsed() < USUAL {
            std::thread::yield_now();
        } else if waits_for_child(tid) {
            return Ok(Waited::Blocked);
        } else if asked.elapsed() > LONGEST {
            return Err(Error::new(
                Kind::Busy,
                format!("Thread {tid} does not stop: it waits inside the kernel"),
            )
            .hint("see where: /proc/PID/task/TID/stack; try again when that is over"));
        } else {
            let _timed_out = poll(&mut [], PollTimeout::from(1u8));
        }
    }
}

/// Whether it has stopped by now. Signals that come first are delivered.
fn look(tid: Pid) -> Result<Option<Waited>> {
    loop {
        match ptrace::try_wait(tid) {
            Ok(None) => return Ok(None),
            Ok(Some(stop @ (Stop::Interrupt | Stop::Group(_)))) => {
                return Ok(Some(Waited::Stopped(stop)));
            }
            Ok(Some(Stop::Signal(signal))) => {
                let _gone = ptrace::cont(tid, signal);
            }
            Ok(Some(Stop::Event(_))) => {
                let _gone = ptrace::cont(tid, 0);
            }
            Ok(Some(Stop::Gone(_))) | Err(Errno::ECHILD | Errno::ESRCH) => {
                return Ok(Some(Waited::Gone));
            }
            Err(e) => return Err(Error::os(format!("Cannot wait for thread {tid}"), e)),
        }
    }
}

/// Lets go of threads that were asked to stop, each as soon as it has: one may wait for another. Those
/// that never do are left to the end of this OS thread, and the first of them is returned.
fn let_go(mut asked: VecDeque<Pid>) -> Option<Pid> {
    let until = Instant::now() + PATIENCE;
    while !asked.is_empty() && Instant::now() < until {
        asked.retain(|tid| match look(*tid) {
            Ok(None) => true,
            Ok(Some(Waited::Stopped(_))) => {
                let _gone = ptrace::detach(*tid, 0);
                false
            }
            _ => false,
        });
        // Whoever is waited for needs the CPU.
        let _timed_out = poll(&mut [], PollTimeout::from(1u8));
    }
    asked.pop_front()
}

fn blocked(tid: Pid) -> Error {
    Error::new(
        Kind::Busy,
        format!("Thread {tid} waits for a child that has yet to start its program (vfork)"),
    )
    .hint("try again when the child has")
}

fn has_ended(tid: Pid) -> bool {
    procfs::process::Process::new(tid.as_raw())
        .and_then(|p| p.stat())
        .map_or(true, |stat| matches!(stat.state, 'Z' | 'X' | 'x'))
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
        .hint(
            "stopping processes of others takes CAP_SYS_PTRACE: run icecore as root, or as the owner of \
             the process; see icecore doctor",
        )
}
