//! Restore half: every open file description of a layer, opened once in this process at numbers
//! that no process of the layer uses, so that processes forked from here inherit them all.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prost::Message as _;

use super::ghost::Remaps;
use super::inotify::{self, Watches};
use super::late::Late;
use super::memfd::OpenSegment;
use super::pidfd::Gone;
use super::pipe::Ends;
use super::preflight::highest_descriptor;
use super::tty::Session;
use super::{Allow, FileKind, Newcomers, Place, Reopened, kind_of_entry, locks, owner, tty, unix};
use crate::error::{Error, Result};
use crate::image::proto::{
    FdinfoEntry, FileEntry, MemfdInodeEntry, MmEntry, PipeDataEntry, PstreeEntry,
    RemapFilePathEntry, TaskKobjIdsEntry,
};
use crate::image::{Images, Sidecar, status};
use crate::inject::Remote;
use crate::sys::descriptor::{Owner, duplicate_above, set_owner};
use crate::units::Pid;

/// Numbers kept free below the limit, for what else this process opens.
const SPARE: u64 = 64;

/// The flags that fcntl(2) can change.
const CHANGEABLE: i32 =
    libc::O_APPEND | libc::O_NONBLOCK | libc::O_DIRECT | libc::O_NOATIME | libc::O_ASYNC;

/// The open file descriptions of a layer. Closed when dropped; processes that have inherited them
/// keep theirs.
#[derive(Debug, Default)]
pub struct Opened {
    files: BTreeMap<u32, OpenFile>,
    segments: BTreeMap<u32, OpenSegment>,
    terminals: tty::Open,
    locks: locks::Wanted,
    watches: Vec<Watches>,
    late: Late,
    /// Queues of unix sockets, to be filled.
    unix: unix::build::Made,
    /// What became of [`FileKind::settle`], by file id.
    settled: RefCell<BTreeMap<u32, bool>>,
}

/// One of them.
#[derive(Debug)]
struct OpenFile {
    file: OwnedFd,
    kind: &'static dyn FileKind,
    entry: FileEntry,
    owner: Option<Owner>,
}

impl Opened {
    /// The descriptor of file `id` in this process and in those forked from it.
    pub fn fd(&self, id: u32) -> Option<RawFd> {
        self.files.get(&id).map(|open| open.file.as_raw_fd())
    }

    /// The shared segments, to be filled with their pages.
    pub fn segments(&self) -> impl Iterator<Item = &OpenSegment> {
        self.segments.values()
    }

