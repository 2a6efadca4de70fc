//! Descriptors: files with offsets and flags, directories, devices; duplicated within the process
//! and inherited by a child, so that the offset is one.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::child;

/// Bytes of the files: each tells its place.
const LENGTH: u64 = 10_000;

struct Descriptors {
    /// At 1234 now, and the same description twice more.
    plain: File,
    duplicate: File,
    high: File,
    append: File,
    write_only: File,
    directory: File,
    path_only: File,
    null: File,
    zero: File,
    random: File,
    full: File,
    /// Offset of `plain`, as told by commands.
    offset: u64,
    flags: Vec<i32>,
}

/// Builds it and serves; the child at the desk `child`. Argument `modest`: without what CRIU forgets.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let directory = if modest {
        OFlag::empty()
    } else {
        OFlag::O_DIRECTORY
    };
    let dir = desk.dir().to_owned();
    let bytes: Vec<u8> = (0..LENGTH).map(|n| (n % 251) as u8).collect();
    for name in ["plain", "append", "write-only"] {
        fs::write(dir.join(name), &bytes).unwrap();
    }
    let mut plain = File::options()
        .read(true)
        .write(true)
        .open(dir.join("plain"))
        .unwrap();
    plain.seek(SeekFrom::Start(1234)).unwrap();
    let duplicate = plain.try_clone().unwrap();
    // Without close-on-exec, at a number of its own.
    let high = fcntl(plain.as_fd(), FcntlArg::F_DUPFD(200)).unwrap();
    let flags = |flags: OFlag| {
        let mut options = OpenOptions::new();
        options.custom_flags(flags.bits());
        options
    };
    let mut write_only = flags(OFlag::O_NONBLOCK | OFlag::O_NOATIME)
        .write(true)
        .open(dir.join("write-only"))
        .unwrap();
    write_only.seek(SeekFrom::Start(77)).unwrap();
    let mut state = Descriptors {
        duplicate,
        high: File::from(crate::kernel::owned(high.into())),
        append: File::options()
            .read(true)
            .append(true)
            .open(dir.join("append"))
            .unwrap(),
        write_only,
        directory: flags(directory).read(true).open(&dir).unwrap(),
        path_only: flags(OFlag::O_PATH)
            .read(true)
            .open(dir.join("plain"))
            .unwrap(),
        null: File::options().write(true).open("/dev/null").unwrap(),
        zero: File::open("/dev/zero").unwrap(),
        random: File::open("/dev/urandom").unwrap(),
        full: File::options().write(true).open("/dev/full").unwrap(),
        offset: 1234,
        flags: Vec::new(),
        plain,
    };
    state.flags = state.seen();
    child(|| desk.beside("child").serve(&mut state));
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Descriptors {
    fn all(&self) -> [&File; 11] {
        [
            &self.plain,
            &self.duplicate,
            &self.high,
            &self.append,
            &self.write_only,
            &self.directory,
            &self.path_only,
            &self.null,
            &self.zero,
            &self.random,
            &self.full,
        ]
    }

    /// Numbers, status flags and descriptor flags.
    fn seen(&self) -> Vec<i32> {
        self.all()
            .iter()
            .flat_map(|file| {
                let status = fcntl(file.as_fd(), FcntlArg::F_GETFL).unwrap();
                let own = fcntl(file.as_fd(), FcntlArg::F_GETFD).unwrap();
                [file.as_raw_fd(), status, own & FdFlag::FD_CLOEXEC.bits()]
            })
            .collect()
    }
}

impl Program for Descriptors {
    fn check(&mut self) -> Answer {
        same("numbers and flags", &self.seen(), &self.flags)?;
        let text = |e: std::io::Error| e.to_string();
        for file in [&mut self.plain, &mut self.duplicate, &mut self.high] {
            let at = file.stream_position().map_err(text)?;
            same("offset of a description", &at, &self.offset)?;
        }
        same(
            "offset",
            &self.write_only.stream_position().map_err(text)?,
            &77,
        )?;
        let mut buffer = [1u8; 16];
        self.zero.read_exact(&mut buffer).map_err(text)?;
        same("zeros", &buffer, &[0; 16])?;
        self.random.read_exact(&mut buffer).map_err(text)?;
        same("random bytes", &(buffer == [0; 16]), &false)?;
        same("full", &self.full.write(b"x").is_err(), &true)?;
        self.null.write_all(b"gone").map_err(text)?;
        let fd = self.directory.as_raw_fd();
        let count = fs::read_dir(format!("/proc/self/fd/{fd}"))
            .map_err(text)?
            .count();
        same("entries in the directory", &(count > 3), &true)?;
        Ok(format!("offset {}", self.offset))
    }

    /// `read N` reads, so that the offset of all moves; `expect OFFSET` after another process did;
    /// `append` writes at the end.
    fn command(&mut self, words: &[&str]) -> Answer {
        let text = |e: std::io::Error| e.to_string();
        match words {
            ["read", count] => {
                let mut bytes = vec![0; count.parse().map_err(|_| "not a number")?];
                self.duplicate.read_exact(&mut bytes).map_err(text)?;
                for (n, byte) in (self.offset..).zip(&bytes) {
                    same("a byte of the file", byte, &((n % 251) as u8))?;
                }
                self.offset += bytes.len() as u64;
                Ok(self.offset.to_string())
            }
            ["expect", offset] => {
                self.offset = offset.parse().map_err(|_| "not a number")?;
                Ok(String::new())
            }
            ["append"] => {
                let before = self.append.metadata().map_err(text)?.len();
                self.append.write_all(b"more").map_err(text)?;
                let after = self.append.metadata().map_err(text)?.len();
                same("length", &after, &(before + 4))?;
                Ok(after.to_string())
            }
            _ => Err("read N | expect OFFSET | append".into()),
        }
    }
}
