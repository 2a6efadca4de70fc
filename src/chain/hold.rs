//! Holding the stack of a layer: whoever reads it shares the hold, whoever changes it needs it alone.
//!
//! The lock is that of the folders which contain the layers of the stack (see `store`), so it covers
//! the whole tree of layers, branches included, and a layer that is moved or replaced meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::MAX_DEPTH;
use crate::error::{Error, Result};
use crate::store::Lock;

/// A held stack; let go on drop.
#[derive(Debug)]
pub struct Held {
    _lock: Lock,
}

impl Held {
    /// Holds the stack of the layer in `dir` for reading: a restore, a look, or a dump on top of it.
    ///
    /// # Errors
    /// When somebody changes layers of it, or there is no such directory.
    pub fn shared(dir: &Path) -> Result<Self> {
        Self::take(dir, Lock::shared)
    }

    /// Holds the stack of the layer in `dir` alone, to change any layer of it.
    ///
    /// # Errors
    /// When somebody uses layers of it, or there is no such directory.
    pub fn alone(dir: &Path) -> Result<Self> {
        Self::take(dir, Lock::alone)
    }

    fn take(dir: &Path, lock: fn(&BTreeSet<PathBuf>) -> Result<Lock>) -> Result<Self> {
        let mut folders = folders(dir)?;
        loop {
            let held = Self {
                _lock: lock(&folders)?,
            };
            // The stack may have been given other ancestors before it was ours.
            let now = self::folders(dir)?;
            if now.is_subset(&folders) {
                return Ok(held);
            }
            folders = now;
        }
    }
}

/// The folders that contain the layer and its ancestors, as far as there are any.
pub(crate) fn folders(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut at = fs::canonicalize(dir).map_err(|e| Error::path("open layer", dir, e))?;
    let mut folders = BTreeSet::new();
    for _ in 0..MAX_DEPTH {
        folders.extend(at.parent().map(Path::to_path_buf));
        match fs::canonicalize(at.join("parent")) {
            Ok(parent) => at = parent,
            Err(_) => break, // no parent, or a broken link, which the check of the stack will name
        }
    }
    Ok(folders)
}
