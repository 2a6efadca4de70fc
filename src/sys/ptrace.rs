//! ptrace(2), the requests that the engine uses. Everything here acts on a thread that the calling
//! OS thread has seized; ptrace belongs to a thread, so none of it may move to another one.
#![expect(unsafe_code, reason = "ptrace(2) has no safe interface")]

use std::ptr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use super::bounded::Alarm;
use crate::units::{Pid, Vaddr};

/// A status word of waitpid(2), decoded for a seized thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// PTRACE_EVENT_STOP by PTRACE_INTERRUPT, or the first stop of a new child.
    Interrupt,
    /// PTRACE_EVENT_STOP of a group stop by this signal (job control).
    Group(i32),
    /// About to receive this signal.
    Signal(i32),
    /// Another ptrace event (`PTRACE_EVENT_CLONE`, …).
    Event(i32),
    /// The thread is gone; the raw wait status.
    Gone(i32),
}

/// Attaches to `tid` without stopping it (PTRACE_SEIZE). `options` are `PTRACE_O_*` bits.
///
/// # Errors
/// EPERM without the right to trace or when somebody else traces it, ESRCH when it is gone.
pub fn seize(tid: Pid, options: i32) -> nix::Result<()> {
    request(
        libc::PTRACE_SEIZE,
        tid,
        0,
        usize::try_from(options).unwrap_or(0),
    )
}