    /// The sessions whose leaders are to get a controlling terminal, once they lead them.
    pub fn sessions(&self) -> impl Iterator<Item = Session> + '_ {
        self.terminals.sessions()
    }

    /// The group of the layer that had the terminal which ours stands for (`--shell-job`).
    pub fn foreground(&self) -> Option<Pid> {
        self.terminals.foreground()
    }

    /// Takes the locks of process `pid` of the layer, once it has its descriptors.
    ///
    /// # Errors
    /// When somebody else holds one, or the process died.
    pub fn take_locks(&self, pid: Pid, remote: &mut Remote) -> Result<()> {
        self.locks.take(pid, remote)
    }

    /// What remains when all processes exist and all memory is there: owners (who must exist),
    /// seals on memfds, timers, settings of terminals. `seen` gives the id that we see of a task of
    /// the layer.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn complete(&self, seen: &dyn Fn(Pid) -> Pid) -> Result<()> {
        if let Some((id, _)) = self.settled.borrow().iter().find(|(_, settled)| !**settled) {
            return Err(Error::corrupt(format!(
                "File {id} watches descriptors that no process which has it has"
            )));
        }
        self.unix.complete(&|id| self.fd(id), seen)?;
        for (id, open) in &self.files {
            if let Some(owner) = &open.owner {
                let pid = seen(Pid::from_raw(owner.pid)).as_raw();
                give_owner(*id, &open.file, &Owner { pid, ..*owner })?;
            }
            open.kind.start(&open.entry, &open.file)?;
        }
        self.terminals.complete()?;
        self.segments.values().try_for_each(OpenSegment::seal)
    }

    /// The very last step: closes everything here, then watches what was watched (inotify).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn finish(mut self) -> Result<()> {
        let watches = std::mem::take(&mut self.watches);
        drop(self);
        watches.iter().try_for_each(Watches::begin)
    }

    /// When all processes are forked: opens what is of them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn meet(&mut self, there: &Newcomers<'_>) -> Result<()> {
        for entry in self.late.take() {
            let unknown =
                || Error::corrupt(format!("files.img: entry {} of unknown kind", entry.id));
            let kind = kind_of_entry(&entry).ok_or_else(unknown)?;
            self.keep(&entry, kind, kind.open_late(&entry, there)?, 0)?;
        }
        Ok(())
    }

    /// In a process of the layer: the number of file `id` there, before it is in its place.
    pub(super) fn number_in(&self, remote: &mut Remote, id: u32) -> Result<Option<RawFd>> {
        let Some(number) = self.fd(id) else {
            return Ok(None);
        };
        let fetched = self.late.fetch(id, number, remote)?;
        Ok(Some(fetched.unwrap_or(number)))
    }

    /// Keeps a file that was opened again.
    fn keep(
        &mut self,
        entry: &FileEntry,
        kind: &'static dyn FileKind,
        reopened: Reopened,
        least: RawFd,
    ) -> Result<()> {
        let id = entry.id;
        set_flags(&reopened)
            .map_err(|e| Error::os(format!("Cannot set the flags of {} {id}", kind.name()), e))?;
        let open = OpenFile {
            file: lift(reopened.file, least)?,
            kind,
            entry: entry.clone(),
            owner: owner::from_entry(&reopened.fown),
        };
        self.files.insert(id, open);
        Ok(())
    }

    /// Lets the kinds do what they can do only in a process of the layer.
    pub(super) fn settle(&self, table: &[FdinfoEntry], remote: &mut Remote) -> Result<()> {
        let mut settled = self.settled.borrow_mut();
        for descriptor in table {
            let Some(open) = self.files.get(&descriptor.id) else {
                continue;
            };
            let done = settled.entry(descriptor.id).or_insert(false);
            if !*done {
                let number = descriptor.fd.cast_signed();
                *done = open.kind.settle(
                    &open.entry,
                    &mut Place {
                        number,
                        table,
                        remote,
                    },
                )?;
            }
        }
        Ok(())
    }
}

fn give_owner(id: u32, file: &OwnedFd, owner: &Owner) -> Result<()> {
    match set_owner(file, owner) {
        // The owner had ended before the dump; then nobody gets the signal, as before.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(Error::os(
            format!("Cannot make process {} owner of file {id}", owner.pid),
            e,
        )),
    }
}

/// What the kinds need while they open files.
#[derive(Debug)]
pub struct Opening<'a> {
    images: &'a Images,
    allow: &'a Allow,
    entries: HashMap<u32, &'a FileEntry>,
    serving: HashSet<u32>,
    inodes: HashMap<u32, MemfdInodeEntry>,
    segments: BTreeMap<u32, OpenSegment>,
    least: RawFd,
    pub(super) pipes: HashMap<u32, Ends>,
    pub(super) fifos: HashMap<u32, Ends>,
    pub(super) remaps: Remaps,
    pub(super) terminals: tty::Terminals,
    pub(super) watches: Vec<Watches>,
    pub(super) late: Late,
    pub(super) gone: Gone,
    layer: Option<Option<String>>,
    unix: unix::build::Made,
}

