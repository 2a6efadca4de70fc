//! FIFOs (named pipes): each description, contents, capacity.
//!
//! CRIU: `fifo_entry` with a `reg_file_entry` of its own (`regf_id`) for path and flags; contents
//! once per FIFO in `fifo-data.img`. Sources: fifo(7).

use super::descriptor::Descriptor;
use super::pipe::shared_outside;
use super::regular::path_refusal;
use super::{FileKind, Outside, Refusal};

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

    fn refusal(&self, file: &Descriptor, outside: &Outside) -> Option<Refusal> {
        path_refusal(file).or_else(|| shared_outside(file, "a FIFO", outside))
    }
}
