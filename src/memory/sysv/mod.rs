//! Shared memory of System V (sysvipc(7)): segments that have an id and a key in an ipc namespace, which
//! they outlive the processes in.
//!
//! A tree has the segments that it has attached, and those that it made and nobody has attached. They
//! are in `ipcns-shm-0.img`; those of a namespace of its own, all of them, in `ipcns-shm-N.img`, which are the
//! only ones that CRIU knows; their pages in `pagemap-shmem-SHMID.img`. They come back with their ids: made anew, or, when they
//! are still there, taken over with the contents of the layer.
//!
//! Sources: shmat(2), shmctl(2), proc_sysvipc(5), `/proc/sys/kernel/shm_next_id`, CRIU's
//! `ipc_shm_entry`.

mod attach;
mod make;

use std::collections::{HashMap, HashSet};
use std::fs::File;

use prost::Message as _;

pub use attach::attach;
pub use make::{Made, check, create_in};

use super::huge;
use super::mappings::{self, Mapping};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{IpcDescEntry, IpcShmEntry};
use crate::image::{Images, LayerWriter};
use crate::sys;
use crate::task::sysv::{Object, segments};
use crate::task::{self, Ids, Process};
use crate::units::{PAGE_SIZE, Pid};

/// `mode`: it goes with its last attachment (shmctl(2)).
const SHM_DEST: u32 = 0o1000;
/// `mode`: its pages are kept in memory.
const SHM_LOCKED: u32 = 0o2000;

/// A segment of the target.
#[derive(Debug)]
pub struct Segment {
    /// Its record.
    pub entry: IpcShmEntry,
    /// Its memory, open for reading at any offset.
    pub file: File,
}

impl Segment {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.entry.desc.id
    }
}

/// The ids of all segments that there are.
///
/// # Errors
/// When /proc cannot be read.
pub fn ids() -> Result<HashSet<u32>> {
    Ok(segments()?.into_keys().collect())
}

/// How often the tree has each segment mapped, and one of these places.
type Attached<'a> = HashMap<u32, (u64, Pid, &'a Mapping)>;

fn attached<'a>(tree: impl IntoIterator<Item = (Pid, &'a [Mapping])>) -> Attached<'a> {
    let mut found = Attached::new();
    for (pid, mapped) in tree {
        for mapping in mapped {
            if let Some(id) = mapping.system_v() {
                found.entry(id).or_insert((0, pid, mapping)).0 += 1;
            }
        }
    }
    found
}

/// Segments that processes outside of the tree have attached too.
///
/// # Errors
/// When /proc cannot be read.
pub fn survey<'a>(tree: impl IntoIterator<Item = (Pid, &'a [Mapping])>) -> Result<Vec<Obstacle>> {
    let tree: Vec<(Pid, &[Mapping])> = tree.into_iter().collect();
    let members: HashSet<Pid> = tree.iter().map(|(pid, _)| *pid).collect();
    let attached = attached(tree);
    if attached.is_empty() {
        return Ok(Vec::new());
    }
    let all = segments()?;
    let mut obstacles = Vec::new();
    for (id, (times, ..)) in attached {
        let more = all.get(&id).is_some_and(|s| s.number("nattch") > times);
        // A process that the tree has forked since is none of them.
        let outsider = more.then(|| holder(id, &members)).flatten();
        obstacles.extend(outsider.map(|pid| shared_with(id, pid)));
    }
    Ok(obstacles)
}

fn shared_with(id: u32, pid: Pid) -> Obstacle {
    let comm = task::process(pid).map_or_else(|_| "gone".into(), |p| p.comm);
    Obstacle::unsupported(
        format!(
            "Segment {id} of System V shared memory is also attached by {comm} (pid {pid}), not in the tree"
        ),
        "end the other process, or dump from a common ancestor of both",
    )
}

/// A process outside of `members` and not descended from them that has the segment attached.
fn holder(id: u32, members: &HashSet<Pid>) -> Option<Pid> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids =
        processes.filter_map(|e| e.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    let namespace = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/ipc")).ok();
    // Elsewhere the same id is another segment.
    let here = namespace("thread-self");
    let has = |pid: &Pid| {
        if namespace(&pid.to_string()) != here {
            return false;
        }
        let mapped = mappings::layout(*pid);
        mapped.is_ok_and(|mapped| mapped.iter().any(|m| m.system_v() == Some(id)))
    };
    let inside = |mut pid: Pid| loop {
        match task::process(pid) {
            _ if members.contains(&pid) => break true,
            Ok(process) if process.ppid.as_raw() > 0 => pid = process.ppid,
            Ok(_) => break false,
            Err(_gone) => break true,
        }
    };
    pids.find(|pid| !inside(*pid) && has(pid))
}

