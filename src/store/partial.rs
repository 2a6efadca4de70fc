//! A directory in the making: `NAME.partial` until all of it is durable, then `NAME`.
//!
//! Its maker holds a lock (flock(2)) on the directory itself, so what a dead process left behind
//! is told from what a living one is making, and the lock leaves no file in the result.
//!
//! The new contents of a layer that exists are made the same way, under its staging name.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollTimeout, poll};

use super::staging;
use crate::error::{Error, Kind, Result};
use crate::sys;

/// How the name of a directory in the making ends.
const PARTIAL: &str = ".partial";
/// How often to try for a lock that somebody has, and how many milliseconds after each time.
const LOOKS: u32 = 3;
const LOOK: u8 = 1;

/// A directory being written. [`PartialDir::commit`] gives it its name; dropped before, it is
/// removed with everything in it.
#[derive(Debug)]
pub struct PartialDir {
    path: PathBuf,
    target: PathBuf,
    /// Locked for as long as the directory is partial.
    lock: Flock<File>,
    /// The target exists and is to be replaced.
    replaces: bool,
    committed: bool,
}

impl PartialDir {
    /// Begins the directory `target`, which must be absent or empty.
    ///
    /// # Errors
    /// When it is neither, or when another process is making it.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = settled(target.as_ref())?;
        let mut name = OsString::from(target.file_name().unwrap_or_default());
        name.push(PARTIAL);
        let path = target.with_file_name(name);
        refuse_contents(&target)?;
        remove_leftover(&path)?;
        Self::begin(path, target, false)
    }

    /// Begins new contents for the directory `target`, which must exist.
    ///
    /// # Errors
    /// When it does not, or when another process is replacing it.
    pub fn replace(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref();
        let target = target
            .canonicalize()
            .map_err(|e| Error::path("replace", target, e))?;
        let path = staging::name_for(&target);
        staging::remove_left(&path)?;
        Self::begin(path, target, true)
    }

    fn begin(path: PathBuf, target: PathBuf, replaces: bool) -> Result<Self> {
        // The memory of a process is nobody else's business: 0700, as for core dumps.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| match e.kind() {
                ErrorKind::AlreadyExists => busy(&path),
                _ => Error::path("create", &path, e),
            })?;
        // Between creation and lock, another process may have taken it for a leftover.
        let lock = lock(&path)?.ok_or_else(|| busy(&path))?;
        let made = Self {
            path,
            target,
            lock,
            replaces,
            committed: false,
        };
        made.take_after()?;
        Ok(made)
    }

    /// Where the files are until the commit.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes all files durable, then the directory visible under its name.
    ///
    /// # Errors
    /// When anything cannot be written; nothing is left behind then.
    pub fn commit(mut self) -> Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|e| Error::path("read", &self.path, e))? {
            let entry = entry.map_err(|e| Error::path("read", &self.path, e))?;
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                files.push(entry.path());
            }
        }
        sync_all(&files)?;
        self.lock
            .sync_all()
            .map_err(|e| Error::path("sync", &self.path, e))?;
        if self.replaces {
            return self.exchange();
        }
        // rename(2) replaces an empty directory, and fails if it got contents meanwhile.
        fs::rename(&self.path, &self.target).map_err(|e| {
            Error::path("finish", &self.target, e).hint("choose a new or empty directory")
        })?;
        self.committed = true;
        self.target.parent().map_or(Ok(()), sync)
    }

    /// Puts the directory in the place of the old one, which then goes.
    fn exchange(mut self) -> Result<()> {
        sys::names::exchange(&self.path, &self.target)
            .map_err(|errno| staging::cannot_exchange(&self.target, errno.into()))?;
        self.committed = true;
        self.target.parent().map_or(Ok(()), sync)?;
        staging::discard(&self.path)
    }

    /// Gives the directory owner and mode of the one that it will replace.
    fn take_after(&self) -> Result<()> {
        let Ok(old) = fs::metadata(&self.target) else {
            return Ok(());
        };
        chown(&self.path, Some(old.uid()), Some(old.gid()))
            .and_then(|()| fs::set_permissions(&self.path, old.permissions()))
            .map_err(|e| Error::path("set the owner of", &self.path, e))
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        if !self.committed
            && let Err(e) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

/// The path without links, `.` and `..`; directories above it are made.
fn settled(target: &Path) -> Result<PathBuf> {
    if let Ok(path) = target.canonicalize() {
        return Ok(path);
    }
    let Some(name) = target.file_name() else {
        let what = format!("{} is not the name of a new directory", target.display());
        return Err(Error::new(Kind::Usage, what));
    };
    let above = match target.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    fs::create_dir_all(above)
        .and_then(|()| above.canonicalize())
        .map(|above| above.join(name))
        .map_err(|e| Error::path("create", above, e))
}

fn refuse_contents(target: &Path) -> Result<()> {
    match fs::read_dir(target).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => {
            let what = format!("Directory {} is not empty", target.display());
            Err(Error::new(Kind::Failed, what).hint("choose another directory for the new layer"))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::path("open", target, e)),
    }
}

/// Removes what a process that died here left behind.
fn remove_leftover(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::path("look at", path, e)),
        Ok(meta) if !meta.is_dir() => {
            return Err(
                Error::new(Kind::Failed, format!("{} is in the way", path.display()))
                    .hint("it is no directory; move it away"),
            );
        }
        Ok(_) => {}
    }
    let _lock = lock(path)?.ok_or_else(|| busy(path))?;
    tracing::info!("removing {}, left by a process that died", path.display());
    fs::remove_dir_all(path).map_err(|e| Error::path("remove", path, e))
}

