//! Files whose name is gone: deleted ones (ghosts), which go into the layer with their contents, and
//! ones that only other names lead to (link-remaps), which get a name for the layer.
//!
//! CRIU: `remap-fpath.img` says which entry of `files.img` has lost its name, and what stands for it:
//! a `ghost-file-ID.img` (attributes, then the contents in chunks, holes left out), or another entry
//! with the name `link_remap.…` in the same directory. Sources: proc_pid_fd(5), linkat(2), lseek(2).
//!
//! A ghost is made under the name it had, opened, and loses the name at once; every description is
//! opened from there. So `/proc` shows what it showed. Where the name is in use by another file, the
//! ghost gets a name of ours (`NAME.cr_link`). Links made for a layer stay: each of its restores needs
//! them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence, fchownat, linkat, lseek, mkfifo};
use prost::Message as _;

use super::descriptor::{Descriptor, Stat};
use super::{Allow, Dumper, Findings, Opening, Refusal};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{
    FdTypes, FileEntry, FownEntry, GhostChunkEntry, GhostFileEntry, RegFileEntry,
    RemapFilePathEntry, RemapType, Timeval,
};
use crate::image::{LayerWriter, Record};

/// What the kernel appends to the path of an open file that has lost it.
const DELETED: &str = " (deleted)";

/// Largest deleted file that goes into a layer unless asked otherwise, CRIU's: 1 MiB.
pub(super) const GHOST_LIMIT: u64 = 1 << 20;

/// What leads back to an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Its path.
    Path,
    /// Nothing: no name is left.
    Ghost,
    /// Another name, which nobody knows.
    Link,
    /// A path that leads elsewhere from here.
    Elsewhere,
}

/// The name of a named semaphore. Whoever makes one (sem_open(3)) has mapped it under another name,
/// which it loses at once, so `/proc` shows that.
fn semaphore(file: &Descriptor) -> Option<PathBuf> {
    const HOME: &str = "/dev/shm";
    let lost = PathBuf::from(bare(file));
    let begins = lost.strip_prefix(HOME).ok()?.to_str()?.starts_with("sem.");
    if !begins || file.stat.nlink == 0 || file.stat.file_type() != libc::S_IFREG {
        return None;
    }
    let names = fs::read_dir(HOME).into_iter().flatten().flatten();
    let names = names.filter(|entry| std::os::unix::fs::DirEntryExt::ino(entry) == file.stat.ino);
    let mut paths = names.map(|entry| entry.path());
    paths.find(|path| leads_to(path, &file.stat))
}

fn way(file: &Descriptor) -> Way {
    let there = file.path().and_then(|path| fs::symlink_metadata(path).ok());
    if there.is_some_and(|meta| Stat::from(&meta).same_file(&file.stat)) {
        return Way::Path;
    }
    let deleted = file.shown().ends_with(DELETED);
    // A directory has one name; some filesystems count links of a deleted one all the same.
    if file.stat.nlink == 0 || deleted && file.stat.file_type() == libc::S_IFDIR {
        Way::Ghost
    } else if deleted {
        Way::Link
    } else {
        Way::Elsewhere
    }
}

/// The path that the file has or had.
pub(super) fn bare(file: &Descriptor) -> String {
    let shown = file.shown();
    shown.strip_suffix(DELETED).unwrap_or(&shown).to_owned()
}

/// True when the path of `file` leads to another file from here.
pub(super) fn leads_elsewhere(file: &Descriptor) -> bool {
    way(file) == Way::Elsewhere
}

/// Why the path of `file` will not lead back to it, nor anything else.
pub(super) fn refusal(file: &Descriptor, allow: &Allow) -> Option<Refusal> {
    let name = bare(file);
    match way(file) {
        Way::Path => None,
        Way::Link if semaphore(file).is_some() => None,
        Way::Ghost => ghost_refusal(file, &name, allow.ghost_limit),
        Way::Link if allow.link_remap => None,
        Way::Link => Some(Refusal {
            what: format!("the file {name}, which has lost this name but not all,"),
            hint: "dump with --link-remap: the file gets a name link_remap.N beside the lost one, \
                   which the layer needs from then on"
                .to_owned(),
        }),
        Way::Elsewhere => Some(Refusal {
            what: format!("the file {name}, whose path leads elsewhere,"),
            hint: "it was renamed, hidden by a mount, or belongs to another mount namespace: put \
                   it back, or run icecore inside that namespace (nsenter -m -t PID)"
                .to_owned(),
        }),
    }
}

