//! The mappings of a process: what each one is, and whether it can be saved.
//!
//! Sources: proc_pid_maps(5), proc_pid_smaps(5) (`VmFlags`), CRIU's `vma_entry`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat;
use procfs::FromBufRead as _;
use procfs::ProcError;
use procfs::process::{MMPermissions, MMapPath, MemoryMap, MemoryMaps, Process, VmFlags};

use super::huge;
use crate::error::{Error, Kind, Obstacle, Result};
use crate::units::{PageRange, Pid};

/// What gives a mapping its first contents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Nothing: zero pages.
    Anonymous,
    /// A file with a name.
    File(PathBuf),
    /// A segment of shared memory without a name in the file system: `/dev/zero` for shared
    /// anonymous memory, `/memfd:NAME` for memfd_create(2).
    Segment(String),
    /// A segment of System V shared memory, whose id is the inode number.
    SystemV,
    /// A ring of asynchronous I/O.
    AioRing,
    /// The kernel's code page for fast system calls.
    Vdso,
    /// The kernel's data pages for it.
    Vvar,
    /// The old fixed page at the end of the address space.
    Vsyscall,
}

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its addresses.
    pub range: PageRange,
    /// `PROT_*` bits.
    pub prot: u32,
    /// MAP_SHARED rather than MAP_PRIVATE.
    pub shared: bool,
    /// What is behind it.
    pub backing: Backing,
    /// Offset into the backing, in bytes.
    pub offset: u64,
    /// Device of the backing (major, minor).
    pub device: (u32, u32),
    /// Inode of the backing, 0 for none.
    pub inode: u64,
    /// Part of the brk(2) heap.
    pub heap: bool,
    /// Kernel flags of the mapping.
    pub vm: VmFlags,
    /// It cannot be changed any more (mseal(2)).
    pub sealed: bool,
    /// The kernel may empty it at any time (MAP_DROPPABLE, mmap(2)).
    pub droppable: bool,
    /// Its pages are locked as they come (mlock2(2), MLOCK_ONFAULT), not all at once.
    pub lock_on_fault: bool,
    /// It may have guard pages (MADV_GUARD_INSTALL), as far as the kernel tells.
    pub guarded: bool,
    /// Its protection key (pkeys(7)).
    pub key: u32,
    /// Bytes of its pages, when they are huge (hugetlbfs).
    pub huge: Option<u64>,
    /// It has pages of its own that another process has too, since a fork.
    pub cow: bool,
    /// What the kernel calls it, for people.
    pub name: String,
}

const SHARED_ANONYMOUS: &str = "/dev/zero";
const HUGE_ANONYMOUS: &str = "/anon_hugepage";
const MEMFD: &str = "/memfd:";
const DELETED: &str = " (deleted)";

impl Mapping {
    /// True when dirty private pages may be stored for it. Not of droppable memory: what the kernel may
    /// empty at any time is empty after a restore, as it should be (random numbers prepared there for
    /// getrandom(2) must not come twice).
    pub fn is_private_memory(&self) -> bool {
        !self.shared
            && !self.droppable
            && !matches!(
                self.backing,
                Backing::Vvar | Backing::Vsyscall | Backing::Vdso
            )
    }

    /// The segment of shared memory it shows, if any: identity (device, inode).
    pub fn segment(&self) -> Option<((u32, u32), u64)> {
        matches!(self.backing, Backing::Segment(_)).then_some((self.device, self.inode))
    }

    /// The id of the segment of System V shared memory that it shows, if any.
    pub fn system_v(&self) -> Option<u32> {
        let id = || u32::try_from(self.inode).ok();
        matches!(self.backing, Backing::SystemV).then(id).flatten()
    }

    /// mmap(2) flags to make it again.
    pub fn flags(&self) -> u32 {
        let mut flags = if self.shared {
            libc::MAP_SHARED
        } else {
            libc::MAP_PRIVATE
        };
        if matches!(
            self.backing,
            Backing::Anonymous | Backing::SystemV | Backing::Vdso | Backing::Vvar
        ) {
            flags |= libc::MAP_ANONYMOUS;
        }
        for (vm, flag) in [
            (VmFlags::GD, libc::MAP_GROWSDOWN),
            (VmFlags::LO, libc::MAP_LOCKED),
            (VmFlags::NR, libc::MAP_NORESERVE),
        ] {
            if self.vm.contains(vm) {
                flags |= flag;
            }
        }
        if self.lock_on_fault {
            // Whoever knows of no other lock would fill what was only reserved.
            flags &= !libc::MAP_LOCKED;
        }
        let huge = self.huge.map_or(0, |bytes| {
            libc::MAP_HUGETLB.cast_unsigned() | huge::size_flags(bytes)
        });
        flags.cast_unsigned() | huge
    }

