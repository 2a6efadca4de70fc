//! Names for directories that are being changed or removed, and how they are cleared away.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::criu;
use super::partial::{busy, lock, sync};
use crate::error::{Error, Result};

/// Where a new sidecar is written, inside a layer, before it takes the place of the old one.
pub const FRESH: &str = "icecore.img.new";

const SUFFIX: &[u8] = b".icecore";

/// Where the new contents of `dir` are staged, and where it goes before it is taken apart.
pub(super) fn name_for(dir: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(dir.file_name().unwrap_or_default());
    name.push(OsStr::from_bytes(SUFFIX));
    dir.with_file_name(name)
}

/// True for the name of a directory that is staged or being removed: no layer, whatever it holds.
pub fn is_staging(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.len() > SUFFIX.len() + 1 && name.starts_with(b".") && name.ends_with(SUFFIX)
}

/// Removes what dead processes left behind in `folder`, which is locked; what a living one works on
/// (that makes a layer of its own) stays.
///
/// A folder that cannot be read or written has nothing that could be removed.
pub fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_staging(&entry.file_name())
            && let Err(e) = remove_left(&entry.path())
        {
            tracing::debug!("left where it is: {}", e.one_line());
        }
        // Whoever writes one holds the folder alone. There is hardly ever one.
        drop(fs::remove_file(entry.path().join(FRESH)));
    }
}

/// Removes a staging directory of a dead process.
pub(super) fn remove_left(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::path("look at", path, e)),
        Ok(meta) if !meta.is_dir() => return Ok(()),
        Ok(_) => {}
    }
    let _lock = lock(path)?.ok_or_else(|| busy(path))?;
    let folder = path.parent().unwrap_or(path);
    if let Some(busy) = criu::refuse(folder) {
        return Err(busy);
    }
    // What it was exchanged for may not be durable yet; then this is still the layer.
    sync(folder)?;
    take_apart(path)
}

/// Removes the layer in `dir`: gone in one step, then its files.
///
/// # Errors
/// When CRIU uses a layer beside it, the directory cannot be renamed, or its files cannot be removed.
pub fn remove(dir: &Path) -> Result<()> {
    let staging = name_for(dir);
    let folder = dir.parent().unwrap_or(dir);
    remove_left(&staging)?;
    if let Some(busy) = criu::refuse(folder) {
        return Err(busy);
    }
    fs::rename(dir, &staging).map_err(|e| Error::path("remove", dir, e))?;
    sync(folder)?;
    discard(&staging)
}

/// Removes a directory that was replaced or renamed just now, unless CRIU began to use it before that.
pub(super) fn discard(path: &Path) -> Result<()> {
    match path.parent().and_then(criu::refuse) {
        None => take_apart(path),
        Some(busy) => {
            tracing::info!("{} stays for now: {}", path.display(), busy.one_line());
            Ok(())
        }
    }
}

/// Removes a directory with its files; somebody else may be doing the same.
fn take_apart(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::path("remove", path, e)),
        _ => Ok(()),
    }
}

/// What to try when directories cannot change places.
pub(super) fn cannot_exchange(dir: &Path, error: io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::EINVAL | libc::ENOSYS | libc::EXDEV) => {
            "This file system cannot exchange directories: copy the stack to ext4, xfs, btrfs or tmpfs"
        }
        _ => "The layer is as it was",
    };
    Error::path("replace", dir, error).hint(hint)
}
