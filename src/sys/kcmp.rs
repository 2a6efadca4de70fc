//! Do two descriptors lead to the same open file description? (kcmp(2))
//!
//! The kernel also gives a total order on descriptions (scrambled addresses, stable until the next
//! boot), so that n descriptors need n·log n questions. Needs the same right as ptrace.
#![expect(unsafe_code, reason = "kcmp has no wrapper")]

use std::cmp::Ordering;
use std::os::fd::RawFd;

use nix::errno::Errno;

use crate::units::Pid;

const KCMP_FILE: i32 = 0;
const KCMP_EPOLL_TFD: i32 = 7;

/// Compares the open file descriptions behind two descriptors of (possibly) different processes.
///
/// # Errors
/// `EPERM` without the right to trace both, `ENOSYS` on a kernel without `CONFIG_KCMP`, `EBADF`,
/// `ESRCH`.
pub fn compare_files(a: (Pid, RawFd), b: (Pid, RawFd)) -> nix::Result<Ordering> {
    // SAFETY: kcmp reads no memory of the caller; all five arguments are plain numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            a.0.as_raw(),
            b.0.as_raw(),
            KCMP_FILE,
            a.1,
            b.1,
        )
    };
    Errno::result(result).map(ordering)
}

/// Something that tasks may share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// The address space.
    Vm = 1,
    /// The table of descriptors.
    Files = 2,
    /// Root, working directory and umask.
    Fs = 3,
}

/// Compares a resource of two tasks: equal when they share it.
///
/// # Errors
/// As [`compare_files`].
pub fn compare(a: Pid, b: Pid, resource: Resource) -> nix::Result<Ordering> {
    // SAFETY: kcmp reads no memory of the caller; all arguments are plain numbers.
    let result = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            a.as_raw(),
            b.as_raw(),
            resource as i32,
            0,
            0,
        )
    };
    Errno::result(result).map(ordering)
}

/// Whether two tasks share a resource.
///
/// # Errors
/// As [`compare_files`].
pub fn same(a: Pid, b: Pid, resource: Resource) -> nix::Result<bool> {
    compare(a, b, resource).map(Ordering::is_eq)
}

/// What kcmp(2) answers to that.
fn ordering(answer: libc::c_long) -> Ordering {
    match answer {
        0 => Ordering::Equal,
        1 => Ordering::Less,
        _ => Ordering::Greater,
    }
}

/// Does the epoll instance `epoll` of a process watch the file behind its descriptor `fd`, under
/// the number `watched` (which may be closed by now)? `nth` counts watches of the same number.
///
/// # Errors
/// As [`compare_files`]; `ENOENT` when there is no such watch.
pub fn watches(pid: Pid, fd: RawFd, epoll: RawFd, watched: RawFd, nth: u32) -> nix::Result<bool> {
    // struct kcmp_epoll_slot { efd, tfd, toff }
    let slot = [epoll.cast_unsigned(), watched.cast_unsigned(), nth];
    let pid = pid.as_raw();
    // SAFETY: the kernel reads the three words of `slot`.
    let result =
        unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, fd, slot.as_ptr()) };
    Errno::result(result).map(|result| result == 0)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn a_duplicate_is_the_same_description_and_a_second_open_is_not() {
        let me = Pid::this();
        let first = File::open("/dev/null").unwrap();
        let copy = first.try_clone().unwrap();
        let second = File::open("/dev/null").unwrap();
        let ask = |a: &File, b: &File| compare_files((me, a.as_raw_fd()), (me, b.as_raw_fd()));
        assert_eq!(ask(&first, &copy).unwrap(), Ordering::Equal);
        let order = ask(&first, &second).unwrap();
        assert_ne!(order, Ordering::Equal);
        assert_eq!(ask(&second, &first).unwrap(), order.reverse());
    }
}
