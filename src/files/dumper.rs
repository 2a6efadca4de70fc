//! Dump half: collects the open files of frozen tasks, and writes their images after the thaw.
//!
//! Every open file description gets one id, however many descriptors and processes share it. Only
//! what changes once the target runs is read while it is frozen: offsets, sizes, contents of pipes.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::descriptor::{self, Descriptor, Stat};
use super::ghost::Ghosts;
use super::inet::tcp::{Connections, Stream};
use super::memfd::{Segment, Segments};
use super::pipe::Contents;
use super::saved::Saving;
use super::survey::obstacle;
use super::{Allow, Outside, build_id, kind_of, locks, refusal, tty, unix};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FdinfoEntry, FileEntry, FownEntry, TaskKobjIdsEntry};
use crate::image::{LayerWriter, OpenFile, SavedFile};
use crate::sys::descriptor::owner;
use crate::sys::{kcmp, pidfd};
use crate::task::Ids;
use crate::units::Pid;

/// A file to be entered, with a descriptor of our own that shares its description.
#[derive(Debug)]
pub struct Held<'a> {
    /// What `/proc` says.
    pub file: &'a Descriptor,
    /// Our copy; `None` for files behind links (exe, cwd, mappings).
    pub copy: Option<OwnedFd>,
    /// Its signal owner.
    pub fown: FownEntry,
}

/// Collects open files.
#[derive(Debug, Default)]
pub struct Dumper {
    allow: Allow,
    /// What the tree calls its members.
    pub(super) ids: Ids,
    members: HashSet<Pid>,
    /// The first of them.
    pub(super) root: Option<Pid>,
    /// The numbers of the namespaces in which all of them are.
    pub(super) namespaces: TaskKobjIdsEntry,
    last_id: u32,
    files: Vec<FileEntry>,
    tables: Vec<(u32, Vec<FdinfoEntry>)>,
    descriptions: HashMap<Place, Vec<Known>>,
    links: HashMap<(u64, u64, u32, OsString), u32>,
    pub(super) pipes: Contents,
    pub(super) fifos: Contents,
    /// Numbers of FIFOs in the images, by device and inode (inodes alone are not unique).
    fifo_numbers: HashMap<(u64, u64), u32>,
    pub(super) segments: Segments,
    pub(super) ghosts: Ghosts,
    pub(super) terminals: tty::Found,
    pub(super) unix: unix::Sockets,
    locks: locks::Held,
    /// TCP connections that stand still.
    pub(super) connections: Connections,
    /// What was in them, by the names of their images.
    pub(super) streams: Vec<(String, Stream)>,
    warnings: Vec<Obstacle>,
    /// What is to be copied into the layer, and what was.
    pub(super) saving: Saving,
    saved: Vec<SavedFile>,
    /// Every file with a path, as it is.
    open_files: Vec<OpenFile>,
    /// Entries of `files` that may be programs or libraries.
    programs: Vec<(usize, PathBuf, Stat)>,
}

/// Descriptions that differ in one of these are not the same: device, inode, offset, flags.
type Place = (u64, u64, u64, u32);

/// A description that has its id, and one place where it is open.
#[derive(Clone, Copy, Debug)]
struct Known {
    at: (Pid, RawFd),
    id: u32,
}

impl Dumper {
    /// Nothing yet.
    pub fn new(allow: &Allow) -> Self {
        Self {
            allow: allow.clone(),
            ..Self::default()
        }
    }

    /// Ids in the images shall be those that the tree has for its members, of which the root is the
    /// first, and for its `namespaces`. Before anything is collected.
    pub fn call_members(
        &mut self,
        members: impl IntoIterator<Item = Pid>,
        ids: &Ids,
        namespaces: TaskKobjIdsEntry,
    ) {
        let mut members = members.into_iter().peekable();
        self.root = members.peek().copied();
        self.members = members.collect();
        self.ids = ids.clone();
        self.namespaces = namespaces;
    }

    /// Gives the shared segment with this inode number the id `shmid` in the images, as it had in
    /// the parent layer (its inode number changes with a restore). Before anything is collected.
    pub fn name_segment(&mut self, inode: u64, shmid: u32) {
        self.segments.name(inode, shmid);
    }

    /// These ids are of segments that are no files (System V). Before anything is collected.
    pub fn reserve_segments(&mut self, ids: HashSet<u32>) {
        self.segments.reserve(ids);
    }

