//! `cargo xtask bench [MIB] [ROUNDS]`: freeze and total time of full and incremental dumps and of a
//! restore, beside CRIU's full dump and restore of the same process in the same run.
//!
//! The rounds alternate, medians and ratios are printed: single times mean little on a busy machine.
//! CRIU is looked for in the root file system that `ICECORE_TEST_CRIU` names. Needs root.

#![allow(clippy::print_stdout, reason = "the benchmark reports to the terminal")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// One per cent of the pages is written between two layers.
const DIRTY: usize = 100;

/// Runs the benchmark.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |a| a.parse());
    let (mib, rounds) = (number(0, 1024)?, number(1, 5)?);
    ensure!(
        Command::new("cargo")
            .args(["build", "--release", "--quiet"])
            .status()?
            .success(),
        "cargo build --release failed"
    );
    nix::sys::prctl::set_child_subreaper(true)?;
    icecore::sys::descriptor::close_on_exec_from(3)?;
    let icecore = fs::canonicalize("target/release/icecore")?;
    let criu = Criu::find();
    let mut table: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut add = |name: &'static str, ms: f64| match table.iter_mut().find(|(n, _)| *n == name) {
        Some((_, all)) => all.push(ms),
        None => table.push((name, vec![ms])),
    };
    for _ in 0..rounds {
        let target = Target::start(mib)?;
        ours(&icecore, target, &mut add)?;
        if let Some(criu) = &criu {
            let target = Target::start(mib)?;
            theirs(criu, &icecore, target, &mut add)?;
        }
    }
    println!("{mib} MiB, 1 % dirty, {rounds} rounds: median [least … most] in ms");
    for (name, all) in &mut table {
        all.sort_by(f64::total_cmp);
        println!(
            "{name:<34} {:>9.2} [{:.2} … {:.2}]",
            all[all.len() / 2],
            all[0],
            all[all.len() - 1]
        );
    }
    let median = |wanted: &str| {
        table
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, all)| all[all.len() / 2])
    };
    for (what, mine, other) in [
        (
            "freeze, full dump",
            "icecore full, frozen",
            "criu full, frozen",
        ),
        (
            "freeze, 1 % dirty",
            "icecore incremental, frozen",
            "criu full, frozen",
        ),
        (
            "total, full dump",
            "icecore full, total",
            "criu full, total",
        ),
        ("restore", "icecore restore", "criu restore"),
    ] {
        if let (Some(mine), Some(other)) = (median(mine), median(other)) {
            println!("{what:<34} criu / icecore = {:.2}", other / mine);
        }
    }
    Ok(())
}

fn ours(icecore: &Path, target: Target, add: &mut impl FnMut(&'static str, f64)) -> Result<()> {
    let images = target.dir.join("images");
    let pid = target.child.id().to_string();
    let dump = |name: &str, more: &[&str]| -> Result<(f64, f64)> {
        let output = Command::new(icecore)
            .args(["dump", "--json", "-t", &pid, "-D"])
            .arg(images.join(name))
            .args(more)
            .env("ICECORE_RUNTIME_DIR", &target.dir)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let figures: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let ms = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN) / 1000.0;
        Ok((ms("freeze_us"), ms("total_us")))
    };
    let (frozen, total) = dump("1", &["--leave-running", "--track-mem"])?;
    add("icecore full, frozen", frozen);
    add("icecore full, total", total);
    target.dirty()?;
    let more = [
        "--leave-running",
        "--track-mem",
        "--prev-images-dir",
        "../1",
    ];
    let (frozen, total) = dump("2", &more)?;
    add("icecore incremental, frozen", frozen);
    add("icecore incremental, total", total);
    target.dirty()?;
    dump("3", &["--prev-images-dir", "../2"])?;
    let mut target = target;
    target.child.wait()?;
    let started = Instant::now();
    let status = Command::new(icecore)
        .args(["restore", "-d", "-D"])
        .arg(images.join("1"))
        .env("ICECORE_RUNTIME_DIR", &target.dir)
        .stdout(Stdio::null())
        .status()?;
    ensure!(status.success(), "icecore restore failed");
    add("icecore restore", ms(started));
    target.end_restored()
}

