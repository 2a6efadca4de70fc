//! One new process: from a bare fork to what its images say, but for the last step.

use std::os::fd::RawFd;

use super::plan::{Body, Recorded};
use crate::arch::{core as registers, tiles};
use crate::chain::{Ranges, Resolved};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::files::Opened;
use crate::image::proto::{CoreEntry, VmaEntry};
use crate::inject::{Foothold, Remote};
use crate::memory::inherit::Estate;
use crate::memory::{aio, keys, policy, pump, space, sysv};
use crate::state::seccomp::Filters;
use crate::state::{self, RestoreThread};
use crate::sys::ptrace::{self, Stop};
use crate::units::{PageRange, Pid};

/// Builds the address space and fills it, but for what is there already; afterwards only our region is left of what was inherited.
/// Returns the number of pages filled.
///
/// # Errors
/// When the kernel refuses something or a layer cannot be read.
pub(super) fn build_memory(
    body: &Body,
    remote: &mut Remote,
    foothold: &Foothold,
    (pages, estate): (Resolved<'_>, &Estate),
    opened: &Opened,
    segments: &[sysv::Wanted],
    warnings: &mut Vec<Obstacle>,
) -> Result<u64> {
    let pid = remote.tid();
    forget_thread_areas(remote)?;
    let vmas = &body.mm.vmas;
    space::clear(pid, remote, foothold, vmas, estate.mapped())?;
    let hole = |bytes: u64, besides: PageRange| {
        let taken = vmas.iter().map(|v| PageRange::new(v.start, v.end));
        space::hole(taken.chain([foothold.region(), besides]), bytes)
    };
    aio::restore(remote, &body.mm, &|ring| hole(ring.bytes(), ring))?;
    let nothing = PageRange::new(0, 0);
    sysv::attach(remote, vmas, segments, &|bytes| hole(bytes, nothing))?;
    let here = |vma: &&VmaEntry| estate.mapped().iter().any(|m| m.start == vma.start);
    let missing = vmas.iter().filter(|vma| !here(vma));
    let resolved = pages.checked();
    let holds = |vma: PageRange| {
        let runs = resolved.runs();
        let next = runs.partition_point(|run| run.range.end <= vma.start);
        runs.get(next).is_some_and(|run| run.range.start < vma.end)
    };
    space::map(remote, missing, &|id| opened.fd(id), &holds)?;
    warnings.extend(policy::restore(remote, &body.mm.vmas)?);
    // The vDSO is this kernel's own, rings are filled by it; their pages in the image are for CRIU.
    let kernels = space::kernels_then(vmas).into_iter();
    let here = estate
        .mapped()
        .iter()
        .map(|m| PageRange::new(m.start, m.end));
    let others: Ranges = kernels.chain(aio::ranges(vmas)).chain(here).collect();
    let runs = resolved.runs().iter().flat_map(|run| {
        let own = Ranges::from(run.range).minus(&others);
        own.iter().collect::<Vec<_>>()
    });
    let filled = pump::fill(pid, remote.memory(), runs, |at, part| {
        resolved.read_at(at, part)
    })?;
    keys::restore(remote, &body.mm)?;
    space::protect(remote, &body.mm.vmas)?;
    Ok(filled + estate.pages())
}

/// The engine's own thread registered memory with the kernel that is about to go.
fn forget_thread_areas(remote: &mut Remote) -> Result<()> {
    const RSEQ_FLAG_UNREGISTER: u64 = 1;
    let tid = remote.tid();
    let area = ptrace::rseq_configuration(tid)
        .map_err(|e| Error::os(format!("Cannot read the rseq area of new process {tid}"), e))?;
    if let Some(area) = area {
        let args = [
            area.ptr,
            u64::from(area.size),
            RSEQ_FLAG_UNREGISTER,
            u64::from(area.signature),
        ];
        remote.call("unregistering rseq", libc::SYS_rseq, &args)?;
    }
    remote.call("set_robust_list", libc::SYS_set_robust_list, &[0, 24])?;
    remote.call("set_tid_address", libc::SYS_set_tid_address, &[0])?;
    Ok(())
}

/// The executable and the directories of the process.
///
/// # Errors
/// When the kernel refuses something.
pub(super) fn build_names(
    body: &Body,
    remote: &mut Remote,
    opened: &Opened,
    warnings: &mut Vec<Obstacle>,
) -> Result<()> {
    let fd = |id: u32, what: &str| -> Result<RawFd> {
        opened
            .fd(id)
            .ok_or_else(|| Error::corrupt(format!("The {what} is file {id}, which no image has")))
    };
    let exe = fd(body.mm.exe_file_id, "executable")?;
    // The kernel does not let an executable be replaced while it is mapped, not even by itself.
    let ours = same_file(&format!("/proc/self/fd/{exe}"), "/proc/self/exe");
    let lost = state::mm::restore(remote, &body.mm, if ours { KEEP } else { exe })?;
    warnings.extend(lost);
    let root = fd(body.fs.root_id, "root directory")?;
    let changed = !is_our_root(root);
    let cwd = fd(body.fs.cwd_id, "working directory")?;
    state::fs::restore(remote, &body.fs, cwd, changed.then_some(root))
}

/// The executable stays what it is (prctl(2), PR_SET_MM_MAP).
const KEEP: RawFd = -1;

fn is_our_root(fd: RawFd) -> bool {
    same_file(&format!("/proc/self/fd/{fd}"), "/")
}

fn same_file(a: &str, b: &str) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let of = |path: &str| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    of(a).is_some() && of(a) == of(b)
}

