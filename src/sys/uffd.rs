//! userfaultfd(2) in its asynchronous write-protect mode (Linux 6.7): the kernel notes the first
//! write to each page and resolves the fault by itself; nobody ever waits.
//! (ioctl_userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst)
#![expect(unsafe_code, reason = "ioctl(2) has no safe interface")]

use std::os::fd::{AsRawFd as _, BorrowedFd};

use linux_raw_sys::general::{uffdio_range, uffdio_register, uffdio_writeprotect};
use nix::errno::Errno;

use crate::units::{PAGE_SIZE, PageRange};

/// Flags for userfaultfd(2): user-mode faults only, which needs no privilege and, with asynchronous
/// write-protection, misses nothing (writes by the kernel are noted too).
pub const CREATE_FLAGS: u64 = (libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) as u64;
const USER_MODE_ONLY: i32 = 1;

/// Request number of UFFDIO_API.
pub const UFFDIO_API: u64 = 0xc018_aa3f;

/// `struct uffdio_api` that asks for asynchronous write-protection.
pub fn api_argument() -> [u8; 24] {
    const UFFD_API: u64 = 0xaa;
    const WP_ASYNC: u64 = 1 << 15;
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&UFFD_API.to_le_bytes());
    bytes[8..16].copy_from_slice(&WP_ASYNC.to_le_bytes());
    bytes
}

mod ioctl {
    use linux_raw_sys::general::{uffdio_register, uffdio_writeprotect};

    nix::ioctl_readwrite!(register, 0xaa, 0x00, uffdio_register);
    nix::ioctl_readwrite!(write_protect, 0xaa, 0x06, uffdio_writeprotect);
}

/// Registers a range of the address space that the userfaultfd belongs to, whichever process calls.
/// A range that is registered with it already stays as it is.
///
/// # Errors
/// EINVAL where the kernel cannot write-protect, EBUSY where another userfaultfd is registered.
pub fn register(uffd: BorrowedFd<'_>, range: PageRange) -> nix::Result<()> {
    const MODE_WP: u64 = 2;
    let mut argument = uffdio_register {
        range: uffdio_range {
            start: range.start,
            len: range.bytes(),
        },
        mode: MODE_WP,
        ioctls: 0,
    };
    // SAFETY: `argument` is a complete uffdio_register that outlives the call; the kernel writes
    // only its `ioctls`.
    unsafe { ioctl::register(uffd.as_raw_fd(), &raw mut argument) }.map(drop)
}

/// Whether the address space that the userfaultfd belongs to still lives. It ends with its process, or
/// when that executes another program.
pub fn has_memory(uffd: BorrowedFd<'_>) -> bool {
    // The page below the lowest address that a process can map.
    let mut argument = uffdio_writeprotect {
        range: uffdio_range {
            start: 0,
            len: PAGE_SIZE,
        },
        mode: 0,
    };
    // SAFETY: `argument` is a complete uffdio_writeprotect that outlives the call. Nothing is
    // registered at address 0, so nothing changes.
    let done = unsafe { ioctl::write_protect(uffd.as_raw_fd(), &raw mut argument) };
    // With memory: ENOENT, nothing is registered there.
    !matches!(done, Err(Errno::ESRCH))
}

/// Makes a userfaultfd for our own address space, with asynchronous write-protection.
///
/// # Errors
/// ENOSYS, EPERM or EINVAL when the kernel does not have it or does not give it.
pub fn create() -> nix::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd as _;
    // SAFETY: userfaultfd(2) takes flags only.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, CREATE_FLAGS) };
    let fd = i32::try_from(Errno::result(fd)?).unwrap_or(-1);
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let fd = unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) };
    let mut argument = api_argument();
    // SAFETY: the argument has the size that UFFDIO_API reads and writes, and outlives the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, argument.as_mut_ptr()) };
    Errno::result(done)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::sys::scratch::Scratch;

    #[test]
    fn our_own_memory_lives_and_can_be_registered_twice_with_the_same_but_not_with_another() {
        let (Ok(one), Ok(other)) = (create(), create()) else {
            return; // not here; doctor says so
        };
        assert!(has_memory(one.as_fd()));
        let scratch = Scratch::map(2).unwrap();
        register(one.as_fd(), scratch.range()).unwrap();
        register(one.as_fd(), scratch.range()).unwrap();
        assert_eq!(register(other.as_fd(), scratch.range()), Err(Errno::EBUSY));
        drop(one);
        register(other.as_fd(), scratch.range()).unwrap();
    }
}
