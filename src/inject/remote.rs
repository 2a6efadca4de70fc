//! A thread in which system calls can be run, one batch at a time.

use nix::errno::Errno;

use crate::error::{Error, Kind, Result};
use crate::units::{PageRange, Pid, Vaddr};

/// One system call to be run inside another task: number, six arguments, and its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// System call number (`libc::SYS_*`).
    pub nr: i64,
    /// Arguments; pointers are addresses in the other task.
    pub args: [u64; 6],
    /// What it returned: the raw register, `-errno` on failure. 0 before it ran.
    pub result: i64,
}

impl Call {
    /// A call with up to six arguments; missing ones are 0.
    pub fn new(nr: i64, args: &[u64]) -> Self {
        let mut call = Self { nr, ..Self::default() };
        call.args[..args.len()].copy_from_slice(args);
        call
    }

    /// The result as the C library would give it.
    ///
    /// # Errors
    /// The errno when the call failed.
    pub fn value(&self) -> std::result::Result<u64, Errno> {
        if (-4095..0).contains(&self.result) {
            Err(Errno::from_raw(i32::try_from(-self.result).unwrap_or(0)))
        } else {
            Ok(self.result.cast_unsigned())
        }
    }
}

/// A stopped thread of another process in which system calls can be run.
#[derive(Debug)]
pub struct Remote {
    tid: Pid,
    scratch: PageRange,
}

impl Remote {
    /// The thread in which the calls run.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Writable memory inside the task for arguments and results (at least 16 KiB). Its contents
    /// survive from one batch to the next, and are gone when the remote is.
    pub fn scratch(&self) -> PageRange {
        self.scratch
    }

    /// Runs `calls` in order, all of them whatever they return, in one go. Results are in
    /// [`Call::result`].
    ///
    /// # Errors
    /// When the thread died or cannot be controlled; a failing call is not an error here.
    pub fn run(&mut self, calls: &mut [Call]) -> Result<()> {
        let _ = calls;
        Err(Error::new(Kind::Unsupported, "Not yet"))
    }

    /// Runs one call. `what` names it in the error, e.g. `setsid`.
    ///
    /// # Errors
    /// When the call fails or the thread died.
    pub fn call(&mut self, what: &str, nr: i64, args: &[u64]) -> Result<u64> {
        let mut calls = [Call::new(nr, args)];
        self.run(&mut calls)?;
        calls[0]
            .value()
            .map_err(|e| Error::os(format!("{what} failed in thread {}", self.tid), e))
    }

    /// Copies `bytes` to `offset` bytes into the scratch area and returns their address in the task.
    ///
    /// # Errors
    /// When the memory cannot be written, or the bytes do not fit.
    pub fn put(&mut self, offset: u64, bytes: &[u8]) -> Result<Vaddr> {
        let _ = (offset, bytes);
        Err(Error::new(Kind::Unsupported, "Not yet"))
    }

    /// Reads `buffer.len()` bytes from `offset` bytes into the scratch area.
    ///
    /// # Errors
    /// When the memory cannot be read.
    pub fn get(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let _ = (offset, buffer);
        Err(Error::new(Kind::Unsupported, "Not yet"))
    }
}