/// State of all threads; the remotes are in the order of the cores.
///
/// # Errors
/// When the kernel refuses something.
pub(super) fn build_state(
    pid: Pid,
    recorded: &Recorded,
    body: &Body,
    filters: &Filters,
    remotes: &mut [Remote],
) -> Result<Vec<Obstacle>> {
    let leader_core = &recorded.cores[0].1;
    let mut threads: Vec<RestoreThread<'_>> = remotes
        .iter_mut()
        .zip(&recorded.cores)
        .map(|(remote, (_, core))| RestoreThread {
            pid,
            tid: remote.tid(),
            leader: remote.tid() == pid,
            remote,
            core,
            leader_core,
            warnings: Vec::new(),
        })
        .collect();
    for thread in &mut threads {
        filters.restore(thread.remote, thread.core)?;
    }
    state::restore(&mut threads)?;
    for thread in &mut threads {
        if registers::has_tiles(thread.core) {
            thread.remote.execute(&tiles::TOUCH)?;
        }
    }
    let mut warnings: Vec<Obstacle> = threads
        .iter_mut()
        .flat_map(|t| std::mem::take(&mut t.warnings))
        .collect();
    warnings.extend(state::mm::restore_dumpable(&mut remotes[0], &body.mm)?);
    Ok(warnings)
}

/// The last step before a process is let go: our region disappears, every thread gets its registers
/// and mask.
///
/// # Errors
/// When a thread died or the CPU refuses its state.
pub(super) fn finish(
    recorded: &Recorded,
    body: &Body,
    remotes: &mut [Remote],
    foothold: &Foothold,
) -> Result<()> {
    let leader = remotes[0].tid();
    unmap_region(leader, body, &remotes[0], foothold)?;
    for (remote, (id, core)) in remotes.iter().zip(&recorded.cores) {
        let tid = remote.tid();
        let cannot = |e| Error::os(format!("Cannot set the registers of thread {tid}"), e);
        let fresh = ptrace::xstate(tid).map_err(cannot)?;
        let (regs, mut area) = registers::from_image(core, &fresh)
            .ok_or_else(|| Error::corrupt(format!("core-{id}.img has no registers")))?;
        ptrace::set_xstate(tid, &mut area).map_err(cannot)?;
        ptrace::set_regs(tid, &regs).map_err(cannot)?;
        ptrace::set_sigmask(tid, mask(core)).map_err(cannot)?;
        state::dispatch::restore(tid, core)?;
    }
    Ok(())
}

