//! Processes by descriptor: pidfd_open(2), pidfd_getfd(2).
#![expect(unsafe_code, reason = "no wrappers")]

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;

use crate::units::Pid;

/// A descriptor for the process `pid`.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn open(pid: Pid) -> nix::Result<OwnedFd> {
    open_as(pid, 0)
}

/// The same with `PIDFD_*` flags.
///
/// # Errors
/// `ESRCH` when there is no such process, `EINVAL` for flags that the kernel does not know.
pub fn open_as(pid: Pid, flags: u32) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), flags) })?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A copy of the descriptor `number` of the process behind `pidfd`: same open file description.
///
/// # Errors
/// `EBADF` when it is not open there, `EPERM` without the right to trace the process.
pub fn get_fd(pidfd: impl AsFd, number: RawFd) -> nix::Result<OwnedFd> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: plain numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd, number, 0) })?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
