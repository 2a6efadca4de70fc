//! Terminals: tty_ioctl(2), ioctl_tty(2), pty(7), pts(4).
#![expect(unsafe_code, reason = "ioctl(2) and the fork of a session leader")]

use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use linux_raw_sys::ioctl;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::pipe2;

use super::pidfd;
use crate::units::Pid;

pub use linux_raw_sys::general::{termios as Termios, winsize as Winsize};

/// A setting that is on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Of a master: its slave cannot be opened.
    Locked,
    /// Nobody else may open it.
    Exclusive,
    /// Of a master: each read begins with a byte of status.
    Packet,
}

/// Runs an ioctl that reads or writes one `T`.
fn with<T>(fd: impl AsFd, request: u32, value: &mut T) -> nix::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: every request used in this file takes a pointer to exactly one value of the type that
    // its caller passes; `value` is valid for reading and writing.
    let done = unsafe { libc::ioctl(fd, libc::Ioctl::from(request), std::ptr::from_mut(value)) };
    Errno::result(done).map(drop)
}

/// Runs an ioctl whose argument is a number.
fn plain(fd: impl AsFd, request: u32, value: i32) -> nix::Result<i32> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the requests of this file that come here take their argument by value.
    Errno::result(unsafe { libc::ioctl(fd, libc::Ioctl::from(request), value) })
}

/// The number of the slave of a master (`TIOCGPTN`).
///
/// # Errors
/// `ENOTTY` when it is no master.
pub fn index(master: impl AsFd) -> nix::Result<u32> {
    let mut index = 0_u32;
    with(master, ioctl::TIOCGPTN, &mut index).map(|()| index)
}

/// Major and minor number of the terminal that is meant, also through `/dev/tty` (`TIOCGDEV`).
///
/// # Errors
/// `EIO` when it was hung up.
pub fn device(tty: impl AsFd) -> nix::Result<(u32, u32)> {
    let mut device = 0_u32;
    with(tty, ioctl::TIOCGDEV, &mut device)?;
    let device = libc::dev_t::from(device);
    Ok((libc::major(device), libc::minor(device)))
}

