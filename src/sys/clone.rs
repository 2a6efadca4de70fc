//! clone3(2) with a chosen pid: the first process of a restored tree.
#![expect(
    unsafe_code,
    reason = "clone3(2) and the child's idle loop have no safe interface"
)]

use nix::errno::Errno;

use crate::units::Pid;

/// Size of `struct clone_args` up to and including `cgroup`.
pub const CLONE_ARGS_SIZE: u64 = 88;

/// The words of `struct clone_args` (clone3(2)) for a child that reports its end by `exit_signal`
/// and gets the pid stored at `set_tid` (0: any).
pub fn clone_args(flags: u64, exit_signal: u64, set_tid: u64) -> [u64; 11] {
    let mut args = [0; 11];
    args[0] = flags;
    args[4] = exit_signal;
    args[8] = set_tid;
    args[9] = u64::from(set_tid != 0);
    args
}

/// Forks a child that does nothing but wait for its tracer (it never returns to Rust code, so it
/// may be made by a process with many threads). `pid` chooses its pid, `None` takes any.
///
/// # Errors
/// EEXIST when the pid is taken, EPERM without CAP_CHECKPOINT_RESTORE, EAGAIN.
pub fn fork_idle(pid: Option<Pid>) -> nix::Result<Pid> {
    let wanted = pid.map_or(0, Pid::as_raw);
    let address = if pid.is_some() {
        (&raw const wanted).expose_provenance() as u64
    } else {
        0
    };
    let args = clone_args(0, libc::SIGCHLD as u64, address);
    // SAFETY: without CLONE_VM the child has its own copy of everything; it runs only the loop
    // below, which calls pause(2) directly, takes no lock and returns never.
    let child = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), CLONE_ARGS_SIZE) };
    if child == 0 {
        loop {
            // SAFETY: pause(2) has no arguments and touches no memory.
            unsafe { libc::syscall(libc::SYS_pause) };
        }
    }
    let child = Errno::result(child)?;
    Ok(Pid::from_raw(i32::try_from(child).unwrap_or(-1)))
}
