//! Pipes: both ends, contents, capacity, packet mode.
//!
//! CRIU: `pipe_entry` per description (`pipe_id` = inode; the flags tell the end), contents and
//! capacity once per pipe in `pipes-data.img`. An end that nobody holds stays away after a restore,
//! so the other end still sees end-of-file or SIGPIPE. Sources: pipe(7), tee(2), `fs/pipe.c`.

use super::descriptor::Descriptor;
use super::{FileKind, Outside, Refusal};

/// Anonymous pipes.
#[derive(Debug)]
pub(super) struct Pipe;

impl FileKind for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.shown().starts_with("pipe:[") && file.stat.file_type() == libc::S_IFIFO
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside) -> Option<Refusal> {
        shared_outside(file, "a pipe", outside)
    }
}

/// The refusal of a pipe or FIFO that a process outside of the target holds too.
pub(super) fn shared_outside(file: &Descriptor, what: &str, outside: &Outside) -> Option<Refusal> {
    let holder = outside.holder(&file.stat)?;
    let (pid, comm) = (holder.pid, &holder.comm);
    let hint = if file.number.is_some_and(|n| n <= 2) {
        "start the program with its input and output redirected to files (PROGRAM < /dev/null > \
         LOG 2>&1), or dump from a common ancestor of both processes"
    } else {
        "end the other process, or dump from a common ancestor of both processes"
    };
    Some(Refusal {
        what: format!(
            "{what} ({}) shared with {comm} (pid {pid}), not in the tree,",
            file.shown()
        ),
        hint: hint.to_owned(),
    })
}
