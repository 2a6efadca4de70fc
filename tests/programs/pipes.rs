//! Pipes and FIFOs with contents: large, non-blocking, with one end closed, shared with a child.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call_with, child, unread};

/// One pipe and what is in it.
struct Pipe {
    name: &'static str,
    reader: File,
    /// None: that end is closed, so the reader comes to an end.
    writer: Option<File>,
    /// Length of what is in it; byte `n` is `n * step`.
    length: usize,
    step: usize,
    capacity: i32,
}

/// The pipes, and the reading end of a FIFO that nobody has written to yet.
struct Pipes(Vec<Pipe>, Option<File>);

/// Builds it and serves; the child at the desk `child`. `modest` is without what CRIU loses.
pub fn run(mut desk: Desk, args: &[String]) {
    let new = |flags| {
        let (reader, writer) = pipe2(flags | OFlag::O_CLOEXEC).unwrap();
        (File::from(reader), File::from(writer))
    };
    let early = (!args.iter().any(|arg| arg == "modest")).then(|| {
        let path = desk.dir().join("early");
        nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        open(&path, flags, Mode::empty()).unwrap().into()
    });
    let mut pipes = Pipes(Vec::new(), early);
    for (name, flags, length, capacity, closed) in [
        ("plain", OFlag::empty(), 5000, None, false),
        ("empty", OFlag::empty(), 0, None, false),
        ("large", OFlag::O_NONBLOCK, 300_000, Some(1 << 20), false),
        ("ended", OFlag::empty(), 100, None, true),
    ] {
        let (reader, writer) = new(flags);
        pipes.add(name, (reader, writer), length, capacity, closed);
    }
    let path = desk.dir().join("fifo");
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap();
    let both = File::options().read(true).write(true).open(&path).unwrap();
    let write = File::options().write(true).open(&path).unwrap();
    pipes.add("fifo", (both, write), 777, None, false);
    child(|| desk.beside("child").serve(&mut pipes));
    desk.wait_for("child");
    desk.serve(&mut pipes);
}

impl Pipes {
    fn add(
        &mut self,
        name: &'static str,
        (reader, mut writer): (File, File),
        length: usize,
        capacity: Option<i32>,
        closed: bool,
    ) {
        if let Some(capacity) = capacity {
            fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(capacity)).unwrap();
        }
        let step = self.0.len() * 2 + 3;
        writer.write_all(&contents(length, step)).unwrap();
        let capacity = fcntl(reader.as_fd(), FcntlArg::F_GETPIPE_SZ).unwrap();
        let writer = (!closed).then_some(writer);
        self.0.push(Pipe {
            name,
            reader,
            writer,
            length,
            step,
            capacity,
        });
    }
}

fn contents(length: usize, step: usize) -> Vec<u8> {
    (0..length).map(|n| (n * step % 256) as u8).collect()
}

impl Program for Pipes {
    fn check(&mut self) -> Answer {
        for pipe in &self.0 {
            same(pipe.name, &unread(&pipe.reader), &pipe.length)?;
            let capacity = fcntl(pipe.reader.as_fd(), FcntlArg::F_GETPIPE_SZ);
            same(pipe.name, &capacity, &Ok(pipe.capacity))?;
        }
        if let Some(early) = &self.1 {
            // struct pollfd: descriptor, events, what happened.
            let mut poll = u64::from(early.as_raw_fd().cast_unsigned());
            call_with(libc::SYS_poll, &[], &mut poll, &[1, 0]).unwrap();
            same("hang-up of the early one", &(poll >> 48), &0)?;
        }
        Ok(format!("{} pipes", self.0.len()))
    }

    /// `drain` reads everything, compares, and fills again (what has ended stays at its end).
    fn command(&mut self, _: &[&str]) -> Answer {
        for pipe in &mut self.0 {
            let should = contents(pipe.length, pipe.step);
            let mut is = vec![0; pipe.length];
            pipe.reader.read_exact(&mut is).map_err(|e| e.to_string())?;
            same(
                &format!("contents of {}", pipe.name),
                &(is == should),
                &true,
            )?;
            match &mut pipe.writer {
                Some(writer) => writer.write_all(&should).map_err(|e| e.to_string())?,
                None => {
                    let end = pipe.reader.read(&mut [0; 8]);
                    same("end", &end.map_err(|e| e.to_string())?, &0)?;
                    pipe.length = 0;
                }
            }
            let flags = fcntl(pipe.reader.as_fd(), FcntlArg::F_GETFL).unwrap_or(0);
            if pipe.length == 0 && flags & OFlag::O_NONBLOCK.bits() != 0 {
                let wait = pipe.reader.read(&mut [0; 8]).map_err(|e| e.kind());
                same("empty, not ended", &wait, &Err(ErrorKind::WouldBlock))?;
            }
        }
        Ok(String::new())
    }
}