    /// Collects the descriptors of the frozen task `pid` for `fdinfo-FILES_ID.img`; those of a table that
    /// it shares with another task are collected once.
    ///
    /// # Errors
    /// When a descriptor cannot be dumped or looked at.
    pub fn dump_task(&mut self, pid: Pid, files_id: u32) -> Result<()> {
        let cannot = |e| Error::os(format!("Cannot open the process {pid}"), e);
        let process = pidfd::open(pid).map_err(cannot)?;
        let comm = descriptor::comm(pid);
        self.terminals.note(pid, &self.ids)?;
        if self.tables.iter().any(|(known, _)| *known == files_id) {
            return Ok(());
        }
        let mut table = Vec::new();
        for number in descriptor::numbers(pid)? {
            let Some(file) = Descriptor::read(pid, &comm, number)? else {
                continue;
            };
            let (id, kind) = self.description(&process, &file, number)?;
            self.locks.note(&file, (self.ids.own(pid), number), id);
            table.push(FdinfoEntry {
                id,
                flags: u32::from(file.cloexec),
                r#type: kind.into(),
                fd: number.cast_unsigned(),
                xattr_security_selinux: None,
            });
        }
        self.tables.push((files_id, table));
        Ok(())
    }

    /// The id of the file behind a magic link of `pid` (`/proc/PID/exe`, `cwd`, `root`,
    /// `map_files/…`) as to be opened with `flags` (0 = read only). The same file with the same
    /// flags keeps its id.
    ///
    /// # Errors
    /// When the file cannot be dumped or looked at.
    pub fn register_path(&mut self, pid: Pid, link: &Path, flags: u32) -> Result<u32> {
        let gone = || Error::path("find", link, std::io::ErrorKind::NotFound.into());
        let mut file = Descriptor::of_link(pid, "", link, flags)?.ok_or_else(gone)?;
        let key = (file.stat.dev, file.stat.ino, flags, file.text.clone());
        if let Some(&id) = self.links.get(&key) {
            return Ok(id);
        }
        file.comm = descriptor::comm(pid);
        let held = Held {
            file: &file,
            copy: None,
            fown: FownEntry::default(),
        };
        let id = self.new_id();
        self.enter(id, held)?;
        self.links.insert(key, id);
        Ok(id)
    }

    /// The memfds and shared anonymous segments met so far; their contents are the memory module's.
    pub fn segments(&self) -> &[Segment] {
        self.segments.all()
    }