/// Asks a seized thread to stop (PTRACE_INTERRUPT); [`wait`] tells when it did.
///
/// # Errors
/// ESRCH when it is gone.
pub fn interrupt(tid: Pid) -> nix::Result<()> {
    request(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Lets a stopped thread run, delivering `signal` (0: none) (PTRACE_CONT).
///
/// # Errors
/// ESRCH when it is gone or not stopped.
pub fn cont(tid: Pid, signal: i32) -> nix::Result<()> {
    request(
        libc::PTRACE_CONT,
        tid,
        0,
        usize::try_from(signal).unwrap_or(0),
    )
}

/// Lets a stopped thread run until it enters or leaves a system call (PTRACE_SYSCALL), which shows as
/// [`Stop::Signal`] of SIGTRAP. Only for processes of our own making: a tracer that dies here takes
/// the tracee with it.
///
/// # Errors
/// ESRCH when it is gone or not stopped.
pub fn to_syscall(tid: Pid) -> nix::Result<()> {
    request(libc::PTRACE_SYSCALL, tid, 0, 0)
}

/// Lets go of a stopped thread, delivering `signal` (0: none) (PTRACE_DETACH).
///
/// # Errors
/// ESRCH when it is gone or not stopped.
pub fn detach(tid: Pid, signal: i32) -> nix::Result<()> {
    request(
        libc::PTRACE_DETACH,
        tid,
        0,
        usize::try_from(signal).unwrap_or(0),
    )
}

/// Replaces the `PTRACE_O_*` options.
///
/// # Errors
/// ESRCH when it is gone or not stopped.
pub fn set_options(tid: Pid, options: i32) -> nix::Result<()> {
    request(
        libc::PTRACE_SETOPTIONS,
        tid,
        0,
        usize::try_from(options).unwrap_or(0),
    )
}

/// Waits until the thread stops or ends (waitpid(2) with `__WALL`).
///
/// # Errors
/// ECHILD when it is not ours to wait for.
pub fn wait(tid: Pid) -> nix::Result<Stop> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int for the length of the call.
        let got = unsafe { libc::waitpid(tid.as_raw(), &raw mut status, libc::__WALL) };
        match Errno::result(got) {
            Ok(_) => return Ok(decode(status)),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Like [`wait`], but no longer than until `end`: then `None`.
///
/// # Errors
/// ECHILD when it is not ours to wait for.
pub fn wait_until(tid: Pid, end: Instant) -> nix::Result<Option<Stop>> {
    let rest = end.saturating_duration_since(Instant::now());
    let alarm = Alarm::after(rest);
    let flags = if alarm.is_ok() { 0 } else { libc::WNOHANG };
    loop {
        let late = Instant::now() >= end;
        let mut status = 0;
        let flags = libc::__WALL | if late { libc::WNOHANG } else { flags };
        // SAFETY: `status` is a valid place for an int for the length of the call.
        let got = unsafe { libc::waitpid(tid.as_raw(), &raw mut status, flags) };
        match Errno::result(got) {
            Ok(0) if late => return Ok(None),
            // No timer was to be had.
            Ok(0) => {
                let _timed_out = poll(&mut [], PollTimeout::from(1u8));
            }
            Ok(_) => return Ok(Some(decode(status))),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Like [`wait`], for what comes soon unless something is wrong: after a minute it is given up.
///
/// # Errors
/// ETIMEDOUT then, ECHILD when it is not ours to wait for.
pub fn wait_a_minute(tid: Pid) -> nix::Result<Stop> {
    let end = Instant::now() + Duration::from_secs(60);
    wait_until(tid, end)?.ok_or(Errno::ETIMEDOUT)
}

/// Like [`wait`], but returns `None` at once when nothing happened yet.
///
/// # Errors
/// ECHILD when it is not ours to wait for.
pub fn try_wait(tid: Pid) -> nix::Result<Option<Stop>> {
    let mut status = 0;
    let flags = libc::__WALL | libc::WNOHANG;
    // SAFETY: `status` is a valid place for an int for the length of the call.
    let got = unsafe { libc::waitpid(tid.as_raw(), &raw mut status, flags) };
    match Errno::result(got)? {
        0 => Ok(None),
        _ => Ok(Some(decode(status))),
    }
}

fn decode(status: i32) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Gone(status);
    }
    let signal = libc::WSTOPSIG(status);
    match status >> 16 {
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Interrupt,
        libc::PTRACE_EVENT_STOP => Stop::Group(signal),
        event => Stop::Event(event),
    }
}

/// General registers (PTRACE_GETREGS).
///
/// # Errors
/// ESRCH when the thread is gone or not stopped.
pub fn regs(tid: Pid) -> nix::Result<libc::user_regs_struct> {
    nix::sys::ptrace::getregs(tid)
}

/// Sets the general registers (PTRACE_SETREGS).
///
/// # Errors
/// ESRCH when the thread is gone or not stopped, EIO when a value is not allowed.
pub fn set_regs(tid: Pid, regs: &libc::user_regs_struct) -> nix::Result<()> {
    nix::sys::ptrace::setregs(tid, *regs)
}

const NT_X86_XSTATE: usize = 0x202;

/// The whole XSAVE area in standard (non-compacted) format (PTRACE_GETREGSET, NT_X86_XSTATE).
///
/// # Errors
/// ESRCH when the thread is gone or not stopped, ENODEV on a CPU without XSAVE.
pub fn xstate(tid: Pid) -> nix::Result<Vec<u8>> {
    let mut area = vec![0u8; 64 * 1024];
    let mut iov = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    request(
        libc::PTRACE_GETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut iov).addr_exposed(),
    )?;
    area.truncate(iov.iov_len);
    Ok(area)
}

/// Sets the XSAVE area, standard format (PTRACE_SETREGSET, NT_X86_XSTATE).
///
/// # Errors
/// EINVAL when the CPU does not accept the area.
pub fn set_xstate(tid: Pid, area: &mut [u8]) -> nix::Result<()> {
    let mut iov = libc::iovec {
        iov_base: area.as_mut_ptr().cast(),
        iov_len: area.len(),
    };
    request(
        libc::PTRACE_SETREGSET,
        tid,
        NT_X86_XSTATE,
        (&raw mut iov).addr_exposed(),
    )
}

/// The real signal mask of the thread, bit `n - 1` for signal `n` (PTRACE_GETSIGMASK).
///
/// # Errors
/// ESRCH when the thread is gone or not stopped.
pub fn sigmask(tid: Pid) -> nix::Result<u64> {
    let mut mask = 0u64;
    request(
        libc::PTRACE_GETSIGMASK,
        tid,
        8,
        (&raw mut mask).addr_exposed(),
    )?;
    Ok(mask)
}

/// Sets the signal mask (PTRACE_SETSIGMASK).
///
/// # Errors
/// ESRCH when the thread is gone or not stopped.
pub fn set_sigmask(tid: Pid, mask: u64) -> nix::Result<()> {
    let mut mask = mask;
    request(
        libc::PTRACE_SETSIGMASK,
        tid,
        8,
        (&raw mut mask).addr_exposed(),
    )
}

/// The new task of a `PTRACE_EVENT_CLONE` or `_FORK` stop (PTRACE_GETEVENTMSG), in our pid namespace.
///
/// # Errors
/// ESRCH when the thread is gone or not stopped.
pub fn event_message(tid: Pid) -> nix::Result<u64> {
    let mut message = 0u64;
    request(
        libc::PTRACE_GETEVENTMSG,
        tid,
        0,
        (&raw mut message).addr_exposed(),
    )?;
    Ok(message)
}

/// The siginfo of the present signal-delivery stop: (`si_signo`, `si_code`, `si_pid`)
/// (PTRACE_GETSIGINFO).
///
/// # Errors
/// EINVAL in a group stop, ESRCH when the thread is gone.
pub fn siginfo(tid: Pid) -> nix::Result<(i32, i32, i32)> {
    let info = nix::sys::ptrace::getsiginfo(tid)?;
    // SAFETY: every siginfo that can stop a thread here was filled by the kernel; the union member
    // is plain data in any case.
    let pid = unsafe { info.si_pid() };
    Ok((info.si_signo, info.si_code, pid))
}

/// Bytes of one siginfo_t as the kernel and CRIU's images have it.
pub const SIGINFO_SIZE: usize = 128;

/// Pending signals in queue order: of the thread, or of the whole process when `shared`
/// (PTRACE_PEEKSIGINFO).
///
/// # Errors
/// ESRCH when the thread is gone or not stopped.
pub fn peek_siginfo(tid: Pid, shared: bool) -> nix::Result<Vec<[u8; SIGINFO_SIZE]>> {
    let mut all = Vec::new();
    loop {
        let mut batch = [[0u8; SIGINFO_SIZE]; 32];
        let args = libc::ptrace_peeksiginfo_args {
            off: all.len() as u64,
            flags: u32::from(shared),
            nr: 32,
        };
        // SAFETY: `args` and `batch` outlive the call; the kernel writes at most `nr` entries of
        // SIGINFO_SIZE bytes, which is what `batch` holds.
        let got = unsafe {
            libc::ptrace(
                libc::PTRACE_PEEKSIGINFO,
                tid.as_raw(),
                &raw const args,
                batch.as_mut_ptr(),
            )
        };
        let got = usize::try_from(Errno::result(got)?).unwrap_or(0);
        all.extend_from_slice(&batch[..got]);
        if got < batch.len() {
            return Ok(all);
        }
    }
}

/// The rseq area that a thread registered (rseq(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqConfiguration {
    /// Address of `struct rseq` in the task.
    pub ptr: Vaddr,
    /// Its registered length in bytes.
    pub size: u32,
    /// Signature before each abort handler.
    pub signature: u32,
    /// Registration flags.
    pub flags: u32,
}

/// The thread's rseq registration, if any (PTRACE_GET_RSEQ_CONFIGURATION, Linux 5.13).
///
/// # Errors
/// EIO on kernels without it, ESRCH when the thread is gone or not stopped.
pub fn rseq_configuration(tid: Pid) -> nix::Result<Option<RseqConfiguration>> {
    const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
    let mut raw = [0u8; 24];
    request(
        PTRACE_GET_RSEQ_CONFIGURATION,
        tid,
        raw.len(),
        raw.as_mut_ptr().addr_exposed(),
    )?;
    let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
    let ptr = u64::from(word(0)) | u64::from(word(4)) << 32;
    Ok((ptr != 0).then(|| RseqConfiguration {
        ptr,
        size: word(8),
        signature: word(12),
        flags: word(16),
    }))
}

/// Mode (0: off), address of the selector, offset and length of the code whose calls are exempt: which
/// system calls of the thread are turned into SIGSYS (PR_SET_SYSCALL_USER_DISPATCH, prctl(2);
/// PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4).
///
/// # Errors
/// EIO on kernels without it, ESRCH when the thread is gone or not stopped.
pub fn syscall_dispatch(tid: Pid) -> nix::Result<[u64; 4]> {
    let mut config = [0u64; 4];
    let get = linux_raw_sys::ptrace::PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG;
    let place = config.as_mut_ptr().addr_exposed();
    request(get, tid, size_of_val(&config), place)?;
    Ok(config)
}

/// Sets what [`syscall_dispatch`] gives (PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG, Linux 6.4).
///
/// # Errors
/// EIO on kernels without it, EINVAL or EFAULT for what prctl(2) would not take.
pub fn set_syscall_dispatch(tid: Pid, mut config: [u64; 4]) -> nix::Result<()> {
    let set = linux_raw_sys::ptrace::PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG;
    let place = config.as_mut_ptr().addr_exposed();
    request(set, tid, size_of_val(&config), place)
}

/// Seccomp filter number `index` of the thread, counted from the first one, as the bytes of its
/// instructions (PTRACE_SECCOMP_GET_FILTER); `None` behind the last one.
///
/// # Errors
/// EACCES without CAP_SYS_ADMIN, EMEDIUMTYPE for one that is no classic BPF.
pub fn seccomp_filter(tid: Pid, index: usize) -> nix::Result<Option<Vec<u8>>> {
    /// Instructions of the longest one (BPF_MAXINSNS), 8 bytes each.
    const MOST: usize = 4096;
    let mut program = vec![0u64; MOST];
    let get = linux_raw_sys::ptrace::PTRACE_SECCOMP_GET_FILTER;
    let place = program.as_mut_ptr().addr_exposed();
    let length = match request_value(get, tid, index, place) {
        Ok(length) => usize::try_from(length).unwrap_or(0),
        Err(Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    let instructions = program.iter().take(length);
    Ok(Some(instructions.flat_map(|i| i.to_le_bytes()).collect()))
}

/// The SECCOMP_FILTER_FLAG_* of that filter (PTRACE_SECCOMP_GET_METADATA).
///
/// # Errors
/// As [`seccomp_filter`].
pub fn seccomp_flags(tid: Pid, index: usize) -> nix::Result<u32> {
    // struct seccomp_metadata: the index, then the flags.
    let mut metadata = [index as u64, 0];
    let get = linux_raw_sys::ptrace::PTRACE_SECCOMP_GET_METADATA;
    let place = metadata.as_mut_ptr().addr_exposed();
    request(get, tid, size_of_val(&metadata), place)?;
    Ok(u32::try_from(metadata[1]).unwrap_or(0))
}

/// `addr` and `data` are numbers, or the address of a live object of ours that fits the request.
fn request(request: u32, tid: Pid, addr: usize, data: usize) -> nix::Result<()> {
    request_value(request, tid, addr, data).map(drop)
}

/// The same, with what the request returns.
fn request_value(request: u32, tid: Pid, addr: usize, data: usize) -> nix::Result<i64> {
    // SAFETY: the callers of this private function pass numbers, or the address of a local that
    // outlives the call and has the size that the request reads or writes.
    let result = unsafe {
        libc::ptrace(
            request,
            tid.as_raw(),
            ptr::without_provenance_mut::<libc::c_void>(addr),
            ptr::with_exposed_provenance_mut::<libc::c_void>(data),
        )
    };
    Errno::result(result)
}

/// The address of an object of ours as a number for [`request`].
trait AddrExposed {
    fn addr_exposed(self) -> usize;
}

impl<T> AddrExposed for *mut T {
    fn addr_exposed(self) -> usize {
        self.expose_provenance()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, kill};

    use super::*;
    use crate::sys::clone::fork_idle;

    #[test]
    fn a_wait_ends_in_time_when_nothing_happens() {
        let child = fork_idle(None).unwrap();
        seize(child, libc::PTRACE_O_EXITKILL).unwrap();
        let begun = Instant::now();
        let end = begun + Duration::from_millis(30);
        assert_eq!(wait_until(child, end).unwrap(), None);
        assert!(begun.elapsed() >= Duration::from_millis(30));
        interrupt(child).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        assert_eq!(wait_until(child, end).unwrap(), Some(Stop::Interrupt));
        kill(child, Signal::SIGKILL).unwrap();
        assert!(matches!(wait(child).unwrap(), Stop::Gone(_)));
    }

    /// Why 32-bit code and syscall user dispatch are not seen before the freeze.
    #[test]
    fn a_thread_that_was_not_stopped_tells_nothing_about_itself() {
        let child = fork_idle(None).unwrap();
        seize(child, libc::PTRACE_O_EXITKILL).unwrap();
        assert_eq!(regs(child).unwrap_err(), Errno::ESRCH);
        assert_eq!(xstate(child).unwrap_err(), Errno::ESRCH);
        assert_eq!(syscall_dispatch(child).unwrap_err(), Errno::ESRCH);
        interrupt(child).unwrap();
        assert_eq!(wait(child).unwrap(), Stop::Interrupt);
        assert!(regs(child).is_ok() && xstate(child).is_ok());
        kill(child, Signal::SIGKILL).unwrap();
        assert!(matches!(wait(child).unwrap(), Stop::Gone(_)));
    }
}
