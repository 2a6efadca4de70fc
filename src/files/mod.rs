//! Open files: descriptors, what they lead to, and the files behind mappings, exe, cwd and root.
//!
//! One file per kind with both halves side by side: how a kind is recognised, why it may not be
//! dumped, its entry in `files.img`, and how it is opened again. A new kind is one file and one
//! line in [`KINDS`].
//!
//! Before the freeze, [`survey`](survey::survey) names everything that cannot be dumped.

use std::fmt;

pub mod descriptor;
pub mod survey;

mod fifo;
mod memfd;
mod outside;
mod pipe;
mod regular;
mod unsupported;

pub use outside::{Holder, Outside};
pub use survey::{Survey, survey};

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
    fn refusal(&self, file: &Descriptor, outside: &Outside) -> Option<Refusal>;
}

/// All kinds. The first that recognises a file is responsible for it.
pub static KINDS: &[&dyn FileKind] = &[&pipe::Pipe, &fifo::Fifo, &memfd::Memfd, &regular::Regular];

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

/// Why `file` cannot be dumped, whatever its kind.
pub fn refusal(file: &Descriptor, outside: &Outside) -> Option<Refusal> {
    match kind_of(file) {
        Some(kind) => kind.refusal(file, outside),
        None => Some(unsupported::refusal(file)),
    }
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
        }
    }
}
