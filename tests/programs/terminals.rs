//! Pseudo-terminals: one that is the controlling terminal of a session (the child at the desk
//! `leader`) with another foreground group, one in packet mode without a session, and one that was hung
//! up. Bytes wait unread in both directions, and the output of the second is stopped.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{
    FlowArg, LocalFlags, SetArg, SpecialCharacterIndices, tcflow, tcgetattr, tcsetattr,
};
use nix::unistd::{Pid, getpid, tcgetpgrp, tcsetpgrp};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{self, child, unread};

struct Pair {
    master: File,
    slave: File,
    /// What `/proc` says of the slave.
    name: String,
}

struct Terminals {
    session: Pair,
    raw: Pair,
    hung: Option<File>,
    /// `/dev/tty`; the leader has it.
    own: Option<File>,
    /// Bytes unread at both ends of `raw`.
    waiting: (usize, usize),
    group: Pid,
    /// Lines typed so far.
    lines: u64,
}

fn ioctl<T>(file: &File, request: u64, value: &mut T) -> std::io::Result<i64> {
    let fd = u64::try_from(file.as_raw_fd()).unwrap();
    kernel::call_with(libc::SYS_ioctl, &[fd, request], value, &[])
}

fn name(file: &File) -> String {
    let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    link.to_string_lossy().into_owned()
}

impl Pair {
    fn open() -> Self {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY);
        let master = options.open("/dev/ptmx").unwrap();
        ioctl(&master, libc::TIOCSPTLCK, &mut 0i32).unwrap();
        let mut index = 0u32;
        ioctl(&master, libc::TIOCGPTN, &mut index).unwrap();
        let name = format!("/dev/pts/{index}");
        let slave = options.open(&name).unwrap();
        Self {
            master,
            slave,
            name,
        }
    }

    fn size(&self, columns: u16) {
        ioctl(&self.master, libc::TIOCSWINSZ, &mut [33, columns, 0, 0]).unwrap();
    }
}

/// Builds it and serves. `modest`: without what CRIU cannot do.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let session = Pair::open();
    let raw = Pair::open();
    session.size(77);
    let hung = Pair::open();
    drop(hung.master);
    let hung = (!modest).then_some(hung.slave);
    let mut settings = tcgetattr(&raw.slave).unwrap();
    nix::sys::termios::cfmakeraw(&mut settings);
    settings.control_chars[SpecialCharacterIndices::VQUIT as usize] = 7;
    tcsetattr(&raw.slave, SetArg::TCSANOW, &settings).unwrap();
    ioctl(&raw.master, libc::TIOCPKT, &mut 1i32).unwrap();
    nix::unistd::fchown(&raw.slave, Some(1234.into()), Some(5.into())).unwrap();
    let waiting = if modest { (0, 0) } else { (11, 5) };
    if !modest {
        (&raw.master).write_all(b"typed\x03\nhalf").unwrap();
        (&raw.slave).write_all(b"shown").unwrap();
        // The master is not told.
        ioctl(&raw.master, libc::TIOCPKT, &mut 0i32).unwrap();
        tcflow(&raw.slave, FlowArg::TCOOFF).unwrap();
        ioctl(&raw.master, libc::TIOCPKT, &mut 1i32).unwrap();
    }
    let mut settings = tcgetattr(&session.slave).unwrap();
    settings.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(&session.slave, SetArg::TCSANOW, &settings).unwrap();
    while unread(&raw.slave) < waiting.0 || unread(&raw.master) < waiting.1 {
        std::thread::yield_now();
    }
    let mut state = Terminals {
        session,
        raw,
        hung,
        own: None,
        waiting,
        group: Pid::from_raw(0),
        lines: 0,
    };
    child(|| {
        let mut desk = desk.beside("leader");
        nix::unistd::setsid().unwrap();
        let fd = u64::try_from(state.session.slave.as_raw_fd()).unwrap();
        let take = libc::TIOCSCTTY;
        kernel::call(libc::SYS_ioctl, [fd, take, 0, 0, 0, 0]).unwrap();
        if !modest {
            let mut options = File::options();
            state.own = Some(options.read(true).write(true).open("/dev/tty").unwrap());
        }
        state.group = child(|| {
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
            state.group = getpid();
            desk.beside("foreground").serve(&mut state)
        });
        desk.wait_for("foreground");
        tcsetpgrp(&state.session.slave, state.group).unwrap();
        desk.serve(&mut state)
    });
    desk.wait_for("leader");
    desk.serve(&mut state);
}

fn line(number: u64) -> String {
    format!("this is line {number}\n")
}

