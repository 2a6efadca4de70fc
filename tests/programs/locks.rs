//! Locks on files of every kind, some of them with descriptions that a child shares; the child also has
//! locks of its own in the same files, and one of its threads waits for a lock of ours.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, fcntl};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, child};

/// The byte that the child waits for.
const WANTED: i64 = 77;

struct Locks {
    /// Locked by flock(2), inherited by the child, at two numbers.
    whole: File,
    duplicate: File,
    /// POSIX locks: ours moves with each state.
    ranges: File,
    /// OFD locks, each with a description of its own; the second is the child's too.
    description: File,
    other: File,
    /// A lease.
    leased: File,
    /// Locks on something that is no regular file.
    directory: File,
    got: Arc<AtomicBool>,
    expected: Vec<String>,
    state: i64,
}

fn range(kind: i32, start: i64, len: i64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

fn posix(file: &File, kind: i32, start: i64, len: i64) {
    let range = range(kind, start, len);
    fcntl(file.as_fd(), FcntlArg::F_SETLK(&range)).unwrap();
}

fn ofd(file: &File, kind: i32, start: i64, len: i64) {
    let range = range(kind, start, len);
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&range)).unwrap();
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, _: &[String]) {
    let open = |name: &str| -> File {
        let path = desk.dir().join(name);
        fs::write(&path, "contents").unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    };
    let (whole, ranges, description) = (open("whole"), open("ranges"), open("description"));
    drop(open("leased"));
    let leased = File::open(desk.dir().join("leased")).unwrap();
    let fd = leased.as_raw_fd().try_into().unwrap();
    let [set, read] = [libc::F_SETLEASE, libc::F_RDLCK].map(|n| n as u64);
    call(libc::SYS_fcntl, [fd, set, read, 0, 0, 0]).unwrap();
    let mut locks = Locks {
        duplicate: whole.try_clone().unwrap(),
        other: File::options()
            .read(true)
            .write(true)
            .open(desk.dir().join("description"))
            .unwrap(),
        directory: File::open(desk.dir()).unwrap(),
        whole,
        ranges,
        description,
        leased,
        got: Arc::new(AtomicBool::new(false)),
        expected: Vec::new(),
        state: 0,
    };
    ofd(&locks.description, libc::F_WRLCK, 5, 0);
    ofd(&locks.other, libc::F_RDLCK, 0, 4);
    locks.directory.lock_shared().unwrap();
    posix(&locks.ranges, libc::F_WRLCK, WANTED, 1);
    locks.set(0);
    child(|| {
        posix(&locks.ranges, libc::F_RDLCK, 0, 50);
        posix(&locks.ranges, libc::F_WRLCK, 60, 10);
        locks.wait(desk.dir());
        locks.expected = locks.seen();
        desk.beside("child").serve(&mut locks);
    });
    desk.wait_for("child");
    desk.serve(&mut locks);
}

impl Locks {
    /// Our locks in state `state`.
    fn set(&mut self, state: i64) {
        if state % 2 == 0 {
            self.whole.lock().unwrap();
        } else {
            self.whole.lock_shared().unwrap();
        }
        posix(&self.ranges, libc::F_UNLCK, 100, 0);
        posix(&self.ranges, libc::F_WRLCK, 100 * (state + 1), 10);
        (self.state, self.expected) = (state, self.seen());
    }

    /// Starts a thread that waits for [`WANTED`].
    fn wait(&self, dir: &Path) {
        let file = self.ranges.try_clone().unwrap();
        let got = Arc::clone(&self.got);
        let dir = dir.to_owned();
        std::thread::spawn(move || {
            let range = range(libc::F_WRLCK, WANTED, 1);
            fcntl(file.as_fd(), FcntlArg::F_SETLKW(&range)).unwrap();
            got.store(true, Ordering::SeqCst);
            fs::write(dir.join("got"), "").unwrap();
            loop {
                std::thread::park();
            }
        });
    }

    /// The locks that each descriptor shows, without their ordinals and who asked for them.
    fn seen(&self) -> Vec<String> {
        let files = [
            &self.whole,
            &self.duplicate,
            &self.ranges,
            &self.description,
            &self.other,
            &self.leased,
            &self.directory,
        ];
        let mut seen = Vec::new();
        for file in files {
            let number = file.as_raw_fd();
            let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let mut locks: Vec<String> = text
                .lines()
                .filter_map(|line| line.strip_prefix("lock:"))
                .map(|line| {
                    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
                    let [class, mode, kind, _, rest @ ..] = words.as_slice() else {
                        return line.to_owned();
                    };
                    format!("{number} {class} {mode} {kind} {}", rest.join(" "))
                })
                .collect();
            locks.sort();
            seen.extend(locks);
        }
        seen
    }
}

impl Program for Locks {
    fn check(&mut self) -> Answer {
        same("locks", &self.seen(), &self.expected)?;
        same("number of locks", &self.expected.len(), &8)?;
        same(
            "the waiter got it",
            &self.got.load(Ordering::SeqCst),
            &false,
        )?;
        Ok(self.state.to_string())
    }

    /// `write N` takes other locks; `expect N` after the parent did; `release` gives the waiter what it
    /// waits for.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["write", state] => {
                self.set(state.parse().map_err(|_| "not a number")?);
                Ok(String::new())
            }
            ["expect", state] => {
                self.state = state.parse().map_err(|_| "not a number")?;
                self.expected = self.seen();
                Ok(String::new())
            }
            ["release"] => {
                posix(&self.ranges, libc::F_UNLCK, WANTED, 1);
                Ok(String::new())
            }
            _ => Err("write N | expect N | release".into()),
        }
    }
}
