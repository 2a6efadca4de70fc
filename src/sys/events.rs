//! Descriptors that the kernel makes from nothing: eventfd(2), timerfd_create(2), signalfd(2),
//! epoll(7), inotify(7). Raw, because they are made again from recorded words, not from typed values.
#![expect(unsafe_code, reason = "recorded words instead of typed values")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

/// Value and interval of a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Time until it expires next (or the moment, with `TFD_TIMER_ABSTIME`); zero is never.
    pub value: Duration,
    /// Time between two expirations; zero is once.
    pub interval: Duration,
}

/// A new event counter (eventfd(2)); `flags` are `EFD_*`.
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn eventfd(flags: i32) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    own(unsafe { libc::eventfd(0, flags | libc::EFD_CLOEXEC) })
}

/// A new epoll instance (epoll_create1(2)).
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn epoll() -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// A new inotify instance (inotify_init1(2)).
///
/// # Errors
/// `EMFILE` above the user's limit on instances, `ENFILE`, `ENOMEM`.
pub fn inotify() -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    own(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) })
}

/// Watches `path` for the events in `mask` (inotify_add_watch(2)); returns the number of the watch.
///
/// # Errors
/// `ENOSPC` above the user's limit on watches, `EACCES`, `ENOENT`.
pub fn watch(inotify: impl AsFd, path: &Path, mask: u32) -> nix::Result<i32> {
    let inotify = inotify.as_fd().as_raw_fd();
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_nul_inside| Errno::EINVAL)?;
    // SAFETY: the path is a string that ends with NUL and outlives the call.
    Errno::result(unsafe { libc::inotify_add_watch(inotify, name.as_ptr(), mask) })
}

/// Chooses the number of the watch that is added next (`INOTIFY_IOC_SETNEXTWD`).
///
/// # Errors
/// `ENOTTY` on a kernel without `CONFIG_CHECKPOINT_RESTORE`, `EINVAL`.
pub fn next_watch(inotify: impl AsFd, number: i32) -> nix::Result<()> {
    let inotify = inotify.as_fd().as_raw_fd();
    // SAFETY: a number as argument.
    Errno::result(unsafe { libc::ioctl(inotify, INOTIFY_IOC_SETNEXTWD, number) }).map(drop)
}

/// `_IOW('I', 0, __s32)` of `<linux/inotify.h>`.
const INOTIFY_IOC_SETNEXTWD: libc::c_ulong = 0x4004_4900;

/// A new signalfd for the signals in `mask` (signalfd(2)).
///
/// # Errors
/// `EMFILE`, `ENFILE`, `ENOMEM`.
pub fn signalfd(mask: u64) -> nix::Result<OwnedFd> {
    let size = size_of_val(&mask);
    // SAFETY: the kernel reads the 8 bytes of `mask`, which is its sigset_t.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &raw const mask,
            size,
            libc::SFD_CLOEXEC,
        )
    };
    own(i32::try_from(fd).unwrap_or(-1))
}

/// A new timer by the clock `clock` (timerfd_create(2)).
///
/// # Errors
/// `EINVAL` for an unknown clock, `EPERM` for one that wakes the machine.
pub fn timerfd(clock: i32) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    own(unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) })
}

/// Arms a timer (timerfd_settime(2)); `flags` are `TFD_TIMER_*`.
///
/// # Errors
/// `EINVAL` for times out of range.
pub fn set_timer(timer: impl AsFd, flags: i32, timing: Timing) -> nix::Result<()> {
    let timer = timer.as_fd().as_raw_fd();
    let new = libc::itimerspec {
        it_interval: timespec(timing.interval)?,
        it_value: timespec(timing.value)?,
    };
    // SAFETY: `new` is a valid itimerspec; the old value is not asked for.
    Errno::result(unsafe {
        libc::timerfd_settime(timer, flags, &raw const new, std::ptr::null_mut())
    })
    .map(drop)
}

/// Sets how often a timer has expired since it was read last (`TFD_IOC_SET_TICKS`); not 0.
///
/// # Errors
/// `ENOTTY` on a kernel without `CONFIG_CHECKPOINT_RESTORE`.
pub fn set_ticks(timer: impl AsFd, ticks: u64) -> nix::Result<()> {
    let timer = timer.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the 8 bytes of `ticks`.
    Errno::result(unsafe { libc::ioctl(timer, TFD_IOC_SET_TICKS, &raw const ticks) }).map(drop)
}

/// `_IOW('T', 0, __u64)` of `<linux/timerfd.h>`.
const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;

fn timespec(time: Duration) -> nix::Result<libc::timespec> {
    let Ok(tv_sec) = time.as_secs().try_into() else {
        return Err(Errno::EINVAL);
    };
    Ok(libc::timespec {
        tv_sec,
        tv_nsec: time.subsec_nanos().into(),
    })
}

fn own(fd: i32) -> nix::Result<OwnedFd> {
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