/// The signal mask of a thread; the leader's stands with the process.
fn mask(core: &CoreEntry) -> u64 {
    let thread = core.thread_core.as_ref().and_then(|t| t.blk_sigset);
    core.tc
        .as_ref()
        .map_or_else(|| thread.unwrap_or(0), |task| task.blk_sigset)
}

/// Lets the leader unmap our region by a `syscall` instruction that stays: one of the vDSO's, or of
/// any other code of the program.
fn unmap_region(leader: Pid, body: &Body, remote: &Remote, foothold: &Foothold) -> Result<()> {
    let instruction = find_syscall(body, remote).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            format!("Process {leader} has no code with a syscall instruction"),
        )
    })?;
    let cannot = |e| Error::os(format!("Cannot control thread {leader}"), e);
    let region = foothold.region();
    let mut regs = ptrace::regs(leader).map_err(cannot)?;
    regs.rip = instruction;
    regs.rax = libc::SYS_munmap.cast_unsigned();
    regs.rdi = region.start;
    regs.rsi = region.bytes();
    regs.orig_rax = u64::MAX;
    ptrace::set_regs(leader, &regs).map_err(cannot)?;
    // Single-stepping would do it too, but its SIGTRAP, being blocked, resets the action of SIGTRAP.
    for _entry_then_exit in 0..2 {
        ptrace::to_syscall(leader).map_err(cannot)?;
        await_stop(leader, |stop| matches!(stop, Stop::Signal(libc::SIGTRAP)))?;
    }
    // A thread let go from the exit of a system call would not restart the one in its registers.
    ptrace::interrupt(leader).map_err(cannot)?;
    ptrace::cont(leader, 0).map_err(cannot)?;
    await_stop(leader, |stop| matches!(stop, Stop::Interrupt))?;
    let result = ptrace::regs(leader).map_err(cannot)?.rax;
    if result != 0 {
        return Err(Error::new(
            Kind::Failed,
            format!(
                "Process {leader} could not unmap our region ({})",
                result.cast_signed()
            ),
        ));
    }
    Ok(())
}

/// Waits for a stop that is `wanted`; others are passed over.
fn await_stop(tid: Pid, wanted: impl Fn(&Stop) -> bool) -> Result<()> {
    let cannot = |e| Error::os(format!("Cannot control thread {tid}"), e);
    loop {
        match ptrace::wait_a_minute(tid).map_err(cannot)? {
            stop if wanted(&stop) => return Ok(()),
            Stop::Gone(status) => {
                return Err(Error::new(
                    Kind::Failed,
                    format!("New process {tid} ended (status {status:#x})"),
                ));
            }
            _ => ptrace::to_syscall(tid).map_err(cannot)?,
        }
    }
}

fn find_syscall(body: &Body, remote: &Remote) -> Option<u64> {
    const SYSCALL: [u8; 2] = [0x0f, 0x05];
    let executable = |prot: u32| prot & libc::PROT_EXEC.cast_unsigned() != 0;
    let (kernels, others): (Vec<&VmaEntry>, Vec<&VmaEntry>) = body
        .mm
        .vmas
        .iter()
        .filter(|v| executable(v.prot) && v.status & space::status::VSYSCALL == 0)
        .partition(|v| v.status & space::status::VDSO != 0);
    kernels.into_iter().chain(others).find_map(|vma| {
        let mut code = vec![0; usize::try_from(vma.end - vma.start).ok()?];
        remote.memory().read(vma.start, &mut code).ok()?;
        let at = code.windows(2).position(|w| w == SYSCALL)?;
        Some(vma.start + at as u64)
    })
}