/// Opens the slave of a master (`TIOCGPTPEER`).
///
/// # Errors
/// `EIO` while the master is locked.
pub fn peer(master: impl AsFd, flags: i32) -> nix::Result<OwnedFd> {
    let fd = plain(
        master,
        ioctl::TIOCGPTPEER,
        flags | libc::O_NOCTTY | libc::O_CLOEXEC,
    )?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The settings of the terminal; of a master, those of its slave.
///
/// # Errors
/// `EIO` when it was hung up.
pub fn termios(tty: impl AsFd) -> nix::Result<Termios> {
    let mut value = zeroed();
    with(tty, libc::TCGETS as u32, &mut value).map(|()| value)
}

/// Changes the settings.
///
/// # Errors
/// `EIO` when it was hung up.
pub fn set_termios(tty: impl AsFd, value: &Termios) -> nix::Result<()> {
    with(tty, libc::TCSETS as u32, &mut value.clone())
}

/// Which settings are locked (`TIOCGLCKTRMIOS`).
///
/// # Errors
/// `EIO` when it was hung up.
pub fn locked_termios(tty: impl AsFd) -> nix::Result<Termios> {
    let mut value = zeroed();
    with(tty, ioctl::TIOCGLCKTRMIOS, &mut value).map(|()| value)
}

/// Locks settings.
///
/// # Errors
/// `EPERM` without CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
pub fn set_locked_termios(tty: impl AsFd, value: &Termios) -> nix::Result<()> {
    with(tty, ioctl::TIOCSLCKTRMIOS, &mut value.clone())
}

fn zeroed() -> Termios {
    Termios {
        c_iflag: 0,
        c_oflag: 0,
        c_cflag: 0,
        c_lflag: 0,
        c_line: 0,
        c_cc: [0; 19],
    }
}

/// The size of the window.
///
/// # Errors
/// `EIO` when it was hung up.
pub fn winsize(tty: impl AsFd) -> nix::Result<Winsize> {
    let mut value = Winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    with(tty, ioctl::TIOCGWINSZ, &mut value).map(|()| value)
}

/// Changes the size of the window; the foreground group gets SIGWINCH.
///
/// # Errors
/// `EIO` when it was hung up.
pub fn set_winsize(tty: impl AsFd, value: &Winsize) -> nix::Result<()> {
    with(tty, ioctl::TIOCSWINSZ, &mut value.clone())
}

/// Whether a setting is on.
///
/// # Errors
/// `ENOTTY` when the terminal does not have it.
pub fn is_on(tty: impl AsFd, switch: Switch) -> nix::Result<bool> {
    let request = match switch {
        Switch::Locked => ioctl::TIOCGPTLCK,
        Switch::Exclusive => ioctl::TIOCGEXCL,
        Switch::Packet => ioctl::TIOCGPKT,
    };
    let mut value = 0_i32;
    with(tty, request, &mut value).map(|()| value != 0)
}

/// Turns a setting on or off.
///
/// # Errors
/// `ENOTTY` when the terminal does not have it.
pub fn turn(tty: impl AsFd, switch: Switch, on: bool) -> nix::Result<()> {
    let mut value = i32::from(on);
    match switch {
        Switch::Locked => with(tty, ioctl::TIOCSPTLCK, &mut value),
        Switch::Packet => with(tty, ioctl::TIOCPKT, &mut value),
        Switch::Exclusive if on => plain(tty, ioctl::TIOCEXCL, 0).map(drop),
        Switch::Exclusive => plain(tty, ioctl::TIOCNXCL, 0).map(drop),
    }
}

/// Lets the output of a terminal go on, or stops it, as the program does (`TCXONC`). What was stopped by a
/// character that was typed goes on only after it was stopped by this as well.
///
/// # Errors
/// `EIO` when it was hung up.
pub fn flow(tty: impl AsFd, on: bool) -> nix::Result<()> {
    let action = if on { libc::TCOON } else { libc::TCOOFF };
    plain(tty, libc::TCXONC as u32, action).map(drop)
}

/// `/dev/tty` opened with `flags` by a session leader whose controlling terminal is `slave`, which
/// must be nobody's. The leader is a child that gives the terminal back and ends.
///
/// # Errors
/// `EPERM` when the terminal belongs to a session.
pub fn open_as_controlling(slave: &OwnedFd, flags: i32) -> nix::Result<OwnedFd> {
    let (told, tell) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (stay, leave) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let [slave, told_fd, tell_fd, stay_fd, leave_fd] = [
        slave.as_raw_fd(),
        told.as_raw_fd(),
        tell.as_raw_fd(),
        stay.as_raw_fd(),
        leave.as_raw_fd(),
    ];
    // SAFETY: the child only makes system calls and ends by _exit(2).
    let child = Errno::result(unsafe { libc::fork() })?;
    if child == 0 {
        // SAFETY: numbers of descriptors that this copy of the process has.
        unsafe { lead_session(slave, flags, tell_fd, stay_fd, [told_fd, leave_fd]) }
    }
    drop((tell, stay));
    let mut answer = [0; 4];
    let count = nix::unistd::read(&told, &mut answer);
    let number = RawFd::from_le_bytes(answer);
    let got = match count {
        Ok(4) if number >= 0 => {
            pidfd::open(Pid::from_raw(child)).and_then(|process| pidfd::get_fd(&process, number))
        }
        Ok(4) => Err(Errno::from_raw(-number)),
        Ok(_) => Err(Errno::EIO),
        Err(e) => Err(e),
    };
    drop(leave);
    waitpid(Pid::from_raw(child), None)?;
    got
}

/// In the child of [`open_as_controlling`]: tells the number of the descriptor (or the negative
/// error), waits until `stay` ends, gives the terminal back.
///
/// # Safety
/// Only in a freshly forked child.
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "between fork(2) and _exit(2) there is nothing but system calls"
)]
unsafe fn lead_session(slave: RawFd, flags: i32, tell: RawFd, stay: RawFd, close: [RawFd; 2]) -> ! {
    // SAFETY: as promised by the caller; nothing here allocates or takes a lock.
    unsafe {
        libc::close(close[0]);
        libc::close(close[1]);
        // Giving the terminal back hangs up its foreground group: us.
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::setsid();
        let own = libc::ioctl(slave, libc::TIOCSCTTY, 0);
        let fd = if own == 0 {
            libc::open(c"/dev/tty".as_ptr(), flags)
        } else {
            -1
        };
        let answer = if fd < 0 {
            -*libc::__errno_location()
        } else {
            fd
        };
        libc::write(tell, (&raw const answer).cast(), 4);
        let mut end = 0_u8;
        libc::read(stay, (&raw mut end).cast(), 1);
        libc::ioctl(slave, libc::TIOCNOTTY, 0);
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let master = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/ptmx")
            .unwrap();
        let master = OwnedFd::from(master);
        turn(&master, Switch::Locked, false).unwrap();
        let slave = peer(&master, libc::O_RDWR).unwrap();
        (master, slave)
    }

    #[test]
    fn settings_of_a_pair_come_back_as_set() {
        let (master, slave) = pair();
        assert_eq!(device(&slave).unwrap(), (136, index(&master).unwrap()));
        let mut settings = termios(&slave).unwrap();
        settings.c_lflag ^= libc::ECHO;
        settings.c_cc[3] = 7;
        set_termios(&slave, &settings).unwrap();
        let now = termios(&master).unwrap();
        assert_eq!((now.c_lflag, now.c_cc), (settings.c_lflag, settings.c_cc));
        for switch in [Switch::Packet, Switch::Exclusive, Switch::Locked] {
            for on in [true, false] {
                turn(&master, switch, on).unwrap();
                assert_eq!(is_on(&master, switch).unwrap(), on, "{switch:?}");
            }
        }
    }

    #[test]
    fn the_controlling_terminal_is_opened_and_left_free() {
        let (_master, slave) = pair();
        for _again in 0..2 {
            let tty = open_as_controlling(&slave, libc::O_RDWR).unwrap();
            assert_eq!(device(&tty).unwrap(), device(&slave).unwrap());
        }
    }

    #[test]
    fn a_terminal_whose_master_is_gone_says_so() {
        let (master, slave) = pair();
        drop(master);
        assert_eq!(termios(&slave).err(), Some(Errno::EIO));
    }
}
