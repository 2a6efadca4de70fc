//! Open files: descriptors, what they lead to, and the files behind mappings, exe, cwd and root.
//!
//! One file per kind with both halves side by side: how a kind is recognised, why it may not be
//! dumped, its entry in `files.img`, and how it is opened again. A new kind is one file and one
//! line in [`KINDS`].
//!
//! The way of a dump:
//! 1. before the freeze, [`survey()`] names everything that cannot be dumped;
//! 2. while the target is frozen, [`Dumper::dump_task`] for each descriptor table and
//!    [`Dumper::register_path`] for exe, cwd, root and mapped files give file ids;
//!    [`Dumper::segments`] are the shared segments whose contents the memory module stores;
//! 3. after the thaw, [`Dumper::finish`] writes the images.
//!
//! The way of a restore:
//! 1. before anything is made, [`preflight()`] names what is missing or changed;
//! 2. [`open_all`] opens every description once, in this process, at numbers that no process of the
//!    image uses; the new processes inherit them by fork; [`Opened::fd`] gives the number of a file
//!    id; contents go into [`Opened::segments`];
//!    Files of the new processes themselves come after the fork, with [`Opened::meet`];
//! 3. when mappings, cwd and root of a process are done, [`install()`] puts its descriptors in their
//!    places and closes everything else;
//! 4. when all processes and all memory are there, [`Opened::complete`], and [`Opened::finish`] before
//!    they run.

use std::fmt;
use std::os::fd::{OwnedFd, RawFd};

pub mod descriptor;

mod allow;
mod build_id;
mod diag;
mod dumper;
mod epoll;
mod eventfd;
mod fifo;
mod ghost;
mod inet;
mod inotify;
mod install;
mod late;
mod locks;
mod memfd;
mod namespace;
mod netlink;
mod opened;
mod outside;
mod owner;
mod packet;
mod pidfd;
mod pipe;
mod preflight;
mod proc_file;
mod regular;
mod saved;
mod signalfd;
mod socket;
mod survey;
mod timerfd;
mod tty;
mod unix;
mod unsupported;

pub use allow::{Allow, Chosen};
pub use dumper::{Dumper, Held};
pub use inet::tcp::Connections;
pub use install::install;
pub use late::Newcomers;
pub use memfd::{OpenSegment, Segment};
pub use opened::{Opened, Opening, open_all};
pub use outside::{Holder, Outside};
pub use preflight::{Findings, highest_descriptor, preflight};
pub use proc_file::PASSING;
pub use saved::{PutBack, Replaced, changed};
pub use socket::Nature;
pub use survey::{Judged, Survey, survey};
pub use tty::Session;

use crate::error::{Error, Result};
use crate::image::proto::{FdTypes, FdinfoEntry, FileEntry, FownEntry};
use crate::inject::Remote;
use descriptor::Descriptor;

/// A kind of open file, with its dump half and its restore half.
pub trait FileKind: Sync + fmt::Debug {
    /// What it is called in messages, e.g. `pipe`.
    fn name(&self) -> &'static str;

    /// True when `file` is of this kind.
    fn recognises(&self, file: &Descriptor) -> bool;

    /// True when it matters whether processes outside of the target hold the same file.
    fn asks_outside(&self) -> bool {
        false
    }

    /// Why `file` cannot be dumped, if so.
    fn refusal(&self, file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
        let _ = (file, outside, allow);
        None
    }

    /// What of `file` a restored process will not have, as far as that is known while the target runs.
    fn loss(&self, file: &Descriptor) -> Option<Refusal> {
        let _ = file;
        None
    }

    /// True when one that is open as a place only (`O_PATH`) needs no path to be opened again.
    fn is_found_without_path(&self) -> bool {
        false
    }

    /// CRIU's number for the kind.
    fn image_type(&self) -> FdTypes;

    /// Enters the file under `id`: pushes its entry, and what belongs to it, into `dumper`.
    ///
    /// # Errors
    /// When the file cannot be looked at.
    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()>;

    /// What prevents opening the file again.
    ///
    /// # Errors
    /// When an image cannot be read.
    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()>;

    /// Opens the file again with its flags and offset; `None` for an entry that only serves another
    /// one, or is put off until its process is there.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>>;

