//! Two names of a directory tree change places in one step: renameat2(2).
#![expect(unsafe_code, reason = "renameat2 has no wrapper that every libc knows")]

use std::ffi::CString;
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
