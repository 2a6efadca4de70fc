//! `restore --new-pid-namespace`: the tree gets its ids in a pid namespace of its own, whoever has them
//! outside (pid_namespaces(7)).
//!
//! ```text
//!   restore --new-pid-namespace    makes the namespace, tells the ids outside, waits
//!     └ first-process              id 1 inside: a /proc of its own, waits for orphans, ends with the root
//!         ├ restore -d             an ordinary restore
//!         └ the tree
//! ```
//!
//! The first process has nothing but its program and `/dev/null`, so that the whole namespace can be dumped:
//! the next layer of the tree is one of the first process.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use icecore::restore::Plan;
use icecore::sys::descriptor::close_on_exec_from;
use icecore::{Error, Kind, Pid, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::waitpid;
use serde_json::{Value, json};

use super::{Args, CpuCap, code_of};
use crate::cli::output::output;
use crate::cli::{line, ourselves};
use crate::{error, format};

/// Ids of our own inside begin here, if the tree leaves the room: the first 300 are never given twice.
const LOWEST: i32 = 300;

/// Restores, and waits for the root unless it is to be detached.
pub(super) fn run(args: &Args, plan: &Plan) -> Result<ExitCode> {
    let ids: Vec<i32> = plan.ids().map(Pid::as_raw).collect();
    if ids.contains(&1) {
        let what = "The layer has a pid namespace of its own already";
        return Err(Error::new(Kind::Usage, what).hint("leave --new-pid-namespace out"));
    }
    let mut first = start(args, room(ids))?;
    let mut text = String::new();
    let stdout = first.stdout.as_mut();
    // It closes its end when the tree runs, or when there will be none.
    let read = stdout.map_or(Ok(0), |stdout| stdout.read_to_string(&mut text));
    read.map_err(|e| Error::io("Cannot hear from the first process of the namespace", e))?;
    let Ok(mut told) = serde_json::from_str::<Value>(&text) else {
        // A plan, or nothing but errors, which were told.
        print(&text)?;
        return wait(&mut first);
    };
    if args.dry_run {
        print(&text)?;
        return wait(&mut first);
    }
    if let Some(error) = error::of_json(&text) {
        wait(&mut first)?;
        return Err(error);
    }
    let outside = Pid::from_raw(first.id().cast_signed());
    // It may have ended already.
    let root = child_of(outside);
    if let (Some(path), Some(root)) = (&args.pidfile, root) {
        fs::write(path, format!("{root}\n")).map_err(|e| Error::path("write", path, e))?;
    }
    let inside = told["root"].take();
    told["root"] = json!(root.map(Pid::as_raw));
    told["root_inside"] = inside;
    told["first_process"] = json!(outside.as_raw());
    line(&if args.json {
        told.to_string()
    } else {
        as_text(&told)
    })?;
    match args.restore_detached {
        true => Ok(ExitCode::SUCCESS),
        false => wait(&mut first),
    }
}

/// Where task ids are free for what restores the tree: the start of the longest stretch without one of `ids`.
fn room(mut ids: Vec<i32>) -> i32 {
    let limit = fs::read_to_string("/proc/sys/kernel/pid_max");
    let limit = limit.ok().and_then(|text| text.trim().parse().ok());
    ids.extend([LOWEST, limit.unwrap_or(1 << 15)]);
    ids.sort_unstable();
    let gaps = ids.iter().zip(ids.iter().skip(1));
    let longest = gaps.max_by_key(|(from, to)| **to - **from);
    longest.map_or(LOWEST, |(from, _)| *from)
}

/// Starts the first process of a new namespace.
fn start(args: &Args, room: i32) -> Result<Child> {
    let program = ourselves()?;
    // What a terminal or shell left open for us would be in the way of a dump.
    close_on_exec_from(3).map_err(|e| Error::os("Cannot keep descriptors from the tree", e))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(|e| {
        Error::os("Cannot make a pid namespace", e)
            .hint("run it as root, or in a user namespace (unshare -r)")
    })?;
    Command::new(&program)
        .args(["first-process", "--ids-from", &room.to_string(), "--"])
        .args(args.words_inside())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| Error::path("start", &program, e))
}

impl Args {
    /// The options of the restore inside.
    fn words_inside(&self) -> Vec<String> {
        let dir = self.images_dir.to_string_lossy().into_owned();
        let mut words = vec!["restore".to_owned(), "--images-dir".to_owned(), dir];
        let switches = [
            (self.with_files, "--with-files"),
            // Who has not agreed would have been asked before.
            (self.with_files, "--yes"),
            (self.cpu_cap == CpuCap::None, "--cpu-cap=none"),
            (self.dry_run, "--dry-run"),
            // Figures are read from it, a plan is passed on as it is.
            (self.json || !self.dry_run, "--json"),
            // What tracks it would be inside with it: a dump of the namespace could not do without.
            (true, "--no-track-mem"),
            (true, "--restore-detached"),
        ];
        let given = switches.into_iter().filter(|(given, _)| *given);
        words.extend(given.map(|(_, word)| word.to_owned()));
        words.extend(self.tcp.words().map(str::to_owned));
        words
    }
}