fn ghost_refusal(file: &Descriptor, name: &str, limit: u64) -> Option<Refusal> {
    match file.stat.file_type() {
        libc::S_IFREG if super::memfd::huge_page(file).is_some() => Some(Refusal {
            what: format!("the deleted file {name} of huge pages"),
            hint: "have the program keep its name, or use a memfd".to_owned(),
        }),
        libc::S_IFREG => {
            // Holes are not stored.
            let bytes = fs::metadata(&file.link).map_or(file.stat.size, |meta| {
                meta.size().min(meta.blocks().saturating_mul(512))
            });
            (bytes > limit).then(|| Refusal {
                what: format!("the deleted file {name} of {} KiB", bytes.div_ceil(1024)),
                hint: format!(
                    "allow it into the layer with --ghost-limit {}M, or restart the program (if an \
                     update replaced the file)",
                    bytes.div_ceil(1 << 20)
                ),
            })
        }
        libc::S_IFDIR | libc::S_IFIFO => None,
        _ => Some(Refusal {
            what: format!("the deleted special file {name}"),
            hint: "have the program close it before the dump".to_owned(),
        }),
    }
}

/// What a dump has found of such files.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    /// Numbers by device and inode.
    numbers: HashMap<(u64, u64), u32>,
    images: Vec<(u32, Vec<Record>)>,
    remaps: Vec<RemapFilePathEntry>,
}

impl Ghosts {
    /// Writes `remap-fpath.img` and the ghosts.
    pub(super) fn write(&self, writer: &LayerWriter) -> Result<()> {
        writer.all("remap-fpath.img", &self.remaps)?;
        self.images
            .iter()
            .try_for_each(|(number, records)| writer.records(&image(*number), records))
    }
}

fn image(number: u32) -> String {
    format!("ghost-file-{number:x}.img")
}

/// The name to enter for `file`, whose entry will be `id`; keeps what else is needed to find it.
/// The target is frozen: the contents are those of this moment.
pub(super) fn keep(file: &Descriptor, id: u32, dumper: &mut Dumper) -> Result<String> {
    let way = way(file);
    if let (Way::Link, Some(name)) = (way, semaphore(file)) {
        return Ok(name.to_string_lossy().into_owned());
    }
    let (remap_id, kind) = match way {
        Way::Path | Way::Elsewhere => return Ok(file.shown().into_owned()),
        Way::Ghost => (ghost(file, &mut dumper.ghosts)?, RemapType::Ghost),
        Way::Link => (link(file, dumper)?, RemapType::Linked),
    };
    dumper.ghosts.remaps.push(RemapFilePathEntry {
        orig_id: id,
        remap_id,
        remap_type: Some(kind.into()),
    });
    Ok(bare(file))
}

/// Takes in a deleted file; its number.
fn ghost(file: &Descriptor, ghosts: &mut Ghosts) -> Result<u32> {
    let key = (file.stat.dev, file.stat.ino);
    if let Some(number) = ghosts.numbers.get(&key) {
        return Ok(*number);
    }
    let cannot = |e| Error::path("read the deleted file", &file.link, e);
    let meta = fs::metadata(&file.link).map_err(cannot)?;
    let regular = file.stat.file_type() == libc::S_IFREG;
    let head = GhostFileEntry {
        uid: meta.uid(),
        gid: meta.gid(),
        mode: meta.mode(),
        ino: Some(meta.ino()),
        atim: Some(time(meta.atime(), meta.atime_nsec())),
        mtim: Some(time(meta.mtime(), meta.mtime_nsec())),
        chunks: regular.then_some(true),
        size: regular.then_some(meta.size()),
        ..GhostFileEntry::default()
    };
    let mut records = vec![record(&head, Vec::new())];
    if regular {
        let open = File::open(&file.link).map_err(cannot)?;
        chunks(&open, meta.size(), &mut records).map_err(cannot)?;
    }
    let number = u32::try_from(ghosts.images.len() + 1).unwrap_or(u32::MAX);
    ghosts.images.push((number, records));
    ghosts.numbers.insert(key, number);
    Ok(number)
}

