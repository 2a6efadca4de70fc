//! Names of files: two of them change places in one step (renameat2(2)), and files without one are
//! found by their handles (open_by_handle_at(2)).
#![expect(unsafe_code, reason = "calls without a wrapper that every libc knows")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use linux_raw_sys::general::RENAME_EXCHANGE;
use nix::errno::Errno;

/// Exchanges what `one` and `other` name; at no instant is either of them absent.
///
/// # Errors
/// `EINVAL` or `ENOSYS` when the file system cannot do it, `EXDEV` when they lie on different ones.
pub fn exchange(one: &Path, other: &Path) -> nix::Result<()> {
    let name = |path: &Path| {
        CString::new(path.as_os_str().as_bytes()).map_err(|_nul_inside| Errno::EINVAL)
    };
    let (one, other) = (name(one)?, name(other)?);
    // SAFETY: both paths are strings that end with NUL and outlive the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            RENAME_EXCHANGE,
        )
    };
    Errno::result(done).map(drop)
}

/// Most bytes of a file handle.
const MAX_HANDLE: usize = 128;

/// `struct file_handle` with room for the largest.
#[repr(C)]
struct Handle {
    bytes: u32,
    kind: i32,
    handle: [u8; MAX_HANDLE],
}

/// The file with this handle as a place only (`O_PATH`), on the filesystem of `mount`, a descriptor
/// of any directory there.
///
/// # Errors
/// `EPERM` without CAP_DAC_READ_SEARCH, `ESTALE` when the file is gone, `EOPNOTSUPP` when the
/// filesystem has no handles.
pub fn by_handle(mount: impl AsFd, kind: u32, bytes: &[u8]) -> nix::Result<OwnedFd> {
    let mount = mount.as_fd().as_raw_fd();
    let mut handle = Handle {
        bytes: u32::try_from(bytes.len()).map_err(|_too_large| Errno::EINVAL)?,
        kind: kind.cast_signed(),
        handle: [0; MAX_HANDLE],
    };
    let room = handle.handle.get_mut(..bytes.len()).ok_or(Errno::EINVAL)?;
    room.copy_from_slice(bytes);
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads the header and `bytes` bytes behind it, which `handle` holds.
    let fd = unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, &raw mut handle, flags) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)) })
}
