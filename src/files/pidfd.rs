//! Descriptors for processes of the tree, and for some that have ended and been waited for.
//!
//! CRIU: `pidfd_entry`; one of a gone process has the pid -1 and an inode number that it shares with
//! others of that process. A process must be there before its pidfd. Sources: pidfd_open(2),
//! `fs/pidfs.c`.

use std::collections::HashMap;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;

use super::descriptor::Descriptor;
use super::{
    Allow, Dumper, FileKind, Findings, Held, Newcomers, Opening, Outside, Refusal, Reopened,
    descriptor,
};
use crate::error::{Error, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, PidfdEntry};
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
        let own = part(entry)?;
        if own.nspid != GONE {
            opening.late.wait(entry)?;
            return Ok(None);
        }
        let gone = opening.gone.get(own.ino)?;
        open(own, gone).map(Some)
    }

    fn open_late(&self, entry: &FileEntry, there: &Newcomers<'_>) -> Result<Reopened> {
        let entry = part(entry)?;
        open(entry, there.seen(Pid::from_raw(entry.nspid)))
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

/// What stands for processes that are gone, until all their pidfds are made.
#[derive(Debug, Default)]
pub(super) struct Gone(HashMap<u32, Idle>);

impl Gone {
    /// A process that will be gone.
    fn get(&mut self, ino: u32) -> Result<Pid> {
        if let Some(Idle(pid)) = self.0.get(&ino) {
            return Ok(*pid);
        }
        let pid = clone::fork_idle(None).map_err(|e| Error::os("Cannot fork", e))?;
        self.0.insert(ino, Idle(pid));
        Ok(pid)
    }
}