fn record(message: &impl prost::Message, extra: Vec<u8>) -> Record {
    Record {
        bytes: message.encode_to_vec(),
        extra,
    }
}

/// What is not a hole.
fn chunks(file: &File, size: u64, records: &mut Vec<Record>) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let off = match lseek(file, at.cast_signed(), Whence::SeekData) {
            Ok(off) => off.cast_unsigned(),
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = lseek(file, off.cast_signed(), Whence::SeekHole)?.cast_unsigned();
        let len = end.min(size).saturating_sub(off);
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, off)?;
        records.push(record(&GhostChunkEntry { len, off }, bytes));
        at = end;
    }
    Ok(())
}

fn time(seconds: i64, nanoseconds: i64) -> Timeval {
    Timeval {
        tv_sec: seconds.cast_unsigned(),
        tv_usec: (nanoseconds / 1000).cast_unsigned(),
    }
}

/// Gives the file a name for the layer, the same in every layer of a stack, and enters it; the
/// entry's id.
fn link(file: &Descriptor, dumper: &mut Dumper) -> Result<u32> {
    let key = (file.stat.dev, file.stat.ino);
    if let Some(id) = dumper.ghosts.numbers.get(&key) {
        return Ok(*id);
    }
    let lost = PathBuf::from(bare(file));
    let name = lost.with_file_name(format!("link_remap.{}", file.stat.ino));
    match linkat(
        nix::fcntl::AT_FDCWD,
        &file.link,
        nix::fcntl::AT_FDCWD,
        &name,
        AtFlags::AT_SYMLINK_FOLLOW,
    ) {
        Ok(()) => {}
        Err(Errno::EEXIST) if leads_to(&name, &file.stat) => {}
        Err(e) => {
            return Err(Error::path(
                "link the renamed or deleted file as",
                &name,
                e.into(),
            ));
        }
    }
    let id = dumper.new_id();
    let reg = RegFileEntry {
        id,
        fown: FownEntry::default(),
        name: name.to_string_lossy().into_owned(),
        mode: Some(file.stat.mode),
        ..RegFileEntry::default()
    };
    dumper.push(FileEntry {
        r#type: FdTypes::Reg.into(),
        id,
        reg: Some(reg),
        ..FileEntry::default()
    });
    dumper.ghosts.numbers.insert(key, id);
    Ok(id)
}

fn leads_to(name: &Path, stat: &Stat) -> bool {
    fs::symlink_metadata(name).is_ok_and(|meta| Stat::from(&meta).same_file(stat))
}

/// What a restore knows of such files.
#[derive(Debug, Default)]
pub(super) struct Remaps {
    /// By the id of the entry that has lost its name.
    by_entry: HashMap<u32, (RemapType, u32)>,
    /// Those made so far, `O_PATH`.
    made: HashMap<(RemapType, u32), OwnedFd>,
}

impl Remaps {
    /// From `remap-fpath.img`.
    pub(super) fn new(entries: &[RemapFilePathEntry]) -> Self {
        let known = |entry: &RemapFilePathEntry| {
            // CRIU before 1.4 marked ghosts by a bit of their number.
            let kind = entry
                .remap_type
                .map_or(RemapType::Ghost, |_| entry.remap_type());
            (entry.orig_id, (kind, entry.remap_id & !OLD_GHOST))
        };
        Self {
            by_entry: entries.iter().map(known).collect(),
            made: HashMap::new(),
        }
    }

    /// What stands for the entry.
    pub(super) fn of(&self, id: u32) -> Option<(RemapType, u32)> {
        self.by_entry.get(&id).copied()
    }

    /// The entries that only name a link.
    pub(super) fn links(&self) -> impl Iterator<Item = u32> + '_ {
        let links = self.by_entry.values();
        links.filter_map(|(kind, id)| (*kind == RemapType::Linked).then_some(*id))
    }
}

const OLD_GHOST: u32 = 1 << 31;