    /// Opens a file that was put off until all processes of the layer are there.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open_late(&self, entry: &FileEntry, there: &Newcomers<'_>) -> Result<Reopened> {
        let _ = there;
        let what = format!("A {} was put off: file {}", self.name(), entry.id);
        Err(Error::corrupt(what))
    }

    /// In a process that has the file at `number` and now has all its descriptors: does what only a
    /// process of the layer can do. False when this process cannot, but another one may.
    ///
    /// # Errors
    /// When the process died or the kernel refuses.
    fn settle(&self, entry: &FileEntry, place: &mut Place<'_>) -> Result<bool> {
        let _ = (entry, place);
        Ok(true)
    }

    /// When all processes and all memory are there: the last step before they run.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn start(&self, entry: &FileEntry, file: &OwnedFd) -> Result<()> {
        let _ = (entry, file);
        Ok(())
    }
}

/// A description that was opened again.
#[derive(Debug)]
pub struct Reopened {
    /// It.
    pub file: OwnedFd,
    /// The flags that it had; those that open(2) does not take are still to be set.
    pub flags: u32,
    /// The signal owner that it had.
    pub fown: FownEntry,
}

/// All kinds. The first that recognises a file is responsible for it.
pub static KINDS: &[&dyn FileKind] = &[
    &pipe::Pipe,
    &fifo::Fifo,
    &memfd::Memfd,
    &eventfd::Eventfd,
    &timerfd::Timerfd,
    &signalfd::Signalfd,
    &epoll::Epoll,
    &inotify::Inotify,
    &pidfd::Pidfd,
    &namespace::Namespace,
    &tty::Terminal,
    &unix::Unix,
    &inet::Inet,
    &netlink::Netlink,
    &packet::Packet,
    &regular::Regular,
];

/// Why a file cannot be dumped or restored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// What it is, e.g. `the terminal /dev/pts/3`.
    pub what: String,
    /// The next thing to try.
    pub hint: String,
}

/// The kind responsible for `file`.
pub fn kind_of(file: &Descriptor) -> Option<&'static dyn FileKind> {
    KINDS.iter().copied().find(|kind| kind.recognises(file))
}

/// A description in a process that is being restored.
#[derive(Debug)]
pub struct Place<'a> {
    /// Its descriptor.
    pub number: RawFd,
    /// All descriptors of the process, in place.
    pub table: &'a [FdinfoEntry],
    /// The process.
    pub remote: &'a mut Remote,
}

/// The kind of an entry of `files.img`.
pub fn kind_of_entry(entry: &FileEntry) -> Option<&'static dyn FileKind> {
    KINDS
        .iter()
        .copied()
        .find(|kind| i32::from(kind.image_type()) == entry.r#type)
}

/// What an entry of `files.img` holds for its kind, which is named `what`.
fn part<'a, T>(entry: &FileEntry, part: Option<&'a T>, what: &str) -> Result<&'a T> {
    part.ok_or_else(|| Error::corrupt(format!("files.img: entry {} is not {what}", entry.id)))
}

/// Why `file` cannot be dumped, whatever its kind.
pub fn refusal(file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
    let kind = kind_of(file);
    let is_found = file.path().is_some() || kind.is_some_and(FileKind::is_found_without_path);
    if file.flags & libc::O_PATH.cast_unsigned() != 0 && !is_found {
        return Some(Refusal {
            what: format!(
                "{} as a place only (O_PATH), which no path leads to,",
                file.shown()
            ),
            hint: "have the program close it before the dump".to_owned(),
        });
    }
    let refusal = match kind {
        Some(kind) => kind.refusal(file, outside, allow),
        None => Some(unsupported::refusal(file)),
    };
    refusal.or_else(|| locks::refusal(file, allow))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod testing {
    //! Descriptors made up for tests.

    use std::path::PathBuf;

    use super::descriptor::{Descriptor, Stat};
    use crate::units::Pid;

    /// Descriptor 3 of process 7 whose link says `text`.
    pub(super) fn descriptor(text: &str, stat: Stat) -> Descriptor {
        Descriptor {
            pid: Pid::from_raw(7),
            comm: "prog".to_owned(),
            number: Some(3),
            link: PathBuf::from("/proc/7/fd/3"),
            text: text.into(),
            stat,
            pos: 0,
            flags: 0,
            cloexec: false,
            details: Vec::new(),
            socket: None,
        }
    }
}
