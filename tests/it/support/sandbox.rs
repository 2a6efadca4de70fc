//! A pid namespace of its own for one test, with `specimen reaper` as init: pids never collide, and
//! when the test ends, in whichever way, everything in it dies.
//!
//! unshare(1) makes it; icecore and criu run inside by nsenter(1), as they would beside the target.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::needs::criu;
use super::target::Target;
use super::wait::wait_until;

/// Programs of util-linux and coreutils.
#[derive(Debug)]
pub struct Tools;

impl Tools {
    /// That they are there.
    pub fn check() -> Result<(), String> {
        for tool in ["unshare", "nsenter", "setsid", "env"] {
            let found = Command::new(tool).arg("--version").output();
            if !found.is_ok_and(|o| o.status.success()) {
                return Err(format!("{tool} is missing (util-linux, coreutils)"));
            }
        }
        Ok(())
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Run {
    /// Its exit code; 128 and the signal when it was killed.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    /// The same, when it succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(
            self.code == 0,
            "exit code {}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The same, when it failed with `code`.
    #[track_caller]
    pub fn fails(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {} instead of {code}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }
}

/// The namespace and the directory of one test.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    unshare: Child,
    /// Pid of init, as seen from outside.
    init: u32,
    /// It has a network of its own.
    apart: bool,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    runs: AtomicU32,
}

impl Sandbox {
    /// An empty one.
    pub fn new() -> Self {
        Self::make(false)
    }

    /// One that also has a network of its own: the loopback interface, which is up, and sockets that
    /// ping are allowed.
    pub fn with_network() -> Self {
        let sandbox = Self::make(true);
        let script = "ip link set lo up && \
                      echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range";
        sandbox.sh(script);
        sandbox
    }

    fn make(apart: bool) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("icecore-test-")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        let mut unshare = Command::new("unshare")
            .args(["--pid", "--mount", "--fork", "--kill-child", "--mount-proc"])
            .args(apart.then_some("--net"))
            .args([env!("CARGO_BIN_EXE_specimen"), "reaper"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = unshare.stdin.take();
        let mut replies = BufReader::new(unshare.stdout.take().unwrap());
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        let id = unshare.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        let init = children.trim().parse().unwrap();
        Self {
            dir,
            unshare,
            init,
            apart,
            requests,
            replies,
            runs: AtomicU32::new(0),
        }
    }

    /// A path in the directory of the test; the same inside and outside.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `/proc` as processes inside see it.
    pub fn proc(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc/{path}", self.init))
    }

    /// Starts a program inside, as leader of a session, its output in the file `log`; its pid.
    pub fn start(&mut self, log: &str, program: &[&str]) -> i32 {
        let request = format!("{}\t{}\n", self.path(log).display(), program.join("\t"));
        let requests = self.requests.as_mut().unwrap();
        requests.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Starts a specimen in a directory of its own and waits until it has built its state.
    pub fn specimen(&mut self, kind: &str, args: &[&str]) -> Target {
        self.specimen_with(&[], kind, args)
    }

    /// The same, with environment variables `NAME=VALUE`.
    pub fn specimen_with(&mut self, variables: &[&str], kind: &str, args: &[&str]) -> Target {
        let dir = self.path(kind);
        fs::create_dir(&dir).unwrap();
        let specimen = env!("CARGO_BIN_EXE_specimen");
        let dir_text = dir.to_str().unwrap();
        let mut program = vec!["env"];
        program.extend_from_slice(variables);
        program.extend_from_slice(&[specimen, kind, dir_text]);
        program.extend_from_slice(args);
        let pid = self.start(&format!("{kind}.log"), &program);
        Target::new(dir, pid, self.proc(""))
    }

    /// Starts a specimen as first process of namespaces that `unshare` with these options makes.
    pub fn specimen_apart(&mut self, options: &[&str], kind: &str, args: &[&str]) -> Target {
        let dir = self.path(kind);
        fs::create_dir(&dir).unwrap();
        let mut program = vec!["unshare", "--fork"];
        program.extend_from_slice(options);
        program.extend_from_slice(&["setsid", env!("CARGO_BIN_EXE_specimen"), kind]);
        program.push(dir.to_str().unwrap());
        program.extend_from_slice(args);
        let starter = self.start(&format!("{kind}.log"), &program);
        let ready = dir.join("main.ready");
        wait_until("the specimen is ready", || ready.exists().then_some(()));
        let children = self.proc(&format!("{starter}/task/{starter}/children"));
        let children = fs::read_to_string(children).unwrap();
        Target::apart(dir, children.trim().parse().unwrap(), self.proc(""))
    }

    /// What runs a command inside, in the directory of the test: the words before the command.
    pub fn inside(&self) -> Vec<String> {
        let init = self.init.to_string();
        let mut words: Vec<String> = ["nsenter", "--target", &init, "--pid", "--mount"]
            .map(str::to_owned)
            .into();
        words.extend(self.apart.then(|| "--net".to_owned()));
        words.push("env".to_owned());
        words.push(format!("--chdir={}", self.dir.path().display()));
        words.push(format!(
            "ICECORE_RUNTIME_DIR={}",
            self.path("run").display()
        ));
        words
    }

    /// Runs a command inside, in the directory of the test.
    pub fn run(&self, program: &str, args: &[&str]) -> Run {
        let number = self.runs.fetch_add(1, Ordering::SeqCst);
        // Into files: what a command leaves behind may hold its standard output open.
        let (out, err) = (format!("{number}.out"), format!("{number}.err"));
        let inside = self.inside();
        let mut child = Command::new(&inside[0])
            .args(&inside[1..])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(self.path(&out)).unwrap())
            .stderr(File::create(self.path(&err)).unwrap())
            .spawn()
            .unwrap();
        let status = wait_until(&format!("{program} {args:?} ends"), || {
            child.try_wait().unwrap()
        });
        let text = |name: &str| fs::read(self.path(name)).unwrap();
        Run {
            code: status.code().unwrap_or_else(|| {
                128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)
            }),
            stdout: String::from_utf8_lossy(&text(&out)).into_owned(),
            stderr: String::from_utf8_lossy(&text(&err)).into_owned(),
        }
    }