    /// The flags that its file has to be opened with.
    pub fn open_flags(&self) -> u32 {
        // A shared mapping that was made writable, or may become it.
        match self.shared && self.vm.contains(VmFlags::MW) {
            true => libc::O_RDWR.cast_unsigned(),
            false => 0,
        }
    }

    /// madvise(2) advices that are in force, as a mask of `1 << MADV_*`.
    pub fn advice(&self) -> u64 {
        [
            (VmFlags::RR, libc::MADV_RANDOM),
            (VmFlags::SR, libc::MADV_SEQUENTIAL),
            (VmFlags::DC, libc::MADV_DONTFORK),
            (VmFlags::MG, libc::MADV_MERGEABLE),
            (VmFlags::HG, libc::MADV_HUGEPAGE),
            (VmFlags::NH, libc::MADV_NOHUGEPAGE),
            (VmFlags::DD, libc::MADV_DONTDUMP),
            (VmFlags::WF, libc::MADV_WIPEONFORK),
        ]
        .into_iter()
        .filter(|(vm, _)| self.vm.contains(*vm))
        .map(|(_, advice)| 1 << advice)
        .sum()
    }

    fn from(map: &MemoryMap) -> Self {
        let mut prot = 0;
        for (perm, bit) in [
            (MMPermissions::READ, libc::PROT_READ),
            (MMPermissions::WRITE, libc::PROT_WRITE),
            (MMPermissions::EXECUTE, libc::PROT_EXEC),
        ] {
            if map.perms.contains(perm) {
                prot |= bit.cast_unsigned();
            }
        }
        let (backing, name) = match backing(&map.pathname) {
            // Of a private mapping nobody ever sees the file.
            (Backing::Segment(name), _)
                if name == HUGE_ANONYMOUS && !map.perms.contains(MMPermissions::SHARED) =>
            {
                (Backing::Anonymous, name)
            }
            other => other,
        };
        let device = |n: i32| n.cast_unsigned();
        Self {
            range: PageRange::new(map.address.0, map.address.1),
            prot,
            shared: map.perms.contains(MMPermissions::SHARED),
            backing,
            offset: map.offset,
            device: (device(map.dev.0), device(map.dev.1)),
            inode: map.inode,
            heap: map.pathname == MMapPath::Heap,
            vm: map.extension.vm_flags,
            sealed: false,
            droppable: false,
            lock_on_fault: false,
            guarded: false,
            key: 0,
            cow: is_cow(map),
            huge: page_size(map),
            name,
        }
    }

    /// The link through which its file can be looked at. To follow one in `map_files` is a right of
    /// its own (proc(5)); without it the file is the one at its path, or one that the process has
    /// open, when that is the same inode.
    pub fn link(&self, pid: Pid) -> PathBuf {
        let PageRange { start, end, .. } = self.range;
        let link = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
        let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
        if !fs::metadata(&link).is_err_and(denied) {
            return link;
        }
        let by_path = match &self.backing {
            Backing::File(path) => Some(path.clone()),
            _ => None,
        };
        let open = fs::read_dir(format!("/proc/{pid}/fd"));
        let open = open.into_iter().flatten().flatten().map(|fd| fd.path());
        let mut found = by_path.into_iter().chain(open);
        found.find(|path| self.is_of(path)).unwrap_or(link)
    }

    /// True when `path` leads to the file that is mapped.
    fn is_of(&self, path: &Path) -> bool {
        let Ok(meta) = fs::metadata(path) else {
            return false;
        };
        let part = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let (major, minor) = (stat::major(meta.dev()), stat::minor(meta.dev()));
        meta.ino() == self.inode && (part(major), part(minor)) == self.device
    }