fn theirs(
    criu: &Criu,
    icecore: &Path,
    mut target: Target,
    add: &mut impl FnMut(&'static str, f64),
) -> Result<()> {
    let images = target.dir.join("criu");
    fs::create_dir_all(&images)?;
    let pid = target.child.id().to_string();
    let log = target.dir.join("criu.log");
    let started = Instant::now();
    criu.run(&["dump", "-t", &pid, "-D", text(&images), "-o", text(&log)])?;
    add("criu full, total", ms(started));
    let shown = Command::new(icecore)
        .args(["show", text(&images), "stats-dump", "--json"])
        .output()?;
    let stats: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let frozen = &stats["entries"][0]["dump"]["frozen_time"];
    add(
        "criu full, frozen",
        frozen.as_f64().context("no frozen_time")? / 1000.0,
    );
    target.child.wait()?;
    let started = Instant::now();
    criu.run(&["restore", "-d", "-D", text(&images), "-o", text(&log)])?;
    add("criu restore", ms(started));
    target.end_restored()
}

pub(crate) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// CRIU in a root file system of a newer Debian.
pub(crate) struct Criu(PathBuf);

impl Criu {
    pub(crate) fn find() -> Option<Self> {
        let root = PathBuf::from(std::env::var_os("ICECORE_TEST_CRIU")?);
        root.join("usr/sbin/criu").exists().then_some(Self(root))
    }

    pub(crate) fn run(&self, args: &[&str]) -> Result<()> {
        let status = Command::new(self.0.join("lib64/ld-linux-x86-64.so.2"))
            .arg("--library-path")
            .arg(self.0.join("usr/lib/x86_64-linux-gnu"))
            .arg(self.0.join("usr/sbin/criu"))
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        ensure!(status.success(), "criu {} failed", args[0]);
        Ok(())
    }
}

/// A process with much memory that writes some of it on demand.
struct Target {
    child: Child,
    dir: PathBuf,
    _removed: tempfile::TempDir,
}

impl Target {
    fn start(mib: usize) -> Result<Self> {
        let temp = tempfile::tempdir()?;
        let dir = temp.path().to_owned();
        let child = Command::new("setsid")
            .arg(std::env::current_exe()?)
            .args(["bench-target", &mib.to_string()])
            .arg(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let target = Self {
            child,
            dir,
            _removed: temp,
        };
        target.await_done(0)?;
        Ok(target)
    }

    fn dirty(&self) -> Result<()> {
        let done = self.done();
        fs::write(self.dir.join("go"), (done + 1).to_string())?;
        self.await_done(done + 1)
    }

    fn done(&self) -> usize {
        fs::read_to_string(self.dir.join("done"))
            .ok()
            .and_then(|t| t.parse().ok())
            .unwrap_or(0)
    }

    fn await_done(&self, count: usize) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        while Instant::now() < until {
            if self.dir.join("done").exists() && self.done() >= count {
                return Ok(());
            }
            pause(2);
        }
        bail!("the target does not answer")
    }

    /// Ends the restored process, which has become ours.
    fn end_restored(self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        nix::sys::wait::waitpid(pid, None)?;
        Ok(())
    }
}

/// The target: fills its memory, then writes one page in a hundred whenever it is told to.
pub(crate) fn target(args: &[String]) -> Result<()> {
    let mib: usize = args[0].parse()?;
    let dir = Path::new(&args[1]);
    let mut memory: Vec<u64> = (0..mib * 1024 * 128)
        .map(|i| i as u64 ^ 0x5bd1_e995)
        .collect();
    let mut done = 0;
    loop {
        fs::write(dir.join("done.new"), done.to_string())?;
        fs::rename(dir.join("done.new"), dir.join("done"))?;
        let go = dir.join("go");
        while fs::read_to_string(&go)
            .ok()
            .and_then(|t| t.parse().ok())
            .unwrap_or(0)
            <= done
        {
            pause(5);
        }
        done += 1;
        for page in (done..memory.len() / 512).step_by(DIRTY) {
            memory[page * 512] += 1;
        }
    }
}

/// Waits a moment: nobody ever sends.
fn pause(ms: u64) {
    let (_sender, receiver) = channel::<()>();
    let _timed_out = receiver.recv_timeout(Duration::from_millis(ms));
}
