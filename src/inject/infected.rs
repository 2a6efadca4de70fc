//! A stopped process that can be made to run system calls, and that is cured afterwards.
//!
//! The order keeps the target safe at every instant (see `arch::stub`): the stub is written with the
//! thread's own registers as constants before its registers point to it; its signals are blocked
//! only after that, so that every way out restores the mask.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use procfs::process::{MemoryMap, Process, Status};

use super::remote::{BATCH_BYTES, Remote, Site};
use super::rseq::abort_sequence;
use super::signal::{self, Uses};
use super::slack::{self, Slack};
use crate::arch::{self, Regs, restart, stub};
use crate::error::{Error, Kind, Result, TargetState};
use crate::sys::ptrace;
use crate::sys::vm::Memory;
use crate::task::proc;
use crate::units::{PageRange, Pid};

/// A process with our stub in its slack. All of its threads are stopped, and traced by this thread.
/// Dropping it cures it.
#[derive(Debug)]
pub struct Infected {
    pid: Pid,
    own_pid: Pid,
    /// It sees the same ids as we do.
    same_namespace: bool,
    slack: Slack,
    site: Site,
    memory: Rc<Memory>,
    held: Vec<i32>,
    cured: bool,
}

/// How long a thread may take to leave a dead engine's stub.
const STUB_PATIENCE: Duration = Duration::from_secs(5);

/// A thread as it was before it worked for us.
#[derive(Debug)]
struct Before {
    tid: Pid,
    regs: Regs,
    mask: u64,
}

impl Infected {
    /// Puts the stub into the stopped process `pid` and maps a batch there. All `threads` are
    /// stopped and traced by the caller.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] when the process leaves no room or no harmless signal; the process is
    /// then as it was.
    pub fn new(pid: Pid, threads: &[Pid]) -> Result<Self> {
        let proc = Process::new(pid.as_raw()).map_err(|e| gone(pid, e))?;
        let status = proc::status(pid, pid)?;
        let maps: Vec<MemoryMap> = proc.maps().map_err(|e| gone(pid, e))?.into_iter().collect();
        let memory = Rc::new(
            Memory::open(pid)
                .map_err(|e| Error::io(format!("Cannot open the memory of process {pid}"), e))?,
        );
        let slack = slack::find(pid, &maps, &memory)?;
        let family = family(&proc);
        let mut left = false;
        for tid in threads {
            left |= leave_stub(*tid, &slack)?;
        }
        if left && family != self::family(&proc) {
            // Born while the rest was frozen: nobody has stopped it.
            return Err(Error::new(
                Kind::Busy,
                format!("Process {pid} has a new thread or child after another engine's end"),
            )
            .hint("try again in a moment"));
        }
        let uses = Uses::of_frozen(pid, threads, &status)?;
        let signal = uses.choose().ok_or_else(|| signal::none_left(pid))?;
        let site = Site {
            stub: slack.stub,
            batch: PageRange::new(0, 0),
            signal,
        };
        let own_pid = own_id(&status, pid);
        let mut infected = Self {
            pid,
            own_pid,
            same_namespace: status.nspid.as_ref().is_none_or(|ids| ids.len() == 1),
            slack,
            site,
            memory,
            held: vec![],
            cured: false,
        };
        infected.map_batch()?;
        Ok(infected)
    }

    /// Lets the leader map the batch through the stub's first entry.
    fn map_batch(&mut self) -> Result<()> {
        let before = before(self.pid, &self.memory)?;
        self.write_stub(&before, BATCH_BYTES)?;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let mut regs = before.regs;
        regs.rip = self.site.stub + stub::ONE;
        regs.rax = libc::SYS_mmap.cast_unsigned();
        regs.rdi = 0;
        regs.rsi = BATCH_BYTES;
        regs.rdx = u64::from(prot.cast_unsigned());
        regs.r10 = u64::from(flags.cast_unsigned());
        regs.r8 = u64::MAX;
        regs.r9 = 0;
        let start = self.run_one(&before, regs);
        let start = self.put_back(&before, start)?;
        if (-4095..0).contains(&start.cast_signed()) {
            let errno = i32::try_from(-start.cast_signed()).unwrap_or(0);
            let error = nix::errno::Errno::from_raw(errno);
            let pid = self.pid;
            let what = format!("Process {pid} cannot map a page for us");
            let failed = Error::os(what, error);
            return Err(match error {
                nix::errno::Errno::ENOMEM => failed.hint(format!(
                    "it may be at a limit of its own: raise it (prlimit --pid {pid} --as=unlimited \
                     --data=unlimited), or let it free memory"
                )),
                _ => failed,
            });
        }
        self.site.batch = PageRange::new(start, start + BATCH_BYTES);
        Ok(())
    }

