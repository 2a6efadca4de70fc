//! Memory of other processes: process_vm_readv(2) and /proc/PID/mem (proc_pid_mem(5)).

use std::fs::{File, OpenOptions};
use std::io::{IoSliceMut, Result};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};

use crate::units::{Pid, Vaddr};

/// Ranges that one [`read_many`] takes at most (IOV_MAX, readv(2)).
pub const MANY: usize = 1024;

/// Reads several ranges (address, length) one after the other into `buffer`, which is as long as all
/// of them, in one call (process_vm_readv(2)); may return fewer bytes at the edge of a mapping. Fails
/// with EFAULT on memory that the process itself cannot read.
///
/// # Errors
/// EPERM without the right to trace, ESRCH when it is gone, EFAULT.
pub fn read_many(pid: Pid, parts: &[(Vaddr, usize)], buffer: &mut [u8]) -> nix::Result<usize> {
    let remote: Vec<RemoteIoVec> = parts
        .iter()
        .map(|(addr, len)| {
            Ok(RemoteIoVec {
                base: usize::try_from(*addr).or(Err(Errno::EFAULT))?,
                len: *len,
            })
        })
        .collect::<nix::Result<_>>()?;
    process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], &remote)
}

/// The memory of a process as a file: reads and writes whatever is mapped, also what the process
/// itself may not touch (FOLL_FORCE), and copies private pages before it writes them.
#[derive(Debug)]
pub struct Memory(File);

impl Memory {
    /// Opens `/proc/PID/mem`.
    ///
    /// # Errors
    /// Without the right to trace, or when the process is gone.
    pub fn open(pid: Pid) -> Result<Self> {
        let path = format!("/proc/{pid}/mem");
        Ok(Self(OpenOptions::new().read(true).write(true).open(path)?))
    }

    /// Fills `buffer` from `addr`.
    ///
    /// # Errors
    /// EIO where nothing is mapped.
    pub fn read(&self, addr: Vaddr, buffer: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buffer, addr)
    }

    /// Writes `bytes` at `addr`.
    ///
    /// # Errors
    /// EIO where nothing is mapped.
    pub fn write(&self, addr: Vaddr, bytes: &[u8]) -> Result<()> {
        self.0.write_all_at(bytes, addr)
    }
}
