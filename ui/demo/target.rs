//! The process tree that the demo plays with: a parent with two threads and a growing heap, a child
//! that adds up numbers from a pipe, a child that repaints shared memory. Ten times a second the
//! parent checks every byte of it and writes one line; the line says WRONG the moment one is.
//!
//! All state follows from a few counters by fixed rules, so it can be checked at any time, also
//! after it was frozen and woke up in another process.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use icecore::sys::shared::SharedWords;
use icecore::{Error, Kind, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Name of the line file in the demo's directory.
pub(crate) const LINES: &str = "lines";

/// Shared words: two counters of the adder, two of the painter, then the painting.
const ADDED: usize = 0;
const SUM: usize = 1;
const PAINT_BEGUN: usize = 2;
const PAINT_DONE: usize = 3;
const PAINTING: usize = 512;
const WORDS: usize = PAINTING + 32 * 512;

/// Words in a block of the heap: one page.
const BLOCK: usize = 512;
/// Blocks of the heap at the start; one more comes every fourth tick.
const BLOCKS: u64 = 512;
/// Blocks rewritten at each tick.
const REWRITTEN: u64 = 3;
const TICK: Duration = Duration::from_millis(100);

/// A number that two others determine and that looks like nothing else.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
    x ^= x >> 29;
    x.wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// A block of the heap: what it must hold follows from its number and version.
#[derive(Debug)]
struct Block {
    version: u64,
    words: Vec<u64>,
}

impl Block {
    fn new(number: u64, version: u64) -> Self {
        Self {
            version,
            words: (0..BLOCK as u64)
                .map(|i| mix(mix(number, version), i))
                .collect(),
        }
    }

    fn is_right(&self, number: u64) -> bool {
        let seed = mix(number, self.version);
        self.words
            .iter()
            .zip(0..)
            .all(|(word, i)| *word == mix(seed, i))
    }
}

/// A thread's state: how often it went round, and a number that must follow from that.
#[derive(Debug, Default)]
struct Spinner {
    /// Both in one word, so that they are read together: rounds, then their hash.
    rounds: AtomicU64,
    hash: AtomicU64,
    turn: std::sync::Mutex<()>,
}

/// Waits without sleeping for luck: nobody ever sends.
fn pause(time: Duration) {
    let (_sender, receiver) = channel::<()>();
    while receiver.recv_timeout(time) == Err(RecvTimeoutError::Disconnected) {}
}

/// The parent of the tree; never returns but for an error.
pub(crate) fn parent(dir: &Path) -> Result<()> {
    let io = |what: &'static str| move |e| Error::io(what, e);
    let os = |what: &'static str| move |e| Error::os(what, e);
    let memory = memfd_create("demo", MFdFlags::empty()).map_err(os("Cannot make a memfd"))?;
    nix::unistd::ftruncate(&memory, (WORDS * 8) as i64).map_err(os("Cannot size a memfd"))?;
    let shared = SharedWords::map(&memory, WORDS).map_err(os("Cannot map shared memory"))?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&memory);
    let mut numbers = child("adder", number, Stdio::piped())?;
    child("painter", number, Stdio::null())?;
    let mut pipe: ChildStdin = numbers
        .take()
        .ok_or_else(|| Error::new(Kind::Failed, "The adder has no pipe"))?;
    let spinners: Vec<Arc<Spinner>> = (0..2).map(spin).collect();
    let mut lines = OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join(LINES))
        .map_err(io("Cannot open the line file"))?;
    let mut heap: Vec<Block> = (0..BLOCKS).map(|n| Block::new(n, 0)).collect();
    let mut sent = 0u64;
    for tick in 1u64.. {
        for i in 0..REWRITTEN {
            let number = mix(tick, i) % heap.len() as u64;
            if let Some(block) = heap.get_mut(number as usize) {
                *block = Block::new(number, block.version + 1);
            }
        }
        if tick % 4 == 0 {
            heap.push(Block::new(heap.len() as u64, 0));
        }
        sent += 1;
        writeln!(pipe, "{sent}").map_err(io("The adder is gone"))?;
        let verdict = check(&heap, &shared, &spinners, sent)
            .map_or_else(|| "ok".to_owned(), |wrong| format!("WRONG {wrong}"));
        writeln!(
            lines,
            "tick {tick} {verdict} heap {} added {} painted {}",
            heap.len(),
            shared.get(ADDED),
            shared.get(PAINT_DONE)
        )
        .map_err(io("Cannot write a line"))?;
        pause(TICK);
    }
    Ok(())
}

