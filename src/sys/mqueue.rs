//! Message queues of POSIX (mq_overview(7)).
#![expect(
    unsafe_code,
    reason = "the C library has no functions for mounts of this sort"
)]

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

/// The queues in the ipc namespace of the calling thread: the file system of queues is mounted for that, at
/// no place (fsopen(2), fsmount(2)).
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ENODEV on a kernel without queues.
pub fn queues() -> io::Result<Vec<OsString>> {
    let mounted = mounted()?;
    let names = fs::read_dir(format!("/proc/thread-self/fd/{}", mounted.as_raw_fd()))?;
    names.map(|entry| entry.map(|e| e.file_name())).collect()
}

fn mounted() -> nix::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: i32 = 1;
    const FSCONFIG_CMD_CREATE: i32 = 6;
    const FSMOUNT_CLOEXEC: i32 = 1;
    let kind = c"mqueue".as_ptr();
    // SAFETY: `kind` is a string with an end that lives for ever; the call writes nothing.
    let made = unsafe { libc::syscall(libc::SYS_fsopen, kind, FSOPEN_CLOEXEC) };
    let context = owned(Errno::result(made)?);
    let null = std::ptr::null::<libc::c_void>();
    let fd = context.as_raw_fd();
    // SAFETY: this command takes neither key nor value.
    let done = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, null, null, 0) };
    Errno::result(done)?;
    // SAFETY: numbers only.
    let made = unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, 0) };
    Ok(owned(Errno::result(made)?))
}

/// A descriptor that the kernel has just opened for us.
fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: descriptors are ints; this one is new, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}
