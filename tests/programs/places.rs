//! Files of its own processes below /proc, and places only (`O_PATH`) of every type; shared with a child.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{child, sleep_for_ever};

struct Places {
    maps: File,
    /// Of the sleeper, read in part.
    status: File,
    sleeper: i32,
    memory: File,
    score: File,
    numbers: File,
    /// What each descriptor leads to, with its flags.
    all: Vec<File>,
    expected: Vec<String>,
    /// This process as a directory, and `/proc`.
    directories: Vec<File>,
    pid: i32,
    state: String,
}

/// Builds it and serves; the child at the desk `child`. Argument `modest`: without what CRIU cannot.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let dir = desk.dir().to_owned();
    let sleeper = child(|| sleep_for_ever()).as_raw();
    let pid = std::process::id().cast_signed();
    fs::write(dir.join("file"), "contents").unwrap();
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    drop(UnixListener::bind(dir.join("socket")).unwrap());
    let place = |path: PathBuf, flags: i32| {
        let flags = libc::O_PATH | flags;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        file.unwrap()
    };
    let mut all = vec![
        place(dir.join("file"), 0),
        place(dir.clone(), if modest { 0 } else { libc::O_DIRECTORY }),
        place("/dev/null".into(), 0),
    ];
    if !modest {
        all.push(place(dir.join("link"), libc::O_NOFOLLOW));
        all.push(place(dir.join("fifo"), 0));
        all.push(place(dir.join("socket"), 0));
        all.push(place("/proc/self/exe".into(), libc::O_NOFOLLOW));
        all.push(File::open("/proc/meminfo").unwrap());
    }
    all.push(File::open("/proc/thread-self/comm").unwrap());
    all.push(File::open("/proc/net/dev").unwrap());
    // CRIU writes a byte too many of their names.
    let directories = ["/proc/self", "/proc"].into_iter().filter(|_| !modest);
    let mut state = Places {
        maps: File::open("/proc/self/maps").unwrap(),
        status: File::open(format!("/proc/{}/status", shown(sleeper))).unwrap(),
        sleeper,
        memory: File::open("/proc/self/mem").unwrap(),
        score: File::options()
            .read(true)
            .write(true)
            .open("/proc/self/oom_score_adj")
            .unwrap(),
        numbers: File::open("/proc/self/fd").unwrap(),
        all,
        directories: directories.map(|path| File::open(path).unwrap()).collect(),
        expected: Vec::new(),
        pid,
        state: "0".to_owned(),
    };
    let mut head = [0; 8];
    state.status.read_exact(&mut head).unwrap();
    state.expected = state.seen();
    child(|| desk.beside("child").serve(&mut state));
    desk.wait_for("child");
    desk.serve(&mut state);
}

/// The id in its own pid namespace, of `/proc/PID/status`.
fn innermost(status: &str) -> Option<i32> {
    let ids = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last()?.parse().ok()
}

/// What a process of our pid namespace is called in `/proc`, which may be that of another one.
fn shown(pid: i32) -> i32 {
    let space = |of: &str| fs::read_link(format!("/proc/{of}/ns/pid")).ok();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_it = |name: &String| {
        let status = fs::read_to_string(format!("/proc/{name}/status")).unwrap_or_default();
        name.parse::<i32>().is_ok()
            && innermost(&status) == Some(pid)
            && space(name) == space("self")
    };
    names.into_iter().find(is_it).unwrap().parse().unwrap()
}

/// A path below `/proc` with the id that the process has in its own pid namespace.
fn named(path: &str) -> String {
    let Some((shown, rest)) = path
        .strip_prefix("/proc/")
        .map(|path| path.split_once('/').unwrap_or((path, "")))
    else {
        return path.to_owned();
    };
    let status = fs::read_to_string(format!("/proc/{shown}/status")).unwrap_or_default();
    match (shown.parse::<i32>(), innermost(&status)) {
        (Ok(_), Some(pid)) => format!(
            "/proc/{pid}/{}",
            rest.replace(&format!("task/{shown}"), &format!("task/{pid}"))
        ),
        _ => path.to_owned(),
    }
}

impl Places {
    /// Where each descriptor leads, and its offset and flags.
    fn seen(&self) -> Vec<String> {
        let own = [
            &self.maps,
            &self.status,
            &self.memory,
            &self.score,
            &self.numbers,
        ];
        let files = own.into_iter().chain(&self.all).chain(&self.directories);
        let seen = files.map(|file| {
            let number = file.as_raw_fd();
            let link = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let known = ["pos:", "flags:"];
            let lines = text
                .lines()
                .filter(|line| known.iter().any(|k| line.starts_with(k)));
            let link = named(&link.to_string_lossy());
            format!("{number} {link} {}", lines.collect::<String>())
        });
        seen.collect()
    }
}

impl Program for Places {
    fn check(&mut self) -> Answer {
        let text = |e: std::io::Error| e.to_string();
        same("places", &self.seen(), &self.expected)?;
        let mut maps = String::new();
        self.maps.rewind().map_err(text)?;
        self.maps.read_to_string(&mut maps).map_err(text)?;
        self.maps.rewind().map_err(text)?;
        same("the stack is mapped", &maps.contains("[stack]"), &true)?;
        // Both processes have the parent's memory open: a constant is the same in both.
        static WORD: u64 = 0x1234_5678_9abc_def0;
        let mut bytes = [0; 8];
        let address = (&raw const WORD).expose_provenance() as u64;
        self.memory
            .read_exact_at(&mut bytes, address)
            .map_err(text)?;
        same("memory", &u64::from_le_bytes(bytes), &WORD)?;
        let mut score = [0; 16];
        let count = self.score.read_at(&mut score, 0).map_err(text)?;
        let score = String::from_utf8_lossy(&score[..count]).trim().to_owned();
        let of = format!("/proc/{}/oom_score_adj", shown(self.pid));
        let now = fs::read_to_string(of).map_err(text)?;
        same("score", &score.as_str(), &now.trim())?;
        let mut status = [0; 1024];
        let count = self.status.read_at(&mut status, 0).map_err(text)?;
        let status = String::from_utf8_lossy(&status[..count]).into_owned();
        same("the sleeper", &innermost(&status), &Some(self.sleeper))?;
        for (file, within) in self.directories.iter().zip(["", "/self"]) {
            let path = format!("/proc/self/fd/{}{within}/status", file.as_raw_fd());
            let status = fs::read_to_string(&path).map_err(text)?;
            // `/proc/self` is who looks.
            let who = if within.is_empty() {
                self.pid
            } else {
                std::process::id().cast_signed()
            };
            same(&path, &innermost(&status), &Some(who))?;
        }
        Ok(self.state.clone())
    }

    /// `write N` opens one more file of its own; `expect N` after the parent did.
    fn command(&mut self, words: &[&str]) -> Answer {
        let ["write" | "expect", state] = words else {
            return Err("write N | expect N".into());
        };
        if words[0] == "write" {
            self.all
                .push(File::open("/proc/self/limits").map_err(|e| e.to_string())?);
        }
        (self.state, self.expected) = ((*state).to_owned(), self.seen());
        Ok(String::new())
    }
}