    /// Why it cannot be saved, if so.
    pub(crate) fn obstacle(&self, pid: Pid) -> Option<Obstacle> {
        let refuse = |what: &str, hint: &str| {
            let text = format!(
                "Process {pid} maps {what} at {} ({})",
                self.range, self.name
            );
            Some(Obstacle::unsupported(text, hint))
        };
        match &self.backing {
            Backing::Vdso | Backing::Vvar | Backing::Vsyscall => None,
            Backing::Anonymous if !self.name.is_empty() && self.name.starts_with('?') => {
                refuse("a special area", "the kernel gives no way to make it again")
            }
            Backing::Anonymous => None,
            Backing::Segment(_) | Backing::SystemV | Backing::AioRing => None,
            Backing::File(_) if self.name.starts_with("socket:") => {
                refuse("a ring of packets", "end the capture before the dump")
            }
            Backing::File(path) if !path.is_absolute() => {
                refuse("something without a path", "close it before the dump")
            }
            Backing::File(_) if self.vm.intersects(VmFlags::IO | VmFlags::PF) => {
                refuse("device memory", "device mappings cannot be saved")
            }
            Backing::File(path) if path.starts_with("/secretmem (deleted)") => refuse(
                "secret memory (memfd_secret)",
                "nobody but the program itself can read it",
            ),
            // Whether its file can be found again, `files` knows.
            Backing::File(_) => None,
        }
    }
}

/// As far as smaps tells: pages of a file that are as the file has them are everybody's.
fn is_cow(map: &MemoryMap) -> bool {
    let amount = |name: &str| map.extension.map.get(name).copied().unwrap_or(0);
    let private = !map.perms.contains(MMPermissions::SHARED);
    // Of huge pages there are not enough for copies that nobody needs.
    let shared = amount("Shared_Dirty") + amount("Shared_Hugetlb") > 0;
    private && (shared || map.inode == 0 && amount("Shared_Clean") > 0)
}

fn page_size(map: &MemoryMap) -> Option<u64> {
    let is_huge = map.extension.vm_flags.contains(VmFlags::HT);
    let size = map.extension.map.get("KernelPageSize").copied();
    is_huge.then_some(size).flatten()
}

fn backing(path: &MMapPath) -> (Backing, String) {
    match path {
        MMapPath::Anonymous => (Backing::Anonymous, String::new()),
        MMapPath::Heap => (Backing::Anonymous, "[heap]".into()),
        MMapPath::Stack | MMapPath::TStack(_) => (Backing::Anonymous, "[stack]".into()),
        MMapPath::Vdso => (Backing::Vdso, "[vdso]".into()),
        MMapPath::Vvar => (Backing::Vvar, "[vvar]".into()),
        MMapPath::Vsyscall => (Backing::Vsyscall, "[vsyscall]".into()),
        MMapPath::Other(name) if name == "vvar_vclock" => (Backing::Vvar, format!("[{name}]")),
        MMapPath::Other(name) if name.starts_with("anon:") => {
            (Backing::Anonymous, format!("[{name}]"))
        }
        MMapPath::Other(name) => (Backing::Anonymous, format!("?[{name}]")),
        MMapPath::Rollup => (Backing::Anonymous, "?[rollup]".into()),
        MMapPath::Vsys(key) => (Backing::SystemV, format!("/SYSV{key:08x}")),
        MMapPath::Path(path) => {
            let text = path.to_string_lossy();
            let bare = text.strip_suffix(DELETED);
            match bare {
                Some("/[aio]") => (Backing::AioRing, "/[aio]".to_owned()),
                Some(bare)
                    if [SHARED_ANONYMOUS, HUGE_ANONYMOUS].contains(&bare)
                        || bare.starts_with(MEMFD) =>
                {
                    (Backing::Segment(bare.to_owned()), bare.to_owned())
                }
                _ => (Backing::File(path.clone()), text.into_owned()),
            }
        }
    }
}

