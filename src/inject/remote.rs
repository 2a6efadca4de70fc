//! A thread in which system calls can be run, one batch at a time.

use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::arch::{self, Regs, stub};
use crate::error::{Error, Kind, Result, TargetState};
use crate::sys::ptrace::{self, Stop};
use crate::sys::vm::Memory;
use crate::units::{PAGE_SIZE, PageRange, Pid, Vaddr};

/// One system call to be run inside another task: number, six arguments, and its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// System call number (`libc::SYS_*`).
    pub nr: i64,
    /// Arguments; pointers are addresses in the other task.
    pub args: [u64; 6],
    /// What it returned: the raw register, `-errno` on failure. 0 before it ran.
    pub result: i64,
}

impl Call {
    /// A call with up to six arguments; missing ones are 0.
    pub fn new(nr: i64, args: &[u64]) -> Self {
        let mut call = Self {
            nr,
            ..Self::default()
        };
        call.args[..args.len()].copy_from_slice(args);
        call
    }

    /// The result as the C library would give it.
    ///
    /// # Errors
    /// The errno when the call failed.
    pub fn value(&self) -> std::result::Result<u64, Errno> {
        if (-4095..0).contains(&self.result) {
            Err(Errno::from_raw(i32::try_from(-self.result).unwrap_or(0)))
        } else {
            Ok(self.result.cast_unsigned())
        }
    }
}

/// Where in a task the stub stands and the batch lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    /// Address of the stub.
    pub(crate) stub: Vaddr,
    /// The mapping that holds the batch (first part) and the scratch area (the rest).
    pub(crate) batch: PageRange,
    /// The signal of the soft break.
    pub(crate) signal: i32,
}

/// Bytes of a batch mapping.
pub(crate) const BATCH_BYTES: u64 = 32 * PAGE_SIZE;
/// Bytes of it that hold the batch itself.
const CALLS_BYTES: u64 = 8 * PAGE_SIZE;
const ENTRY: usize = 64;
/// Calls that fit in one run of the stub.
const MAX_CALLS: usize = CALLS_BYTES as usize / ENTRY - 1;

/// A stopped thread of another process in which system calls can be run.
#[derive(Debug)]
pub struct Remote {
    tid: Pid,
    site: Site,
    memory: Rc<Memory>,
    /// Registers that a run starts from: the stack pointer and segments of the thread.
    base: Regs,
    /// Signals that stopped the thread while it worked for us; they are to be sent again.
    held: Vec<i32>,
    /// The task that it has just made, as we see it.
    born: Option<Pid>,
    /// How long one call may take.
    patience: Duration,
}

/// For a target, which stands still meanwhile: no call of ours waits for anything.
const QUICK: Duration = Duration::from_secs(10);
/// For a process of our own making: calls that fill memory take as long as that takes.
pub(crate) const THOROUGH: Duration = Duration::from_secs(600);

impl Remote {
    pub(crate) fn new(tid: Pid, site: Site, memory: Rc<Memory>, base: Regs) -> Self {
        Self {
            tid,
            site,
            memory,
            base,
            held: Vec::new(),
            born: None,
            patience: QUICK,
        }
    }

    /// Changes how long one call may take.
    pub(crate) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The thread in which the calls run.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Writable memory inside the task for arguments and results (at least 16 KiB). Its contents
    /// survive from one batch to the next, and are gone when the task is cured.
    pub fn scratch(&self) -> PageRange {
        PageRange::new(self.site.batch.start + CALLS_BYTES, self.site.batch.end)
    }

    /// Signals that arrived meanwhile and could not be blocked, in order.
    pub(crate) fn take_held(&mut self) -> Vec<i32> {
        std::mem::take(&mut self.held)
    }

    /// The task that the thread made by its last call, with the id that we see, when we trace new tasks.
    pub fn take_born(&mut self) -> Option<Pid> {
        self.born.take()
    }

    /// Runs `calls` in order, all of them whatever they return, in one go (several when they are
    /// more than a batch holds). Results are in [`Call::result`].
    ///
    /// # Errors
    /// When the thread died or cannot be controlled; a failing call is not an error here.
    pub fn run(&mut self, calls: &mut [Call]) -> Result<()> {
        for part in calls.chunks_mut(MAX_CALLS) {
            self.run_batch(part)?;
        }
        Ok(())
    }

