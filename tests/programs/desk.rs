//! Where a specimen is asked and answers. Questions are lines `NUMBER WORDS…` in the FIFO
//! `DIR/NAME.ask`; the answer becomes the file `DIR/NAME.NUMBER`, `ok …` or `WRONG …`.
//!
//! Between two questions the process sleeps in read(2) and changes nothing, so its memory can be
//! compared. When an answer is visible, its file is closed again.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;

/// What `check` and commands say: something about the state, or what is wrong.
pub type Answer = Result<String, String>;

/// One program, or one process of it.
pub trait Program {
    /// Compares everything with what it should be.
    fn check(&mut self) -> Answer;

    /// Does something else.
    fn command(&mut self, words: &[&str]) -> Answer {
        Err(format!("unknown command {words:?}"))
    }
}

/// A place to ask one process.
#[derive(Debug)]
pub struct Desk {
    dir: PathBuf,
    name: String,
    fifo: File,
}

impl Desk {
    /// Makes the FIFO and opens it for reading and writing, so that it never ends.
    pub fn open(dir: &Path, name: &str) -> Self {
        let path = dir.join(format!("{name}.ask"));
        if !path.exists() {
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o666)).unwrap();
        }
        let fifo = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
            fifo,
        }
    }

    /// The directory of the test.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A key for System V IPC that no other test has.
    pub fn key(&self) -> u64 {
        let name = self.dir.to_string_lossy();
        let hash = name.bytes().fold(0x811c_9dc5u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        u64::from(hash & 0x7fff_ffff | 1)
    }

    /// Another desk in the same directory, for a child.
    pub fn beside(&self, name: &str) -> Self {
        Self::open(&self.dir, name)
    }

    /// Waits until the process at another desk of the directory has built its state.
    pub fn wait_for(&self, name: &str) {
        while !self.dir.join(format!("{name}.ready")).exists() {
            std::thread::yield_now();
        }
    }

    /// Says that the process has built its state, when it is not going to serve here.
    pub fn announce(&self) {
        self.publish("ready", &std::process::id().to_string());
    }

    /// Answers for ever.
    pub fn serve(&mut self, program: &mut dyn Program) -> ! {
        self.announce();
        let mut line = Vec::with_capacity(256);
        let mut interrupted = 0u32;
        loop {
            line.clear();
            let mut byte = [0];
            while byte[0] != b'\n' {
                match self.fifo.read(&mut byte) {
                    Ok(_) => line.push(byte[0]),
                    // Handlers restart what they interrupt, so nobody may see this.
                    Err(e) if e.kind() == ErrorKind::Interrupted => interrupted += 1,
                    Err(e) => {
                        self.publish("died", &e.to_string());
                        std::process::abort();
                    }
                }
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = text.split_whitespace().collect();
            let [number, words @ ..] = words.as_slice() else {
                continue;
            };
            let answer = match words {
                ["check"] => program.check(),
                _ => program.command(words),
            };
            let answer = match answer {
                Ok(_) if interrupted > 0 => format!("WRONG {interrupted} reads were interrupted"),
                Ok(text) => format!("ok {text}"),
                Err(text) => format!("WRONG {text}"),
            };
            self.publish(number, &answer);
        }
    }

    /// Makes a file appear, complete and closed.
    fn publish(&self, suffix: &str, text: &str) {
        let path = self.dir.join(format!("{}.{suffix}", self.name));
        let partial = path.with_extension(format!("{suffix}.partial"));
        fs::write(&partial, text).unwrap();
        fs::rename(partial, path).unwrap();
    }
}

/// `Err` with both values unless they are equal.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, is: &T, should: &T) -> Result<(), String> {
    if is == should {
        return Ok(());
    }
    Err(format!("{what} is {is:?}, should be {should:?}"))
}
