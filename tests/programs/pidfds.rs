//! Pidfds: of this process, a child that shares them, a zombie, and a process that is gone; one is
//! watched by epoll.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, call_with, child, owned, sleep_for_ever};

struct Pidfds {
    /// What stays: its own, the sleeper's, the zombie's, twice the same gone one's.
    files: Vec<OwnedFd>,
    /// Pids of those, as fdinfo tells them.
    pids: Vec<i32>,
    epoll: OwnedFd,
    /// One of our own for each state.
    more: Vec<OwnedFd>,
    child: i32,
    state: String,
}

fn pidfd(pid: i32, flags: u64) -> OwnedFd {
    let args = [pid as u64, flags, 0, 0, 0, 0];
    owned(call(libc::SYS_pidfd_open, args).unwrap())
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, _: &[String]) {
    let me = std::process::id() as i32;
    let sleeper = child(|| sleep_for_ever()).as_raw();
    let zombie = child(|| {}).as_raw();
    let gone = child(|| {});
    let mut files = vec![
        pidfd(me, 0),
        pidfd(sleeper, libc::O_NONBLOCK as u64),
        pidfd(zombie, 0),
        pidfd(gone.as_raw(), 0),
        pidfd(gone.as_raw(), 0),
    ];
    files.push(files[1].try_clone().unwrap());
    waitpid(gone, None).unwrap();
    while !readable(&files[2]) {
        std::thread::yield_now();
    }
    let epoll = owned(call(libc::SYS_epoll_create1, [0; 6]).unwrap());
    // struct epoll_event is packed: 4 bytes of events, 8 of data.
    let mut event = [libc::EPOLLIN as u32, 77, 0];
    let args = [&epoll, &files[1]].map(|file| file.as_raw_fd().cast_unsigned().into());
    let [epoll_number, watched] = args;
    let add = libc::EPOLL_CTL_ADD as u64;
    let before = [epoll_number, add, watched];
    call_with(libc::SYS_epoll_ctl, &before, &mut event, &[]).unwrap();
    let mut state = Pidfds {
        files,
        pids: vec![me, sleeper, zombie, -1, -1, sleeper],
        epoll,
        more: Vec::new(),
        child: 0,
        state: "0".to_owned(),
    };
    let child = child(|| desk.beside("child").serve(&mut state));
    state.child = child.as_raw();
    desk.wait_for("child");
    desk.serve(&mut state);
}

/// True when the process has ended.
fn readable(file: &OwnedFd) -> bool {
    // struct pollfd: descriptor, events, what happened.
    let number = u64::from(file.as_raw_fd().cast_unsigned());
    let mut poll = number | (libc::POLLIN as u64) << 32;
    call_with(libc::SYS_poll, &[], &mut poll, &[1, 0]).unwrap() == 1
}

impl Program for Pidfds {
    fn check(&mut self) -> Answer {
        for (file, pid) in self.files.iter().zip(&self.pids) {
            let number = file.as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            let text = text.map_err(|e| e.to_string())?;
            let told = text.lines().find_map(|line| line.strip_prefix("Pid:"));
            same("pid", &told.map(str::trim), &Some(&*pid.to_string()))?;
            let ended = *pid == -1 || *pid == self.pids[2];
            same("the process has ended", &readable(file), &ended)?;
            let flags = text.lines().find(|line| line.starts_with("flags:"));
            let expected = if *pid == self.pids[1] { "4002" } else { "02" };
            let right = flags.is_some_and(|flags| flags.ends_with(expected));
            same("flags", &right, &true)?;
        }
        let inode = |file: &OwnedFd| nix::sys::stat::fstat(file).unwrap().st_ino;
        let gone = [&self.files[3], &self.files[4]].map(inode);
        same("inodes of one gone process", &gone[0], &gone[1])?;
        // A signal that is none: the process is there.
        let number = u64::from(self.files[1].as_raw_fd().cast_unsigned());
        call(libc::SYS_pidfd_send_signal, [number, 0, 0, 0, 0, 0]).map_err(|e| e.to_string())?;
        let epoll = u64::from(self.epoll.as_raw_fd().cast_unsigned());
        let mut events = [0_u32; 3];
        let ready = call_with(libc::SYS_epoll_wait, &[epoll], &mut events, &[1, 0]);
        same("ends reported by epoll", &ready.unwrap_or(-1), &0)?;
        if self.child != 0 {
            let [me, child] = [self.pids[0], self.child].map(|pid| pid as u64);
            for file in &self.files {
                let number = u64::from(file.as_raw_fd().cast_unsigned());
                let order = call(libc::SYS_kcmp, [me, child, 0, number, number, 0]);
                same("shared with the child", &order.unwrap_or(-1), &0)?;
            }
        }
        Ok(self.state.clone())
    }

    /// `write N` makes the number of more pidfds N; `expect N` after the parent did; `end` ends the
    /// sleeper, which epoll must tell.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["write", state] => {
                let count = state.parse().map_err(|_| "not a number")?;
                self.more.resize_with(count, || pidfd(self.pids[0], 0));
                self.state = (*state).to_owned();
                Ok(String::new())
            }
            ["expect", state] => {
                self.state = (*state).to_owned();
                Ok(String::new())
            }
            ["end"] => {
                let number = u64::from(self.files[1].as_raw_fd().cast_unsigned());
                let signal = Signal::SIGKILL as u64;
                let sent = call(libc::SYS_pidfd_send_signal, [number, signal, 0, 0, 0, 0]);
                sent.map_err(|e| e.to_string())?;
                let epoll = u64::from(self.epoll.as_raw_fd().cast_unsigned());
                let mut events = [0_u32; 3];
                let ready = call_with(libc::SYS_epoll_wait, &[epoll], &mut events, &[1, 10_000]);
                same("ends reported by epoll", &ready.unwrap_or(-1), &1)?;
                same("data of the watch", &events[1], &77)?;
                Ok(String::new())
            }
            _ => Err("write N | expect N | end".into()),
        }
    }
}