    fn run_batch(&mut self, calls: &mut [Call]) -> Result<()> {
        self.prepare(calls)?;
        self.enter(self.site.stub + stub::BATCH)?;
        self.await_break()?;
        let mut entries = vec![0u8; calls.len() * ENTRY];
        self.read(self.site.batch.start + ENTRY as u64, &mut entries)?;
        for (call, entry) in calls.iter_mut().zip(entries.chunks_exact(ENTRY)) {
            call.result = i64::from_le_bytes([
                entry[56], entry[57], entry[58], entry[59], entry[60], entry[61], entry[62],
                entry[63],
            ]);
        }
        Ok(())
    }

    /// Writes the batch; with none, the header of an empty one.
    pub(crate) fn prepare(&self, calls: &[Call]) -> Result<()> {
        let mut bytes = vec![0u8; ENTRY * (calls.len() + 1)];
        bytes[..8].copy_from_slice(&(calls.len() as u64).to_le_bytes());
        for (call, entry) in calls.iter().zip(bytes[ENTRY..].chunks_exact_mut(ENTRY)) {
            entry[..8].copy_from_slice(&call.nr.to_le_bytes());
            for (arg, slot) in call.args.iter().zip(entry[8..56].chunks_exact_mut(8)) {
                slot.copy_from_slice(&arg.to_le_bytes());
            }
        }
        self.write(self.site.batch.start, &bytes)
    }

    /// Waits for the soft break; other signals are held back. A thread that neither comes back nor makes
    /// progress is given up.
    pub(crate) fn await_break(&mut self) -> Result<()> {
        let mut done = 0;
        loop {
            let end = Instant::now() + self.patience;
            let stop = ptrace::wait_until(self.tid, end).map_err(|e| self.lost("wait for", e))?;
            let Some(stop) = stop else {
                let before = std::mem::replace(&mut done, self.calls_done());
                if done > before {
                    continue;
                }
                return Err(self.overdue());
            };
            match stop {
                Stop::Signal(signal) if signal == self.site.signal && self.is_soft_break()? => {
                    return Ok(());
                }
                Stop::Signal(
                    signal @ (libc::SIGSEGV | libc::SIGILL | libc::SIGBUS | libc::SIGSYS),
                ) => {
                    return Err(Error::new(
                        Kind::Failed,
                        format!("Thread {} got signal {signal} inside our code", self.tid),
                    )
                    .target(TargetState::Unknown));
                }
                Stop::Signal(signal) => self.held.push(signal),
                Stop::Event(libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE) => {
                    let message = ptrace::event_message(self.tid).ok();
                    let born = message.and_then(|id| i32::try_from(id).ok());
                    self.born = born.map(Pid::from_raw);
                }
                Stop::Interrupt | Stop::Group(_) | Stop::Event(_) => {}
                Stop::Gone(status) => {
                    return Err(Error::new(
                        Kind::TargetGone,
                        format!(
                            "Thread {} ended (status {status:#x}) while it was frozen",
                            self.tid
                        ),
                    )
                    .target(TargetState::Unknown));
                }
            }
            ptrace::cont(self.tid, 0).map_err(|e| self.lost("continue", e))?;
        }
    }

    /// True when the thread has just sent itself the signal. What it says is no proof: without room in
    /// the queue (RLIMIT_SIGPENDING) the kernel delivers it without a word of who sent it. One of
    /// somebody else's that came first has swallowed ours, and is held back.
    fn is_soft_break(&mut self) -> Result<bool> {
        let regs = ptrace::regs(self.tid).map_err(|e| self.lost("read the registers of", e))?;
        if regs.rip != self.site.stub + stub::BROKEN {
            return Ok(false);
        }
        let told = ptrace::siginfo(self.tid);
        let silent = |code: i32, pid: i32| code == libc::SI_USER && pid == 0;
        if told.is_ok_and(|(_, code, pid)| code != arch::SI_TKILL && !silent(code, pid)) {
            self.held.push(self.site.signal);
        }
        Ok(true)
    }

    /// Calls of the present batch that have returned.
    fn calls_done(&self) -> u64 {
        let mut done = [0; 8];
        match self.read(self.site.batch.start + 8, &mut done) {
            Ok(()) => u64::from_le_bytes(done),
            Err(_) => 0,
        }
    }

