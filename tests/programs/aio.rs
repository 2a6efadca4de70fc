//! Asynchronous I/O (io_setup): rings of several sizes, through which the program reads a file.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{Region, call, call_with};
use crate::pattern::word;

struct Rings {
    contexts: Vec<u64>,
    file: File,
    /// A request and its pointer, and where it reads to.
    memory: Region,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let path = desk.dir().join("read");
    let bytes: Vec<u8> = (0..64).flat_map(|n| word(3, n).to_le_bytes()).collect();
    std::fs::write(&path, bytes).unwrap();
    let contexts = [1, 8, 63, 300].map(|requests| {
        let mut context = 0u64;
        call_with(libc::SYS_io_setup, &[requests], &mut context, &[]).unwrap();
        context
    });
    let rings = Rings {
        contexts: contexts.into(),
        file: File::open(path).unwrap(),
        memory: Region::private(1),
    };
    // Heads and tails that are not where they begin.
    for (context, times) in rings.contexts.iter().zip([0, 1, 70, 5]) {
        for _ in 0..times {
            rings.submit(*context);
            rings.take(*context).unwrap();
        }
    }
    let mut rings = rings;
    desk.serve(&mut rings);
}

impl Rings {
    /// Reads word 5 of the file.
    fn submit(&self, context: u64) {
        let at = self.memory.addr() as u64;
        let fd = u64::from(self.file.as_raw_fd().unsigned_abs());
        // data, key and flags, IOCB_CMD_PREAD with priority and descriptor, buffer, bytes, offset, -, flags
        let request = [0x1ce, 0, fd << 32, at + 1024, 8, 40, 0, 0];
        for (index, word) in request.into_iter().enumerate() {
            self.memory.set_word(index, word);
        }
        self.memory.set_word(64, at);
        self.memory.set_word(128, 0);
        let args = [context, 1, at + 64 * 8, 0, 0, 0];
        assert_eq!(call(libc::SYS_io_submit, args).unwrap(), 1);
    }

    /// Takes the event of it.
    fn take(&self, context: u64) -> Result<(), String> {
        let mut event = [0u64; 4];
        let got = call_with(libc::SYS_io_getevents, &[context, 1, 1], &mut event, &[0]);
        same("events", &got.map_err(|e| e.to_string())?, &1)?;
        same("event", &[event[0], event[2]], &[0x1ce, 8])?;
        same("what was read", &self.memory.word(128), &word(3, 5))
    }
}

impl Program for Rings {
    fn check(&mut self) -> Answer {
        for context in &self.contexts {
            self.submit(*context);
            self.take(*context)?;
        }
        Ok(format!("{} rings", self.contexts.len()))
    }

    /// `submit` leaves an event in the second ring, `take` takes it.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["submit"] => self.submit(self.contexts[1]),
            ["take"] => self.take(self.contexts[1])?,
            _ => return Err("submit | take".into()),
        }
        Ok(String::new())
    }
}
