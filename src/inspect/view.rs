//! A layer opened for looking: its tasks, the files and shared segments that they map.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::space::Space;
use crate::chain::{Held, Stack};
use crate::error::{Error, Kind, Result};
use crate::image::proto::{
    CoreEntry, FileEntry, IpcShmEntry, MemfdInodeEntry, PstreeEntry, RegFileEntry,
};
use crate::image::{Images, PagemapId};

/// A process of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Task {
    /// Its pid.
    pub pid: u32,
    /// Its parent.
    pub ppid: u32,
    /// Its process group.
    pub pgid: u32,
    /// Its session.
    pub sid: u32,
    /// Its threads, the leader first.
    pub threads: Vec<u32>,
    /// Its name.
    pub comm: String,
    /// False for a zombie, which has no memory.
    pub alive: bool,
}

/// A shared segment that tasks of a layer map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) shmid: u64,
    pub(super) size: u64,
}

/// A layer with its ancestors, open for looking; nobody changes them meanwhile.
#[derive(Debug)]
pub struct View {
    _held: Held,
    stack: Stack,
    tasks: Vec<Task>,
    files: BTreeMap<u32, FileEntry>,
    segments: BTreeMap<u64, Segment>,
    /// Those of System V.
    system_v: Vec<Segment>,
}

impl View {
    /// Opens the layer in `dir` with everything below it.
    ///
    /// # Errors
    /// When an ancestor is missing, somebody changes layers of the stack, or an image that is needed
    /// cannot be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let held = Held::shared(dir.as_ref())?;
        let stack = Stack::open(dir)?;
        let images = stack.tip().images();
        let mut files: BTreeMap<u32, FileEntry> = BTreeMap::new();
        files.extend(
            images
                .all("files.img")?
                .into_iter()
                .map(|file: FileEntry| (file.id, file)),
        );
        // CRIU before 3.7 had a file for each kind.
        for reg in images.all::<RegFileEntry>("reg-files.img")? {
            let file = FileEntry {
                id: reg.id,
                reg: Some(reg),
                ..FileEntry::default()
            };
            files.insert(file.id, file);
        }
        let segments = images
            .all::<MemfdInodeEntry>("memfd.img")?
            .into_iter()
            .map(|inode| {
                let segment = Segment {
                    name: inode.name,
                    shmid: inode.shmid.into(),
                    size: inode.size,
                };
                (inode.inode_id, segment)
            })
            .collect();
        let mut system_v = Vec::new();
        for name in images.names()? {
            if name.starts_with("ipcns-shm-") {
                system_v.extend(images.all::<IpcShmEntry>(&name)?.into_iter().map(|entry| {
                    Segment {
                        name: format!("/SYSV{:08x}", entry.desc.key),
                        shmid: entry.desc.id.into(),
                        size: entry.size,
                    }
                }));
            }
        }
        let tasks = tasks(images)?;
        Ok(Self {
            _held: held,
            stack,
            tasks,
            files,
            segments,
            system_v,
        })
    }

    /// The layer and its ancestors.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// All processes, parents first.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// The process `pid`.
    pub fn task(&self, pid: u32) -> Result<&Task> {
        self.tasks
            .iter()
            .find(|task| task.pid == pid)
            .ok_or_else(|| {
                let pids: Vec<String> =
                    self.tasks.iter().map(|task| task.pid.to_string()).collect();
                let what = format!("Layer {} has no process {pid}", self.dir().display());
                Error::new(Kind::NotFound, what).hint(format!("It has: {}", pids.join(", ")))
            })
    }

    /// The memory of process `pid`.
    ///
    /// # Errors
    /// When there is no such process, or it is a zombie.
    pub fn space(&self, pid: u32) -> Result<Space<'_>> {
        let task = self.task(pid)?;
        if !task.alive {
            let what = format!("Process {pid} is a zombie: it has no memory");
            return Err(Error::new(Kind::NotFound, what));
        }
        Space::of_task(self, pid)
    }

    /// The open descriptors of process `pid`, ascending: number, and what is open in a few words.
    ///
    /// # Errors
    /// When an image cannot be read.
    pub fn descriptors(&self, pid: u32) -> Result<Vec<(u32, String)>> {
        let all = super::descriptors::of_task(self, pid)?.into_iter();
        Ok(all
            .map(|(number, what)| (number, what.to_string()))
            .collect())
    }

    /// Numbers (SHMID) of all shared segments whose pages the layer has.
    pub fn segments(&self) -> Result<Vec<u64>> {
        let ids = self.stack.tip().images().pagemaps()?;
        Ok(ids
            .into_iter()
            .filter_map(|id| match id {
                PagemapId::Shared(shmid) => Some(shmid),
                PagemapId::Task(_) => None,
            })
            .collect())
    }

    /// The memory of a shared segment: addresses are offsets in it.
    pub fn segment(&self, shmid: u64) -> Result<Space<'_>> {
        Space::of_segment(self, shmid)
    }

    /// Directory of the layer.
    pub(super) fn dir(&self) -> &Path {
        self.stack.tip().dir()
    }

    pub(super) fn images(&self) -> &Images {
        self.stack.tip().images()
    }

    /// An open file description by its number.
    pub(super) fn file(&self, id: u32) -> Option<&FileEntry> {
        self.files.get(&id)
    }

    /// The segment behind a file.
    pub(super) fn segment_of(&self, file: u32) -> Option<&Segment> {
        let inode = self.files.get(&file)?.memfd.as_ref()?.inode_id;
        self.segments.get(&inode.into())
    }

    /// The segment with this number, when it is listed.
    pub(super) fn listed(&self, shmid: u64) -> Option<&Segment> {
        self.segments
            .values()
            .chain(&self.system_v)
            .find(|segment| segment.shmid == shmid)
    }
}

fn tasks(images: &Images) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for entry in images.all::<PstreeEntry>("pstree.img")? {
        let core = images.optional::<CoreEntry>(&format!("core-{}.img", entry.pid))?;
        tasks.push(Task {
            pid: entry.pid,
            ppid: entry.ppid,
            pgid: entry.pgid,
            sid: entry.sid,
            threads: entry.threads,
            comm: core
                .and_then(|core| core.tc)
                .map(|tc| tc.comm)
                .unwrap_or_default(),
            alive: images.dir().join(format!("mm-{}.img", entry.pid)).exists(),
        });
    }
    Ok(tasks)
}
