//! Files that cannot be opened before the processes of the layer exist: pidfds of them, their
//! namespaces, and their files below `/proc`. The engine makes these after the fork; each new process fetches what it has
//! of them from the engine (pidfd_getfd(2)).

use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use crate::error::{Error, Result};
use crate::image::proto::FileEntry;
use crate::inject::{Call, Remote};
use crate::sys::pidfd;
use crate::units::Pid;

/// The processes of a layer, when all of them are there.
pub struct Newcomers<'a> {
    /// What we call a process of the layer.
    pub seen: &'a dyn Fn(Pid) -> Pid,
    /// The root, as the layer calls it.
    pub root: Pid,
}

impl fmt::Debug for Newcomers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Newcomers");
        shown.field("root", &self.root).finish_non_exhaustive()
    }
}

impl Newcomers<'_> {
    /// What we call the process `pid` of the layer.
    pub(super) fn seen(&self, pid: Pid) -> Pid {
        (self.seen)(pid)
    }

    /// What we call the root.
    pub(super) fn root(&self) -> Pid {
        self.seen(self.root)
    }
}

/// Those of a layer.
#[derive(Debug, Default)]
pub(super) struct Late {
    waiting: Vec<FileEntry>,
    /// A pidfd of this process, inherited by the new ones.
    own: Option<OwnedFd>,
    /// What the new processes did not inherit.
    fetched: HashSet<u32>,
    /// Lowest number that none of them uses.
    least: RawFd,
}

impl Late {
    /// Puts a file off.
    pub(super) fn wait(&mut self, entry: &FileEntry) -> Result<()> {
        if self.own.is_none() {
            let own = pidfd::open(Pid::this());
            self.own = Some(own.map_err(|e| Error::os("Cannot open our own process", e))?);
        }
        self.waiting.push(entry.clone());
        Ok(())
    }

    /// Ready to be inherited.
    pub(super) fn prepared(
        mut self,
        least: RawFd,
        lift: impl Fn(OwnedFd) -> Result<OwnedFd>,
    ) -> Result<Self> {
        self.own = self.own.map(lift).transpose()?;
        self.least = least;
        Ok(self)
    }

    /// What was put off.
    pub(super) fn take(&mut self) -> Vec<FileEntry> {
        self.fetched = self.waiting.iter().map(|entry| entry.id).collect();
        std::mem::take(&mut self.waiting)
    }

    /// In a new process: fetches file `id`, which is `number` in this one, if it was not there to be
    /// inherited.
    pub(super) fn fetch(
        &self,
        id: u32,
        number: RawFd,
        remote: &mut Remote,
    ) -> Result<Option<RawFd>> {
        let Some(own) = self.own.as_ref().filter(|_| self.fetched.contains(&id)) else {
            return Ok(None);
        };
        let args = [own.as_raw_fd(), number, 0].map(|n| u64::from(n.cast_unsigned()));
        let fetched = remote.call("pidfd_getfd", libc::SYS_pidfd_getfd, &args);
        let fetched = fetched.map_err(|e| e.hint("run icecore as root"))?;
        let [command, least] =
            [libc::F_DUPFD_CLOEXEC, self.least].map(|n| u64::from(n.cast_unsigned()));
        let mut calls = [
            Call::new(libc::SYS_fcntl, &[fetched, command, least]),
            Call::new(libc::SYS_close, &[fetched]),
        ];
        remote.run(&mut calls)?;
        let tid = remote.tid();
        let cannot = |e| Error::os(format!("Process {tid} cannot duplicate file {id}"), e);
        let lifted = calls[0].value().map_err(cannot)?;
        Ok(RawFd::try_from(lifted).ok())
    }
}
