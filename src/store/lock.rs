//! The lock on folders of layers: flock(2) on each directory (see the module's contract).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use procfs::{LockType, process::Process};

use super::criu;
use super::staging::clear;
use crate::error::{Error, Kind, Result};

/// Locked folders; let go on drop.
#[derive(Debug)]
pub struct Lock {
    _folders: Vec<Flock<File>>,
}

impl Lock {
    /// Locks `folders` against changes: others may read too.
    ///
    /// # Errors
    /// When somebody changes layers there (who is named), or a folder cannot be opened.
    pub fn shared(folders: &BTreeSet<PathBuf>) -> Result<Self> {
        Self::take(folders, FlockArg::LockSharedNonblock)
    }

    /// Locks `folders` for changes.
    ///
    /// # Errors
    /// When somebody reads or changes layers there (who is named; CRIU too), or a folder cannot be
    /// opened.
    pub fn alone(folders: &BTreeSet<PathBuf>) -> Result<Self> {
        let lock = Self::take(folders, FlockArg::LockExclusiveNonblock)?;
        match folders.iter().find_map(|folder| criu::refuse(folder)) {
            Some(busy) => Err(busy),
            None => Ok(lock),
        }
    }

    fn take(folders: &BTreeSet<PathBuf>, how: FlockArg) -> Result<Self> {
        let mut held = Vec::new();
        for folder in folders {
            let file = match File::open(folder) {
                // Who may only pass through a folder can change nothing there, and keeps nobody
                // from it.
                Err(e)
                    if e.kind() == ErrorKind::PermissionDenied
                        && how == FlockArg::LockSharedNonblock =>
                {
                    continue;
                }
                other => other.map_err(|e| Error::path("open", folder, e))?,
            };
            match Flock::lock(file, how) {
                Ok(lock) => held.push(lock),
                Err((file, Errno::EWOULDBLOCK)) => return Err(busy(folder, &file)),
                Err((_, errno)) => {
                    let what = format!("Cannot lock {}", folder.display());
                    return Err(Error::os(what, errno));
                }
            }
        }
        for folder in folders {
            clear(folder);
        }
        Ok(Self { _folders: held })
    }
}

/// Who has the lock, as far as /proc/locks tells (proc_locks(5)).
fn busy(folder: &Path, file: &File) -> Error {
    let inode = file.metadata().map_or(0, |meta| meta.ino());
    let holders: Vec<String> = procfs::locks()
        .unwrap_or_default()
        .into_iter()
        .filter(|lock| lock.lock_type == LockType::FLock && lock.inode == inode)
        .filter_map(|lock| lock.pid.filter(|pid| *pid > 0))
        .map(holder)
        .collect();
    let by = if holders.is_empty() {
        "another command".to_owned()
    } else {
        holders.join(" and ")
    };
    let what = format!("The layers in {} are used by {by}", folder.display());
    Error::new(Kind::Busy, what).hint("Wait until it has finished, then try again")
}

/// A process as people know it: its command line and its pid.
fn holder(pid: i32) -> String {
    let words = Process::new(pid).and_then(|p| p.cmdline());
    match words {
        Ok(words) if !words.is_empty() => format!("`{}` (pid {pid})", words.join(" ")),
        _ => format!("pid {pid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone_and_the_holder_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folders = BTreeSet::from([root.path().to_path_buf()]);
        let readers = (Lock::shared(&folders).unwrap(), Lock::shared(&folders));
        let error = Lock::alone(&folders).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy);
        let us = format!("(pid {})", std::process::id());
        assert!(error.one_line().contains(&us), "{error}");
        drop(readers);
        let writer = Lock::alone(&folders).unwrap();
        assert_eq!(Lock::shared(&folders).unwrap_err().kind(), Kind::Busy);
        drop(writer);
        Lock::shared(&folders).unwrap();
    }

    #[test]
    fn what_the_dead_left_is_cleared_and_what_the_living_make_stays() {
        let root = tempfile::tempdir().unwrap();
        let folders = BTreeSet::from([root.path().to_path_buf()]);
        for name in [".a.icecore", ".b.icecore", "c.icecore", ".icecore"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
            std::fs::write(root.path().join(name).join("x"), "").unwrap();
        }
        let _maker = super::super::partial::lock(&root.path().join(".b.icecore")).unwrap();
        drop(Lock::shared(&folders).unwrap());
        let mut left: Vec<_> = std::fs::read_dir(root.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".b.icecore", ".icecore", "c.icecore"]);
    }
}
