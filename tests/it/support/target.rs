//! A specimen that runs inside the sandbox, and questions to it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::wait::wait_until;

/// One process tree of ours.
#[derive(Debug)]
pub struct Target {
    dir: PathBuf,
    /// Pid of its root, inside.
    pub pid: i32,
    proc: PathBuf,
    asked: AtomicU32,
}

impl Target {
    /// Waits until it is ready.
    pub fn new(dir: PathBuf, pid: i32, proc: PathBuf) -> Self {
        let target = Self {
            dir,
            pid,
            proc,
            asked: AtomicU32::new(0),
        };
        let said = wait_until("the specimen is ready", || {
            assert!(target.proc(pid, "").exists(), "it died: {}", target.log());
            fs::read_to_string(target.dir.join("main.ready")).ok()
        });
        assert_eq!(said, pid.to_string());
        target
    }

    /// One that is ready, whose pid is not what it takes itself for.
    pub fn apart(dir: PathBuf, pid: i32, proc: PathBuf) -> Self {
        Self {
            dir,
            ..Self::silent(pid, proc)
        }
    }

    /// The tree of a program that is no specimen: nothing can be asked.
    pub fn silent(pid: i32, proc: PathBuf) -> Self {
        Self {
            dir: PathBuf::new(),
            pid,
            proc,
            asked: AtomicU32::new(0),
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default()
    }

    /// `/proc/PID/…` as seen inside.
    pub fn proc(&self, pid: i32, path: &str) -> PathBuf {
        self.proc.join(pid.to_string()).join(path)
    }

    /// Sends a question to the process at a desk; its number.
    pub fn tell(&self, desk: &str, words: &str) -> u32 {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let path = self.dir.join(format!("{desk}.ask"));
        // Fails as long as nobody has it open for reading.
        let mut fifo = wait_until(&format!("{desk} listens"), || {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK);
            options.open(&path).ok()
        });
        fifo.write_all(format!("{number} {words}\n").as_bytes())
            .unwrap();
        number
    }

    /// Asks the process at a desk; what it says after `ok`.
    #[track_caller]
    pub fn ask_at(&self, desk: &str, words: &str) -> String {
        let number = self.tell(desk, words);
        let path = self.dir.join(format!("{desk}.{number}"));
        let answer = wait_until(&format!("{desk} answers {words}"), || {
            fs::read_to_string(&path).ok()
        });
        fs::remove_file(&path).unwrap();
        match answer.strip_prefix("ok") {
            Some(text) => text.trim().to_owned(),
            None => panic!("{desk} of {}: {words}: {answer}", self.dir.display()),
        }
    }

    /// Asks the root.
    #[track_caller]
    pub fn ask(&self, words: &str) -> String {
        self.ask_at("main", words)
    }

    /// Everything is as it should be, says the root.
    #[track_caller]
    pub fn check(&self) -> String {
        self.ask("check")
    }

    /// Pids of the whole tree, parents first.
    pub fn members(&self) -> Vec<i32> {
        let mut found = vec![self.pid];
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            next += 1;
            for tid in self.threads(pid) {
                let path = self.proc(pid, &format!("task/{tid}/children"));
                let children = fs::read_to_string(path).unwrap_or_default();
                found.extend(
                    children
                        .split_whitespace()
                        .map(|c| c.parse::<i32>().unwrap()),
                );
            }
        }
        found
    }

    /// Tids of one process, ascending.
    pub fn threads(&self, pid: i32) -> Vec<i32> {
        let Ok(entries) = fs::read_dir(self.proc(pid, "task")) else {
            return Vec::new();
        };
        let name = |e: fs::DirEntry| e.file_name().to_str().and_then(|n| n.parse().ok());
        let mut tids: Vec<i32> = entries.filter_map(|e| name(e.ok()?)).collect();
        tids.sort_unstable();
        tids
    }

    /// State letter of a process (proc_pid_stat(5)).
    pub fn state(&self, pid: i32) -> Option<char> {
        let stat = fs::read_to_string(self.proc(pid, "stat")).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// Processes of the tree that are stopped by a signal.
    pub fn stopped(&self) -> Vec<i32> {
        let mut pids = self.members();
        pids.retain(|pid| self.state(*pid) == Some('T'));
        pids
    }

    /// Waits until these processes are stopped again: CRIU does not wait until they have taken the
    /// signal that stops them.
    pub fn wait_for_stops(&self, pids: &[i32]) {
        wait_until("what was stopped is", || {
            let stops = |pid: &i32| self.state(*pid) == Some('T');
            pids.iter().all(stops).then_some(())
        });
    }

    /// Waits until every thread of the tree is stopped by a signal.
    pub fn wait_stopped(&self) {
        wait_until("all threads are stopped", || {
            let stopped = |pid: i32| {
                self.threads(pid).into_iter().all(|tid| {
                    let status = self.proc(pid, &format!("task/{tid}/status"));
                    let status = fs::read_to_string(status).unwrap_or_default();
                    status.contains("State:\tT")
                })
            };
            self.members().into_iter().all(stopped).then_some(())
        });
    }

    /// Waits until no thread of the tree is traced, as when a tracer has just died.
    pub fn wait_running(&self) {
        wait_until("nothing is traced any more", || {
            let traced = |pid: i32| {
                self.threads(pid).into_iter().any(|tid| {
                    let status = self.proc(pid, &format!("task/{tid}/status"));
                    let status = fs::read_to_string(status).unwrap_or_default();
                    !status.contains("TracerPid:\t0\n") || status.contains("State:\tt")
                })
            };
            (!self.members().into_iter().any(traced)).then_some(())
        });
    }

    /// Whether the root lives and is content (true) or turns out to be gone (false).
    pub fn check_unless_gone(&self) -> bool {
        let question = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = self.dir.join(format!("main.{question}"));
        let mut told = false;
        wait_until("the root answers or is gone", || {
            if !self.proc(self.pid, "").exists() {
                return Some(false);
            }
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_NONBLOCK);
            let fifo = options.open(self.dir.join("main.ask"));
            if let (false, Ok(mut fifo)) = (told, fifo) {
                fifo.write_all(format!("{question} check\n").as_bytes())
                    .unwrap();
                told = true;
            }
            let text = fs::read_to_string(&answer).ok()?;
            assert!(text.starts_with("ok"), "{text}");
            Some(true)
        })
    }

    /// No process of the tree is traced or stopped.
    #[track_caller]
    pub fn runs(&self) {
        for pid in self.members() {
            for tid in self.threads(pid) {
                let path = self.proc(pid, &format!("task/{tid}/status"));
                let status = fs::read_to_string(path).unwrap_or_default();
                assert!(
                    status.contains("TracerPid:\t0\n"),
                    "{tid} is traced: {status}"
                );
                assert!(!status.contains("State:\tt"), "{tid} is stopped: {status}");
            }
        }
    }
}
