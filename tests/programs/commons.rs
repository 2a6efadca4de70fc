//! Processes that share descriptors, or directories and umask, without being threads of one.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nix::sys::stat::{Mode, umask};
use nix::unistd::Pid;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{child, child_with, sleep_for_ever};

/// A process, whether it has the descriptors of the root, and whether it has its directories.
type Other = (Pid, bool, bool);

struct Commons {
    others: Vec<Other>,
    /// Where all are, and where the root goes for a moment.
    places: [PathBuf; 2],
    /// Opened one by one.
    kept: Vec<File>,
    state: String,
}

/// Builds it and serves. Argument `modest`: nobody shares directories, which CRIU cannot.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let places = ["here", "there"].map(|name| desk.dir().join(name));
    for place in &places {
        fs::create_dir(place).unwrap();
    }
    std::env::set_current_dir(&places[0]).unwrap();
    let (files, fs) = (libc::CLONE_FILES, if modest { 0 } else { libc::CLONE_FS });
    let mut others = vec![(child(|| sleep_for_ever()), false, false)];
    for flags in [files, fs, files | fs] {
        let pid = child_with(flags | libc::SIGCHLD, || {
            // The root's descriptors come to this one by the way of its parent; the directories of that are
            // its own, or the root's.
            child_with(files | fs | libc::SIGCHLD, || sleep_for_ever());
            sleep_for_ever()
        });
        let both = (flags & files != 0, flags & fs != 0);
        others.extend([(pid, both.0, both.1), (only_child(pid), both.0, both.1)]);
    }
    desk.serve(&mut Commons {
        others,
        places,
        kept: Vec::new(),
        state: "0".to_owned(),
    });
}

/// Waits for the child of `pid`.
fn only_child(pid: Pid) -> Pid {
    loop {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        if let Some(child) = text.split_whitespace().next() {
            return Pid::from_raw(child.parse().unwrap());
        }
        std::thread::yield_now();
    }
}

impl Commons {
    /// Compares what the others see of this process with what they should.
    fn shared(
        &self,
        what: &str,
        shares: fn(&Other) -> bool,
        sees: &dyn Fn(Pid) -> bool,
    ) -> Result<(), String> {
        for other in &self.others {
            same(
                &format!("{what} of {}", other.0),
                &sees(other.0),
                &shares(other),
            )?;
        }
        Ok(())
    }
}

impl Program for Commons {
    fn check(&mut self) -> Answer {
        let text = |e: std::io::Error| e.to_string();
        let has = |pid, file: &File| {
            fs::symlink_metadata(format!("/proc/{pid}/fd/{}", file.as_raw_fd())).is_ok()
        };
        let new = File::open("/dev/null").map_err(text)?;
        for file in self.kept.iter().chain([&new]) {
            self.shared("a descriptor", |other| other.1, &|pid| has(pid, file))?;
        }
        std::env::set_current_dir(&self.places[1]).map_err(text)?;
        let old = umask(Mode::from_bits_truncate(0o137));
        let place = |pid| fs::read_link(format!("/proc/{pid}/cwd")).ok();
        let mask = |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"));
            status.is_ok_and(|text| text.contains("Umask:\t0137"))
        };
        let there = Some(self.places[1].clone());
        self.shared("the directory", |other| other.2, &|pid| place(pid) == there)?;
        self.shared("the umask", |other| other.2, &mask)?;
        umask(old);
        std::env::set_current_dir(&self.places[0]).map_err(text)?;
        let here = Some(self.places[0].clone());
        self.shared("the old directory", |_| true, &|pid| place(pid) == here)?;
        Ok(self.state.clone())
    }

    /// `write N` opens one more file.
    fn command(&mut self, words: &[&str]) -> Answer {
        let ["write", state] = words else {
            return Err("write N".into());
        };
        let file = File::open("/dev/zero").map_err(|e| e.to_string())?;
        self.kept.push(file);
        self.state = (*state).to_owned();
        Ok(String::new())
    }
}
