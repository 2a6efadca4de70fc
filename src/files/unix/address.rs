//! Names of unix sockets: a path, or an abstract name (unix(7)).

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::socket::UnixAddr;

use crate::image::proto::FilePermsEntry;
use crate::units::Pid;

/// A name that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address<'a> {
    /// Without the NUL that marks it.
    Abstract(&'a [u8]),
    /// Without the NUL that ends it.
    Path(&'a Path),
}

impl<'a> Address<'a> {
    /// A name as the kernel and the images have it; `None` when there is none.
    pub(super) fn of(name: &'a [u8]) -> Option<Self> {
        match name {
            [] => None,
            [0, rest @ ..] => Some(Self::Abstract(rest)),
            path => {
                let end = path
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(path.len());
                Some(Self::Path(Path::new(OsStr::from_bytes(&path[..end]))))
            }
        }
    }

    /// For system calls.
    pub(super) fn raw(&self) -> nix::Result<UnixAddr> {
        match self {
            Self::Abstract(name) => UnixAddr::new_abstract(name),
            Self::Path(path) => UnixAddr::new(*path),
        }
    }

    /// Where its file is; `None` for an abstract name.
    pub(super) fn path(&self, directory: Option<&str>) -> Option<PathBuf> {
        match self {
            Self::Abstract(_) => None,
            Self::Path(path) => Some(Path::new(directory.unwrap_or("/")).join(path)),
        }
    }

    /// The directory that a relative path starts from.
    pub(super) fn directory(&self, directory: Option<&'a str>) -> Option<&'a Path> {
        match self {
            Self::Path(path) if path.is_relative() => Some(Path::new(directory.unwrap_or("/"))),
            _ => None,
        }
    }
}

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// What belongs to a path beside its text.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// Where a relative path starts.
    pub(super) directory: Option<String>,
    /// Mode and owner of the file.
    pub(super) permissions: Option<FilePermsEntry>,
    /// The file has lost its name.
    pub(super) deleted: bool,
    /// Where the file is by now, when it was moved (servers that bind a temporary name do that).
    pub(super) moved_to: Option<String>,
    /// It has another name, but not one that was found.
    pub(super) astray: bool,
}

impl Place {
    /// The place of a socket of process `pid` that is bound to `name` and `file`.
    pub(super) fn of(name: &[u8], file: Option<&OwnedFd>, pid: Pid) -> Self {
        let Some(Address::Path(path)) = Address::of(name) else {
            return Self::default();
        };
        let link = file.map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        let meta = link.as_ref().and_then(|link| fs::metadata(link).ok());
        let shown = link
            .and_then(|link| fs::read_link(link).ok())
            .unwrap_or_default();
        let directory = path.is_relative().then(|| {
            let text = shown.to_string_lossy();
            let text = text.strip_suffix(" (deleted)").unwrap_or(&text);
            let bare = path.strip_prefix(".").unwrap_or(path);
            let start = text.strip_suffix(&*bare.to_string_lossy());
            let start = start.map(|start| start.trim_end_matches('/').to_owned());
            start.map_or_else(
                // The name goes up, or through a link: the process may still be where it was.
                || fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default(),
                |start| {
                    PathBuf::from(if start.is_empty() {
                        "/".to_owned()
                    } else {
                        start
                    })
                },
            )
        });
        let place = directory.as_deref().unwrap_or(Path::new("/")).join(path);
        let there = fs::symlink_metadata(&place).ok();
        let same = match (&there, &meta) {
            (Some(there), Some(meta)) => same_file(there, meta),
            _ => false,
        };
        let moved_to = meta
            .as_ref()
            .filter(|_| !same)
            .and_then(|meta| whereabouts(&shown, &place, meta));
        let astray = !same && moved_to.is_none() && meta.as_ref().is_some_and(|m| m.nlink() > 0);
        Self {
            directory: directory.map(|directory| directory.to_string_lossy().into_owned()),
            permissions: meta.map(|meta| FilePermsEntry {
                mode: meta.mode(),
                uid: meta.uid(),
                gid: meta.gid(),
            }),
            deleted: !same && moved_to.is_none(),
            moved_to,
            astray,
        }
    }
}

fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Where a file is that is not at its `place`: where the kernel shows it (it was renamed), or in the same
/// directory (it got a second name, and lost the first).
fn whereabouts(shown: &Path, place: &Path, file: &fs::Metadata) -> Option<String> {
    let is_it = |path: &PathBuf| {
        path.is_absolute() && fs::symlink_metadata(path).is_ok_and(|meta| same_file(&meta, file))
    };
    let beside = || {
        let entries = fs::read_dir(place.parent()?).ok()?;
        entries.flatten().map(|entry| entry.path()).find(is_it)
    };
    let found = Some(shown.to_owned()).filter(is_it).or_else(beside)?;
    found.to_str().map(ToOwned::to_owned)
}

/// A device number as the kernel's lists have it.
pub(super) fn kernels_device(dev: u64) -> u32 {
    libc::major(dev) << 20 | libc::minor(dev)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::sys::socket::bound_file;

    #[test]
    fn a_file_that_was_moved_is_found_and_one_that_is_elsewhere_is_said_to_be_astray() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let (old, new, far) = (dir.join("old"), dir.join("new"), dir.join("far"));
        fs::create_dir(&far).unwrap();
        let listener = UnixListener::bind(&old).unwrap();
        let file = bound_file(&listener).unwrap();
        let name = [old.as_os_str().as_bytes(), b"\0"].concat();
        let place = || Place::of(&name, Some(&file), Pid::this());
        assert!(!place().deleted && place().moved_to.is_none());
        fs::rename(&old, &new).unwrap();
        assert_eq!(place().moved_to.as_deref(), new.to_str());
        assert!(!place().deleted && !place().astray);
        // A second name, and the first one is gone.
        let second = dir.join("second");
        fs::hard_link(&new, &second).unwrap();
        fs::remove_file(&new).unwrap();
        assert_eq!(place().moved_to.as_deref(), second.to_str());
        fs::hard_link(&second, far.join("third")).unwrap();
        fs::remove_file(&second).unwrap();
        assert!(place().deleted && place().astray);
        fs::remove_file(far.join("third")).unwrap();
        assert!(place().deleted && !place().astray);
    }
}
