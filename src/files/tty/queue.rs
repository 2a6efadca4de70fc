//! Bytes in a pseudo-terminal that nobody has read yet.
//!
//! The kernel lets nobody look at them: they are read and put back, while the target is frozen. Should
//! this process be killed between the two, they are lost (so it is with CRIU). Where there are none,
//! nothing is touched. Ends of file typed in a line are not kept.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use crate::sys::descriptor::unread;
use crate::sys::tty::{self, Switch, Termios};

/// The unread bytes of a pair: those for the master, those for the slave.
pub(super) fn peek(master: &OwnedFd) -> nix::Result<(Vec<u8>, Vec<u8>)> {
    let settings = match tty::termios(master) {
        Ok(settings) => settings,
        Err(Errno::EIO) => return Ok((Vec::new(), Vec::new())),
        Err(e) => return Err(e),
    };
    if tty::is_on(master, Switch::Locked)? {
        // Nobody can have opened the slave.
        return Ok((Vec::new(), Vec::new()));
    }
    let slave = tty::peer(master, libc::O_RDWR | libc::O_NONBLOCK)?;
    tty::set_termios(&slave, &raw(&settings))?;
    let taken = take(master, &slave);
    let back = taken.and_then(|(read, written)| {
        put(master, &slave, &settings, (&read, &written))?;
        settled(&slave, &settings, &written);
        Ok((read, written))
    });
    tty::set_termios(&slave, &settings)?;
    back
}

/// All bytes, none of which stays.
fn take(master: &OwnedFd, slave: &OwnedFd) -> nix::Result<(Vec<u8>, Vec<u8>)> {
    let mut read = Vec::new();
    if unread(master)? > 0 {
        // Without this each read would begin with a byte of status.
        let packets = tty::is_on(master, Switch::Packet)?;
        tty::turn(master, Switch::Packet, false)?;
        read = all(master)?;
        tty::turn(master, Switch::Packet, packets)?;
    }
    Ok((read, all(slave)?))
}

fn all(end: &OwnedFd) -> nix::Result<Vec<u8>> {
    let mut file = File::from(end.try_clone().map_err(|e| errno(&e))?);
    let mut bytes = Vec::new();
    loop {
        let count = unread(end)?;
        if count == 0 {
            return Ok(bytes);
        }
        let mut part = vec![0; count];
        let got = file.read(&mut part).map_err(|e| errno(&e))?;
        bytes.extend(part.iter().take(got));
    }
}

/// Puts bytes into the queues: written to the slave they are for the master, and the other way round.
/// The settings are to be changed to the true ones when the bytes have [`settled`].
pub(super) fn put(
    master: &OwnedFd,
    slave: &OwnedFd,
    settings: &Termios,
    (read, written): (&[u8], &[u8]),
) -> nix::Result<()> {
    let write = |end: &OwnedFd, bytes: &[u8]| -> nix::Result<()> {
        let end = end.try_clone().map_err(|e| errno(&e))?;
        File::from(end).write_all(bytes).map_err(|e| errno(&e))
    };
    if !read.is_empty() {
        tty::set_termios(slave, &raw(settings))?;
        write(slave, read)?;
    }
    if !written.is_empty() {
        tty::set_termios(slave, &mute(settings))?;
        write(master, written)?;
    }
    Ok(())
}

/// Waits, a moment at most, until the slave has got what was written: the kernel passes it on later.
pub(super) fn settled(slave: &OwnedFd, settings: &Termios, written: &[u8]) {
    let lines = settings.c_lflag & libc::ICANON != 0;
    let visible = if lines {
        // The beginning of a line that has no end yet does not count.
        written
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1)
    } else {
        written.len()
    };
    let until = Instant::now() + Duration::from_millis(200);
    let arrived = || unread(slave).is_ok_and(|count| count >= visible);
    while !arrived() && Instant::now() < until {
        let _timed_out = poll(&mut [], PollTimeout::from(1u8));
    }
    if visible < written.len() {
        let _timed_out = poll(&mut [], PollTimeout::from(2u8));
    }
}

/// Settings with which every byte is seen as it is, both ways.
fn raw(settings: &Termios) -> Termios {
    let mut raw = mute(settings);
    raw.c_lflag &= !libc::ICANON;
    raw
}

/// Settings with which a byte means nothing but the end of a line.
fn mute(settings: &Termios) -> Termios {
    let mut mute = *settings;
    // Flow control stays: its change would be told to a master in packet mode.
    mute.c_iflag &= libc::IXON;
    mute.c_oflag &= !libc::OPOST;
    mute.c_lflag &= libc::ICANON;
    for (place, character) in mute.c_cc.iter_mut().enumerate() {
        if ![libc::VSTART, libc::VSTOP, libc::VMIN, libc::VTIME].contains(&place) {
            *character = 0;
        }
    }
    mute.c_cc[libc::VMIN] = 1;
    mute
}

fn errno(e: &std::io::Error) -> Errno {
    e.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        let mut options = File::options();
        let master = options.read(true).write(true).open("/dev/ptmx").unwrap();
        let master = OwnedFd::from(master);
        tty::turn(&master, Switch::Locked, false).unwrap();
        let slave = tty::peer(&master, libc::O_RDWR | libc::O_NONBLOCK).unwrap();
        (master, slave)
    }

    fn wait(ready: impl Fn() -> bool) {
        while !ready() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn unread_bytes_are_seen_and_stay_both_ways() {
        let (master, slave) = pair();
        tty::turn(&master, Switch::Packet, true).unwrap();
        File::from(master.try_clone().unwrap())
            .write_all(b"a line\nhalf")
            .unwrap();
        wait(|| unread(&slave).unwrap() == 7 && unread(&master).unwrap() >= 12);
        File::from(slave.try_clone().unwrap())
            .write_all(b"out")
            .unwrap();
        wait(|| unread(&master).unwrap() == 15);
        for _again in 0..3 {
            let (read, written) = peek(&master).unwrap();
            assert_eq!(read, b"a line\r\nhalfout");
            assert_eq!(written, b"a line\nhalf");
        }
        assert_eq!(unread(&slave).unwrap(), 7);
        assert!(tty::is_on(&master, Switch::Packet).unwrap());
    }

    #[test]
    fn a_pair_without_bytes_keeps_its_settings() {
        let (master, slave) = pair();
        let before = tty::termios(&slave).unwrap();
        assert_eq!(peek(&master).unwrap(), (vec![], vec![]));
        let after = tty::termios(&slave).unwrap();
        assert_eq!((before.c_lflag, before.c_cc), (after.c_lflag, after.c_cc));
    }
}
