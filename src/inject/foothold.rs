//! Room for our code in processes of our own making: the restore works from here while it takes the
//! rest of the address space apart and builds another one.
//!
//! ```text
//!   region:  stubs (one slot a thread) │ batch and scratch │ spare (for what must be moved aside)
//! ```
//!
//! Nothing here survives our death, nor needs to: these processes die with us (PTRACE_O_EXITKILL).

use std::rc::Rc;

use super::infected::Infected;
use super::remote::{BATCH_BYTES, Remote, Site, THOROUGH};
use crate::arch::{Regs, stub};
use crate::error::{Error, Result};
use crate::sys::ptrace;
use crate::sys::vm::Memory;
use crate::units::{PAGE_SIZE, PageRange, Pid};

const SLOT: u64 = 512;
const SLOTS_PER_PAGE: u64 = PAGE_SIZE / SLOT;

/// Where a foothold shall be.
#[derive(Clone, Copy, Debug)]
pub struct Ground {
    /// Free in all processes concerned; at least [`Foothold::bytes`].
    pub region: PageRange,
    /// Most threads of one process.
    pub threads: u64,
    /// The signal that our code stops by, from [`Foothold::free_signal`].
    pub signal: i32,
}

/// The region of ours in a new process, and in all that it forks.
#[derive(Clone, Copy, Debug)]
pub struct Foothold {
    region: PageRange,
    stubs: u64,
    /// The signal of the soft break.
    signal: i32,
}

impl Foothold {
    /// Bytes needed for processes of up to `threads` threads, with `spare` bytes to move things to.
    pub fn bytes(threads: u64, spare: u64) -> u64 {
        Self::stub_pages(threads) * PAGE_SIZE + BATCH_BYTES + spare
    }

    fn stub_pages(threads: u64) -> u64 {
        threads.div_ceil(SLOTS_PER_PAGE).max(1)
    }

    /// A signal for our code to stop by: one that is not `pending` (bit `n - 1` for signal `n`),
    /// because that one could not be told from ours. Any other will do, even one that the process
    /// handles, because it does not run before it is let go.
    pub fn free_signal(pending: u64) -> Option<i32> {
        // Not to be had, those of a faulty instruction, and those that take back others that are pending.
        const NEVER: [i32; 11] = [
            libc::SIGKILL,
            libc::SIGSTOP,
            libc::SIGSEGV,
            libc::SIGILL,
            libc::SIGBUS,
            libc::SIGSYS,
            libc::SIGTRAP,
            libc::SIGCONT,
            libc::SIGTSTP,
            libc::SIGTTIN,
            libc::SIGTTOU,
        ];
        let first = [libc::SIGURG, libc::SIGWINCH];
        // A real-time signal is refused when the queue is full (RLIMIT_SIGPENDING).
        first
            .into_iter()
            .chain((1..32).rev())
            .chain(32..=64)
            .find(|s| !NEVER.contains(s) && pending & 1 << (s - 1) == 0)
    }

    /// Maps the region in the new process `pid`, which is stopped in its first thread.
    ///
    /// # Errors
    /// When the process cannot be controlled, or the region is not free.
    pub fn establish(pid: Pid, ground: &Ground) -> Result<Self> {
        let Ground {
            region,
            threads,
            signal,
        } = *ground;
        let mut infected = Infected::new(pid, &[pid])?;
        infected.with(pid, |remote| {
            let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            remote.call(
                "mmap of the working region",
                libc::SYS_mmap,
                &[
                    region.start,
                    region.bytes(),
                    u64::from(prot.cast_unsigned()),
                    u64::from(flags.cast_unsigned()),
                    u64::MAX,
                    0,
                ],
            )
        })?;
        infected.cure()?;
        Ok(Self {
            region,
            stubs: Self::stub_pages(threads) * PAGE_SIZE,
            signal,
        })
    }

    /// The whole region.
    pub fn region(&self) -> PageRange {
        self.region
    }

    /// The part that things can be moved to.
    pub fn spare(&self) -> PageRange {
        PageRange::new(
            self.region.start + self.stubs + BATCH_BYTES,
            self.region.end,
        )
    }

    /// Makes the stopped thread `tid` of `pid`, which has the region, run calls. `own` are these two
    /// ids as the thread itself sees them, `slot` is its number in its process. All signals but our own
    /// are blocked from here on.
    ///
    /// # Errors
    /// When the thread cannot be controlled.
    pub fn remote(&self, pid: Pid, tid: Pid, own: (Pid, Pid), slot: u64) -> Result<Remote> {
        let memory = Memory::open(pid)
            .map_err(|e| Error::io(format!("Cannot open the memory of process {pid}"), e))?;
        let lost = |e| Error::os(format!("Cannot control thread {tid}"), e);
        let regs: Regs = ptrace::regs(tid).map_err(lost)?;
        let stub = self.region.start + slot * SLOT;
        let bytes = stub::bytes(&stub::Return {
            own_ids: own,
            signal: self.signal,
            unmap: 0,
            mask: u64::MAX,
            regs: &regs,
        });
        memory
            .write(stub, &bytes)
            .map_err(|e| Error::io(format!("Cannot write memory of process {pid}"), e))?;
        ptrace::set_sigmask(tid, !(1 << (self.signal - 1))).map_err(lost)?;
        let start = self.region.start + self.stubs;
        let batch = PageRange::new(start, start + BATCH_BYTES);
        let mut remote = Remote::new(
            tid,
            Site {
                stub,
                batch,
                signal: self.signal,
            },
            Rc::new(memory),
            regs,
        );
        remote.set_patience(THOROUGH);
        Ok(remote)
    }
}