impl<'a> Opening<'a> {
    /// The entry with this id.
    pub(super) fn entry(&self, id: u32) -> Option<&'a FileEntry> {
        self.entries.get(&id).copied()
    }

    /// True when the entry only holds the path of another one.
    pub(super) fn serves_another(&self, id: u32) -> bool {
        self.serving.contains(&id)
    }

    /// The layer.
    pub(super) fn images(&self) -> &'a Images {
        self.images
    }

    /// Identity of the layer, in hexadecimal digits, if it has one.
    pub(super) fn layer(&mut self) -> Result<Option<String>> {
        if self.layer.is_none() {
            let sidecar = Sidecar::read(self.images)?.filter(|sidecar| !sidecar.id.is_empty());
            self.layer = Some(sidecar.map(|sidecar| Sidecar::hex(&sidecar.id)));
        }
        Ok(self.layer.clone().flatten())
    }

    /// What the user has allowed.
    pub(super) fn allow(&self) -> &'a Allow {
        self.allow
    }

    /// All entries, in no order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &'a FileEntry> + '_ {
        self.entries.values().copied()
    }

    /// A unix socket of the layer, made already.
    pub(super) fn unix_socket(&mut self, ino: u32) -> Option<OwnedFd> {
        self.unix.take(ino)
    }

    /// Capacity and contents of a pipe or FIFO.
    pub(super) fn contents(
        &self,
        image: &str,
        number: u32,
    ) -> Result<Option<(PipeDataEntry, Vec<u8>)>> {
        for record in self.images.records(image)? {
            let entry = PipeDataEntry::decode(&*record.bytes)
                .map_err(|e| Error::corrupt(format!("Cannot decode {image}")).because(e))?;
            if entry.pipe_id == number {
                return Ok(Some((entry, record.extra)));
            }
        }
        Ok(None)
    }

    /// The shared segment with this number in `memfd.img`, made when it is asked for first.
    pub(super) fn segment(&mut self, number: u32) -> Result<&OpenSegment> {
        if !self.segments.contains_key(&number) {
            let missing = || Error::corrupt(format!("memfd.img has no memfd {number}"));
            let mut segment = OpenSegment::make(self.inodes.get(&number).ok_or_else(missing)?)?;
            segment.file = lift(segment.file, self.least)?;
            self.segments.insert(number, segment);
        }
        let missing = || Error::corrupt(format!("memfd.img has no memfd {number}"));
        self.segments.get(&number).ok_or_else(missing)
    }
}

/// Opens every file of the layer, at descriptor numbers that are not below `above` nor used by any
/// process of the layer. Raises this process's soft limit on descriptors when it must.
///
/// # Errors
/// When a file cannot be opened as it was; nothing is left open.
pub fn open_all(images: &Images, above: RawFd, allow: &Allow) -> Result<Opened> {
    let mut entries: Vec<FileEntry> = images.all("files.img")?;
    let written = mapped_for_writing(images)?;
    for entry in entries.iter_mut().filter(|e| written.contains(&e.id)) {
        let flags = entry.reg.as_mut().map(|reg| &mut reg.flags);
        if let Some(flags) = flags.or(entry.memfd.as_mut().map(|memfd| &mut memfd.flags)) {
            *flags |= libc::O_RDWR.cast_unsigned();
        }
    }
    let inodes: Vec<MemfdInodeEntry> = images.all("memfd.img")?;
    let least = above.max(highest_descriptor(images)? + 1);
    let remaps: Vec<RemapFilePathEntry> = images.all("remap-fpath.img")?;
    let mut unix = unix::build::Made::make(images, &entries)?;
    let files =
        entries.len() + inodes.len() + remaps.len() + unix.ends() + inotify::count(&entries);
    make_room(least, files)?;
    unix.lift(|far| lift(far, least))?;
    let remaps = Remaps::new(&remaps);
    let mut opening = Opening {
        images,
        allow,
        entries: entries.iter().map(|entry| (entry.id, entry)).collect(),
        serving: serving(&entries)
            .into_iter()
            .chain(remaps.links())
            .collect(),
        remaps,
        layer: None,
        terminals: tty::Terminals::new(tty::Recorded::read(images)?),
        inodes: inodes
            .into_iter()
            .filter_map(|inode| Some((u32::try_from(inode.inode_id).ok()?, inode)))
            .collect(),
        watches: Vec::new(),
        late: Late::default(),
        gone: Gone::default(),
        segments: BTreeMap::new(),
        least,
        pipes: HashMap::new(),
        fifos: HashMap::new(),
        unix,
    };
    let mut opened = Opened::default();
    for entry in &entries {
        let unknown = || Error::corrupt(format!("files.img: entry {} of unknown kind", entry.id));
        let kind = kind_of_entry(entry).ok_or_else(unknown)?;
        let Some(reopened) = kind.open(entry, &mut opening)? else {
            continue;
        };
        opened.keep(entry, kind, reopened, least)?;
    }
    opened.locks = locks::Wanted::read(images)?;
    opened.segments = opening.segments;
    opened.watches = opening.watches;
    opened.late = opening.late.prepared(least, |file| lift(file, least))?;
    opened.terminals = opening.terminals.finish()?;
    opened.unix = opening.unix;
    Ok(opened)
}

