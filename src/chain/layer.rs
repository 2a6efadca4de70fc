//! One layer as a list shows it: what it is, what it holds, whether it is whole.
//!
//! Cheap: reads the small images, never the pages. Whatever cannot be read becomes a state with a
//! reason, so that one damaged directory never hides the others.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::holes::lost;
use super::stack::{pagemap, parent_dir};
use crate::error::{Error, Result};
use crate::image::proto::{CoreEntry, InventoryEntry, PstreeEntry, TaskKobjIdsEntry};
use crate::image::{Images, Place, Sidecar, pages_id};

/// Bytes of an identity.
const ID: usize = 16;

/// Whether a layer can be used, as far as it can be told without reading its ancestors' pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The dump was finished and nothing is known to be missing.
    Complete,
    /// No inventory: the dump is under way, or was interrupted.
    Partial,
    /// Some of its pages were freed for the benefit of a layer above; it cannot be restored.
    Consumed,
    /// An ancestor is missing, is another layer than the recorded one, or the parents loop.
    Orphan,
    /// Memory only (`criu pre-dump`): a parent for other layers, not restorable itself.
    PreDump,
    /// An image cannot be read.
    Damaged,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Consumed => "consumed",
            Self::Orphan => "orphan",
            Self::PreDump => "pre-dump",
            Self::Damaged => "damaged",
        }
    }
}

/// Whether a layer stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// It has no parent.
    Full,
    /// It leaves pages to its parent.
    Incremental,
}

/// One images directory.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// The directory, absolute and free of symlinks.
    pub dir: PathBuf,
    /// Its last part.
    pub name: String,
    /// Whether it can be used.
    pub state: State,
    /// Why the state is not [`State::Complete`].
    pub reason: Option<String>,
    /// Whether it stands alone.
    pub extent: Extent,
    /// The parent's directory; may be missing.
    pub parent: Option<PathBuf>,
    /// Identity, for layers made by this engine.
    pub id: Option<String>,
    /// The recorded identity of the parent.
    pub parent_id: Option<String>,
    /// What the user called it.
    pub label: Option<String>,
    /// Pid of the root task.
    pub root: Option<u32>,
    /// That is what it is called in a pid namespace of its own: no process here is meant.
    pub own_pids: bool,
    /// Name (`comm`) of the root task.
    pub comm: Option<String>,
    /// Processes, zombies included.
    pub tasks: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Pages stored here.
    pub pages_stored: u64,
    /// Pages left to the parent.
    pub pages_in_parent: u64,
    /// Length of all files.
    pub bytes: u64,
    /// What the files take on the disk.
    pub disk_bytes: u64,
    /// When the dump was made (Unix time, nanoseconds): as recorded, else when the inventory was
    /// written.
    pub created_unix_ns: Option<u64>,
    /// The user wants to keep it: dedup may not free what it needs.
    pub pinned: bool,
    /// The processes were frozen for so long, in nanoseconds.
    pub freeze_ns: Option<u64>,
    /// The tracker that was used, or `full` or `content` without one.
    pub tracker: Option<String>,
    /// Pages that the dump was expected to store.
    pub predicted_pages: Option<u64>,
    /// How long it was expected to freeze the processes, in nanoseconds.
    pub predicted_freeze_ns: Option<u64>,
    /// Identities of layers that were below this one and became part of it.
    #[serde(skip)]
    pub(crate) parts: Vec<String>,
    /// A pages file with holes, while reading.
    #[serde(skip)]
    holes: Option<String>,
}

impl Layer {
    /// Reads what the list needs from the layer in `dir` (absolute, free of symlinks).
    pub(crate) fn read(dir: &Path) -> Self {
        let mut layer = Self::empty(dir);
        if let Err(error) = layer.fill(dir) {
            layer.set(State::Damaged, error.one_line());
        }
        layer
    }

    /// The same, without a lock: what was replaced meanwhile is read again. `None` when it went.
    pub(super) fn settled(dir: &Path) -> Option<Self> {
        loop {
            let before = fs::metadata(dir).ok()?;
            let layer = Self::read(dir);
            let now = fs::metadata(dir).ok()?;
            if (before.dev(), before.ino()) == (now.dev(), now.ino()) {
                return Some(layer);
            }
        }
    }

    /// Several layers became this one: its figures are of none of their dumps.
    pub fn is_squashed(&self) -> bool {
        !self.parts.is_empty()
    }

    /// When the dump was made.
    pub fn created(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(self.created_unix_ns?))
    }

    /// True when nothing is known that would keep it from being restored.
    pub fn is_restorable(&self) -> bool {
        self.state == State::Complete
    }

    /// Why `parent` is not the layer that this one was made on, if it is another one.
    pub(super) fn mismatch(&self, parent: &Self) -> Option<String> {
        let expected = self.parent_id.as_ref()?;
        (parent.id.as_ref() != Some(expected)).then(|| {
            format!(
                "wrong parent: it was not made on the layer that is in {} now",
                parent.name
            )
        })
    }

    /// Lowers the state, unless it is already lowered.
    pub(super) fn set(&mut self, state: State, reason: impl Into<String>) {
        if self.state == State::Complete {
            self.state = state;
            self.reason = Some(reason.into());
        }
    }

    fn empty(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            name: name_of(dir),
            state: State::Complete,
            reason: None,
            extent: Extent::Full,
            parent: None,
            id: None,
            parent_id: None,
            label: None,
            root: None,
            own_pids: false,
            comm: None,
            tasks: 0,
            threads: 0,
            pages_stored: 0,
            pages_in_parent: 0,
            bytes: 0,
            disk_bytes: 0,
            created_unix_ns: None,
            pinned: false,
            freeze_ns: None,
            tracker: None,
            predicted_pages: None,
            predicted_freeze_ns: None,
            parts: Vec::new(),
            holes: None,
        }
    }
}

