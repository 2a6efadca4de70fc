//! Bytes in a pseudo-terminal that nobody has read yet.
//!
//! The kernel lets nobody look at them: they are read and put back, while the target is frozen. Should
//! this process be killed between the two, they are lost (so it is with CRIU). Where there are none,
//! nothing is touched. Ends of file typed in a line are not kept.
//!
//! Where output is stopped nobody can write: it goes on for the moment in which the bytes are put back.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::descriptor::unread;
use crate::sys::tty::{self, Switch, Termios};

/// Why the output of a slave is stopped. The numbers are those in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// By a program (tcflow(3)).
    Told = 1,
    /// By a character that was typed (^S).
    Typed = 2,
}

impl Halt {
    pub(super) fn from_image(number: u32) -> Option<Self> {
        [Self::Told, Self::Typed]
            .into_iter()
            .find(|halt| *halt as u32 == number)
    }

    /// Stops the output of a pair with these settings. The master is not told.
    pub(super) fn apply(
        self,
        master: &OwnedFd,
        slave: &OwnedFd,
        settings: &Termios,
    ) -> nix::Result<()> {
        let packets = tty::is_on(master, Switch::Packet)?;
        if packets {
            tty::turn(master, Switch::Packet, false)?;
        }
        let done = self.stop(master, slave, settings);
        if packets {
            tty::turn(master, Switch::Packet, true)?;
        }
        done
    }

    fn stop(self, master: &OwnedFd, slave: &OwnedFd, settings: &Termios) -> nix::Result<()> {
        let stop = settings.c_cc.get(libc::VSTOP).copied().unwrap_or(0);
        if self == Self::Told || stop == 0 {
            return tty::flow(slave, false);
        }
        tty::set_termios(slave, &mute(settings))?;
        write_all(master, &[stop])?;
        let until = Instant::now() + Duration::from_millis(200);
        while takes(slave)? && Instant::now() < until {
            let _timed_out = poll(&mut [], PollTimeout::from(1u8));
        }
        tty::set_termios(slave, settings)
    }
}

/// Whether the slave, whose queues are empty, takes output.
fn takes(slave: &OwnedFd) -> nix::Result<bool> {
    let mut asked = [PollFd::new(slave.as_fd(), PollFlags::POLLOUT)];
    poll(&mut asked, PollTimeout::ZERO)?;
    Ok(asked[0].any() == Some(true))
}

/// Lets output go on that is stopped; tells why it was.
fn resume(slave: &OwnedFd) -> nix::Result<Option<Halt>> {
    if takes(slave)? {
        return Ok(None);
    }
    tty::flow(slave, true)?;
    if takes(slave)? {
        return Ok(Some(Halt::Told));
    }
    tty::flow(slave, false)?;
    tty::flow(slave, true)?;
    Ok(takes(slave)?.then_some(Halt::Typed))
}

/// What a pair has beside its settings.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Unread bytes for the master.
    pub(super) read: Vec<u8>,
    /// Unread bytes for the slave.
    pub(super) written: Vec<u8>,
    pub(super) halt: Option<Halt>,
}

/// What is in a pair; it stays there.
pub(super) fn peek(master: &OwnedFd) -> nix::Result<Contents> {
    let settings = match tty::termios(master) {
        Ok(settings) => settings,
        Err(Errno::EIO) => return Ok(Contents::default()),
        Err(e) => return Err(e),
    };
    if tty::is_on(master, Switch::Locked)? {
        // Nobody can have opened the slave.
        return Ok(Contents::default());
    }
    let slave = tty::peer(master, libc::O_RDWR | libc::O_NONBLOCK)?;
    // Without this each read would begin with a byte of status, and the master be told of what we do.
    let packets = tty::is_on(master, Switch::Packet)?;
    let touched = unread(master)? > 0 || !takes(&slave)?;
    if packets && touched {
        tty::turn(master, Switch::Packet, false)?;
    }
    tty::set_termios(&slave, &raw(&settings))?;
    let found = look(master, &slave, &settings);
    tty::set_termios(&slave, &settings)?;
    if let Ok(Contents {
        halt: Some(halt), ..
    }) = &found
    {
        halt.apply(master, &slave, &settings)?;
    }
    if packets && touched {
        tty::turn(master, Switch::Packet, true)?;
    }
    found
}

fn look(master: &OwnedFd, slave: &OwnedFd, settings: &Termios) -> nix::Result<Contents> {
    let (read, written) = (all(master)?, all(slave)?);
    let halt = resume(slave)?;
    put(master, slave, settings, (&read, &written))?;
    settled(slave, settings, &written);
    Ok(Contents {
        read,
        written,
        halt,
    })
}

/// All bytes, none of which stays.
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
    if !read.is_empty() {
        tty::set_termios(slave, &raw(settings))?;
        write_all(slave, read)?;
    }
    if !written.is_empty() {
        tty::set_termios(slave, &mute(settings))?;
        write_all(master, written)?;
    }
    Ok(())
}

fn write_all(end: &OwnedFd, bytes: &[u8]) -> nix::Result<()> {
    let end = end.try_clone().map_err(|e| errno(&e))?;
    File::from(end).write_all(bytes).map_err(|e| errno(&e))
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
            let found = peek(&master).unwrap();
            assert_eq!(found.read, b"a line\r\nhalfout");
            assert_eq!(found.written, b"a line\nhalf");
        }
        assert_eq!(unread(&slave).unwrap(), 7);
        assert!(tty::is_on(&master, Switch::Packet).unwrap());
    }

    #[test]
    fn unread_bytes_of_stopped_output_are_seen_and_stay_and_so_does_the_stop() {
        for how in [Halt::Told, Halt::Typed] {
            for packets in [false, true] {
                let (master, slave) = pair();
                tty::turn(&master, Switch::Packet, packets).unwrap();
                write_all(&master, b"a line\n").unwrap();
                wait(|| unread(&slave).unwrap() == 7 && unread(&master).unwrap() >= 8);
                write_all(&slave, b"out").unwrap();
                wait(|| unread(&master).unwrap() == 11);
                match how {
                    Halt::Told => tty::flow(&slave, false).unwrap(),
                    Halt::Typed => write_all(&master, b"\x13").unwrap(),
                }
                wait(|| !takes(&slave).unwrap());
                for _again in 0..3 {
                    let found = peek(&master).unwrap();
                    assert_eq!(found.read, b"a line\r\nout");
                    assert_eq!(found.written, b"a line\n");
                    assert_eq!(found.halt, Some(how), "packets: {packets}");
                }
                assert!(!takes(&slave).unwrap());
                assert_eq!(unread(&slave).unwrap(), 7);
                match how {
                    Halt::Told => tty::flow(&slave, true).unwrap(),
                    Halt::Typed => write_all(&master, b"\x11").unwrap(),
                }
                wait(|| takes(&slave).unwrap());
            }
        }
    }

    #[test]
    fn a_pair_without_bytes_keeps_its_settings() {
        let (master, slave) = pair();
        let before = tty::termios(&slave).unwrap();
        assert_eq!(peek(&master).unwrap(), Contents::default());
        let after = tty::termios(&slave).unwrap();
        assert_eq!((before.c_lflag, before.c_cc), (after.c_lflag, after.c_cc));
    }
}