/// Files that some mapping needs open for writing, whatever their own entry says: CRIU enters what is
/// only mapped as read-only, and keeps the true flags with the mapping.
fn mapped_for_writing(images: &Images) -> Result<HashSet<u32>> {
    let mut found = HashSet::new();
    for process in images.all::<PstreeEntry>("pstree.img")? {
        let memory: Option<MmEntry> = images.optional(&format!("mm-{}.img", process.pid))?;
        let writable = |flags: u32| flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDWR as u32;
        let mapped = memory.iter().flat_map(|memory| &memory.vmas);
        // Segments of System V have no file.
        let mapped = mapped.filter(|vma| vma.status & status::SYSVIPC == 0);
        let written = mapped.filter(|vma| vma.fdflags.is_some_and(writable));
        found.extend(written.filter_map(|vma| u32::try_from(vma.shmid).ok()));
    }
    for process in images.all::<PstreeEntry>("pstree.img")? {
        let ids: Option<TaskKobjIdsEntry> = images.optional(&format!("ids-{}.img", process.pid))?;
        let Some(ids) = ids else { continue };
        // A descriptor keeps the flags it had.
        for descriptor in images.all::<FdinfoEntry>(&format!("fdinfo-{}.img", ids.files_id))? {
            found.remove(&descriptor.id);
        }
    }
    Ok(found)
}

/// The entries that hold the path of another one.
pub(super) fn serving(entries: &[FileEntry]) -> HashSet<u32> {
    let fifos = entries
        .iter()
        .filter_map(|entry| entry.fifo.as_ref()?.regf_id);
    fifos.chain(serving_terminals(entries)).collect()
}

/// Those that hold the path of a terminal.
pub(super) fn serving_terminals(entries: &[FileEntry]) -> HashSet<u32> {
    let terminals = entries
        .iter()
        .filter_map(|entry| entry.tty.as_ref()?.regf_id);
    terminals.collect()
}

/// Sets the flags that open did not.
fn set_flags(reopened: &Reopened) -> nix::Result<()> {
    let wanted = reopened.flags.cast_signed();
    if wanted & libc::O_PATH != 0 {
        return Ok(());
    }
    let now = fcntl(&reopened.file, FcntlArg::F_GETFL)?;
    if (now ^ wanted) & CHANGEABLE != 0 {
        let flags = OFlag::from_bits_retain(now & !CHANGEABLE | wanted & CHANGEABLE);
        fcntl(&reopened.file, FcntlArg::F_SETFL(flags))?;
    }
    Ok(())
}

/// The same description at a number that is not below `least`.
fn lift(file: OwnedFd, least: RawFd) -> Result<OwnedFd> {
    if file.as_raw_fd() >= least {
        return Ok(file);
    }
    duplicate_above(&file, least)
        .map_err(|e| Error::os(format!("Cannot copy a descriptor to {least} or above"), e))
}

/// The limit on descriptors that `files` of them from `least` on need.
pub(super) fn needed_limit(least: RawFd, files: usize) -> u64 {
    u64::from(least.unsigned_abs()) + u64::try_from(files).unwrap_or(u64::MAX / 2) + SPARE
}

/// Raises the soft limit on descriptors when it is too low.
fn make_room(least: RawFd, files: usize) -> Result<()> {
    let cannot = |e| Error::os("Cannot raise the limit on open files", e);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(cannot)?;
    let needed = needed_limit(least, files);
    if needed > soft {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).map_err(|e| {
            cannot(e).hint(format!(
                "raise it before starting icecore: ulimit -n {needed}"
            ))
        })?;
    }
    Ok(())
}
