//! `icecore demo`: a process tree of our own, frozen in layers, looked into and thawed before your
//! eyes. With a terminal it leads through the screen; without one it does the same steps by itself.

mod apart;
mod guided;
mod plain;
pub(crate) mod target;

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use icecore::{Error, Kind, Pid, Result, task};
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::mkdtemp;

use crate::cli::ourselves;
use crate::config::settings::Settings;

/// The running demo: its directory and its tree. Dropping it ends and removes both.
#[derive(Debug)]
pub(crate) struct Demo {
    /// Where everything is.
    pub(crate) dir: PathBuf,
    /// Root of the tree; restored trees have the same.
    pub(crate) root: Pid,
    /// Steps are told as JSON.
    pub(crate) json: bool,
}

/// A line of the tree's self-check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Its number.
    pub(crate) tick: u64,
    /// Whether all was right.
    pub(crate) ok: bool,
}

/// Runs the demo.
///
/// # Errors
/// When anything is off.
pub(crate) fn run(force_plain: bool, json: bool, settings: Settings) -> Result<ExitCode> {
    if let Some(code) = apart::run()? {
        return Ok(code);
    }
    let plain =
        force_plain || json || !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal();
    let mut demo = Demo::start()?;
    demo.json = json;
    let done = if plain {
        plain::run(&demo)
    } else {
        guided::run(&demo, settings)
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl Demo {
    /// Starts the tree in a directory of its own and waits for its first line.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start() -> Result<Self> {
        // Trees that lose their parent become ours, so that their ends do not linger as zombies.
        nix::sys::prctl::set_child_subreaper(true)
            .map_err(|e| Error::os("Cannot adopt the demo's processes", e))?;
        // What a terminal or shell left open for us must not reach the tree.
        icecore::sys::descriptor::close_on_exec_from(3)
            .map_err(|e| Error::os("Cannot keep descriptors from the demo's tree", e))?;
        let template = std::env::temp_dir().join("icecore-demo-XXXXXX");
        let dir = mkdtemp(&template).map_err(|e| Error::path("create", &template, e.into()))?;
        let mut demo = Self {
            dir,
            root: Pid::from_raw(0),
            json: false,
        };
        let program = ourselves()?;
        let child = Command::new(&program)
            .arg("demo-target")
            .arg(&demo.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| Error::path("start", &program, e))?;
        demo.root = Pid::from_raw(child.id().cast_signed());
        demo.wait_for("its first lines", |demo| {
            demo.last_line().is_some_and(|l| l.tick > 4)
        })?;
        Ok(demo)
    }

    /// Where the layers go.
    pub(crate) fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// All lines so far.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(self.dir.join(target::LINES)).unwrap_or_default();
        text.lines().filter_map(parse).collect()
    }

    /// The newest line.
    pub(crate) fn last_line(&self) -> Option<Line> {
        self.lines().last().copied()
    }

    /// Waits up to ten seconds for a condition.
    ///
    /// # Errors
    /// When it does not come true.
    pub(crate) fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            reap();
            if condition(self) {
                return Ok(());
            }
            tick(Duration::from_millis(20));
        }
        Err(Error::new(
            Kind::Failed,
            format!("The demo's tree did not come to {what} in 10 s"),
        ))
    }

    /// Ends the tree, whether started or restored.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn end_tree(&self) -> Result<()> {
        for process in task::members(self.root).unwrap_or_default() {
            let _gone = kill(process.pid, Signal::SIGKILL);
        }
        self.wait_for("an end", |demo| !exists(demo.root))
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.root.as_raw() > 0 {
            let _ended = self.end_tree();
        }
        let _removed = fs::remove_dir_all(&self.dir);
    }
}

fn exists(pid: Pid) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Waits a moment.
fn tick(time: Duration) {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    let _interrupted = poll(&mut [], timeout);
}

/// Waits for children that have ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.strip_prefix("tick ")?.split(' ');
    Some(Line {
        tick: words.next()?.parse().ok()?,
        ok: words.next()? == "ok",
    })
}