    /// That the thread has not come back. It is stopped wherever it is, so that it can be put back.
    fn overdue(&self) -> Error {
        let end = Instant::now() + Duration::from_secs(1);
        let stopped = ptrace::interrupt(self.tid).and_then(|()| ptrace::wait_until(self.tid, end));
        let state = match stopped {
            Ok(Some(Stop::Gone(_)) | None) | Err(_) => TargetState::Unknown,
            Ok(Some(_)) => TargetState::Running,
        };
        let seconds = self.patience.as_secs();
        let what = format!(
            "Thread {} did not come back within {seconds} s from the system calls that it made for us",
            self.tid
        );
        Error::new(Kind::Failed, what)
            .target(state)
            .hint("see where it waits: /proc/PID/task/TID/stack, or /proc/PID/task/TID/wchan")
    }

    /// Runs one call. `what` names it in the error, e.g. `setsid`.
    ///
    /// # Errors
    /// When the call fails or the thread died.
    pub fn call(&mut self, what: &str, nr: i64, args: &[u64]) -> Result<u64> {
        let mut calls = [Call::new(nr, args)];
        self.run(&mut calls)?;
        calls[0]
            .value()
            .map_err(|e| Error::os(format!("{what} failed in thread {}", self.tid), e))
    }

    /// Starts exit_group(2) in a process of our own making; it ends without coming back.
    ///
    /// # Errors
    /// When the thread cannot be controlled.
    pub fn start_exit(&self, code: i32) -> Result<()> {
        self.prepare(&[Call::new(
            libc::SYS_exit_group,
            &[u64::from(code.cast_unsigned())],
        )])?;
        self.enter(self.site.stub + stub::BATCH)
    }

    /// Runs code that changes neither `rbx` nor the stack. Only in a process of our own making, where
    /// the scratch area is executable.
    ///
    /// # Errors
    /// When the thread died or the CPU does not know an instruction.
    pub fn execute(&mut self, code: &[u8]) -> Result<()> {
        self.prepare(&[])?;
        let batch = self.site.stub + stub::BATCH;
        let home = self.put(0, &[code, &stub::jump_to(batch)].concat())?;
        self.enter(home)?;
        self.await_break()
    }

    /// Sets the registers to our code at `entry` and lets the thread run.
    fn enter(&self, entry: Vaddr) -> Result<()> {
        let mut regs = self.base;
        regs.rip = entry;
        regs.rbx = self.site.batch.start;
        regs.orig_rax = u64::MAX;
        ptrace::set_regs(self.tid, &regs).map_err(|e| self.lost("set the registers of", e))?;
        ptrace::cont(self.tid, 0).map_err(|e| self.lost("continue", e))
    }

    /// Copies `bytes` to `offset` bytes into the scratch area and returns their address in the task.
    ///
    /// # Errors
    /// When the memory cannot be written, or the bytes do not fit.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<Vaddr> {
        let at = self.inside_scratch(offset, bytes.len())?;
        self.write(at, bytes)?;
        Ok(at)
    }

    /// Reads `buffer.len()` bytes from `offset` bytes into the scratch area.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn get(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let at = self.inside_scratch(offset, buffer.len())?;
        self.read(at, buffer)
    }

    /// The memory of the process.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn inside_scratch(&self, offset: u64, len: usize) -> Result<Vaddr> {
        let scratch = self.scratch();
        if offset + len as u64 > scratch.bytes() {
            return Err(Error::new(
                Kind::Failed,
                format!(
                    "{len} bytes at {offset} do not fit in the scratch area of {}",
                    self.tid
                ),
            ));
        }
        Ok(scratch.start + offset)
    }

    fn write(&self, at: Vaddr, bytes: &[u8]) -> Result<()> {
        self.memory
            .write(at, bytes)
            .map_err(|e| Error::io(format!("Cannot write memory of {} at {at:x}", self.tid), e))
    }

    fn read(&self, at: Vaddr, buffer: &mut [u8]) -> Result<()> {
        self.memory
            .read(at, buffer)
            .map_err(|e| Error::io(format!("Cannot read memory of {} at {at:x}", self.tid), e))
    }

    fn lost(&self, action: &str, errno: Errno) -> Error {
        Error::os(format!("Cannot {action} thread {}", self.tid), errno)
            .kinded(Kind::TargetGone)
            .target(TargetState::Unknown)
    }
}
