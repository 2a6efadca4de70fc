//! Operations on descriptors of our own that have no safe wrapper: fcntl(2), pipe(7).
#![expect(
    unsafe_code,
    reason = "raw fcntl commands and descriptors chosen by number"
)]

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use linux_raw_sys::general::{
    F_GETOWN_EX, F_GETOWNER_UIDS, F_GETSIG, F_SETOWN_EX, F_SETSIG, f_owner_ex,
};
use nix::errno::Errno;

/// Who is told by signal about input and output (fcntl(2), `F_SETOWN_EX`, `F_SETSIG`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// `F_OWNER_TID` 0, `F_OWNER_PID` 1 or `F_OWNER_PGRP` 2.
    pub kind: i32,
    /// Thread, process or group; 0 when there is none.
    pub pid: i32,
    /// The signal; 0 means SIGIO.
    pub signal: i32,
    /// Real user of the process that set the owner.
    pub uid: u32,
    /// Effective user of the process that set the owner.
    pub euid: u32,
}

/// A duplicate of `fd`, close-on-exec, with the lowest free number that is not below `least`.
///
/// # Errors
/// `EINVAL` or `EMFILE` when the limit on descriptors does not allow the number.
pub fn duplicate_above(fd: impl AsFd, least: RawFd) -> nix::Result<OwnedFd> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: fcntl with a number as argument; `fd` is open while `fd` is borrowed.
    let new = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// A duplicate of descriptor `number` of this process, close-on-exec.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn copy(number: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: fcntl with a number as argument.
    let new = Errno::result(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// The signal owner of the description behind `fd`.
///
/// # Errors
/// `EBADF` for an `O_PATH` descriptor.
pub fn owner(fd: impl AsFd) -> nix::Result<Owner> {
    let fd = fd.as_fd().as_raw_fd();
    let mut who = f_owner_ex { type_: 0, pid: 0 };
    // SAFETY: `who` is a valid f_owner_ex that the kernel fills.
    Errno::result(unsafe { libc::fcntl(fd, command(F_GETOWN_EX), &raw mut who) })?;
    // SAFETY: no argument.
    let signal = Errno::result(unsafe { libc::fcntl(fd, command(F_GETSIG)) })?;
    if who.pid == 0 {
        let nobody = Owner::default();
        return Ok(Owner { signal, ..nobody });
    }
    let mut users = [0_u32; 2];
    // SAFETY: the kernel writes two uid_t (real, effective), exactly what `users` holds.
    Errno::result(unsafe { libc::fcntl(fd, command(F_GETOWNER_UIDS), users.as_mut_ptr()) })?;
    Ok(Owner {
        kind: who.type_,
        pid: who.pid,
        signal,
        uid: users[0],
        euid: users[1],
    })
}

/// Sets the signal owner of the description behind `fd`. The kernel records the caller's users, so the
/// calling thread has those of the owner meanwhile.
///
/// # Errors
/// `ESRCH` when the process or group does not exist (yet), `EPERM` without the right to be another
/// user.
pub fn set_owner(fd: impl AsFd, owner: &Owner) -> nix::Result<()> {
    let mine = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::geteuid().as_raw(),
    );
    if owner.pid == 0 || (owner.uid, owner.euid) == mine {
        return set_owner_here(fd.as_fd().as_raw_fd(), owner);
    }
    become_user(owner.uid, owner.euid)?;
    let set = set_owner_here(fd.as_fd().as_raw_fd(), owner);
    become_user(mine.0, mine.1)?;
    nix::sys::prctl::set_dumpable(true)?;
    set
}

/// Changes real and effective user of the calling thread alone; the saved one stays
/// (setresuid(2), without the C library, which would change all threads).
fn become_user(real: u32, effective: u32) -> nix::Result<()> {
    let same = u32::MAX;
    // SAFETY: plain numbers.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, real, effective, same) };
    Errno::result(result).map(drop)
}

fn set_owner_here(fd: RawFd, owner: &Owner) -> nix::Result<()> {
    let who = f_owner_ex {
        type_: owner.kind,
        pid: owner.pid,
    };
    if owner.pid != 0 {
        // SAFETY: `who` is a valid f_owner_ex that the kernel only reads.
        Errno::result(unsafe { libc::fcntl(fd, command(F_SETOWN_EX), &raw const who) })?;
    }
    // SAFETY: a number as argument.
    Errno::result(unsafe { libc::fcntl(fd, command(F_SETSIG), owner.signal) })?;
    Ok(())
}

/// Bytes that a read from the pipe or FIFO behind `fd` could return now (`FIONREAD`).
///
/// # Errors
/// `ENOTTY` when it is nothing that has a queue.
pub fn unread(fd: impl AsFd) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let mut bytes: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int.
    Errno::result(unsafe { libc::ioctl(fd, libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Copies up to `most` bytes from one pipe into another without taking them out (tee(2)); does not
/// wait.
///
/// # Errors
/// `EAGAIN` when there is nothing or no room, `EINVAL` when one is no pipe.
pub fn tee(from: impl AsFd, to: impl AsFd, most: usize) -> nix::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    // SAFETY: plain numbers; both are open while they are borrowed.
    let count = unsafe { libc::tee(from, to, most, libc::SPLICE_F_NONBLOCK) };
    Errno::result(count).map(isize::cast_unsigned)
}

/// Marks all descriptors from `first` on close-on-exec (close_range(2)), so that programs started
/// from here on get none of what this process inherited by accident.
///
/// # Errors
/// `EINVAL` on a kernel before 5.11.
pub fn close_on_exec_from(first: u32) -> nix::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: changes a flag of descriptors only; none is closed here.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(result).map(drop)
}

/// The command as the C library takes it; all commands are small.
fn command(number: u32) -> libc::c_int {
    number.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_duplicate_is_never_below_the_asked_number() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let copy = duplicate_above(&read, 700).unwrap();
        assert!(copy.as_raw_fd() >= 700);
    }

    #[test]
    fn the_owner_comes_back_as_set() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        assert_eq!(owner(&read).unwrap(), Owner::default());
        let me = nix::unistd::getpid().as_raw();
        set_owner(
            &read,
            &Owner {
                kind: 1,
                pid: me,
                signal: libc::SIGUSR2,
                uid: nix::unistd::getuid().as_raw(),
                euid: nix::unistd::geteuid().as_raw(),
            },
        )
        .unwrap();
        let got = owner(&read).unwrap();
        assert_eq!((got.kind, got.pid, got.signal), (1, me, libc::SIGUSR2));
        assert_eq!(got.euid, nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn a_signal_without_an_owner_comes_back_as_set() {
        let (read, _write) = nix::unistd::pipe().unwrap();
        let signal = libc::SIGUSR1;
        let nobody = Owner {
            signal,
            ..Owner::default()
        };
        set_owner(&read, &nobody).unwrap();
        assert_eq!(owner(&read).unwrap(), nobody);
    }

    #[test]
    fn unread_bytes_of_a_pipe_are_counted() {
        let (read, write) = nix::unistd::pipe().unwrap();
        std::fs::File::from(write).write_all(b"seven..").unwrap();
        assert_eq!(unread(&read).unwrap(), 7);
    }
}