/// What prevents the file of `entry`, which has lost its name, from being made again.
pub(super) fn check(entry: &RegFileEntry, remap: (RemapType, u32), findings: &mut Findings<'_>) {
    let (what, hint) = match remap {
        (RemapType::Ghost, number) if !findings.has_image(&image(number)) => (
            format!(
                "{} of the deleted file {} is missing",
                image(number),
                entry.name
            ),
            "restore another layer",
        ),
        (RemapType::Linked, id) => {
            let link = findings.entry(id).and_then(|entry| entry.reg.as_ref());
            let name = link.map_or("", |link| link.name.as_str());
            if Path::new(name).exists() {
                return;
            }
            (
                format!(
                    "The link {name}, which kept the file {}, is gone",
                    entry.name
                ),
                "link the file again under that name, or restore another layer",
            )
        }
        (RemapType::Procfs, pid) => (
            format!("File {} is of process {pid}, which had ended", entry.name),
            "restore this layer with criu",
        ),
        (RemapType::Ghost, _) => return,
    };
    let kind = match remap.0 {
        RemapType::Ghost => Kind::Corrupt,
        RemapType::Linked => Kind::NotFound,
        RemapType::Procfs => Kind::Unsupported,
    };
    findings.obstacle(Obstacle::new(kind, what, hint));
}

/// A path that leads to the file of `entry`: its name, or one below `/proc/self/fd`.
pub(super) fn door(entry: &RegFileEntry, opening: &mut Opening<'_>) -> Result<PathBuf> {
    let Some(remap) = opening.remaps.of(entry.id) else {
        return Ok(PathBuf::from(&entry.name));
    };
    let (kind, id) = remap;
    if !opening.remaps.made.contains_key(&remap) {
        let made = match kind {
            RemapType::Ghost => revive(
                Path::new(&entry.name),
                &opening.images().records(&image(id))?,
            )?,
            RemapType::Linked => {
                let missing = || Error::corrupt(format!("files.img has no link {id}"));
                let link = opening.entry(id).and_then(|entry| entry.reg.as_ref());
                relink(
                    Path::new(&entry.name),
                    Path::new(&link.ok_or_else(missing)?.name),
                )?
            }
            RemapType::Procfs => {
                let what = format!("{} is a file of a process that had ended", entry.name);
                return Err(Error::new(Kind::Unsupported, what));
            }
        };
        opening.remaps.made.insert(remap, made);
    }
    let made = opening.remaps.made.get(&remap);
    Ok(made.map_or_else(PathBuf::new, |made| {
        PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd()))
    }))
}

/// Directories that were made for a while.
#[derive(Debug, Default)]
struct Scaffold(Vec<PathBuf>);

impl Scaffold {
    /// Makes the directories above `path` that are missing.
    fn below(path: &Path) -> Result<Self> {
        let mut made = Self::default();
        let missing = path.ancestors().skip(1).take_while(|dir| !dir.exists());
        let mut missing: Vec<&Path> = missing.collect();
        missing.reverse();
        for dir in missing {
            fs::create_dir(dir).map_err(|e| Error::path("make", dir, e))?;
            made.0.push(dir.to_owned());
        }
        Ok(made)
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            let _in_use = fs::remove_dir(dir);
        }
    }
}

/// Makes the deleted file again; it has no name when this returns.
fn revive(name: &Path, records: &[Record]) -> Result<OwnedFd> {
    let damaged = || {
        Error::corrupt(format!(
            "The image of the deleted file {} is damaged",
            name.display()
        ))
    };
    let (head, chunks) = records.split_first().ok_or_else(damaged)?;
    let entry = GhostFileEntry::decode(&*head.bytes).map_err(|e| damaged().because(e))?;
    let _scaffold = Scaffold::below(name)?;
    let cannot = |e| Error::path("make the deleted file", name, e);
    let path = match make(name, entry.mode) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let mut other = name.as_os_str().to_owned();
            other.push(".cr_link");
            let other = PathBuf::from(other);
            make(&other, entry.mode).map_err(cannot)?;
            other
        }
        made => made.map(|()| name.to_owned()).map_err(cannot)?,
    };
    let filled = fill(&path, &entry, head, chunks).and_then(|()| {
        Ok(open(
            &path,
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?)
    });
    let removed = if entry.mode & libc::S_IFMT == libc::S_IFDIR {
        fs::remove_dir(&path)
    } else {
        fs::remove_file(&path)
    };
    let held = filled.map_err(cannot)?;
    removed.map_err(cannot)?;
    Ok(held)
}