    /// Runs the one call in `regs` and returns what it gave.
    fn run_one(&mut self, before: &Before, regs: Regs) -> Result<u64> {
        let mut regs = regs;
        regs.orig_rax = u64::MAX;
        let tid = before.tid;
        let lost = |e| Error::os(format!("Cannot control thread {tid}"), e);
        ptrace::set_regs(tid, &regs).map_err(lost)?;
        ptrace::set_sigmask(tid, self.blocked()).map_err(lost)?;
        ptrace::cont(tid, 0).map_err(lost)?;
        let mut remote = Remote::new(tid, self.site, Rc::clone(&self.memory), before.regs);
        remote.await_break()?;
        self.held.append(&mut remote.take_held());
        Ok(ptrace::regs(tid).map_err(lost)?.rbx)
    }

    /// Everything but the soft break's signal.
    fn blocked(&self) -> u64 {
        !(1 << (self.site.signal - 1))
    }

    /// Runs `work` with thread `tid` of this process able to run system calls; its registers and
    /// mask are put back afterwards, whatever happens.
    ///
    /// # Errors
    /// What `work` returns, or when the thread cannot be controlled.
    pub fn with<T>(&mut self, tid: Pid, work: impl FnOnce(&mut Remote) -> Result<T>) -> Result<T> {
        let before = before(tid, &self.memory)?;
        self.write_stub(&before, BATCH_BYTES)?;
        let mut remote = Remote::new(tid, self.site, Rc::clone(&self.memory), before.regs);
        // An empty batch: should we die now, the stub runs nothing and goes home.
        remote.prepare(&[])?;
        let mut regs = before.regs;
        regs.rip = self.site.stub + stub::BATCH;
        regs.rbx = self.site.batch.start;
        regs.orig_rax = u64::MAX;
        let lost = |e| Error::os(format!("Cannot control thread {tid}"), e);
        ptrace::set_regs(tid, &regs).map_err(lost)?;
        let result = ptrace::set_sigmask(tid, self.blocked())
            .map_err(lost)
            .and_then(|()| work(&mut remote));
        self.held.append(&mut remote.take_held());
        self.put_back(&before, result)
    }

    fn write_stub(&self, before: &Before, unmap: u64) -> Result<()> {
        let regs = restart::by_itself(&before.regs);
        let own_tid = if before.tid == self.pid {
            self.own_pid
        } else if self.same_namespace {
            before.tid
        } else {
            own_id(&proc::status(self.pid, before.tid)?, before.tid)
        };
        let bytes = stub::bytes(&stub::Return {
            own_ids: (self.own_pid, own_tid),
            signal: self.site.signal,
            unmap,
            mask: before.mask,
            regs: &regs,
        });
        self.memory
            .write(self.site.stub, &bytes)
            .map_err(|e| Error::io(format!("Cannot write the slack of process {}", self.pid), e))
    }

    /// Puts registers and mask back, after work that ended with `result`.
    fn put_back<T>(&mut self, before: &Before, result: Result<T>) -> Result<T> {
        let tid = before.tid;
        let back = self.reset(before).map_err(|e| {
            Error::os(format!("Cannot put back the registers of thread {tid}"), e)
                .target(TargetState::Unknown)
        });
        // What happened first says more.
        let value = result?;
        back.map(|()| value)
    }

    fn reset(&mut self, before: &Before) -> nix::Result<()> {
        let tid = before.tid;
        if !stub::holds(self.site.stub, ptrace::regs(tid)?.rip) {
            // Its stop never came, so it went home by itself, and took the batch away.
            self.site.batch = PageRange::new(0, 0);
            return Ok(());
        }
        ptrace::set_sigmask(tid, before.mask)?;
        ptrace::set_regs(tid, &before.regs)
    }

    /// Removes everything of ours from the process. Signals that could not be blocked meanwhile are
    /// returned: the caller sends them again once the process runs.
    ///
    /// # Errors
    /// When the process died or cannot be controlled.
    pub fn cure(mut self) -> Result<Vec<i32>> {
        self.undo()?;
        Ok(std::mem::take(&mut self.held))
    }