/// The oldest child.
fn child_of(pid: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let child = children.split_whitespace().next()?;
    child.parse().ok().map(Pid::from_raw)
}

fn wait(first: &mut Child) -> Result<ExitCode> {
    let ended = first.wait();
    let status = ended.map_err(|e| Error::io("Cannot wait for the restored tree", e))?;
    Ok(ExitCode::from(code(status)))
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.unwrap_or(1)
}

fn print(text: &str) -> Result<()> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(output)
}

/// Passes on what was said to a terminal or a log; where that is closed, nobody wants it.
fn eprint(text: &str) {
    let _closed = std::io::stderr().write_all(text.as_bytes());
}

fn as_text(told: &Value) -> String {
    let number = |name: &str| told[name].as_u64().unwrap_or_default();
    let root = told["root"].as_u64();
    let mut text = format!(
        "process {} runs again in a pid namespace of its own, as {} there, below process {}: {}, {}, {} filled in",
        root.map_or_else(|| "(ended)".to_owned(), |root| root.to_string()),
        number("root_inside"),
        number("first_process"),
        format::count(number("tasks"), "task"),
        format::count(number("threads"), "thread"),
        format::count(number("pages"), "page"),
    );
    for warning in told["warnings"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "\nwarning: {}",
            warning.as_str().unwrap_or_default()
        ));
    }
    text
}

/// Options of `first-process`.
#[derive(Debug, clap::Args)]
pub(crate) struct FirstArgs {
    /// Task ids of our own are above this one
    #[arg(long, value_name = "ID")]
    ids_from: i32,
    /// The restore
    #[arg(last = true)]
    words: Vec<String>,
}

/// The first process of the namespace: restores the tree and is its init until the root ends.
pub(crate) fn first(args: &FirstArgs) -> Result<ExitCode> {
    settle()?;
    let path = "/proc/sys/kernel/ns_last_pid";
    fs::write(path, args.ids_from.to_string()).map_err(|e| Error::path("write", path, e))?;
    let program = ourselves()?;
    let done = Command::new(&program)
        .args(&args.words)
        .output()
        .map_err(|e| Error::path("start", &program, e))?;
    print(&String::from_utf8_lossy(&done.stdout))?;
    let said = String::from_utf8_lossy(&done.stderr);
    // The error goes to whoever made the namespace, and tells it as it was asked to.
    let (before, last) = said
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or(("", said.trim_end()));
    if error::of_json(last).is_some() {
        eprint(before);
        print(last)?;
    } else {
        eprint(&said);
    }
    let told: Option<Value> = serde_json::from_slice(&done.stdout).ok();
    let root = told.and_then(|told| i32::try_from(told["root"].as_i64()?).ok());
    let Some(root) = root.filter(|_| done.status.success()) else {
        return Ok(ExitCode::from(code(done.status)));
    };
    withdraw()?;
    let mut ended = ExitCode::SUCCESS;
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(Pid::from_raw(root)) => match code_of(status) {
                Some(code) => {
                    ended = code;
                    break;
                }
                None => continue,
            },
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    Ok(ended)
}

/// Makes /proc show the namespace, and nothing of this known outside.
fn settle() -> Result<()> {
    let none: Option<&str> = None;
    let ours = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let proc = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(none, "/", none, ours, none))
        .and_then(|()| mount(Some("proc"), "/proc", Some("proc"), proc, none))
        .map_err(|e| {
            Error::os("Cannot mount a /proc for the new pid namespace", e)
                .hint("some containers forbid that: restore without --new-pid-namespace there")
        })
}

/// Lets go of everything that came from outside: a hangup, an interrupt and closed pipes are none of its
/// business from now on.
fn withdraw() -> Result<()> {
    let failed = |e| Error::os("Cannot become the first process of the namespace", e);
    let mut all = SigSet::all();
    all.remove(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).map_err(failed)?;
    let _leader = nix::unistd::setsid();
    let null = PathBuf::from("/dev/null");
    let file = fs::OpenOptions::new().read(true).write(true).open(&null);
    let file = file.map_err(|e| Error::path("open", &null, e))?;
    nix::unistd::dup2_stdin(&file)
        .and_then(|()| nix::unistd::dup2_stdout(&file))
        .and_then(|()| nix::unistd::dup2_stderr(&file))
        .map_err(failed)?;
    nix::unistd::chdir("/").map_err(failed)
}