/// Makes an empty file of the type in `mode`, where there is none.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    match mode & libc::S_IFMT {
        libc::S_IFREG => {
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map(drop)
        }
        libc::S_IFDIR => fs::create_dir(path),
        libc::S_IFIFO => Ok(mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Contents, owner, permissions and times.
fn fill(path: &Path, entry: &GhostFileEntry, head: &Record, chunks: &[Record]) -> io::Result<()> {
    if entry.mode & libc::S_IFMT == libc::S_IFREG {
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&head.extra, 0)?;
        for chunk in chunks {
            let place = GhostChunkEntry::decode(&*chunk.bytes).map_err(io::Error::other)?;
            file.write_all_at(&chunk.extra, place.off)?;
        }
        if let Some(size) = entry.size {
            file.set_len(size)?;
        }
    }
    let here = nix::fcntl::AT_FDCWD;
    let (user, group) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fchownat(
        here,
        path,
        Some(user),
        Some(group),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    let mode = Mode::from_bits_truncate(entry.mode & 0o7777);
    fchmodat(here, path, mode, FchmodatFlags::FollowSymlink)?;
    if let (Some(atim), Some(mtim)) = (&entry.atim, &entry.mtim) {
        let spec = |time: &Timeval| {
            TimeSpec::new(time.tv_sec.cast_signed(), time.tv_usec.cast_signed() * 1000)
        };
        utimensat(
            here,
            path,
            &spec(atim),
            &spec(mtim),
            UtimensatFlags::FollowSymlink,
        )?;
    }
    Ok(())
}

/// Opens the file behind `link` under the name that it has lost, when that is free.
fn relink(name: &Path, link: &Path) -> Result<OwnedFd> {
    let _scaffold = Scaffold::below(name)?;
    let cannot = |e| Error::path("open", link, e);
    let here = nix::fcntl::AT_FDCWD;
    let named = linkat(here, link, here, name, AtFlags::empty());
    let path = if named.is_ok() { name } else { link };
    let held = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    if named.is_ok() {
        fs::remove_file(name).map_err(cannot)?;
    }
    held.map_err(|e| cannot(e.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::units::Pid;

    fn seen(file: &File) -> Descriptor {
        let number = file.as_raw_fd();
        Descriptor::read(Pid::this(), "x", number).unwrap().unwrap()
    }

    #[test]
    fn a_file_is_told_by_what_leads_back_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = File::create(&path).unwrap();
        assert_eq!(way(&seen(&file)), Way::Path);
        fs::hard_link(&path, dir.path().join("b")).unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(way(&seen(&file)), Way::Link);
        fs::remove_file(dir.path().join("b")).unwrap();
        assert_eq!(way(&seen(&file)), Way::Ghost);
        fs::write(&path, "another").unwrap();
        assert_eq!(way(&seen(&file)), Way::Ghost);
    }

    #[test]
    fn a_large_deleted_file_is_refused_unless_it_is_a_hole() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(9 << 20).unwrap();
        assert_eq!(refusal(&seen(&file), &Allow::default()), None);
        file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
        assert!(
            refusal(&seen(&file), &Allow::default())
                .unwrap()
                .what
                .contains("2048 KiB")
        );
    }

    #[test]
    fn a_ghost_has_its_contents_and_leaves_no_name_behind() {
        let dir = tempfile::tempdir().unwrap();
        let file = tempfile::tempfile_in(&dir).unwrap();
        file.write_all_at(b"contents", 20_000).unwrap();
        let mut ghosts = Ghosts::default();
        assert_eq!(ghost(&seen(&file), &mut ghosts).unwrap(), 1);
        assert_eq!(ghost(&seen(&file), &mut ghosts).unwrap(), 1);
        let (_, records) = &ghosts.images[0];
        for name in ["a", "gone/too/b"] {
            let held = revive(&dir.path().join(name), records).unwrap();
            let mut all = String::new();
            File::open(format!("/proc/self/fd/{}", held.as_raw_fd()))
                .unwrap()
                .read_to_string(&mut all)
                .unwrap();
            assert_eq!(all.trim_start_matches('\0'), "contents");
            assert_eq!(all.len(), 20_008);
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }

    #[test]
    fn a_name_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "mine").unwrap();
        let file = tempfile::tempfile_in(&dir).unwrap();
        let mut ghosts = Ghosts::default();
        ghost(&seen(&file), &mut ghosts).unwrap();
        revive(&path, &ghosts.images[0].1).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}
