//! A tree: sessions, process groups, a zombie, a stopped child, grandchildren. Each process checks
//! its place in it.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getppid, getsid, setpgid, setsid};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{child, exit};

/// One living process of the tree.
pub struct Place {
    /// Pid, parent, group, session, when it was built.
    ids: [i32; 4],
    zombies: Vec<(Pid, i32)>,
    stopped: Option<Pid>,
}

fn ids() -> [i32; 4] {
    let own = |result: nix::Result<Pid>| result.map_or(-1, Pid::as_raw);
    [
        getpid().as_raw(),
        getppid().as_raw(),
        getpgrp().as_raw(),
        own(getsid(None)),
    ]
}

impl Place {
    /// Where this process is now.
    pub fn new() -> Self {
        Self {
            ids: ids(),
            zombies: Vec::new(),
            stopped: None,
        }
    }

    /// A leaf of the tree.
    pub fn serve(mut self, mut desk: Desk) -> ! {
        desk.serve(&mut self)
    }

    /// Checks the place of the root, whose parent is whoever restored it.
    pub fn check_as_root(&self) -> Answer {
        let mut now = ids();
        now[1] = self.ids[1];
        same("pid, parent, group, session", &now, &self.ids)?;
        Ok(format!("{:?}", self.ids))
    }
}

/// Builds it and serves. Desks: `main`, `group`, `member`, `session`, `grandchild`,
/// `orphan`, `stopped`.
pub fn run(mut desk: Desk, _: &[String]) {
    let here = Pid::from_raw(0);
    // A group of its own with a second member.
    let group = child(|| {
        setpgid(here, here).unwrap();
        Place::new().serve(desk.beside("group"));
    });
    desk.wait_for("group");
    child(|| {
        setpgid(here, group).unwrap();
        Place::new().serve(desk.beside("member"));
    });
    // A session of its own with a child.
    child(|| {
        setsid().unwrap();
        child(|| Place::new().serve(desk.beside("grandchild")));
        Place::new().serve(desk.beside("session"));
    });
    // A group whose leader has ended and is forgotten.
    let leader = child(|| {
        setpgid(here, here).unwrap();
        Place::new().serve(desk.beside("leader"));
    });
    desk.wait_for("leader");
    child(|| {
        setpgid(here, leader).unwrap();
        Place::new().serve(desk.beside("orphan"));
    });
    desk.wait_for("orphan");
    kill(leader, Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(leader, None).unwrap();
    let stopped = child(|| Place::new().serve(desk.beside("stopped")));
    let zombies = vec![
        (child(|| exit(7)), 7),
        (child(|| kill(getpid(), Signal::SIGKILL).unwrap()), -9),
        // A group whose leader has ended.
        (
            child(|| {
                setpgid(here, here).unwrap();
                exit(3);
            }),
            3,
        ),
    ];
    for name in ["member", "session", "grandchild", "stopped"] {
        desk.wait_for(name);
    }
    for (pid, _) in &zombies {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(*pid), flags).unwrap();
    }
    kill(stopped, Signal::SIGSTOP).unwrap();
    while state(stopped) != 'T' {
        std::thread::yield_now();
    }
    let mut place = Place {
        zombies,
        stopped: Some(stopped),
        ..Place::new()
    };
    desk.serve(&mut place);
}

fn state(pid: Pid) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .and_then(|rest| rest.chars().next())
        .unwrap_or('?')
}

impl Program for Place {
    fn check(&mut self) -> Answer {
        let mut now = ids();
        // The root's parent is whoever restored it.
        if !self.zombies.is_empty() {
            now[1] = self.ids[1];
        }
        same("pid, parent, group, session", &now, &self.ids)?;
        for (pid, code) in &self.zombies {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
            let should = if *code < 0 {
                WaitStatus::Signaled(*pid, Signal::SIGKILL, false)
            } else {
                WaitStatus::Exited(*pid, *code)
            };
            same("a zombie", &waitid(Id::Pid(*pid), flags), &Ok(should))?;
            same(
                "session of a zombie",
                &getsid(Some(*pid)).map(Pid::as_raw),
                &Ok(self.ids[3]),
            )?;
        }
        if let Some((leader, _)) = self.zombies.last() {
            same("group of a zombie", &getpgid(Some(*leader)), &Ok(*leader))?;
        }
        if let Some(pid) = self.stopped {
            same("state of the stopped child", &state(pid), &'T')?;
        }
        Ok(format!("{:?}", self.ids))
    }

    /// `continue`: the stopped child goes on; `stop`: it stops again.
    fn command(&mut self, words: &[&str]) -> Answer {
        let pid = self.stopped.ok_or("no child is stopped here")?;
        let signal = if words == ["continue"] {
            Signal::SIGCONT
        } else {
            Signal::SIGSTOP
        };
        kill(pid, signal).map_err(|e| e.to_string())?;
        while (state(pid) == 'T') == (signal == Signal::SIGCONT) {
            std::thread::yield_now();
        }
        Ok(String::new())
    }
}
