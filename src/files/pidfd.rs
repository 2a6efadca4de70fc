//! Descriptors for processes of the tree, and for some that have ended and been waited for.
//!
//! CRIU: `pidfd_entry`; one of a gone process has the pid -1 and an inode number that it shares with
//! others of that process. A process must be there before its pidfd, so these descriptions alone are
//! made after the fork; each new process fetches them from the engine (pidfd_getfd(2)). Sources:
//! pidfd_open(2), `fs/pidfs.c`.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::descriptor::Descriptor;
use super::{
    Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened, descriptor,
};
use crate::error::{Error, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, PidfdEntry};
use crate::inject::{Call, Remote};
use crate::sys::{clone, pidfd};
use crate::units::Pid;

/// The pid of a process that is gone.
const GONE: i32 = -1;

/// pidfd_open(2).
#[derive(Debug)]
pub(super) struct Pidfd;

impl FileKind for Pidfd {
    fn name(&self) -> &'static str {
        "pidfd"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.is_anonymous("pidfd") || file.shown().starts_with("pidfd:[")
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, _: &Allow) -> Option<Refusal> {
        let members = outside.members.as_ref()?;
        let pid = process(file).unwrap_or(0);
        if pid == GONE || members.contains(&Pid::from_raw(pid)) {
            return None;
        }
        let whose = match pid {
            0 => "a process of another pid namespace".to_owned(),
            _ => format!(
                "process {pid} ({}) outside of the tree, or of a thread",
                descriptor::comm(Pid::from_raw(pid))
            ),
        };
        Some(Refusal {
            what: format!("a pidfd of {whose}"),
            hint: "dump the tree that the process belongs to, or have the program close it"
                .to_owned(),
        })
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Pidfd
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let untold =
            || Error::corrupt(format!("{} does not tell its process", file.link.display()));
        let pid = process(file).ok_or_else(untold)?;
        let nspid = if pid == GONE {
            GONE
        } else {
            dumper.member(Pid::from_raw(pid), file)?.as_raw()
        };
        dumper.push(FileEntry {
            r#type: FdTypes::Pidfd.into(),
            id,
            pidfd: Some(PidfdEntry {
                id,
                // Lower half, as CRIU: it only has to tell the processes of a layer apart.
                ino: file.stat.ino as u32,
                flags: file.flags & !libc::O_RDWR.cast_unsigned(),
                nspid,
                fown: held.fown,
            }),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        let pid = part(entry)?.nspid;
        if pid != GONE && !findings.has_process(pid) {
            findings.obstacle(Obstacle::unsupported(
                format!(
                    "File {} of the layer is a pidfd of process {pid}, which is not in it",
                    entry.id
                ),
                "restore another layer",
            ));
        }
        Ok(())
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let whole = entry;
        let entry = part(whole)?;
        if entry.nspid != GONE {
            opening.pidfds.wait(whole)?;
            return Ok(None);
        }
        let gone = opening.pidfds.gone(entry.ino)?;
        open(entry, gone).map(Some)
    }
}

fn part(entry: &FileEntry) -> Result<&PidfdEntry> {
    super::part(entry, entry.pidfd.as_ref(), "a pidfd")
}

/// The process that a pidfd is for, as we see it.
fn process(file: &Descriptor) -> Option<i32> {
    file.detail("Pid")?.parse().ok()
}

fn open(entry: &PidfdEntry, pid: Pid) -> Result<Reopened> {
    let file = pidfd::open_as(pid, entry.flags).map_err(|e| {
        Error::os(
            format!("Cannot make pidfd {} of process {pid}", entry.id),
            e,
        )
    })?;
    Ok(Reopened {
        file,
        // All that it has were given to it.
        flags: entry.flags,
        fown: entry.fown,
    })
}

/// A process that does nothing; it ends with this.
#[derive(Debug)]
struct Idle(Pid);

impl Drop for Idle {
    fn drop(&mut self) {
        let pid = self.0;
        // It is a child of ours that ignores nothing.
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
    }
}

/// Those of a layer on their way.
#[derive(Debug, Default)]
pub(super) struct Pidfds {
    /// Of processes that do not exist yet.
    waiting: Vec<FileEntry>,
    /// What stands for processes that are gone, until all their pidfds are made.
    idle: HashMap<u32, Idle>,
    /// A pidfd of this process, inherited by the new ones.
    own: Option<OwnedFd>,
    /// Files that the new processes fetch, and lowest number that none of them uses.
    late: HashSet<u32>,
    least: RawFd,
}

impl Pidfds {
    fn wait(&mut self, entry: &FileEntry) -> Result<()> {
        if self.own.is_none() {
            let own = pidfd::open(Pid::this());
            self.own = Some(own.map_err(|e| Error::os("Cannot open our own process", e))?);
        }
        self.waiting.push(entry.clone());
        Ok(())
    }

    /// A process that will be gone.
    fn gone(&mut self, ino: u32) -> Result<Pid> {
        if let Some(Idle(pid)) = self.idle.get(&ino) {
            return Ok(*pid);
        }
        let pid = clone::fork_idle(None).map_err(|e| Error::os("Cannot fork", e))?;
        self.idle.insert(ino, Idle(pid));
        Ok(pid)
    }

    /// What remains to be done after the fork.
    pub(super) fn prepared(
        mut self,
        least: RawFd,
        lift: impl Fn(OwnedFd) -> Result<OwnedFd>,
    ) -> Result<Self> {
        self.idle.clear();
        self.own = self.own.map(lift).transpose()?;
        self.least = least;
        Ok(self)
    }

    /// Makes those that waited, once all processes are there; `seen` tells what we call them.
    pub(super) fn make(&mut self, seen: &dyn Fn(Pid) -> Pid) -> Result<Vec<(FileEntry, Reopened)>> {
        let waiting = std::mem::take(&mut self.waiting);
        self.late = waiting.iter().map(|entry| entry.id).collect();
        let mut made = Vec::new();
        for whole in waiting {
            let entry = part(&whole)?;
            let file = open(entry, seen(Pid::from_raw(entry.nspid)))?;
            made.push((whole, file));
        }
        Ok(made)
    }

    /// In a new process: fetches file `id`, which is `number` in this one, if it was not there to be
    /// inherited.
    pub(super) fn fetch(
        &self,
        id: u32,
        number: RawFd,
        remote: &mut Remote,
    ) -> Result<Option<RawFd>> {
        let Some(own) = self.own.as_ref().filter(|_| self.late.contains(&id)) else {
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
        let cannot = |e| Error::os(format!("Process {tid} cannot duplicate pidfd {id}"), e);
        let lifted = calls[0].value().map_err(cannot)?;
        Ok(RawFd::try_from(lifted).ok())
    }
}
