//! The live counter: how many pages a running tree has written since it was last armed. Counting
//! neither stops the target nor resets anything.

use std::path::Path;

use super::{Arming, Record, best, by_name, list, of_process};
use crate::error::{Error, Kind, Result};
use crate::inject::Infected;
use crate::memory::{mappings, pages};
use crate::sys::pagemap::{Category, Pagemap, Query};
use crate::task::{Frozen, Life, members};
use crate::units::{PageRange, Pid};

/// Counts for one mapping of one process.
#[derive(Clone, Debug)]
pub struct MappingSample {
    /// The process.
    pub pid: Pid,
    /// Its addresses.
    pub range: PageRange,
    /// What the kernel calls it.
    pub name: String,
    /// Pages written since armed.
    pub dirty: u64,
    /// Private pages in memory.
    pub resident: u64,
}

/// Counts for a tree.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Distinct private pages written since armed: what the next layer would hold.
    pub dirty_pages: u64,
    /// Private pages in memory.
    pub resident_pages: u64,
    /// Name of the tracker.
    pub tracker: &'static str,
    /// Where they are; mappings without private pages are left out.
    pub per_mapping: Vec<MappingSample>,
    /// The layer that tracking was armed for, if any.
    pub since_layer: Option<String>,
}

/// A tracked tree that is being watched.
#[derive(Debug)]
pub struct Watch {
    root: Pid,
    tracker: &'static str,
    written: Category,
}

impl Watch {
    /// Watches the tree under `root`. When it is not tracked yet, it is stopped for a moment to attach
    /// the tracker; `keeper` is this program.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] when this kernel can only compare contents.
    pub fn start(root: Pid, keeper: &Path) -> Result<Self> {
        let tree = members(root)?;
        if of_process(&tree[0])?.is_none() {
            attach(root, keeper)?;
        }
        let tracker = record_of(root)?.and_then(|r| by_name(&r.tracker));
        let (tracker, written) = tracker
            .and_then(|t| Some((t.name(), t.written()?)))
            .ok_or_else(unsupported)?;
        Ok(Self {
            root,
            tracker,
            written,
        })
    }

    /// Counts now.
    ///
    /// # Errors
    /// When the tree is gone.
    pub fn sample(&self) -> Result<Sample> {
        let mut sample = Sample {
            tracker: self.tracker,
            // A dump by another command has armed it anew.
            since_layer: record_of(self.root)?.and_then(|r| r.layer),
            ..Sample::default()
        };
        for process in members(self.root)? {
            if matches!(process.life, Life::Zombie(_)) {
                continue;
            }
            // A process may end while it is counted; the next sample goes without it.
            let _ended = self.count(process.pid, &mut sample);
        }
        Ok(sample)
    }

    fn count(&self, pid: Pid, sample: &mut Sample) -> Result<()> {
        let pagemap = Pagemap::open(pid)
            .map_err(|e| Error::io(format!("Cannot open the pagemap of process {pid}"), e))?;
        let layout = mappings::layout(pid)?;
        let own = Query {
            report: self.written,
            ..pages::own(&pagemap, &layout)
        };
        for mapping in layout.into_iter().filter(|m| m.is_private_memory()) {
            let (mut dirty, mut resident) = (0, 0);
            pagemap
                .scan(mapping.range, &own, |range, category| {
                    resident += range.pages();
                    if category.contains(self.written) {
                        dirty += range.pages();
                    }
                })
                .map_err(|e| Error::os(format!("Cannot scan process {pid}"), e))?;
            if resident == 0 {
                continue;
            }
            sample.dirty_pages += dirty;
            sample.resident_pages += resident;
            sample.per_mapping.push(MappingSample {
                pid,
                range: mapping.range,
                name: mapping.name,
                dirty,
                resident,
            });
        }
        Ok(())
    }
}

fn record_of(pid: Pid) -> Result<Option<Record>> {
    let records = list()?;
    Ok(records.into_iter().find(|r| r.pid == pid.as_raw()))
}

/// Stops the tree for a moment and arms the best tracker.
fn attach(root: Pid, keeper: &Path) -> Result<()> {
    let (tracker, _) = best();
    if tracker.written().is_none() {
        return Err(unsupported());
    }
    let mut frozen = Frozen::freeze(root)?;
    for process in frozen.processes().to_vec() {
        if matches!(process.life, Life::Zombie(_)) {
            continue;
        }
        let mut infected = Infected::new(process.pid, &process.threads)?;
        let arming = infected.with(process.pid, |remote| {
            Arming::begin(&process, remote, tracker, keeper)
        });
        let held = infected.cure()?;
        frozen.hold(process.pid, held);
        arming?.finish(&mappings::layout(process.pid)?, None, Vec::new(), keeper)?;
    }
    frozen.thaw();
    Ok(())
}

fn unsupported() -> Error {
    Error::new(
        Kind::Unsupported,
        "This kernel cannot tell which pages are written",
    )
    .hint("dumps still work: pages are compared with the parent layer's; see icecore doctor")
}