    /// Writes `files.img`, `fdinfo-N.img`, `memfd.img`, `filelocks.img`, `pipes-data.img`, `fifo-data.img`, those
    /// of terminals, and what stands for deleted files.
    /// The target may run again.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(mut self, writer: &LayerWriter) -> Result<()> {
        for (index, path, stat) in std::mem::take(&mut self.programs) {
            // The file may have been replaced since: then it has no build id in this layer.
            let Ok(file) = File::open(&path) else {
                continue;
            };
            let same = file
                .metadata()
                .is_ok_and(|meta| Stat::from(&meta).same_file(&stat));
            let entry = self
                .files
                .get_mut(index)
                .and_then(|entry| entry.reg.as_mut());
            if let (true, Some(entry)) = (same, entry) {
                entry.build_id = build_id::build_id(&file).unwrap_or_default();
            }
        }
        writer.all("files.img", &self.files)?;
        for (files_id, table) in &self.tables {
            writer.all(&format!("fdinfo-{files_id}.img"), table)?;
        }
        writer.all(
            "memfd.img",
            self.segments.all().iter().map(|segment| &segment.entry),
        )?;
        for (name, stream) in &self.streams {
            writer.with_extra(name, [(&stream.entry, stream.bytes.as_slice())])?;
        }
        self.unix.check()?;
        writer.with_extra("sk-queues.img", self.unix.queues.records())?;
        self.locks.write(writer)?;
        self.ghosts.write(writer)?;
        self.terminals.write(writer)?;
        writer.with_extra("pipes-data.img", self.pipes.records())?;
        writer.with_extra("fifo-data.img", self.fifos.records())
    }

    /// Copies what the target could write to into the layer, if that was asked for. The target must
    /// still stand still.
    ///
    /// # Errors
    /// When a file cannot be read, or the layer not be written.
    pub fn save_contents(&mut self, writer: &LayerWriter) -> Result<()> {
        self.saved = self.saving.copy(writer)?;
        Ok(())
    }

    /// For the sidecar: files as they were, and those that were copied.
    pub fn known_files(&mut self) -> (Vec<OpenFile>, Vec<SavedFile>) {
        let saved = std::mem::take(&mut self.saved);
        (std::mem::take(&mut self.open_files), saved)
    }

    /// Takes note of how the file of an entry is.
    pub(super) fn note_file(&mut self, id: u32, stat: &Stat) {
        self.open_files.push(OpenFile {
            id,
            inode: stat.ino,
            written: stat.written,
        });
    }

    /// The TCP connections that were stopped; they go on when this is dropped.
    pub fn connections(&mut self) -> Connections {
        std::mem::take(&mut self.connections)
    }

    /// What will not be as it was, once restored.
    pub fn warnings(&mut self) -> Vec<Obstacle> {
        std::mem::take(&mut self.warnings)
    }

    /// What the tree calls `pid`, of which it has `file`.
    pub(super) fn member(&self, pid: Pid, file: &Descriptor) -> Result<Pid> {
        if self.members.contains(&pid) {
            return Ok(self.ids.own(pid));
        }
        Err(stranger(pid, file))
    }

    /// Checks that the tree calls one of its members `pid`, of which it has `file`.
    pub(super) fn member_called(&self, pid: Pid, file: &Descriptor) -> Result<()> {
        let called = |seen: &Pid| self.ids.own(*seen) == pid;
        if self.members.iter().any(called) {
            return Ok(());
        }
        Err(stranger(pid, file))
    }

    /// Adds to that.
    pub(super) fn warn(&mut self, warning: Obstacle) {
        self.warnings.push(warning);
    }

    /// The next unused id.
    pub(super) fn new_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// What the user has allowed.
    pub(super) fn allow(&self) -> &Allow {
        &self.allow
    }

    /// The id of a file that is under way in a socket, from our copy of it, which must stay open.
    pub(super) fn under_way(&mut self, copy: &OwnedFd) -> Result<u32> {
        let me = Pid::this();
        let cannot = |e| Error::os("Cannot open our own process", e);
        let process = pidfd::open(me).map_err(cannot)?;
        let gone = || Error::corrupt("A descriptor of ours is gone");
        let number = copy.as_raw_fd();
        let file = Descriptor::read(me, "icecore", number)?.ok_or_else(gone)?;
        let (id, _) = self.description(&process, &file, number)?;
        self.locks.note_under_way(&file, id);
        Ok(id)
    }

    /// The number of a FIFO in the images; `new` when it has none yet.
    pub(super) fn fifo_number(&mut self, file: &Descriptor, new: u32) -> u32 {
        *self
            .fifo_numbers
            .entry((file.stat.dev, file.stat.ino))
            .or_insert(new)
    }

    /// Adds an entry to `files.img`.
    pub(super) fn push(&mut self, entry: FileEntry) {
        self.files.push(entry);
    }

    /// Asks for the build id of the entry that comes next, when it is a program or library.
    pub(super) fn build_id_for_next(&mut self, path: &Path, stat: Stat) {
        self.programs
            .push((self.files.len(), path.to_owned(), stat));
    }

    /// The id of the description behind a descriptor, entering it when it is new.
    fn description(
        &mut self,
        process: &OwnedFd,
        file: &Descriptor,
        number: RawFd,
    ) -> Result<(u32, FdTypes)> {
        let at = (file.pid, number);
        let place = (file.stat.dev, file.stat.ino, file.pos, file.flags);
        let known = self.descriptions.entry(place).or_default();
        let position = match position(known, at)? {
            Ok(found) => {
                let kind = kind_of(file).map_or(FdTypes::Und, super::FileKind::image_type);
                return Ok((known[found].id, kind));
            }
            Err(position) => position,
        };
        let cannot = |e| {
            Error::os(
                format!("Cannot copy descriptor {number} of {}", file.pid),
                e,
            )
        };
        let copy = pidfd::get_fd(process, number).map_err(cannot)?;
        // O_PATH descriptors have no owner.
        let fown = owner(&copy).map_or_else(
            |_| FownEntry::default(),
            |owner| super::owner::entry(owner, &self.ids),
        );
        let id = self.new_id();
        // It may be under way in its own queue: it is known before what is in it is looked at.
        let known = self.descriptions.entry(place).or_default();
        known.insert(position, Known { at, id });
        let copy = Some(copy);
        let kind = self.enter(id, Held { file, copy, fown })?;
        Ok((id, kind))
    }

    /// Enters a file under a new id.
    fn enter(&mut self, id: u32, held: Held<'_>) -> Result<FdTypes> {
        let file = held.file;
        if let Some(refusal) = refusal(file, &Outside::of(self.root), &self.allow) {
            let what = format!("Cannot dump process {}", file.pid);
            return Err(Error::refused(what, vec![obstacle(file, refusal)]));
        }
        let Some(kind) = kind_of(file) else {
            return Err(Error::corrupt(format!("No kind for {}", file.shown())));
        };
        kind.dump(held, id, self)?;
        Ok(kind.image_type())
    }
}

fn stranger(pid: Pid, file: &Descriptor) -> Error {
    let what = format!(
        "{} is of process {pid}, which is not in the tree",
        file.link.display()
    );
    Error::new(Kind::Unsupported, what).hint(super::PASSING)
}

/// Where the description at `at` is, or belongs, in a list in the kernel's order.
fn position(known: &[Known], at: (Pid, RawFd)) -> Result<std::result::Result<usize, usize>> {
    let mut failed = None;
    let found = known.binary_search_by(|candidate| {
        kcmp::compare_files(candidate.at, at).unwrap_or_else(|errno| {
            failed = Some(errno);
            Ordering::Equal
        })
    });
    match failed {
        None => Ok(found),
        Some(errno) => {
            let what = format!("Cannot compare descriptor {} of {} (kcmp)", at.1, at.0);
            Err(Error::os(what, errno).hint("the kernel needs CONFIG_KCMP"))
        }
    }
}
