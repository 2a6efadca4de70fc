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
        let there = fs::symlink_metadata(place).ok();
        let same = match (&there, &meta) {
            (Some(there), Some(meta)) => (there.dev(), there.ino()) == (meta.dev(), meta.ino()),
            _ => false,
        };
        Self {
            directory: directory.map(|directory| directory.to_string_lossy().into_owned()),
            permissions: meta.map(|meta| FilePermsEntry {
                mode: meta.mode(),
                uid: meta.uid(),
                gid: meta.gid(),
            }),
            deleted: !same,
        }
    }
}

/// A device number as the kernel's lists have it.
pub(super) fn kernels_device(dev: u64) -> u32 {
    libc::major(dev) << 20 | libc::minor(dev)
}
