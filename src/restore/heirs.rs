//! What new processes have in their memory by birth, of a layer's pages.

use super::Plan;
use crate::chain::Stack;
use crate::error::Result;
use crate::files::Opened;
use crate::image::PagemapId;
use crate::inject::Remote;
use crate::memory::inherit::{Estate, Inheritance};
use crate::units::Pid;

/// The processes of a layer, as each other's heirs.
#[derive(Debug)]
pub(super) struct Heirs<'p> {
    inheritance: Inheritance<'p>,
    stack: &'p Stack,
}

impl<'p> Heirs<'p> {
    /// Nobody is born yet; `opened` are the files that all will have.
    pub(super) fn new(plan: &'p Plan, opened: &Opened) -> Self {
        let id = |id: u32| Pid::from_raw(id.cast_signed());
        let members = plan.processes.iter().filter_map(|process| {
            let entry = &process.wanted.entry;
            let vmas = process.body.as_ref()?.mm.vmas.as_slice();
            Some((id(entry.pid), id(entry.ppid), vmas))
        });
        Self {
            inheritance: Inheritance::new(members, &|id| opened.fd(id)),
            stack: &plan.stack,
        }
    }

    /// Before process `id` forks, and before it gets the rest of its memory: what it shares is in place.
    ///
    /// # Errors
    /// When it died or a page cannot be read.
    pub(super) fn settle(&mut self, id: Pid, remote: &mut Remote) -> Result<&Estate> {
        let pagemap = PagemapId::Task(id.as_raw().cast_unsigned());
        let stack = self.stack;
        self.inheritance
            .settle(id, remote, || stack.resolved(pagemap))
    }

    /// Process `born` has been forked by `forker`.
    pub(super) fn forked(&mut self, forker: Pid, born: Pid) {
        self.inheritance.forked(forker, born);
    }
}