/// Locks a directory; `None` when another process has it, or had and removed it.
pub(super) fn lock(path: &Path) -> Result<Option<Flock<File>>> {
    let cannot = |e| Error::path("lock", path, e);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(cannot(e)),
    };
    // Who only looks whether somebody has it lets it go at once.
    let mut looks = 0..LOOKS;
    let lock = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((again, Errno::EWOULDBLOCK)) if looks.next().is_some() => {
                file = again;
                let _timed_out = poll(&mut [], PollTimeout::from(LOOK));
            }
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(cannot(io::Error::from(errno))),
        }
    };
    let locked = lock.metadata().map_err(cannot)?;
    let still =
        fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (locked.dev(), locked.ino()));
    Ok(still.then_some(lock))
}

/// True while a living process makes the directory `path`, which has the name of one in the making.
pub fn is_being_made(path: &Path) -> bool {
    if !path.to_string_lossy().ends_with(PARTIAL) {
        return false;
    }
    let Ok(file) = File::open(path) else {
        return false;
    };
    let lock = Flock::lock(file, FlockArg::LockSharedNonblock);
    matches!(lock, Err((_, Errno::EWOULDBLOCK)))
}

pub(crate) fn busy(path: &Path) -> Error {
    let what = format!("Another process is writing {}", path.display());
    Error::new(Kind::Busy, what).hint("wait until it has finished, or choose another directory")
}

pub(super) fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|e| Error::path("sync", path, e))
}

/// Files that are synced at the same time.
const AT_ONCE: usize = 8;

/// Makes `files` durable, several at a time: each fsync(2) waits for a commit of the file system's
/// journal, and those of the same moment share one. (A tree of many threads has many small images.)
///
/// Each file gets an fsync of its own, because that holds on every file system and reports the errors
/// of that file. One syncfs(2) would be no faster; it waits for whatever others have written as well,
/// and on FUSE it does not reach the disk.
fn sync_all(files: &[PathBuf]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync(path)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        // Without the right to start threads, this one does all of it.
        let others: Vec<_> = (1..AT_ONCE.min(files.len()))
            .filter_map(|_| thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let own = work();
        let others = others.into_iter().map(|other| match other.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        // All of them are joined, whatever the first one says.
        others.fold(own, Result::and)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn nothing_is_there_before_the_commit_and_everything_after() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a/b");
        let dir = PartialDir::create(&target).unwrap();
        fs::write(dir.path().join("x"), "y").unwrap();
        assert!(!target.exists());
        dir.commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "y");
        assert_eq!(fs::read_dir(root.path().join("a")).unwrap().count(), 1);
    }

    #[test]
    fn every_file_is_synced_and_the_first_error_is_told() {
        let root = tempfile::tempdir().unwrap();
        let mut files: Vec<PathBuf> = (0..50).map(|n| root.path().join(n.to_string())).collect();
        for file in &files {
            fs::write(file, "x").unwrap();
        }
        sync_all(&files).unwrap();
        sync_all(&[]).unwrap();
        files[37] = root.path().join("gone");
        let error = sync_all(&files).unwrap_err();
        assert!(error.one_line().contains("gone"), "{error}");
    }

    #[test]
    fn a_dropped_directory_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let dir = PartialDir::create(root.path().join("a")).unwrap();
        fs::write(dir.path().join("x"), "y").unwrap();
        drop(dir);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_with_contents_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("x"), "y").unwrap();
        let error = PartialDir::create(root.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Failed);
        assert!(error.next_step().is_some());
        assert_eq!(fs::read_to_string(root.path().join("x")).unwrap(), "y");
    }

    #[test]
    fn contents_that_appear_during_the_work_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a");
        let dir = PartialDir::create(&target).unwrap();
        fs::create_dir(&target).unwrap();
        fs::write(target.join("x"), "y").unwrap();
        assert!(dir.commit().is_err());
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "y");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_directory_keeps_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a");
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o750)).unwrap();
        PartialDir::create(&target).unwrap().commit().unwrap();
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o750
        );
    }

    #[test]
    fn new_contents_take_the_place_of_the_old_ones_in_one_step() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a");
        fs::create_dir(&target).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(target.join("x"), "old").unwrap();
        let dir = PartialDir::replace(&target).unwrap();
        fs::write(dir.path().join("x"), "new").unwrap();
        fs::hard_link(target.join("x"), dir.path().join("y")).unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "old");
        assert_eq!(PartialDir::replace(&target).unwrap_err().kind(), Kind::Busy);
        dir.commit().unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "new");
        assert_eq!(fs::read_to_string(target.join("y")).unwrap(), "old");
        let meta = fs::metadata(&target).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o750);
        assert_eq!(fs::metadata(target.join("y")).unwrap().nlink(), 1);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        drop(PartialDir::replace(&target).unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
        staging::remove(&target).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_leftover_is_removed_and_a_living_maker_is_not_disturbed() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("a");
        fs::create_dir(root.path().join("a.partial")).unwrap();
        fs::write(root.path().join("a.partial/old"), "").unwrap();
        let first = PartialDir::create(&target).unwrap();
        assert!(!first.path().join("old").exists());
        fs::write(first.path().join("new"), "").unwrap();
        assert_eq!(PartialDir::create(&target).unwrap_err().kind(), Kind::Busy);
        first.commit().unwrap();
        assert!(target.join("new").exists());
    }
}
