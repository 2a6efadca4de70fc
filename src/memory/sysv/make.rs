//! Restore half: segments are made with their ids, or taken over where they are still there.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{getegid, geteuid};

use super::{SHM_DEST, SHM_LOCKED, Wanted, holder, mapped_size, open};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{IpcDescEntry, IpcShmEntry};
use crate::inject::{Call, Remote};
use crate::memory::huge;
use crate::sys::sysv::{lock_segment, remove_segment, set_segment};
use crate::task::sysv::{Object, segments, taken};
use crate::units::Pid;

/// What is in the way of the segments of a layer, whose processes have the ids `members`.
///
/// # Errors
/// When /proc cannot be read.
pub fn check(wanted: &[Wanted], members: &HashSet<Pid>) -> Result<Vec<Obstacle>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let there = segments()?;
    Ok(wanted
        .iter()
        .filter_map(|wanted| obstacle(&wanted.entry, &there, members))
        .collect())
}

fn obstacle(
    entry: &IpcShmEntry,
    there: &HashMap<u32, Object>,
    members: &HashSet<Pid>,
) -> Option<Obstacle> {
    let id = entry.desc.id;
    let what = format!("Segment {id} of System V shared memory");
    let remove = |id: u32| format!("when nobody needs it any more: ipcrm -m {id}");
    if let Some(object) = there.get(&id) {
        if !is_same(entry, object) {
            return Some(Obstacle::new(
                Kind::Failed,
                format!("{what} is there, but it is another one than the layer's"),
                remove(id),
            ));
        }
        if object.number("nattch") == 0 {
            return None;
        }
        return Some(match holder(id, members) {
            Some(pid) => Obstacle::new(
                Kind::Failed,
                format!("{what} is attached by process {pid}, which is not of the layer"),
                "end that process first: its memory would change under it",
            ),
            None => Obstacle::new(
                Kind::Busy,
                format!("{what} is attached by running processes of the same tree"),
                "end the tree first",
            ),
        });
    }
    let (why, other) = taken(id, entry.desc.key, there)?;
    let text = format!("{what} cannot be made: {why} by segment {other}");
    Some(Obstacle::new(Kind::Failed, text, remove(other)))
}

/// True for the very segment of the layer, or one that was made for it by a restore.
fn is_same(entry: &IpcShmEntry, object: &Object) -> bool {
    let desc = &entry.desc;
    let looks = |object: &Object| {
        (
            object.small("key"),
            object.small("cuid"),
            object.small("cgid"),
            object.number("size"),
        )
    };
    let maker = entry.cpid.is_some_and(|pid| object.small("cpid") == pid);
    let time = entry.ctime == Some(object.number("ctime"));
    looks(object) == (desc.key, desc.cuid, desc.cgid, entry.size) && (maker || time)
}

/// The segments of a tree that is being restored. Those that were made for it go when this is dropped
/// before the restore is complete.
#[derive(Debug, Default)]
pub struct Made {
    created: Vec<u32>,
    complete: bool,
    alone: bool,
}

impl Made {
    /// None yet. `alone`: in a namespace for themselves, with which they go.
    pub fn new(alone: bool) -> Self {
        Self {
            created: Vec::new(),
            complete: false,
            alone,
        }
    }

