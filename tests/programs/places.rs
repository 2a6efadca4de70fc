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
    /// Read in part.
    status: File,
    memory: File,
    score: File,
    numbers: File,
    /// What each descriptor leads to, with its flags.
    all: Vec<File>,
    expected: Vec<String>,
    pid: u32,
    state: String,
}

/// Builds it and serves; the child at the desk `child`. Argument `modest`: without what CRIU cannot.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let dir = desk.dir().to_owned();
    let sleeper = child(|| sleep_for_ever());
    let pid = std::process::id();
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
        // CRIU writes a byte too many of its name.
        all.push(File::open("/proc/self").unwrap());
    }
    all.push(File::open(format!("/proc/self/task/{pid}/comm")).unwrap());
    all.push(File::open("/proc/net/dev").unwrap());
    let mut state = Places {
        maps: File::open("/proc/self/maps").unwrap(),
        status: File::open(format!("/proc/{sleeper}/status")).unwrap(),
        memory: File::open("/proc/self/mem").unwrap(),
        score: File::options()
            .read(true)
            .write(true)
            .open("/proc/self/oom_score_adj")
            .unwrap(),
        numbers: File::open("/proc/self/fd").unwrap(),
        all,
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
        let files = own.into_iter().chain(&self.all);
        let seen = files.map(|file| {
            let number = file.as_raw_fd();
            let link = fs::read_link(format!("/proc/self/fd/{number}")).unwrap();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let known = ["pos:", "flags:"];
            let lines = text
                .lines()
                .filter(|line| known.iter().any(|k| line.starts_with(k)));
            format!("{number} {} {}", link.display(), lines.collect::<String>())
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
        let of = format!("/proc/{}/oom_score_adj", self.pid);
        let now = fs::read_to_string(of).map_err(text)?;
        same("score", &score.as_str(), &now.trim())?;
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
