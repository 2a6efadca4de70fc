//! FIFOs (named pipes): each description, contents, capacity.
//!
//! CRIU: `fifo_entry` with a `reg_file_entry` of its own (`regf_id`) for path and flags; contents
//! once per FIFO in `fifo-data.img`. Sources: fifo(7).

use std::os::fd::{AsFd as _, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::descriptor::Descriptor;
use super::ghost::door;
use super::pipe::{Ends, shared_outside};
use super::regular::{path_refusal, push_entry, reopen};
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened};
use crate::error::{Error, Result};
use crate::image::proto::{FdTypes, FifoEntry, FileEntry, RegFileEntry};

/// Named pipes.
#[derive(Debug)]
pub(super) struct Fifo;

impl FileKind for Fifo {
    fn name(&self) -> &'static str {
        "FIFO"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.stat.file_type() == libc::S_IFIFO && file.path().is_some()
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
        path_refusal(file, allow).or_else(|| shared_outside(file, "a FIFO", outside))
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Fifo
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let pipe_id = dumper.fifo_number(held.file, id);
        let path_id = dumper.new_id();
        push_entry(held.file, held.fown, path_id, dumper)?;
        let mut never_left = false;
        if let Some(copy) = held
            .copy
            .as_ref()
            .filter(|_| !is_path_only(held.file.flags))
        {
            dumper.fifos.take(pipe_id, held.file, copy)?;
            let cannot = |e| Error::os(format!("Cannot look into {}", held.file.shown()), e);
            never_left = only_reads(held.file.flags) && !is_hung_up(copy).map_err(cannot)?;
        }
        dumper.push(FileEntry {
            r#type: FdTypes::Fifo.into(),
            id,
            fifo: Some(FifoEntry {
                id,
                pipe_id,
                regf_id: Some(path_id),
                never_left: never_left.then_some(true),
            }),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        // The path's own entry is compared by its kind.
        let fifo = part(entry)?;
        path_entry(fifo, |id| findings.entry(id)).map(drop)
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let fifo = part(entry)?;
        let path = path_entry(fifo, |id| opening.entry(id))?;
        let mut ends = match opening.fifos.remove(&fifo.pipe_id) {
            Some(ends) => ends,
            None => {
                let cannot = |e| Error::os(format!("Cannot open FIFO {}", path.name), e);
                let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let both = open(&door(path, opening)?, flags, Mode::empty()).map_err(cannot)?;
                let contents = opening.contents("fifo-data.img", fifo.pipe_id)?;
                Ends::fifo(&path.name, both, contents)?
            }
        };
        let file = if is_path_only(path.flags) {
            reopen(path, &door(path, opening)?)
        } else if waits_for_first(fifo.pipe_id, opening)? {
            ends.early()
        } else {
            ends.reopen(path.flags)
        };
        opening.fifos.insert(fifo.pipe_id, ends);
        Ok(Some(Reopened {
            file: file?,
            flags: path.flags,
            fown: path.fown,
        }))
    }
}

/// No end of this FIFO writes, and no writer has left any.
fn waits_for_first(pipe_id: u32, opening: &Opening<'_>) -> Result<bool> {
    let all = opening.entries().filter_map(|entry| entry.fifo.as_ref());
    for fifo in all.filter(|fifo| fifo.pipe_id == pipe_id) {
        let path = path_entry(fifo, |id| opening.entry(id))?;
        if !is_path_only(path.flags) && fifo.never_left != Some(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn only_reads(flags: u32) -> bool {
    flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDONLY.cast_unsigned()
}

/// True when poll(2) tells that all writers have left.
fn is_hung_up(end: &OwnedFd) -> nix::Result<bool> {
    let mut asked = [PollFd::new(end.as_fd(), PollFlags::empty())];
    poll(&mut asked, PollTimeout::ZERO)?;
    let told = asked.iter().find_map(PollFd::revents);
    Ok(told.is_some_and(|told| told.contains(PollFlags::POLLHUP)))
}

fn is_path_only(flags: u32) -> bool {
    flags & libc::O_PATH.cast_unsigned() != 0
}

fn part(entry: &FileEntry) -> Result<&FifoEntry> {
    let missing = || Error::corrupt(format!("files.img: entry {} is no FIFO", entry.id));
    entry.fifo.as_ref().ok_or_else(missing)
}

/// The entry that holds path, flags and owner of a FIFO.
fn path_entry<'a>(
    fifo: &FifoEntry,
    entry: impl Fn(u32) -> Option<&'a FileEntry>,
) -> Result<&'a RegFileEntry> {
    let path = fifo
        .regf_id
        .and_then(entry)
        .and_then(|entry| entry.reg.as_ref());
    path.ok_or_else(|| Error::corrupt(format!("files.img: FIFO {} has no path", fifo.id)))
}