/// The segments of the tree, which stands still; `all` that there are, when it has a namespace for them.
///
/// # Errors
/// When outsiders have one attached, or one cannot be looked at.
pub fn collect(tree: &[(&Process, &[Mapping])], ids: &Ids, whole: bool) -> Result<Vec<Segment>> {
    let attached = attached(tree.iter().map(|(process, mapped)| (process.pid, *mapped)));
    let members: HashSet<Pid> = tree.iter().map(|(process, _)| process.pid).collect();
    let all = segments()?;
    let mut found = Vec::new();
    for (id, object) in &all {
        let (times, file) = match attached.get(id) {
            Some((times, pid, mapping)) => {
                let link = mapping.link(*pid);
                let file = File::open(&link).map_err(|e| Error::path("open", &link, e))?;
                (*times, file)
            }
            None if whole || is_made_by(object, tree) => (0, open(*id, false)?),
            None => continue,
        };
        if object.number("nattch") > times {
            let what = "The target changed since the plan was made";
            let outsider = holder(*id, &members).map(|pid| shared_with(*id, pid));
            let hint = format!("someone else has segment {id} attached: ipcs -m -i {id}");
            return Err(Error::refused(what, outsider.into_iter().collect())
                .kinded(Kind::Unsupported)
                .hint(hint));
        }
        let entry = IpcShmEntry {
            // As CRIU has it: the size alone, in the place that shmget(2) has it.
            hugetlb_flag: huge::of_file(&file)?.map(huge::size_flags),
            ..entry(*id, object, ids)
        };
        found.push(Segment { entry, file });
    }
    let missing = attached.keys().find(|id| !all.contains_key(id));
    if let Some(id) = missing {
        let what = format!("Segment {id} of System V shared memory is not in our ipc namespace");
        return Err(Error::new(Kind::Unsupported, what));
    }
    found.sort_by_key(Segment::id);
    Ok(found)
}

/// True for a segment that nobody has attached, made by a process of the tree (not by an older one with
/// the same pid).
fn is_made_by(object: &Object, tree: &[(&Process, &[Mapping])]) -> bool {
    let maker = |process: &Process| {
        u64::from(process.pid.as_raw().unsigned_abs()) == object.number("cpid")
            && process
                .started()
                .is_some_and(|started| started <= object.number("ctime"))
    };
    object.number("nattch") == 0 && tree.iter().any(|(process, _)| maker(process))
}

fn entry(id: u32, object: &Object, ids: &Ids) -> IpcShmEntry {
    let maker = Pid::from_raw(object.small("cpid").cast_signed());
    IpcShmEntry {
        desc: IpcDescEntry {
            key: object.small("key"),
            uid: object.small("uid"),
            gid: object.small("gid"),
            cuid: object.small("cuid"),
            cgid: object.small("cgid"),
            mode: object.small("perms"),
            id,
        },
        size: object.number("size"),
        in_pagemaps: Some(true),
        hugetlb_flag: None,
        cpid: Some(ids.number(maker)).filter(|pid| *pid != 0),
        ctime: Some(object.number("ctime")),
    }
}

/// Opens the memory of a segment, attached or not.
fn open(id: u32, write: bool) -> Result<File> {
    let what = format!("Cannot open segment {id} of System V shared memory");
    let attached = sys::sysv::Attached::new(id.cast_signed()).map_err(|e| Error::os(&*what, e))?;
    let start = attached.address();
    let here = mappings::layout(Pid::this())?;
    let mapping = here.iter().find(|m| m.range.start == start);
    let gone = || Error::new(Kind::Failed, &*what);
    let link = mapping.ok_or_else(gone)?.link(Pid::this());
    let mut options = File::options();
    options.read(true).write(write);
    options
        .open(&link)
        .map_err(|e| Error::io(what, e).hint("it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"))
}

/// Writes the image.
///
/// # Errors
/// When that fails.
pub fn write(
    segments: &[Segment],
    (number, whole): (u32, bool),
    writer: &LayerWriter,
) -> Result<()> {
    // CRIU looks for the image of a namespace in any case.
    if segments.is_empty() && !whole {
        return Ok(());
    }
    writer.all(
        &image(number),
        segments.iter().map(|segment| &segment.entry),
    )
}

fn image(number: u32) -> String {
    format!("ipcns-shm-{number}.img")
}

/// A segment of a layer.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its record.
    pub entry: IpcShmEntry,
    /// Its contents, where no pagemap has them.
    pub bytes: Vec<u8>,
}

/// The segments of a layer.
///
/// # Errors
/// When the image is damaged.
pub fn read(images: &Images, number: u32) -> Result<Vec<Wanted>> {
    let name = image(number);
    let records = images.records(&name)?.into_iter();
    let all = records.map(|record| {
        let entry = IpcShmEntry::decode(&*record.bytes)
            .map_err(|e| Error::corrupt(format!("Cannot decode {name}")).because(e))?;
        let mut bytes = record.extra;
        bytes.truncate(usize::try_from(entry.size).unwrap_or(usize::MAX));
        Ok(Wanted { entry, bytes })
    });
    all.collect()
}

/// Bytes of a segment's mapping.
fn mapped_size(entry: &IpcShmEntry) -> u64 {
    let page = huge::of_system_v(entry).unwrap_or(PAGE_SIZE);
    entry.size.next_multiple_of(page)
}