impl Program for Terminals {
    fn check(&mut self) -> Answer {
        let text = |e: nix::Error| e.to_string();
        for pair in [&self.session, &self.raw] {
            same("name", &name(&pair.slave), &pair.name)?;
            let mut index = 0u32;
            ioctl(&pair.master, libc::TIOCGPTN, &mut index).map_err(|e| e.to_string())?;
            same("number", &format!("/dev/pts/{index}"), &pair.name)?;
        }
        let mut size = [0u16; 4];
        ioctl(&self.session.slave, libc::TIOCGWINSZ, &mut size).map_err(|e| e.to_string())?;
        let columns = if self.lines == 0 {
            77
        } else {
            self.lines + 100
        };
        same("size", &(size[0].into(), size[1].into()), &(33, columns))?;
        let settings = tcgetattr(&self.session.slave).map_err(text)?;
        let flags = LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG;
        same(
            "settings",
            &(settings.local_flags & flags),
            &(flags - LocalFlags::ECHO),
        )?;
        let settings = tcgetattr(&self.raw.slave).map_err(text)?;
        same(
            "settings",
            &(settings.local_flags & flags),
            &LocalFlags::empty(),
        )?;
        let quit = settings.control_chars[SpecialCharacterIndices::VQUIT as usize];
        same("a character", &quit, &7)?;
        let mut packets = 0i32;
        ioctl(&self.raw.master, libc::TIOCGPKT, &mut packets).map_err(|e| e.to_string())?;
        same("packet mode", &packets, &1)?;
        let mut asked = [PollFd::new(self.raw.slave.as_fd(), PollFlags::POLLOUT)];
        poll(&mut asked, PollTimeout::ZERO).map_err(text)?;
        let stopped = self.waiting != (0, 0);
        same("takes output", &(asked[0].any() == Some(true)), &!stopped)?;
        same(
            "unread by the slave",
            &unread(&self.raw.slave),
            &self.waiting.0,
        )?;
        same(
            "unread by the master",
            &unread(&self.raw.master),
            &self.waiting.1,
        )?;
        let typed: usize = (1..=self.lines).map(|n| line(n).len()).sum();
        same("unread lines", &unread(&self.session.slave), &typed)?;
        if let Some(hung) = &self.hung {
            same("hung up", &tcgetattr(hung).err(), &Some(nix::Error::EIO))?;
        }
        let owner = self.raw.slave.metadata().map_err(|e| e.to_string())?;
        let owner = std::os::unix::fs::MetadataExt::uid(&owner);
        same("owner", &owner, &1234)?;
        if let Some(own) = &self.own {
            same("its name", &name(own).as_str(), &"/dev/tty")?;
            let leader = nix::unistd::getsid(None).map_err(text)?;
            for tty in [own, &self.session.slave] {
                same(
                    "session",
                    &nix::sys::termios::tcgetsid(tty.as_fd()).map_err(text)?,
                    &leader,
                )?;
                same(
                    "foreground group",
                    &tcgetpgrp(tty).map_err(text)?,
                    &self.group,
                )?;
            }
            let tty = File::options().read(true).open("/dev/tty");
            same("can be opened", &tty.is_ok(), &true)?;
        }
        Ok(self.lines.to_string())
    }

    /// `write N` types line N and changes the size; `expect N` after another process did; `drain` reads
    /// what waits, in the foreground group.
    fn command(&mut self, words: &[&str]) -> Answer {
        let text = |e: std::io::Error| e.to_string();
        match words {
            ["write", number] => {
                let number: u64 = number.parse().map_err(|_| "not a number")?;
                for next in self.lines + 1..=number {
                    self.session
                        .master
                        .write_all(line(next).as_bytes())
                        .map_err(text)?;
                }
                self.lines = number;
                let typed: usize = (1..=number).map(|n| line(n).len()).sum();
                while unread(&self.session.slave) < typed {
                    std::thread::yield_now();
                }
                self.session.size(u16::try_from(number).unwrap() + 100);
            }
            ["expect", number] => self.lines = number.parse().map_err(|_| "not a number")?,
            ["drain"] => {
                let mut bytes = [0; 100];
                let count = self.raw.slave.read(&mut bytes).map_err(text)?;
                same("typed", &&bytes[..count], &&b"typed\x03\nhalf"[..])?;
                let count = self.raw.master.read(&mut bytes).map_err(text)?;
                same("shown", &&bytes[..count], &&b"\0shown"[..])?;
                for next in 1..=self.lines {
                    let count = self.session.slave.read(&mut bytes).map_err(text)?;
                    let read = String::from_utf8_lossy(&bytes[..count]).into_owned();
                    same("line", &read, &line(next))?;
                }
            }
            _ => return Err("write N | expect N | drain".into()),
        }
        Ok(String::new())
    }
}
