//! What we note of a new layer beside CRIU's images.

use std::time::{Duration, SystemTime};

use procfs::process::Process as Proc;

use super::Plan;
use crate::arch;
use crate::error::{Error, Result};
use crate::files::Segment as OpenSegment;
use crate::image::{Images, LayerWriter, OpenFile, Prediction, SavedFile, Segment, Sidecar, Task};
use crate::memory::pages::Stored;
use crate::task::{Ids, Process};
use crate::units::PAGE_SIZE;

/// The kernel's name for this boot (random(4), `/proc/sys/kernel/random/boot_id`).
///
/// # Errors
/// When /proc cannot be read.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(path)
        .map(|id| id.trim().to_owned())
        .map_err(|e| Error::path("read", path, e))
}

/// An identity in hexadecimal digits.
pub fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Figures of a dump.
#[derive(Debug)]
pub(super) struct Figures<'a> {
    pub(super) id: &'a [u8],
    pub(super) processes: Vec<&'a Process>,
    pub(super) ids: &'a Ids,
    pub(super) segments: Vec<Segment>,
    pub(super) open_files: Vec<OpenFile>,
    pub(super) saved: Vec<SavedFile>,
    pub(super) stored: Stored,
    pub(super) freeze: Duration,
    pub(super) total: Duration,
}

/// Which kernel object each pagemap of a shared segment belongs to.
pub(super) fn segments(open: &[OpenSegment]) -> Vec<Segment> {
    let segment = |s: &OpenSegment| Segment {
        inode: s.inode,
        shmid: u64::from(s.entry.shmid),
    };
    open.iter().map(segment).collect()
}

/// Writes the sidecar, after all other files.
///
/// # Errors
/// When something cannot be read or written.
pub(super) fn write(plan: &Plan, writer: &LayerWriter, figures: &Figures<'_>) -> Result<()> {
    let parent = match &plan.parent {
        Some(parent) => Sidecar::read(&Images::open(&parent.dir)?)?.map(|s| s.id),
        None => None,
    };
    let host = nix::sys::utsname::uname()
        .map_err(|e| Error::os("Cannot read the name of the kernel", e))?;
    let text = |s: &std::ffi::OsStr| Some(s.to_string_lossy().into_owned());
    let ns = |d: Duration| Some(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX));
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let sidecar = Sidecar {
        id: figures.id.to_vec(),
        parent_id: parent.unwrap_or_default(),
        created: ns(since),
        label: plan.options.label.clone(),
        freeze_ns: ns(figures.freeze),
        boot_id: Some(boot_id()?),
        host: text(host.nodename()),
        kernel: text(host.release()),
        tracker: Some(plan.tracker.to_owned()),
        tracker_reason: Some(plan.tracker_reason.clone()),
        root_pid: Some(figures.ids.number(plan.options.root)),
        // The process may have been killed meanwhile by somebody else: not worth failing.
        cmdline: Proc::new(plan.options.root.as_raw())
            .and_then(|p| p.cmdline())
            .unwrap_or_default(),
        tasks: figures
            .processes
            .iter()
            .map(|p| Task {
                pid: figures.ids.number(p.pid),
                start_time: p.start_time,
            })
            .collect(),
        segments: figures.segments.clone(),
        pages_stored: Some(figures.stored.present),
        pages_in_parent: Some(figures.stored.in_parent),
        bytes: Some(figures.stored.present * PAGE_SIZE),
        total_ns: ns(figures.total),
        prediction: plan.prediction.map(|prediction| Prediction {
            pages: prediction.pages,
            freeze_ns: prediction.freeze.and_then(|freeze| ns(freeze.expected)),
        }),
        instruction_sets: arch::instruction_sets()?,
        open_files: figures.open_files.clone(),
        saved: figures.saved.clone(),
        ..Sidecar::default()
    };
    writer.sidecar(sidecar)
}
