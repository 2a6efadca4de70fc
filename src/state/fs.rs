//! The view of the file system that a process has: working directory, root, umask (chdir(2),
//! chroot(2), umask(2); `fs-PID.img`). The directories are records of `files.img`.

use std::os::fd::RawFd;

use crate::error::{Error, Kind, Result};
use crate::image::proto::FsEntry;
use crate::inject::Remote;
use crate::task::proc;
use crate::units::Pid;

/// Dump half: the record, with the file ids of the two directories.
///
/// # Errors
/// When the process is gone.
pub fn dump(pid: Pid, cwd_id: u32, root_id: u32) -> Result<FsEntry> {
    let umask = proc::status(pid, pid)?.umask.ok_or_else(|| {
        Error::new(Kind::Unsupported, "The kernel does not tell the umask")
            .hint("Linux 4.7 or newer does")
    })?;
    Ok(FsEntry {
        cwd_id,
        root_id,
        umask: Some(umask),
    })
}

/// Restore half, inside the new process: `cwd` and `root` are descriptors of the directories there;
/// `root` is `None` when the root stays what it is. To come after everything that creates files,
/// and before the credentials.
///
/// # Errors
/// When the kernel refuses, e.g. chroot without the right.
pub fn restore(remote: &mut Remote, fs: &FsEntry, cwd: RawFd, root: Option<RawFd>) -> Result<()> {
    if let Some(root) = root {
        remote.call("fchdir", libc::SYS_fchdir, &[argument(root)])?;
        let here = remote.put(0, b".\0")?;
        remote.call("chroot", libc::SYS_chroot, &[here])?;
    }
    remote.call("fchdir", libc::SYS_fchdir, &[argument(cwd)])?;
    if let Some(umask) = fs.umask {
        remote.call("umask", libc::SYS_umask, &[u64::from(umask)])?;
    }
    Ok(())
}

fn argument(fd: RawFd) -> u64 {
    u64::from(fd.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_umask_is_read_as_octal() {
        let pid = nix::unistd::getpid();
        let entry = dump(pid, 3, 4).unwrap();
        let line = proc::line(pid, "status").unwrap();
        let umask = line
            .lines()
            .find_map(|l| l.strip_prefix("Umask:\t"))
            .unwrap()
            .to_owned();
        assert_eq!(entry.umask, u32::from_str_radix(&umask, 8).ok());
        assert_eq!((entry.cwd_id, entry.root_id), (3, 4));
    }
}
