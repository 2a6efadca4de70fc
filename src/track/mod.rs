//! Which pages of a process were written since a layer was made.
//!
//! A tracker is armed at the end of a dump; at the next dump it tells which pages were not written
//! since. It is believed only when the keeper's record says that it was armed for exactly the parent
//! of the new layer, in this very process. Otherwise pages are compared with the parent's, or all
//! are stored. Ranges that the kernel does not vouch for are stored in full, never guessed.

pub mod connections;
mod content;
pub mod keeper;
mod pace;
mod record;
mod soft_dirty;
#[cfg(test)]
mod tests;
mod uffd_wp;
mod watch;

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;

pub use pace::{Pace, WorkingSet};
pub use record::{Record, forget, get, list, put};
pub use watch::{MappingSample, Sample, Watch};

use crate::error::Result;
use crate::inject::Remote;
use crate::memory::Mapping;
use crate::sys::pagemap::{Category, Pagemap};
use crate::task::Process;
use crate::units::{PageRange, Pid};

/// A way to find unchanged pages.
pub trait DirtyTracker: Sync + fmt::Debug {
    /// Its name, as recorded in layers.
    fn name(&self) -> &'static str;

    /// Tries it; the reason when this kernel (or our rights) does not have it.
    ///
    /// # Errors
    /// Never fails the command; the error says why the tracker cannot be used.
    fn probe(&self) -> Result<(), String>;

    /// The category by which PAGEMAP_SCAN tells written pages; `None` when nothing is armed and pages
    /// are compared instead.
    fn written(&self) -> Option<Category>;

    /// Whether what [`DirtyTracker::written`] tells of a mapping can be believed.
    fn vouches(&self, pagemap: &Pagemap, range: PageRange, kept: Option<&OwnedFd>) -> bool {
        let _ = (pagemap, range, kept);
        true
    }

    /// Whether it covers the mapping: where not, every page counts as written.
    fn covers(&self, pagemap: &Pagemap, range: PageRange) -> bool {
        let _ = (pagemap, range);
        true
    }

    /// Whether what the keeper holds still belongs to the process: it may run another program since.
    fn is_attached(&self, kept: Option<&OwnedFd>) -> bool {
        let _ = kept;
        true
    }

    /// First step for a process that is not tracked yet, inside its leader: what the keeper must hold.
    ///
    /// # Errors
    /// When the process or the kernel refuses.
    fn attach(&self, pid: Pid, remote: &mut Remote) -> Result<Option<OwnedFd>> {
        let _ = (pid, remote);
        Ok(None)
    }

    /// Forgets all writes of the frozen process so far and notes those to come.
    ///
    /// # Errors
    /// When the kernel refuses; mappings that cannot be tracked are no error.
    fn arm(&self, pid: Pid, mappings: &[Mapping], kept: Option<&OwnedFd>) -> Result<Armed> {
        let _ = (pid, mappings, kept);
        Ok(Armed::default())
    }
}

/// Bytes of mappings by who notes their writes; none of a tracker that takes all there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Armed {
    /// We do.
    pub ours: u64,
    /// Another userfaultfd has them: the program's own, or that of an icecore with another keeper. They
    /// read as written.
    pub others: u64,
}

/// What helps where another userfaultfd has the memory.
pub(crate) const ONE_KEEPER: &str = "where another icecore tracks it: use its runtime directory \
     (ICECORE_RUNTIME_DIR, XDG_RUNTIME_DIR), or end its `icecore keeper`";

/// All trackers, best first. The last one always works.
pub static TRACKERS: &[&dyn DirtyTracker] =
    &[&uffd_wp::UffdWp, &soft_dirty::SoftDirty, &content::Content];

/// The best tracker that works here, and why not the better ones.
pub fn best() -> (&'static dyn DirtyTracker, String) {
    let mut reasons = Vec::new();
    for tracker in TRACKERS {
        match tracker.probe() {
            Ok(()) => return (*tracker, reasons.join("; ")),
            Err(why) => reasons.push(format!("{}: {why}", tracker.name())),
        }
    }
    (&content::Content, reasons.join("; "))
}

/// The tracker with this name.
pub fn by_name(name: &str) -> Option<&'static dyn DirtyTracker> {
    TRACKERS.iter().copied().find(|t| t.name() == name)
}

/// The record of exactly this process, if it is tracked: not of an earlier one with its pid, and not
/// of another program that it ran before.
///
/// # Errors
/// When a keeper is there but does not answer.
pub fn of_process(process: &Process) -> Result<Option<(Record, Option<OwnedFd>)>> {
    Ok(get(process.pid)?.filter(|(record, kept)| {
        record.start_time == process.start_time
            && by_name(&record.tracker).is_some_and(|t| t.is_attached(kept.as_ref()))
    }))
}

/// A frozen process whose tracking is about to be armed.
#[derive(Debug)]
pub struct Arming {
    tracker: &'static dyn DirtyTracker,
    record: Record,
    fd: Option<OwnedFd>,
}

impl Arming {
    /// Makes sure that the frozen process is attached to its tracker and that the keeper holds it. From
    /// here until [`Arming::finish`] its record claims nothing.
    ///
    /// # Errors
    /// When the tracker or the keeper refuses.
    pub fn begin(
        process: &Process,
        remote: &mut Remote,
        tracker: &'static dyn DirtyTracker,
        program: &Path,
    ) -> Result<Self> {
        let known = of_process(process)?.filter(|(record, _)| record.tracker == tracker.name());
        let record = Record {
            pid: process.pid.as_raw(),
            start_time: process.start_time,
            tracker: tracker.name().to_owned(),
            layer: None,
            segments: Vec::new(),
        };
        let fd = match known {
            Some((_, fd)) => {
                put(program, &record, None)?;
                fd
            }
            None => {
                let fd = tracker.attach(process.pid, remote)?;
                put(program, &record, fd.as_ref())?;
                fd
            }
        };
        Ok(Self {
            tracker,
            record,
            fd,
        })
    }

    /// Arms the tracker for `layer` (or none: a mere watch).
    ///
    /// # Errors
    /// When the kernel or the keeper refuses; the record then claims nothing.
    pub fn finish(
        mut self,
        mappings: &[Mapping],
        layer: Option<String>,
        segments: Vec<(u64, u32)>,
        program: &Path,
    ) -> Result<Armed> {
        let pid = Pid::from_raw(self.record.pid);
        let armed = self.tracker.arm(pid, mappings, self.fd.as_ref())?;
        self.record.layer = layer;
        self.record.segments = segments;
        put(program, &self.record, None)?;
        Ok(armed)
    }
}
