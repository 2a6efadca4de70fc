//! Who gets a signal when a file is ready, on descriptors of every kind: processes, threads, groups,
//! with signals of their own, asked for by another user, or nobody yet.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, call_with, owned};

/// Commands of fcntl(2).
const F_SETOWN_EX: u64 = 15;
const F_GETOWN_EX: u64 = 16;
const F_SETSIG: u64 = 10;
const F_GETSIG: u64 = 11;
const F_GETOWNER_UIDS: u64 = 17;

struct Owners {
    files: Vec<OwnedFd>,
    expected: Vec<[u64; 6]>,
    state: String,
}

fn number(file: &OwnedFd) -> u64 {
    file.as_raw_fd().cast_unsigned().into()
}

/// Builds it and serves. Argument `modest`: without what CRIU forgets.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let dir = desk.dir().to_owned();
    let new = |nr: i64, args: [u64; 2]| owned(call(nr, [args[0], args[1], 0, 0, 0, 0]).unwrap());
    fs::write(dir.join("file"), "contents").unwrap();
    let (pipe_read, pipe_write) = nix::unistd::pipe().unwrap();
    let (one, other) = UnixStream::pair().unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let both = |name: &str| File::options().read(true).write(true).open(name).unwrap();
    let mut files: Vec<OwnedFd> = vec![
        both(dir.join("file").to_str().unwrap()).into(),
        File::open(&dir).unwrap().into(),
        both("/dev/null").into(),
        both(dir.join("fifo").to_str().unwrap()).into(),
        pipe_read,
        pipe_write,
        one.into(),
        other.into(),
        TcpListener::bind("127.0.0.1:0").unwrap().into(),
        UdpSocket::bind("127.0.0.1:0").unwrap().into(),
        memfd_create(c"owned", MFdFlags::empty()).unwrap(),
        new(libc::SYS_eventfd2, [0, 0]),
        new(libc::SYS_timerfd_create, [1, 0]),
        new(libc::SYS_epoll_create1, [0, 0]),
        new(libc::SYS_inotify_init1, [0, 0]),
        both("/dev/ptmx").into(),
        new(libc::SYS_pidfd_open, [std::process::id().into(), 0]),
    ];
    if modest {
        // Asked for their domain, CRIU's kernel says no.
        files.drain(8..10);
    }
    let mut owners = Owners {
        files,
        expected: Vec::new(),
        state: "0".to_owned(),
    };
    owners.set(0, modest);
    desk.serve(&mut owners);
}

impl Owners {
    /// Gives each file an owner: threads, processes and groups by turns.
    fn set(&mut self, state: u64, modest: bool) {
        let me = u64::from(std::process::id());
        for (turn, file) in (state..).zip(&self.files) {
            let kind = turn % 3;
            let pid = if kind == 2 {
                nix::unistd::getpgrp().as_raw() as u64
            } else {
                me
            };
            // struct f_owner_ex: kind, pid.
            let mut owner = kind | pid << 32;
            let user = if turn % 5 == 4 && !modest { 1234 } else { 0 };
            let act_as = |user| call(libc::SYS_setresuid, [user, user, u32::MAX.into(), 0, 0, 0]);
            act_as(user).unwrap();
            call_with(
                libc::SYS_fcntl,
                &[number(file), F_SETOWN_EX],
                &mut owner,
                &[],
            )
            .unwrap();
            act_as(0).unwrap();
            let signal = if turn % 4 == 0 { 0 } else { 34 + turn % 8 };
            call(libc::SYS_fcntl, [number(file), F_SETSIG, signal, 0, 0, 0]).unwrap();
        }
        nix::sys::prctl::set_dumpable(true).unwrap();
        // Told at once when something comes.
        for file in &self.files[4..8] {
            let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL).unwrap());
            fcntl(file, FcntlArg::F_SETFL(flags | OFlag::O_ASYNC)).unwrap();
        }
        self.expected = self.seen();
    }

    /// Owner, signal, users and flags of each file.
    fn seen(&self) -> Vec<[u64; 6]> {
        let seen = self.files.iter().map(|file| {
            let (mut owner, mut users) = (0_u64, 0_u64);
            let fd = number(file);
            call_with(libc::SYS_fcntl, &[fd, F_GETOWN_EX], &mut owner, &[]).unwrap();
            call_with(libc::SYS_fcntl, &[fd, F_GETOWNER_UIDS], &mut users, &[]).unwrap();
            let signal = call(libc::SYS_fcntl, [fd, F_GETSIG, 0, 0, 0, 0]).unwrap();
            let flags = fcntl(file, FcntlArg::F_GETFL).unwrap();
            let (kind, pid) = (owner & 0xffff_ffff, owner >> 32);
            [fd, kind, pid, signal as u64, users, flags as u64]
        });
        seen.collect()
    }
}

impl Program for Owners {
    fn check(&mut self) -> Answer {
        for (seen, expected) in self.seen().iter().zip(&self.expected) {
            same("number, kind, pid, signal, users, flags", seen, expected)?;
        }
        Ok(self.state.clone())
    }

    /// `write N` gives all files other owners.
    fn command(&mut self, words: &[&str]) -> Answer {
        let ["write", state] = words else {
            return Err("write N".into());
        };
        self.state = (*state).to_owned();
        self.set(state.parse().map_err(|_| "not a number")?, false);
        Ok(String::new())
    }
}