impl Layer {
    fn fill(&mut self, dir: &Path) -> Result<()> {
        let images = Images::open(dir)?;
        let sidecar = Sidecar::read(&images);
        self.fill_sizes(&images, sidecar.as_ref().ok().and_then(Option::as_ref))?;
        let sidecar = sidecar?;
        if let Some(ours) = &sidecar {
            self.fill_record(ours);
        }
        match images.optional::<InventoryEntry>("inventory.img")? {
            None => self.set(
                State::Partial,
                "no inventory.img: the dump has not been finished",
            ),
            Some(inventory) if inventory.img_version == 0 => {
                self.set(
                    State::PreDump,
                    "memory only: made by pre-dump, for layers above",
                );
            }
            Some(_) => {}
        }
        if self.created_unix_ns.is_none() {
            self.created_unix_ns = modified(&dir.join("inventory.img"));
        }
        self.fill_tasks(&images)?;
        self.fill_pages(&images, sidecar.as_ref())?;
        if let Some(file) = self.holes.take() {
            self.set(State::Consumed, format!("pages were freed in {file}"));
        }
        self.parent = images.parent_link()?.map(|target| dir.join(target));
        match parent_dir(&images, sidecar.as_ref()) {
            Ok(Some(parent)) => self.parent = Some(parent),
            Ok(None) => {}
            Err(error) => self.set(State::Orphan, error.one_line()),
        }
        if self.parent.is_some() {
            self.extent = Extent::Incremental;
        }
        Ok(())
    }

    fn fill_sizes(&mut self, images: &Images, sidecar: Option<&Sidecar>) -> Result<()> {
        let cannot = |e| Error::path("read", images.dir(), e);
        for entry in fs::read_dir(images.dir()).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            // A file may vanish while we look (`.partial` being renamed): it then has no size.
            let Ok(meta) = entry.metadata() else { continue };
            if !meta.is_file() {
                continue;
            }
            self.bytes += meta.len();
            self.disk_bytes += meta.blocks() * 512;
            // A cheap hint first: only a file with fewer blocks than bytes can have holes.
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("pages-") && meta.blocks() * 512 < meta.len() {
                let file = File::open(entry.path()).map_err(cannot)?;
                let id = pages_id(&name);
                let known = sidecar.and_then(|s| s.known_pages(id?));
                if !lost(&file, meta.len(), known).map_err(cannot)?.is_empty() {
                    self.holes = Some(name.into_owned());
                }
            }
        }
        Ok(())
    }

    fn fill_tasks(&mut self, images: &Images) -> Result<()> {
        let tasks = images.all::<PstreeEntry>("pstree.img")?;
        self.tasks = tasks.len();
        self.threads = tasks.iter().map(|task| task.threads.len()).sum();
        if let Some(root) = tasks.first() {
            self.root = Some(root.pid);
            let core = images.optional::<CoreEntry>(&format!("core-{}.img", root.pid))?;
            self.comm = core.and_then(|core| core.tc).map(|task| task.comm);
            let ids = images.optional::<TaskKobjIdsEntry>(&format!("ids-{}.img", root.pid))?;
            let inventory = images.optional::<InventoryEntry>("inventory.img")?;
            let dumpers = inventory.and_then(|i| i.root_ids).and_then(|i| i.pid_ns_id);
            self.own_pids = ids.is_some_and(|own| own.pid_ns_id != dumpers);
        }
        Ok(())
    }

    fn fill_record(&mut self, sidecar: &Sidecar) {
        let hex = |id: &[u8]| (!id.is_empty()).then(|| Sidecar::hex(id));
        self.id = hex(&sidecar.id);
        self.parent_id = hex(&sidecar.parent_id);
        self.created_unix_ns = sidecar.created;
        self.label.clone_from(&sidecar.label);
        self.pinned = sidecar.pinned.unwrap_or(false);
        self.freeze_ns = sidecar.freeze_ns;
        self.tracker.clone_from(&sidecar.tracker);
        let prediction = sidecar.prediction.as_ref();
        self.predicted_pages = prediction.map(|p| p.pages);
        self.predicted_freeze_ns = prediction.and_then(|p| p.freeze_ns);
        let parts = sidecar.squashed.as_deref().unwrap_or_default();
        self.parts = parts.chunks(ID).map(Sidecar::hex).collect();
        if let Some(mark) = &sidecar.consumed {
            self.set(
                State::Consumed,
                format!("pages were freed by dedup of layer {}", mark.by),
            );
        }
    }

    /// Counts pages: as recorded, or else by reading all pagemaps.
    fn fill_pages(&mut self, images: &Images, sidecar: Option<&Sidecar>) -> Result<()> {
        let recorded = sidecar.and_then(|s| Some((s.pages_stored?, s.pages_in_parent?)));
        if let Some((stored, in_parent)) = recorded {
            (self.pages_stored, self.pages_in_parent) = (stored, in_parent);
            return Ok(());
        }
        for id in images.pagemaps()? {
            let Some(pagemap) = pagemap(images, id)? else {
                continue;
            };
            for run in &pagemap.runs {
                match run.place {
                    Place::Present => self.pages_stored += run.pages,
                    Place::Parent => self.pages_in_parent += run.pages,
                }
            }
        }
        Ok(())
    }
}

/// The last part of a directory's path.
pub(super) fn name_of(dir: &Path) -> String {
    dir.file_name()
        .unwrap_or(dir.as_os_str())
        .to_string_lossy()
        .into_owned()
}

fn modified(file: &Path) -> Option<u64> {
    let since = fs::metadata(file)
        .ok()?
        .modified()
        .ok()?
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    u64::try_from(since.as_nanos()).ok()
}
