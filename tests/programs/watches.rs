//! inotify: watches on a directory (also the working directory), a file, once only; with gaps in their
//! numbers; the instance is shared with a child.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, child, owned, unread};

struct Watching {
    instance: File,
    dir: PathBuf,
    /// Number of the watch on the directory, and of the one that each state makes anew.
    directory: i64,
    moving: i64,
    expected: Vec<String>,
    state: String,
}

/// Builds it and serves; the child at the desk `child`. Argument `modest`: without what CRIU forgets.
pub fn run(mut desk: Desk, args: &[String]) {
    let dir = desk.dir().join("watched");
    fs::create_dir(&dir).unwrap();
    for name in ["once", "file"] {
        fs::write(desk.dir().join(name), "contents").unwrap();
    }
    let flags = libc::IN_NONBLOCK | libc::IN_CLOEXEC;
    let made = call(libc::SYS_inotify_init1, [flags as u64, 0, 0, 0, 0, 0]);
    let mut state = Watching {
        instance: File::from(owned(made.unwrap())),
        directory: 0,
        moving: 0,
        expected: Vec::new(),
        state: "0".to_owned(),
        dir,
    };
    let modest = args.iter().any(|a| a == "modest");
    let once = libc::IN_MODIFY | if modest { 0 } else { libc::IN_ONESHOT };
    state.add(&desk.dir().join("once"), once);
    for _ in 0..3 {
        let gap = state.add(&desk.dir().join("file"), libc::IN_ACCESS);
        state.remove(gap);
    }
    std::env::set_current_dir(&state.dir).unwrap();
    state.directory = state.add(&state.dir, libc::IN_ALL_EVENTS);
    state.moving = state.add(&desk.dir().join("file"), libc::IN_ATTRIB);
    state.expected = state.seen();
    child(|| desk.beside("child").serve(&mut state));
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Watching {
    fn add(&self, path: &Path, mask: u32) -> i64 {
        let name = [path.as_os_str().as_bytes(), b"\0"].concat();
        let instance = self.instance.as_raw_fd().cast_unsigned().into();
        let address = name.as_ptr().expose_provenance() as u64;
        let args = [instance, address, mask.into(), 0, 0, 0];
        call(libc::SYS_inotify_add_watch, args).unwrap()
    }

    fn remove(&mut self, number: i64) {
        let instance = self.instance.as_raw_fd().cast_unsigned().into();
        let args = [instance, number.cast_unsigned(), 0, 0, 0, 0];
        call(libc::SYS_inotify_rm_watch, args).unwrap();
        assert_eq!(self.events(), [(number, libc::IN_IGNORED, String::new())]);
    }

    /// What fdinfo shows of the watches.
    fn seen(&self) -> Vec<String> {
        let number = self.instance.as_raw_fd();
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("inotify"));
        let mut lines: Vec<String> = lines.map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Reads what waits: number, what happened, name.
    fn events(&mut self) -> Vec<(i64, u32, String)> {
        let mut bytes = vec![0; unread(&self.instance)];
        if !bytes.is_empty() {
            self.instance.read_exact(&mut bytes).unwrap();
        }
        let mut events = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((head, more)) = rest.split_first_chunk::<16>() {
            let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
            let (name, after) = more.split_at(word(12) as usize);
            let name = String::from_utf8_lossy(name);
            let name = name.trim_end_matches('\0').to_owned();
            events.push((word(0).into(), word(4), name));
            rest = after;
        }
        events
    }
}

impl Program for Watching {
    fn check(&mut self) -> Answer {
        same("events that nobody caused", &self.events(), &Vec::new())?;
        same("watches", &self.seen(), &self.expected)?;
        same("number of watches", &self.expected.len(), &3)?;
        let made = self.dir.join("made");
        fs::create_dir(&made).map_err(|e| e.to_string())?;
        fs::remove_dir(&made).map_err(|e| e.to_string())?;
        let event = |what| (self.directory, what | libc::IN_ISDIR, "made".to_owned());
        let expected = vec![event(libc::IN_CREATE), event(libc::IN_DELETE)];
        same("events", &self.events(), &expected)?;
        Ok(self.state.clone())
    }

    /// `write N` makes a watch anew; `expect N` after the parent did; `leave` causes an event and does
    /// not read it.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["write", state] => {
                self.remove(self.moving);
                let file = self.dir.with_file_name("file");
                self.moving = self.add(&file, libc::IN_ATTRIB | libc::IN_EXCL_UNLINK);
                (self.state, self.expected) = ((*state).to_owned(), self.seen());
                Ok(self.moving.to_string())
            }
            ["expect", state] => {
                (self.state, self.expected) = ((*state).to_owned(), self.seen());
                Ok(String::new())
            }
            ["leave"] => {
                fs::create_dir(self.dir.join("left")).map_err(|e| e.to_string())?;
                Ok(String::new())
            }
            _ => Err("write N | expect N | leave".into()),
        }
    }
}