    /// Makes a segment in the new process `maker` (with the owner that it had), or takes it over; it is
    /// empty then.
    ///
    /// # Errors
    /// When its id or key is taken by now, or the kernel refuses.
    pub fn make(&mut self, entry: &IpcShmEntry, maker: &mut Remote) -> Result<OwnedFd> {
        let desc = &entry.desc;
        let id = desc.id;
        let cannot = |e| {
            Error::os(
                format!("Cannot restore segment {id} of System V shared memory"),
                e,
            )
        };
        match segments()?.get(&id) {
            None => {
                create(entry, maker)?;
                if !self.alone {
                    self.created.push(id);
                }
            }
            Some(object) if is_same(entry, object) && object.number("nattch") == 0 => {}
            Some(_) => {
                let what = format!("Segment {id} of System V shared memory is taken by now");
                return Err(Error::new(Kind::Busy, what).hint("plan the restore again"));
            }
        }
        let now = segments()?.remove(&id).unwrap_or_default();
        let mode = |mode: u32| mode & 0o777;
        let is = (now.small("uid"), now.small("gid"), mode(now.small("perms")));
        // Not for nothing: it changes the time that the segment is known by.
        if is != (desc.uid, desc.gid, mode(desc.mode)) {
            set_segment(id.cast_signed(), desc.uid, desc.gid, desc.mode).map_err(cannot)?;
        }
        if desc.mode & SHM_LOCKED != 0 {
            lock_segment(id.cast_signed()).map_err(cannot)?;
        }
        let memory = OwnedFd::from(open(id, true)?);
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&memory, hole, 0, mapped_size(entry).cast_signed()).map_err(cannot)?;
        Ok(memory)
    }

    /// When all are attached: those that were marked for removal are so again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn complete(mut self, wanted: &[Wanted]) -> Result<()> {
        let entries = wanted.iter().map(|wanted| &wanted.entry);
        for entry in entries.filter(|e| e.desc.mode & SHM_DEST != 0) {
            let id = entry.desc.id;
            remove_segment(id.cast_signed())
                .map_err(|e| Error::os(format!("Cannot mark segment {id} for removal"), e))?;
        }
        self.complete = true;
        Ok(())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if !self.complete {
            for id in &self.created {
                let _gone = remove_segment(id.cast_signed());
            }
        }
    }
}

/// Creates a segment in `maker`.
fn create(entry: &IpcShmEntry, maker: &mut Remote) -> Result<()> {
    let desc = &entry.desc;
    let huge = huge::of_system_v(entry).map_or(0, |page| {
        libc::SHM_HUGETLB.cast_unsigned() | huge::size_flags(page)
    });
    let get = |flags: u64| {
        let flags = flags | u64::from(huge);
        Call::new(libc::SYS_shmget, &[desc.key.into(), entry.size, flags])
    };
    let what = format!("segment {} of System V shared memory", desc.id);
    create_in(maker, desc, "shm", &what, remove_segment, get)
}

/// Creates an object of System V IPC with its id in `maker`, by the call that `get` gives for its flags;
/// `remove` is for one that did not become what it should. `kind` is what the kernel calls it in names below
/// /proc, `what` is what people do.
///
/// # Errors
/// [`Kind::Busy`] when the id is taken; when the kernel refuses.
pub fn create_in(
    maker: &mut Remote,
    desc: &IpcDescEntry,
    kind: &str,
    what: &str,
    remove: fn(i32) -> nix::Result<()>,
    get: impl Fn(u64) -> Call,
) -> Result<()> {
    const SAME: u64 = u32::MAX as u64;
    let hint = "choosing the id needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN: run it as root";
    // The id that the next one gets.
    let next = format!("/proc/sys/kernel/{kind}_next_id");
    fs::write(&next, desc.id.to_string()).map_err(|e| Error::path("write", &next, e).hint(hint))?;
    let user = |id: u32| Call::new(libc::SYS_setresuid, &[SAME, id.into(), SAME]);
    let group = |id: u32| Call::new(libc::SYS_setresgid, &[SAME, id.into(), SAME]);
    let flags = libc::IPC_CREAT | libc::IPC_EXCL;
    // Whoever makes it is its creator for ever.
    let mut calls = [
        group(desc.cgid),
        user(desc.cuid),
        get(u64::from(flags.cast_unsigned() | desc.mode & 0o777)),
        user(geteuid().as_raw()),
        group(getegid().as_raw()),
    ];
    maker.run(&mut calls)?;
    let got = calls[2].value().ok().and_then(|id| i32::try_from(id).ok());
    let failed = calls
        .iter()
        .find_map(|call| Some((call.nr, call.value().err()?)));
    if failed.is_none() && got == Some(desc.id.cast_signed()) {
        return Ok(());
    }
    if let Some(got) = got {
        let _gone = remove(got);
    }
    Err(match failed {
        Some((call, errno)) => Error::os(format!("Cannot make {what} (call {call})"), errno),
        None => Error::new(
            Kind::Busy,
            format!("Cannot make {what}: its place is taken"),
        )
        .hint("see who has it: ipcs"),
    })
}
