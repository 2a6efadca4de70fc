//! `cargo xtask bench-tui [LAYERS] [PAGES] [SECONDS]`: the terminal UI on a synthetic stack (by default 100
//! layers of 10⁷ pages) in a pty: first frame, time from a key to its frame, time of a frame, and CPU
//! while nobody does anything. Fails when a gate is exceeded. Needs `cargo build --release`.

#![allow(clippy::print_stdout, reason = "the benchmark reports to the terminal")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::bench_stacks::synthesize;

/// What the program writes at the end of a frame (synchronized output).
const END: &[u8] = b"\x1b[?2026l";
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);
/// Keys pressed.
const KEYS: usize = 400;
/// The gates, in milliseconds and percent.
const FIRST: f64 = 1000.0;
const KEY: f64 = 33.0;
const FRAME: f64 = 8.0;
const IDLE: f64 = 0.3;

/// Runs the benchmark.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let number = |i: usize, default: u64| args.get(i).map_or(Ok(default), |a| a.parse());
    let (layers, pages, seconds) = (number(0, 100)?, number(1, 10_000_000)?, number(2, 20)?);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let icecore = target.join("release/icecore");
    let icecore = fs::canonicalize(&icecore)
        .with_context(|| format!("no {}: cargo build --release", icecore.display()))?;
    let temp = tempfile::tempdir()?;
    let store = temp.path().join("store");
    fs::create_dir(&store)?;
    synthesize(&store.join("stack"), layers, pages, pages / 100, false)?;
    let frames = temp.path().join("frames");

    let started = Instant::now();
    let mut screen = Screen::start(&icecore, &store, temp.path(), &frames)?;
    screen.frame()?;
    let first = ms(started.elapsed());
    screen.until("stack")?;
    println!(
        "  stacks listed after            {:>9.0} ms",
        ms(started.elapsed())
    );
    screen.until("Who owns each page of ")?;
    println!(
        "  map of the newest layer after  {:>9.0} ms",
        ms(started.elapsed())
    );

    let mut latencies = Vec::new();
    for n in 0..KEYS {
        // Down the processes, the layers and the map, and up again.
        let key: &[u8] = match n % 100 {
            0 => b"\t",
            k if k < 50 => b"j",
            _ => b"k",
        };
        screen.quiet(Duration::from_millis(20))?;
        let pressed = Instant::now();
        screen.press(key)?;
        if screen.frame_within(Duration::from_millis(500))? {
            latencies.push(ms(pressed.elapsed()));
        }
    }
    ensure!(latencies.len() > KEYS / 2, "most keys changed nothing");

    // The map of the layer that was selected last is still being computed.
    let settled = Instant::now() + PATIENCE;
    let mut before = screen.cpu()?;
    loop {
        screen.quiet_for(Duration::from_secs(2))?;
        let now = screen.cpu()?;
        let busy = now.saturating_sub(before) > Duration::from_millis(100);
        before = now;
        if !busy {
            break;
        }
        ensure!(Instant::now() < settled, "it never comes to rest");
    }
    let idle_since = Instant::now();
    screen.quiet_for(Duration::from_secs(seconds))?;
    let used = screen.cpu()?.saturating_sub(before);
    let idle = used.as_secs_f64() * 100.0 / idle_since.elapsed().as_secs_f64();
    screen.press(b"q")?;
    screen.child.wait()?;

    let mut drawn: Vec<f64> = fs::read_to_string(&frames)?
        .lines()
        .filter_map(|line| line.parse::<f64>().ok())
        .map(|us| us / 1000.0)
        .collect();
    let (key_median, key_worst) = (
        quantile(&mut latencies, 0.5),
        quantile(&mut latencies, 0.99),
    );
    let (median, worst) = (quantile(&mut drawn, 0.5), quantile(&mut drawn, 0.99));
    println!("  first frame                    {first:>9.1} ms (gate {FIRST})");
    println!("  key to frame, median and p99   {key_median:>9.2} {key_worst:>9.2} ms (gate {KEY})");
    println!(
        "  frame, median and p99 of {:<5} {median:>9.2} {worst:>9.2} ms (gate {FRAME})",
        drawn.len()
    );
    println!("  idle                           {idle:>9.2} % of a CPU (gate {IDLE})");
    let gates = [
        ("the first frame", first, FIRST),
        ("key to frame", key_worst, KEY),
        ("a frame", worst, FRAME),
        ("idle CPU", idle, IDLE),
    ];
    let exceeded: Vec<&str> = gates
        .iter()
        .filter(|(_, value, gate)| value > gate)
        .map(|(what, ..)| *what)
        .collect();
    ensure!(
        exceeded.is_empty(),
        "above the gate: {}",
        exceeded.join(", ")
    );
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * part).round() as usize;
    values.get(at).copied().unwrap_or(f64::NAN)
}