/// The mappings of `pid`, ascending.
///
/// # Errors
/// When the process is gone or belongs to somebody else.
pub fn read(pid: Pid) -> Result<Vec<Mapping>> {
    let path = format!("/proc/{pid}/smaps");
    let text = fs::read(&path).map_err(|e| unreadable(pid, e.into()))?;
    let maps = MemoryMaps::from_buf_read(&text[..]).map_err(|e| unreadable(pid, e))?;
    let mut mappings: Vec<Mapping> = maps.iter().map(Mapping::from).collect();
    let tells = tells_guards();
    // Flags that the library does not know; each mapping has one line of them.
    let lines = || text.split(|byte| *byte == b'\n');
    let flags = lines().filter_map(|line| line.strip_prefix(b"VmFlags:"));
    for (mapping, flags) in mappings.iter_mut().zip(flags) {
        let has = |flag: &[u8]| flags.split(|byte| *byte == b' ').any(|word| word == flag);
        mapping.sealed = has(b"sl");
        mapping.droppable = has(b"dp");
        mapping.lock_on_fault = has(b"lf");
        mapping.guarded = has(b"gu") || !tells;
    }
    // Without such keys there are no such lines.
    let keys = lines().filter_map(|line| line.strip_prefix(b"ProtectionKey:"));
    for (mapping, key) in mappings.iter_mut().zip(keys) {
        let key = str::from_utf8(key)
            .ok()
            .and_then(|key| key.trim().parse().ok());
        mapping.key = key.unwrap_or(0);
    }
    Ok(mappings)
}

/// True when the kernel tells which mappings may have guard pages (Linux 6.18).
fn tells_guards() -> bool {
    let Ok(system) = nix::sys::utsname::uname() else {
        return false;
    };
    let release = system.release().to_string_lossy();
    let mut parts = release.split(['.', '-']).map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 18))
}

fn unreadable(pid: Pid, error: ProcError) -> Error {
    let text = format!("Cannot read the mappings of process {pid}");
    match &error {
        ProcError::PermissionDenied(_) => Error::new(Kind::Permission, text).hint(
            "reading processes of others takes CAP_SYS_PTRACE: run icecore as root, or as the user who \
             owns the process",
        ),
        _ => Error::new(Kind::TargetGone, text),
    }
    .because(error)
}

/// The mappings of `pid` without kernel flags: much faster than [`read`].
///
/// # Errors
/// As [`read`].
pub fn layout(pid: Pid) -> Result<Vec<Mapping>> {
    let maps = Process::new(pid.as_raw())
        .and_then(|p| p.maps())
        .map_err(|e| unreadable(pid, e))?;
    Ok(maps.iter().map(Mapping::from).collect())
}

/// The mappings of `pid` with what was known from an earlier [`read`]: only when the layout changed
/// since is the slow list with all kernel flags read again. Meant for a frozen process.
///
/// # Errors
/// As [`read`].
pub fn refresh(pid: Pid, known: Vec<Mapping>) -> Result<Vec<Mapping>> {
    let maps = Process::new(pid.as_raw())
        .and_then(|p| p.maps())
        .map_err(|e| unreadable(pid, e))?;
    let same = maps.len() == known.len()
        && maps.iter().zip(&known).all(|(map, old)| {
            let new = Mapping {
                vm: old.vm,
                sealed: old.sealed,
                droppable: old.droppable,
                lock_on_fault: old.lock_on_fault,
                guarded: old.guarded,
                key: old.key,
                cow: old.cow,
                huge: old.huge,
                ..Mapping::from(map)
            };
            new == *old
        });
    if same { Ok(known) } else { read(pid) }
}

/// What in `mappings` cannot be saved, whatever the files behind them.
pub fn obstacles(pid: Pid, mappings: &[Mapping]) -> Vec<Obstacle> {
    mappings.iter().filter_map(|m| m.obstacle(pid)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_mappings_can_all_be_saved() {
        let pid = nix::unistd::getpid();
        let mappings = read(pid).unwrap();
        assert_eq!(obstacles(pid, &mappings), []);
        assert!(mappings.iter().any(|m| m.backing == Backing::Vdso));
        assert!(mappings.iter().any(|m| m.heap || m.name == "[stack]"));
        assert!(
            mappings
                .windows(2)
                .all(|w| w[0].range.end <= w[1].range.start)
        );
    }

    #[test]
    fn segments_are_told_from_deleted_files() {
        let of = |path: &str| backing(&MMapPath::Path(path.into())).0;
        assert_eq!(
            of("/dev/zero (deleted)"),
            Backing::Segment("/dev/zero".into())
        );
        assert_eq!(
            of("/memfd:x y (deleted)"),
            Backing::Segment("/memfd:x y".into())
        );
        assert_eq!(
            of("/tmp/gone (deleted)"),
            Backing::File("/tmp/gone (deleted)".into())
        );
    }
}
