//! memfds, and the unnamed files behind shared anonymous memory, which the kernel keeps alike.
//!
//! CRIU: `memfd_file_entry` per description, `memfd_inode_entry` per file in `memfd.img`; the
//! contents are pages of `pagemap-shmem-SHMID.img`, written by the memory module. Shared anonymous
//! mappings are entered in the same way under the name `/dev/zero`. Sources: memfd_create(2),
//! `mm/shmem.c`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};
use nix::unistd::{Gid, Uid, Whence, fchown, ftruncate, lseek};

use super::descriptor::Descriptor;
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened};
use crate::error::{Error, Result};
use crate::image::proto::{FdTypes, FileEntry, MemfdFileEntry, MemfdInodeEntry};
use crate::memory::huge;

/// Start of the link's text.
const PREFIX: &str = "/memfd:";

/// Files of memory that have no path.
#[derive(Debug)]
pub(super) struct Memfd;

impl FileKind for Memfd {
    fn name(&self) -> &'static str {
        "memfd"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.stat.nlink == 0 && segment_name(&file.shown()).is_some() && in_memory(file)
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, _: &Allow) -> Option<Refusal> {
        let holder = outside.holder(&file.stat)?;
        Some(Refusal {
            what: format!(
                "{} shared with {} (pid {}), not in the tree,",
                file.shown(),
                holder.comm,
                holder.pid
            ),
            hint: "end the other process, or dump from a common ancestor of both".to_owned(),
        })
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Memfd
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let inode_id = dumper.segments.enter(held.file)?;
        let memfd = MemfdFileEntry {
            id,
            flags: held.file.flags,
            pos: held.file.pos,
            fown: held.fown,
            inode_id,
        };
        dumper.push(FileEntry {
            r#type: FdTypes::Memfd.into(),
            id,
            memfd: Some(memfd),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        let entry = part(entry)?;
        findings.segment(entry.inode_id).map(drop)
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let segment = opening.segment(entry.inode_id)?;
        let cannot = |e| Error::os(format!("Cannot open memfd {}", segment.entry.name), e);
        let path = format!("/proc/self/fd/{}", segment.file.as_fd().as_raw_fd());
        let flags = OFlag::from_bits_retain(entry.flags.cast_signed()) | OFlag::O_CLOEXEC;
        let file = open(&*path, flags, Mode::empty()).map_err(cannot)?;
        if entry.pos != 0 {
            lseek(&file, entry.pos.cast_signed(), Whence::SeekSet).map_err(cannot)?;
        }
        Ok(Some(Reopened {
            file,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

fn part(entry: &FileEntry) -> Result<&MemfdFileEntry> {
    let missing = || Error::corrupt(format!("files.img: entry {} is no memfd", entry.id));
    entry.memfd.as_ref().ok_or_else(missing)
}

/// A shared segment of the target, met while dumping.
#[derive(Debug)]
pub struct Segment {
    /// Device of its filesystem.
    pub dev: u64,
    /// Inode number, as `/proc/PID/maps` shows it too.
    pub inode: u64,
    /// Its record in `memfd.img`; `shmid` names its pagemap.
    pub entry: MemfdInodeEntry,
    /// The segment, open for reading at any offset.
    pub file: File,
}

/// All segments met.
#[derive(Debug, Default)]
pub(super) struct Segments {
    all: Vec<Segment>,
    names: HashMap<u64, u32>,
    /// Names that others have.
    taken: HashSet<u32>,
}

impl Segments {
    pub(super) fn all(&self) -> &[Segment] {
        &self.all
    }

    /// The segment with this inode is to be called `shmid`.
    pub(super) fn name(&mut self, inode: u64, shmid: u32) {
        self.names.insert(inode, shmid);
    }

    /// These names are others'.
    pub(super) fn reserve(&mut self, names: HashSet<u32>) {
        self.taken = names;
    }

    /// The name of a segment: the one that it had, or its inode number, or any that is free.
    fn free_name(&self, inode: u64) -> u32 {
        let known = self.names.get(&inode).copied();
        let own = u32::try_from(inode).ok();
        let all = known.into_iter().chain(own).chain((1..u32::MAX).rev());
        let free = |name: &u32| {
            !self.taken.contains(name) && self.all.iter().all(|s| s.entry.shmid != *name)
        };
        all.into_iter().find(free).unwrap_or(0)
    }

    /// The number of the segment in `memfd.img`, entering it when it is new.
    fn enter(&mut self, file: &Descriptor) -> Result<u32> {
        let stat = &file.stat;
        let known = self
            .all
            .iter()
            .position(|s| (s.dev, s.inode) == (stat.dev, stat.ino));
        let number = |index: usize| u32::try_from(index + 1).unwrap_or(u32::MAX);
        if let Some(index) = known {
            return Ok(number(index));
        }
        let cannot = |e| Error::path("open the memory of", &file.link, e);
        let segment = File::open(&file.link).map_err(cannot)?;
        let seals = fcntl(&segment, FcntlArg::F_GET_SEALS).map_err(|e| cannot(e.into()))?;
        let shmid = self.free_name(stat.ino);
        let inode_id = number(self.all.len());
        let entry = MemfdInodeEntry {
            name: segment_name(&file.shown()).unwrap_or_default().to_owned(),
            uid: stat.uid,
            gid: stat.gid,
            size: stat.size,
            shmid,
            seals: seals.cast_unsigned(),
            inode_id: inode_id.into(),
            hugetlb_flag: huge_page(file).map(huge::memfd_flags),
            mode: Some(stat.mode),
        };
        self.all.push(Segment {
            dev: stat.dev,
            inode: stat.ino,
            entry,
            file: segment,
        });
        Ok(inode_id)
    }
}

/// A shared segment being restored: made, sized, still empty and without seals.
#[derive(Debug)]
pub struct OpenSegment {
    /// Its record.
    pub entry: MemfdInodeEntry,
    /// The segment, open for reading and writing.
    pub file: OwnedFd,
}

impl OpenSegment {
    /// Makes the segment of a record.
    pub(super) fn make(entry: &MemfdInodeEntry) -> Result<Self> {
        let cannot = |e| Error::os(format!("Cannot make memfd {}", entry.name), e);
        let sealable = entry.seals != SealFlag::F_SEAL_SEAL.bits().cast_unsigned();
        let huge = entry.hugetlb_flag.unwrap_or(0);
        let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(huge);
        flags.set(MFdFlags::MFD_ALLOW_SEALING, sealable);
        let file = memfd_create(&*entry.name, flags).map_err(cannot)?;
        ftruncate(&file, entry.size.cast_signed()).map_err(cannot)?;
        fchown(
            &file,
            Some(Uid::from_raw(entry.uid)),
            Some(Gid::from_raw(entry.gid)),
        )
        .map_err(cannot)?;
        if let Some(mode) = entry.mode {
            fchmod(&file, Mode::from_bits_truncate(mode)).map_err(cannot)?;
        }
        Ok(Self {
            entry: entry.clone(),
            file,
        })
    }

    /// Puts the seals on.
    pub(super) fn seal(&self) -> Result<()> {
        let seals = SealFlag::from_bits_retain(self.entry.seals.cast_signed());
        if seals.is_empty() || seals == SealFlag::F_SEAL_SEAL {
            return Ok(());
        }
        fcntl(&self.file, FcntlArg::F_ADD_SEALS(seals))
            .map(drop)
            .map_err(|e| Error::os(format!("Cannot seal memfd {}", self.entry.name), e))
    }
}

/// The name that was given to memfd_create, or `/dev/zero` (`/anon_hugepage`) for shared anonymous
/// memory.
fn segment_name(text: &str) -> Option<&str> {
    let name = text.strip_suffix(" (deleted)")?;
    if ["/dev/zero", "/anon_hugepage"].contains(&name) {
        Some(name)
    } else {
        name.strip_prefix(PREFIX)
    }
}

/// True on the kernel's internal filesystems without a mount point; false for a deleted file that
/// happens to be called the same.
fn in_memory(file: &Descriptor) -> bool {
    Some(file.stat.dev) == memory_device() || huge_page(file).is_some()
}

/// Huge-page memfds live on a filesystem of their own; its block size is the page size.
pub(super) fn huge_page(file: &Descriptor) -> Option<u64> {
    let fs = statfs(&file.link).ok()?;
    let is_huge = fs.filesystem_type() == HUGETLBFS_MAGIC;
    is_huge.then(|| u64::try_from(fs.block_size()).ok())?
}

/// The device number of the filesystem that holds all memfds.
fn memory_device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let probe = memfd_create(c"icecore-probe", MFdFlags::MFD_CLOEXEC).ok()?;
        Some(nix::sys::stat::fstat(&probe).ok()?.st_dev)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Pid;

    #[test]
    fn a_memfd_is_recognised_and_a_deleted_file_of_that_name_is_not() {
        let memfd = memfd_create(c"seg", MFdFlags::MFD_CLOEXEC).unwrap();
        let mut file = Descriptor::read(Pid::this(), "x", memfd.as_raw_fd())
            .unwrap()
            .unwrap();
        assert!(Memfd.recognises(&file));
        file.stat.dev = u64::MAX;
        file.link = "/".into();
        assert!(!Memfd.recognises(&file));
    }

    #[test]
    fn names_are_taken_from_the_link() {
        assert_eq!(segment_name("/memfd:a b (deleted)"), Some("a b"));
        assert_eq!(segment_name("/memfd: (deleted)"), Some(""));
        assert_eq!(segment_name("/dev/zero (deleted)"), Some("/dev/zero"));
        assert_eq!(segment_name("/tmp/x (deleted)"), None);
    }
}
