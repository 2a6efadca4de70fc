//! Descriptors of all namespaces that it is in, and of those that its children will be in; one only as
//! a place (`O_PATH`), one non-blocking; shared with a child.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::child;

struct Namespaces {
    /// By the name in `/proc/self/ns`.
    files: Vec<(String, File)>,
    /// Flags, and close-on-exec among them.
    flags: Vec<String>,
    state: String,
}

fn open(name: &str, flags: i32) -> (String, File) {
    let options = OpenOptions::new().read(true).custom_flags(flags).to_owned();
    let file = options.open(format!("/proc/self/ns/{name}")).unwrap();
    (name.to_owned(), file)
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, _: &[String]) {
    let mut files = Vec::new();
    let names = fs::read_dir("/proc/self/ns").unwrap().flatten();
    let names = names.map(|entry| entry.file_name().into_string().unwrap());
    for name in names {
        files.push(open(&name, 0));
    }
    files.push(open("uts", libc::O_PATH));
    files.push(open("net", libc::O_NONBLOCK));
    let keep = FcntlArg::F_SETFD(FdFlag::empty());
    fcntl(&files[0].1, keep).unwrap();
    let mut state = Namespaces {
        files,
        flags: Vec::new(),
        state: "0".to_owned(),
    };
    state.flags = state.flags();
    child(|| desk.beside("child").serve(&mut state));
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Namespaces {
    fn flags(&self) -> Vec<String> {
        let files = self.files.iter().map(|(name, file)| {
            let number = file.as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let flags = text.lines().find(|line| line.starts_with("flags:"));
            format!("{number} {name} {}", flags.unwrap_or_default())
        });
        files.collect()
    }
}

impl Program for Namespaces {
    fn check(&mut self) -> Answer {
        same("flags", &self.flags(), &self.flags)?;
        for (name, file) in &self.files {
            let there = fs::metadata(format!("/proc/self/ns/{name}"));
            let there = there.map_err(|e| e.to_string())?;
            let held = file.metadata().map_err(|e| e.to_string())?;
            let of = |file: &fs::Metadata| (file.dev(), file.ino());
            same(name, &of(&held), &of(&there))?;
        }
        Ok(self.state.clone())
    }

    /// `write N` opens one more; `expect N` after the parent did.
    fn command(&mut self, words: &[&str]) -> Answer {
        let ["write" | "expect", state] = words else {
            return Err("write N | expect N".into());
        };
        if words[0] == "write" {
            self.files.push(open("pid", 0));
        }
        (self.state, self.flags) = ((*state).to_owned(), self.flags());
        Ok(String::new())
    }
}