    fn undo(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.cured, true) {
            return Ok(());
        }
        if !self.site.batch.is_empty() {
            let before = before(self.pid, &self.memory)?;
            // From here on there is nothing left to unmap for the stub.
            self.write_stub(&before, 0)?;
            let mut regs = before.regs;
            regs.rip = self.site.stub + stub::ONE;
            regs.rax = libc::SYS_munmap.cast_unsigned();
            regs.rdi = self.site.batch.start;
            regs.rsi = self.site.batch.bytes();
            let result = self.run_one(&before, regs);
            self.put_back(&before, result)?;
        }
        self.memory
            .write(self.slack.stub, &self.slack.original)
            .map_err(|e| Error::io(format!("Cannot clean the slack of process {}", self.pid), e))
    }
}

impl Drop for Infected {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!("process {} not cured: {}", self.pid, error.one_line());
        }
    }
}

fn before(tid: Pid, memory: &Memory) -> Result<Before> {
    let lost = |e| Error::os(format!("Cannot read the registers of thread {tid}"), e);
    let mut regs = ptrace::regs(tid).map_err(lost)?;
    if regs.cs != arch::CODE_SEGMENT_64 {
        return Err(
            Error::new(Kind::Unsupported, format!("Thread {tid} runs 32-bit code"))
                .hint("only 64-bit programs can be dumped"),
        );
    }
    if catches_calls(tid, memory) {
        let what = format!("Thread {tid} catches its own system calls at this moment");
        return Err(Error::new(Kind::Unsupported, what)
            .hint("try again when its selector allows them (syscall user dispatch)"));
    }
    restart::hide_stop(&mut regs);
    abort_sequence(tid, memory, &mut regs);
    Ok(Before {
        tid,
        regs,
        mask: ptrace::sigmask(tid).map_err(lost)?,
    })
}

/// True when the thread's calls, ours included, would end in a signal: its selector says so, or cannot
/// be read (PR_SET_SYSCALL_USER_DISPATCH, prctl(2)). A kernel that cannot tell (EIO) leaves that to be
/// noticed by the first call. To switch it off would not be safe: it would stay off if we died.
fn catches_calls(tid: Pid, memory: &Memory) -> bool {
    const ALLOW: [u8; 1] = [0];
    let Ok([mode, selector, ..]) = ptrace::syscall_dispatch(tid) else {
        return false;
    };
    let mut says = [1];
    mode != 0 && (memory.read(selector, &mut says).is_err() || says != ALLOW)
}

/// Threads and children.
fn family(proc: &Process) -> BTreeSet<i64> {
    let tasks = proc.tasks().into_iter().flatten().flatten();
    tasks
        .flat_map(|task| {
            let children = task.children().unwrap_or_default();
            let own = i64::from(task.tid);
            children.into_iter().map(i64::from).chain([-own])
        })
        .collect()
}

/// Lets a thread that stands inside a dead engine's stub run out of it; true when it did.
fn leave_stub(tid: Pid, slack: &Slack) -> Result<bool> {
    let lost = |e| Error::os(format!("Cannot control thread {tid}"), e);
    for round in 0..200 {
        if !stub::holds(slack.stub, ptrace::regs(tid).map_err(lost)?.rip) {
            return Ok(round > 0);
        }
        ptrace::cont(tid, 0).map_err(lost)?;
        // Interrupted at once, it would not get one instruction further.
        let _timed_out = poll(&mut [], PollTimeout::from(1u8));
        ptrace::interrupt(tid).map_err(lost)?;
        let end = Instant::now() + STUB_PATIENCE;
        while !matches!(
            ptrace::wait_until(tid, end).map_err(lost)?,
            Some(ptrace::Stop::Interrupt)
        ) {
            // Also when it still runs: then it is told by the kernel (ESRCH), and given up.
            ptrace::cont(tid, 0).map_err(lost)?;
        }
    }
    Err(Error::new(
        Kind::Busy,
        format!("Thread {tid} is inside another engine's code"),
    )
    .hint("try again in a moment"))
}

/// The id of a task in its own pid namespace: the last of NSpid/NStgid (proc_pid_status(5)).
fn own_id(status: &Status, fallback: Pid) -> Pid {
    let last = status.nspid.as_ref().and_then(|ids| ids.last().copied());
    Pid::from_raw(last.unwrap_or(fallback.as_raw()))
}

fn gone(pid: Pid, error: procfs::ProcError) -> Error {
    Error::new(
        Kind::TargetGone,
        format!("Cannot read /proc of process {pid}"),
    )
    .because(error)
}
