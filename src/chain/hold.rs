//! Holding a layer: whoever reads it shares the hold, whoever frees pages of it needs it alone.
//!
//! flock(2) on the directory, so a hold ends with its process. Holding the tip is enough: pages
//! below are freed only by a dedup that also holds every layer that would lose them.

use std::fs::File;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Kind, Result};

/// A held layer; let go on drop.
#[derive(Debug)]
pub struct Held {
    _lock: Flock<File>,
}

impl Held {
    /// Holds the layer in `dir` for reading: a restore, or a dump on top of it.
    pub fn shared(dir: &Path) -> Result<Self> {
        Self::take(dir, FlockArg::LockSharedNonblock)
    }

    /// Holds the layer in `dir` alone.
    pub fn alone(dir: &Path) -> Result<Self> {
        Self::take(dir, FlockArg::LockExclusiveNonblock)
    }

    fn take(dir: &Path, how: FlockArg) -> Result<Self> {
        let file = File::open(dir).map_err(|e| Error::path("open", dir, e))?;
        let what = format!("Cannot lock layer {}", dir.display());
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => {
                Err(Error::new(Kind::Busy, what + ": another command uses it")
                    .hint("Wait for that command, then try again"))
            }
            Err((_, errno)) => Err(Error::os(what, errno)),
        }
    }
}