/// The program in a terminal.
struct Screen {
    parser: vt100::Parser,
    output: Receiver<Vec<u8>>,
    keys: Box<dyn std::io::Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    _pty: Box<dyn MasterPty + Send>,
}

impl Screen {
    fn start(icecore: &Path, store: &Path, runtime: &Path, frames: &Path) -> Result<Self> {
        let (rows, cols) = (35u16, 120u16);
        let pair = native_pty_system().openpty(PtySize {
            rows,
            cols,
            pixel_width: 0,
            pixel_height: 0,
        })?;
        let mut command = CommandBuilder::new(icecore);
        command.arg("--root");
        command.arg(store);
        command.env("TERM", "xterm-256color");
        command.env("LANG", "C.UTF-8");
        command.env("ICECORE_CONFIG", "/dev/null");
        // Nobody can make a directory there: each run is the first one.
        command.env("XDG_STATE_HOME", "/proc/nowhere");
        command.env("ICECORE_RUNTIME_DIR", runtime);
        command.env("XDG_STATE_HOME", runtime);
        command.env("ICECORE_FRAMES", frames);
        let child = pair.slave.spawn_command(command)?;
        drop(pair.slave);
        let mut reader = pair.master.try_clone_reader()?;
        let keys = pair.master.take_writer()?;
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(n @ 1..) = reader.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        let dimension = |n| std::num::NonZero::new(n).context("a terminal has rows and columns");
        Ok(Self {
            parser: vt100::Parser::new(dimension(rows)?, dimension(cols)?, 0),
            output,
            keys,
            child,
            _pty: pair.master,
        })
    }

    fn press(&mut self, keys: &[u8]) -> Result<()> {
        self.keys.write_all(keys)?;
        Ok(self.keys.flush()?)
    }

    /// Waits for the end of a frame.
    fn frame(&mut self) -> Result<()> {
        ensure!(self.frame_within(PATIENCE)?, "there is no frame");
        Ok(())
    }

    /// The same, for a while.
    fn frame_within(&mut self, time: Duration) -> Result<bool> {
        let until = Instant::now() + time;
        let mut tail: Vec<u8> = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => {
                    self.parser.process(&bytes);
                    tail.extend(&bytes);
                    if tail.windows(END.len()).any(|part| part == END) {
                        return Ok(true);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("it has ended")),
            }
        }
    }

    /// Waits for a text.
    fn until(&mut self, text: &str) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.parser.screen().contents().contains(text) {
            ensure!(
                Instant::now() < until,
                "no {text}: {}",
                self.parser.screen().contents()
            );
            self.frame_within(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// Waits until nothing came for that long.
    fn quiet(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while let Ok(bytes) = self.output.recv_timeout(time) {
            self.parser.process(&bytes);
            // It draws once a second by itself.
            if time > Duration::from_millis(500) || Instant::now() > until {
                break;
            }
        }
        Ok(())
    }

    /// Lets time pass; nobody presses anything.
    fn quiet_for(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.frame_within(until.saturating_duration_since(Instant::now()))?;
        }
        Ok(())
    }

    /// CPU time that the program has used (proc_pid_stat(5)).
    fn cpu(&self) -> Result<Duration> {
        let pid = self.child.process_id().context("no pid")?;
        // Nanoseconds on a CPU, of each thread.
        let mut used = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let line = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = line.split(' ').next().unwrap_or_default();
            used += first.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(used))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ended = self.child.kill();
    }
}