/// What is wrong, if anything.
fn check(
    heap: &[Block],
    shared: &SharedWords,
    spinners: &[Arc<Spinner>],
    sent: u64,
) -> Option<String> {
    if let Some((number, _)) = (0..)
        .zip(heap)
        .find(|(number, block)| !block.is_right(*number))
    {
        return Some(format!("heap block {number}"));
    }
    for (i, spinner) in (0u64..).zip(spinners) {
        let _turn = spinner.turn.lock();
        let rounds = spinner.rounds.load(Ordering::SeqCst);
        if spinner.hash.load(Ordering::SeqCst) != mix(i, rounds) {
            return Some(format!("thread {i}"));
        }
    }
    // The sum may be one ahead of the count: they are written one after the other.
    let (added, sum) = (shared.get(ADDED), shared.get(SUM));
    let right = |n: u64| n * (n + 1) / 2;
    if added > sent || (sum != right(added) && sum != right(added + 1)) {
        return Some(format!("sum {sum} of {added} numbers, {sent} sent"));
    }
    let (begun, done) = (shared.get(PAINT_BEGUN), shared.get(PAINT_DONE));
    if begun == done {
        // Before the first painting there is none.
        let painted = |i: usize| if done == 0 { 0 } else { mix(i as u64, done) };
        let wrong = (PAINTING..WORDS).find(|i| shared.get(*i) != painted(*i));
        // Only when no new painting began meanwhile is a wrong word wrong.
        if let Some(word) = wrong
            && shared.get(PAINT_BEGUN) == begun
        {
            return Some(format!("shared word {word}"));
        }
    }
    None
}

fn spin(number: u64) -> Arc<Spinner> {
    let spinner = Arc::new(Spinner::default());
    spinner.hash.store(mix(number, 0), Ordering::SeqCst);
    let mine = Arc::clone(&spinner);
    std::thread::spawn(move || {
        loop {
            {
                let _turn = mine.turn.lock();
                let rounds = mine.rounds.load(Ordering::SeqCst) + 1;
                mine.rounds.store(rounds, Ordering::SeqCst);
                mine.hash.store(mix(number, rounds), Ordering::SeqCst);
            }
            pause(Duration::from_millis(7 + number));
        }
    });
    spinner
}

/// Starts a child that shares the memfd `memory`.
fn child(role: &str, memory: i32, stdin: Stdio) -> Result<Option<ChildStdin>> {
    let program = std::env::current_exe().map_err(|e| Error::io("Cannot find ourselves", e))?;
    Command::new(&program)
        .args([
            "demo-target",
            "--role",
            role,
            "--memory",
            &memory.to_string(),
            ".",
        ])
        .stdin(stdin)
        .spawn()
        .map(|child| child.stdin)
        .map_err(|e| Error::path("start", &program, e))
}

fn open_memory(memory: i32) -> Result<SharedWords> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|e| Error::os("Cannot follow the parent", e))?;
    let path = PathBuf::from(format!("/proc/self/fd/{memory}"));
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|e| Error::path("open", &path, e))?;
    SharedWords::map(&file, WORDS).map_err(|e| Error::os("Cannot map shared memory", e))
}

/// The child that adds up what comes through the pipe.
pub(crate) fn adder(memory: i32) -> Result<()> {
    let shared = open_memory(memory)?;
    let lines = BufReader::new(std::io::stdin()).lines();
    let (mut added, mut sum) = (0u64, 0u64);
    for line in lines {
        let line = line.map_err(|e| Error::io("The pipe broke", e))?;
        let number: u64 = line.parse().map_err(|e| {
            Error::new(Kind::Failed, format!("{line:?} came through the pipe")).because(e)
        })?;
        // The next number is the next one: nothing is lost or doubled in the pipe.
        sum += if number == added + 1 {
            number
        } else {
            u64::MAX / 4
        };
        added += 1;
        shared.set(SUM, sum);
        shared.set(ADDED, added);
    }
    Ok(())
}

/// The child that repaints the shared memory, again and again.
pub(crate) fn painter(memory: i32) -> Result<()> {
    let shared = open_memory(memory)?;
    for painting in 1u64.. {
        shared.set(PAINT_BEGUN, painting);
        for i in PAINTING..WORDS {
            shared.set(i, mix(i as u64, painting));
        }
        shared.set(PAINT_DONE, painting);
        pause(Duration::from_millis(350));
    }
    Ok(())
}