    /// Runs a script inside, which must succeed; what it says.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run("sh", &["-c", script]).ok().stdout
    }

    /// Runs icecore inside; `words` are split at spaces.
    pub fn icecore(&self, words: &str) -> Run {
        let args: Vec<&str> = words.split_whitespace().collect();
        self.run(env!("CARGO_BIN_EXE_icecore"), &args)
    }

    /// Runs criu inside; `words` are split at spaces.
    pub fn criu(&self, words: &str) -> Run {
        self.criu_in(&criu().unwrap(), words)
    }

    /// The same with the CRIU in the root directory `root`.
    pub fn criu_in(&self, root: &Path, words: &str) -> Run {
        let loader = root.join("lib64/ld-linux-x86-64.so.2");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let program = root.join("usr/sbin/criu");
        let mut args = vec!["--library-path", libraries.to_str().unwrap()];
        args.push(program.to_str().unwrap());
        args.extend(words.split_whitespace());
        self.run(loader.to_str().unwrap(), &args)
    }

    /// Decodes an image by crit, CRIU's own tool, in the Debian that CRIU is of.
    pub fn crit(&self, image: &Path) -> Run {
        let script = "exec chroot \"$0\" /usr/bin/crit decode < \"$1\"";
        let root = criu().unwrap();
        self.run(
            "sh",
            &[
                "-c",
                script,
                root.to_str().unwrap(),
                image.to_str().unwrap(),
            ],
        )
    }

    /// Pid of a process inside, as seen from outside.
    pub fn outside(&self, pid: i32) -> i32 {
        let inside = |outside: &str| -> Option<i32> {
            let status = fs::read_to_string(format!("/proc/{outside}/status")).ok()?;
            let line = status.lines().find(|l| l.starts_with("NSpid:"))?;
            line.split_whitespace().nth(2)?.parse().ok()
        };
        let init = self.init;
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        let found = children
            .split_whitespace()
            .find(|child| inside(child) == Some(pid));
        found.unwrap().parse().unwrap()
    }

    /// True when there is such a process inside (a zombie counts).
    pub fn exists(&self, pid: i32) -> bool {
        self.proc(&pid.to_string()).exists()
    }

    /// Kills every process of a tree inside, and waits until their pids are free.
    pub fn kill(&self, target: &Target) {
        let members = target.members();
        for pid in &members {
            self.run("kill", &["-KILL", &pid.to_string()]);
        }
        self.wait_gone(&members);
    }

    /// Waits until init has reaped all of them.
    pub fn wait_gone(&self, pids: &[i32]) {
        wait_until("the pids are free", || {
            pids.iter().all(|pid| !self.exists(*pid)).then_some(())
        });
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // End of input: init ends, and the kernel kills the rest.
        drop(self.requests.take());
        drop(self.unshare.wait());
    }
}
