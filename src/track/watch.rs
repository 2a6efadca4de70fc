//! The live counter: how many pages a running tree has written since it was last armed. Counting
//! neither stops the target nor resets anything.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use procfs::process::Process as Proc;

use super::{Armed, Arming, DirtyTracker, ONE_KEEPER, Record, best, by_name, list, of_process};
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
    /// The tracker covers it; where not, every page counts as written.
    pub tracked: bool,
}

/// Counts for a tree.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Distinct private pages written since armed: what the next layer would hold.
    pub dirty_pages: u64,
    /// Private pages in memory.
    pub resident_pages: u64,
    /// Of the dirty ones, those in mappings that the tracker does not cover.
    pub not_tracked: u64,
    /// Pages of shared memory, which no tracker counts, in the mappings of the tree.
    pub shared_pages: u64,
    /// CPU time that the tree has used so far.
    pub cpu: Duration,
    /// Name of the tracker; `none` when nothing tracks the tree.
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
    /// With what it says of a written page.
    tracker: Option<(&'static dyn DirtyTracker, Category)>,
    armed: Option<Instant>,
}

impl Sample {
    /// Written pages were counted; otherwise all of them are said to be.
    pub fn is_tracked(&self) -> bool {
        self.tracker != NONE
    }
}

/// The name of no tracker.
const NONE: &str = "none";

impl Watch {
    /// Watches the tree under `root`. When it is not tracked yet, it is stopped for a moment to attach
    /// the tracker; `keeper` is this program.
    ///
    /// # Errors
    /// [`Kind::Unsupported`] when this kernel can only compare contents.
    pub fn start(root: Pid, keeper: &Path) -> Result<Self> {
        let tree = members(root)?;
        let untracked = of_process(&tree[0])?.is_none();
        let armed = untracked.then(|| attach(root, keeper)).transpose()?;
        let watch = Self {
            armed,
            ..Self::look(root)?
        };
        if watch.tracker.is_none() {
            return Err(unsupported());
        }
        Ok(watch)
    }

    /// Watches the tree under `root` as it is: when nothing tracks it, all its pages count as written.
    ///
    /// # Errors
    /// When a keeper is there but does not answer.
    pub fn look(root: Pid) -> Result<Self> {
        let tracker = record_of(root)?
            .and_then(|r| by_name(&r.tracker))
            .and_then(|t| Some((t, t.written()?)));
        Ok(Self {
            root,
            tracker,
            armed: None,
        })
    }

    /// When the tracker was attached for this watch; nothing of a tree that was tracked before.
    pub fn armed(&self) -> Option<Instant> {
        self.armed
    }

    /// Counts now.
    ///
    /// # Errors
    /// When the tree is gone.
    pub fn sample(&self) -> Result<Sample> {
        let mut sample = Sample {
            tracker: self.tracker.map_or(NONE, |(tracker, _)| tracker.name()),
            // A dump by another command has armed it anew.
            since_layer: record_of(self.root)?.and_then(|r| r.layer),
            ..Sample::default()
        };
        let mut segments = BTreeSet::new();
        for process in members(self.root)? {
            if matches!(process.life, Life::Zombie(_)) {
                continue;
            }
            // A process may end while it is counted; the next sample goes without it.
            let _ended = self.count(process.pid, &mut sample, &mut segments);
        }
        Ok(sample)
    }

    fn count(&self, pid: Pid, sample: &mut Sample, segments: &mut Segments) -> Result<()> {
        let pagemap = Pagemap::open(pid)
            .map_err(|e| Error::io(format!("Cannot open the pagemap of process {pid}"), e))?;
        let cannot = |e| Error::os(format!("Cannot scan process {pid}"), e);
        sample.cpu += cpu_time(pid);
        let layout = mappings::layout(pid)?;
        let written = self.tracker.map_or(Category::empty(), |(_, w)| w);
        let own = Query {
            report: written,
            ..pages::own(&pagemap, &layout)
        };
        for mapping in layout {
            if mapping
                .segment()
                .is_some_and(|segment| segments.insert(segment))
            {
                let count = |range: PageRange, _| sample.shared_pages += range.pages();
                pagemap
                    .scan(mapping.range, &IN_MEMORY, count)
                    .map_err(cannot)?;
            }
            if !mapping.is_private_memory() {
                continue;
            }
            let (mut dirty, mut resident) = (0, 0);
            pagemap
                .scan(mapping.range, &own, |range, category| {
                    resident += range.pages();
                    if category.contains(written) {
                        dirty += range.pages();
                    }
                })
                .map_err(cannot)?;
            if resident == 0 {
                continue;
            }
            let covers =
                |(tracker, _): &(&dyn DirtyTracker, _)| tracker.covers(&pagemap, mapping.range);
            let tracked = self.tracker.as_ref().is_some_and(covers);
            sample.dirty_pages += dirty;
            sample.resident_pages += resident;
            if !tracked {
                sample.not_tracked += dirty;
            }
            sample.per_mapping.push(MappingSample {
                pid,
                range: mapping.range,
                name: mapping.name,
                dirty,
                resident,
                tracked,
            });
        }
        Ok(())
    }
}

/// Segments of shared memory: each is counted once.
type Segments = BTreeSet<((u32, u32), u64)>;

/// Pages that are there.
const IN_MEMORY: Query = Query {
    all: Category::empty(),
    inverted: Category::empty(),
    any: Category::PRESENT.union(Category::SWAPPED),
    report: Category::empty(),
    protect: false,
    tracked_only: false,
};

/// CPU time that a process has used (proc_pid_stat(5)); nothing of one that is gone.
fn cpu_time(pid: Pid) -> Duration {
    let stat = Proc::new(pid.as_raw()).and_then(|process| process.stat());
    let ticks = stat.map_or(0, |stat| stat.utime + stat.stime);
    Duration::from_millis(ticks * 1000 / procfs::ticks_per_second().max(1))
}

fn record_of(pid: Pid) -> Result<Option<Record>> {
    let records = list()?;
    Ok(records.into_iter().find(|r| r.pid == pid.as_raw()))
}

/// Stops the tree for a moment and arms the best tracker; returns when it goes on, with nothing written since.
fn attach(root: Pid, keeper: &Path) -> Result<Instant> {
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
        let armed = arming?.finish(&mappings::layout(process.pid)?, None, Vec::new(), keeper)?;
        if let Armed {
            ours: 0,
            others: 1..,
        } = armed
        {
            let (pid, comm) = (process.pid, &process.comm);
            let what = format!("All memory of process {pid} ({comm}) has another userfaultfd");
            return Err(Error::new(Kind::Busy, what).hint(ONE_KEEPER));
        }
    }
    let armed = Instant::now();
    frozen.thaw();
    Ok(armed)
}

fn unsupported() -> Error {
    Error::new(
        Kind::Unsupported,
        "This kernel cannot tell which pages are written",
    )
    .hint("dumps still work: pages are compared with the parent layer's; see icecore doctor")
}
