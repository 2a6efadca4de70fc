//! Locks on files: flock(2), POSIX and OFD locks and leases (fcntl(2)); saved by `--file-locks`.
//!
//! CRIU: `file_lock_entry`, each with the process and the descriptor that it was found at. A POSIX
//! lock belongs to a process, the others to an open file description, so those are entered once,
//! whoever has it. The kernel shows a lock with a descriptor only to whom it belongs: what other
//! processes have locked in the same file, or wait for, is not met here. Who waits for a lock asks
//! again after a restore. A restore takes no lock away from anybody.
//!
//! Sources: proc_pid_fdinfo(5), proc_locks(5), `fs/locks.c`.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;

use procfs::{Lock, LockKind, LockType};

use super::descriptor::{self, Descriptor};
use super::{Allow, Findings, Refusal, outside};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdinfoEntry, FileLockEntry, PstreeEntry, TaskKobjIdsEntry};
use crate::image::{Images, LayerWriter};
use crate::inject::{Call, Remote};
use crate::sys::kcmp;
use crate::units::Pid;

/// The image.
const IMAGE: &str = "filelocks.img";

/// What a lock is; the numbers are the image's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Posix = 1,
    Flock = 2,
    Ofd = 4,
    Lease = 8,
}

impl Class {
    fn of(flag: u32) -> Option<Self> {
        [Self::Posix, Self::Flock, Self::Ofd, Self::Lease]
            .into_iter()
            .find(|class| *class as u32 == flag)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Posix => "a POSIX lock",
            Self::Flock => "a lock (flock)",
            Self::Ofd => "an OFD lock",
            Self::Lease => "a lease",
        }
    }
}

/// A `lock:` line, `1: POSIX  ADVISORY  WRITE 12 08:01:7 100 109`; `None` for what cannot be restored:
/// leases that are being broken, and those of NFS servers.
fn parse(line: &str) -> Option<FileLockEntry> {
    let mut words = line.split_whitespace().skip(1);
    let class = match (words.next()?, words.next()?) {
        ("POSIX", "ADVISORY") => Class::Posix,
        ("FLOCK", "ADVISORY") => Class::Flock,
        ("OFDLCK", "ADVISORY") => Class::Ofd,
        ("LEASE", "ACTIVE") => Class::Lease,
        _ => return None,
    };
    let kind = match words.next()? {
        "READ" => libc::F_RDLCK,
        "WRITE" => libc::F_WRLCK,
        _ => return None,
    };
    let start: i64 = words.nth(2)?.parse().ok()?;
    let len = match words.next()? {
        "EOF" => 0,
        last => last.parse::<i64>().ok()?.checked_sub(start)? + 1,
    };
    Some(FileLockEntry {
        flag: class as u32,
        r#type: kind.unsigned_abs(),
        start,
        len,
        ..FileLockEntry::default()
    })
}

/// The `lock:` lines of a descriptor.
fn lines(file: &Descriptor) -> impl Iterator<Item = &str> {
    let locks = file.details.iter().filter(|(name, _)| name == "lock");
    locks.map(|(_, line)| line.as_str())
}

/// True when somebody who opens the file would be waited for by the target.
pub(super) fn is_leased(file: &Descriptor) -> bool {
    lines(file).any(|line| parse(line).is_none_or(|lock| lock.flag == Class::Lease as u32))
}

/// Why the locks held through `file` prevent its dump.
pub(super) fn refusal(file: &Descriptor, allow: &Allow) -> Option<Refusal> {
    for line in lines(file) {
        let shown = file.shown();
        let Some(class) = parse(line).and_then(|lock| Class::of(lock.flag)) else {
            return Some(Refusal {
                what: format!(
                    "{shown} with a lease that is being broken or is a server's ({line})"
                ),
                hint: "dump again when it is given up".to_owned(),
            });
        };
        if !allow.file_locks {
            return Some(Refusal {
                what: format!("{shown} with {}", class.words()),
                hint:
                    "save locks, too: --file-locks (-l); who waits for one gets it when the dump \
                       ends the program"
                        .to_owned(),
            });
        }
    }
    None
}

/// Descriptions with a lock that a process outside of `target` has, too: it would keep the lock.
pub(super) fn shared<'a>(
    files: &'a [Descriptor],
    target: &HashSet<Pid>,
) -> Vec<(&'a Descriptor, Refusal)> {
    let of_description = |lock: FileLockEntry| lock.flag != Class::Posix as u32;
    let locked = |file: &&Descriptor| lines(file).any(|l| parse(l).is_some_and(of_description));
    let locked: Vec<&Descriptor> = files.iter().filter(locked).collect();
    let texts: HashSet<OsString> = locked.iter().map(|file| file.text.clone()).collect();
    let mut found = BTreeMap::new();
    outside::each_open(target, &texts, &mut |pid, number, text| {
        for (index, file) in locked.iter().enumerate() {
            let same = |own| kcmp::compare_files((file.pid, own), (pid, number));
            if file.text == text && file.number.map(same) == Some(Ok(Ordering::Equal)) {
                found.entry(index).or_insert(pid);
            }
        }
    });
    let shared = found.into_iter().map(|(index, pid)| {
        let (file, comm) = (locked[index], descriptor::comm(pid));
        let what = format!(
            "{} with a lock that it shares with {comm} (pid {pid}) outside of the tree",
            file.shown()
        );
        let hint = format!("dump the tree that process {pid} is in, or end that process");
        (file, Refusal { what, hint })
    });
    shared.collect()
}

/// Dump half: the locks that were met.
#[derive(Debug, Default)]
pub(super) struct Held {
    locks: Vec<FileLockEntry>,
    /// Descriptions whose own locks are entered.
    descriptions: HashSet<u32>,
    /// Processes and descriptions whose POSIX locks are entered.
    processes: HashSet<(Pid, u32)>,
    /// Files with locks that are in sockets.
    under_way: Vec<(u32, String)>,
}

impl Held {
    /// Notes the locks of the descriptor `at`, as the tree calls it, whose description is `id`.
    pub(super) fn note(&mut self, file: &Descriptor, at: (Pid, RawFd), id: u32) {
        let first = self.descriptions.insert(id);
        let first_here = self.processes.insert((file.pid, id));
        for mut lock in lines(file).filter_map(parse) {
            let posix = lock.flag == Class::Posix as u32;
            if if posix { first_here } else { first } {
                (lock.pid, lock.fd) = (at.0.as_raw(), at.1);
                self.locks.push(lock);
            }
        }
    }

    /// Notes a description that is under way in a socket: some process must have it as well, for its
    /// locks have their place in the image with a descriptor.
    pub(super) fn note_under_way(&mut self, file: &Descriptor, id: u32) {
        if lines(file).next().is_some() {
            self.under_way.push((id, file.shown().into_owned()));
        }
    }

    /// Writes the image, when there is a lock.
    pub(super) fn write(&self, writer: &LayerWriter) -> Result<()> {
        for (id, shown) in &self.under_way {
            if !self.descriptions.contains(id) {
                let what = format!("{shown} is locked, and only under way in a socket");
                let error = Error::new(Kind::Unsupported, what);
                return Err(error.hint("dump again when it has been received"));
            }
        }
        if self.locks.is_empty() {
            return Ok(());
        }
        writer.all(IMAGE, &self.locks)
    }
}

/// Restore half: the locks of each process.
#[derive(Debug, Default)]
pub(super) struct Wanted(HashMap<i32, Vec<FileLockEntry>>);

impl Wanted {
    /// Those of a layer.
    pub(super) fn read(images: &Images) -> Result<Self> {
        let mut locks: HashMap<i32, Vec<FileLockEntry>> = HashMap::new();
        for lock in images.all::<FileLockEntry>(IMAGE)? {
            locks.entry(lock.pid).or_default().push(lock);
        }
        Ok(Self(locks))
    }

    /// Takes the locks of process `pid` of the layer, which has all its descriptors.
    pub(super) fn take(&self, pid: Pid, remote: &mut Remote) -> Result<()> {
        for lock in self.0.get(&pid.as_raw()).into_iter().flatten() {
            let unknown = || {
                Error::corrupt(format!(
                    "{IMAGE}: a lock on descriptor {} of process {pid} is of an unknown kind ({})",
                    lock.fd, lock.flag
                ))
            };
            let class = Class::of(lock.flag).ok_or_else(unknown)?;
            let fd = u64::from(lock.fd.cast_unsigned());
            let write = lock.r#type == libc::F_WRLCK.unsigned_abs();
            let number = |value: i32| u64::from(value.cast_unsigned());
            let (nr, args) = match class {
                Class::Flock => {
                    let operation = if write { libc::LOCK_EX } else { libc::LOCK_SH };
                    let operation = number(operation | libc::LOCK_NB);
                    (libc::SYS_flock, [fd, operation, 0])
                }
                Class::Lease => {
                    let kind = u64::from(lock.r#type);
                    (libc::SYS_fcntl, [fd, number(libc::F_SETLEASE), kind])
                }
                Class::Posix | Class::Ofd => {
                    let ofd = class == Class::Ofd;
                    let command = if ofd {
                        libc::F_OFD_SETLK
                    } else {
                        libc::F_SETLK
                    };
                    let range = remote.put(0, &range(lock))?;
                    (libc::SYS_fcntl, [fd, number(command), range])
                }
            };
            let mut calls = [Call::new(nr, &args)];
            remote.run(&mut calls)?;
            calls[0].value().map_err(|e| {
                let what = format!(
                    "Process {pid} cannot take {} on descriptor {}",
                    class.words(),
                    lock.fd
                );
                Error::os(what, e)
                    .hint("see who holds it: lslocks; end it, or restore another layer")
            })?;
        }
        Ok(())
    }
}

/// A `struct flock` for fcntl(2).
fn range(lock: &FileLockEntry) -> [u8; 32] {
    let mut bytes = [0; 32];
    let kind = u16::try_from(lock.r#type).unwrap_or(u16::MAX);
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[8..16].copy_from_slice(&lock.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&lock.len.to_le_bytes());
    bytes
}

/// Names the processes that hold now what a layer wants.
pub(super) fn check(images: &Images, findings: &mut Findings<'_>) -> Result<()> {
    let wanted = Wanted::read(images)?;
    if wanted.0.is_empty() {
        return Ok(());
    }
    // Where they cannot be told, the restore itself finds out.
    let taken = procfs::locks().unwrap_or_default();
    let ours: HashSet<i32> = images
        .all::<PstreeEntry>("pstree.img")?
        .iter()
        .map(|process| process.pid.cast_signed())
        .collect();
    for (pid, locks) in &wanted.0 {
        let ids: Option<TaskKobjIdsEntry> = images.optional(&format!("ids-{pid}.img"))?;
        let Some(ids) = ids else { continue };
        let table: Vec<FdinfoEntry> = images.all(&format!("fdinfo-{}.img", ids.files_id))?;
        for lock in locks {
            let number = lock.fd.cast_unsigned();
            let entry = table.iter().find(|descriptor| descriptor.fd == number);
            let file = entry.and_then(|descriptor| findings.entry(descriptor.id)?.reg.as_ref());
            let Some((name, meta)) =
                file.and_then(|f| Some((&f.name, fs::metadata(&f.name).ok()?)))
            else {
                continue;
            };
            let at = (libc::major(meta.dev()), libc::minor(meta.dev()), meta.ino());
            let holder = taken.iter().find_map(|other| {
                let there = (other.devmaj, other.devmin, other.inode) == at;
                let holder = other.pid.filter(|pid| !ours.contains(pid))?;
                let alive = fs::exists(format!("/proc/{holder}")).unwrap_or(false);
                (there && alive && conflict(lock, other)).then_some(Pid::from_raw(holder))
            });
            if let Some(holder) = holder {
                let comm = descriptor::comm(holder);
                findings.obstacle(Obstacle::new(
                    Kind::Busy,
                    format!("File {name} is locked by {comm} (pid {holder}), process {pid} had it"),
                    "end that process, or have it give the lock up",
                ));
            }
        }
    }
    Ok(())
}

/// True when `wanted` cannot be had while somebody else has `other`.
fn conflict(wanted: &FileLockEntry, other: &Lock) -> bool {
    let comparable = match other.lock_type {
        LockType::FLock => wanted.flag == Class::Flock as u32,
        LockType::Posix | LockType::ODF => {
            wanted.flag == Class::Posix as u32 || wanted.flag == Class::Ofd as u32
        }
        LockType::Other(_) => false,
    };
    let reads = wanted.r#type == libc::F_RDLCK.unsigned_abs();
    let start = wanted.start.cast_unsigned();
    let last = match wanted.len {
        0 => u64::MAX,
        len => start.saturating_add(len.cast_unsigned() - 1),
    };
    let apart = other.offset_last.is_some_and(|end| end < start) || last < other.offset_first;
    comparable && !(reads && matches!(other.kind, LockKind::Read)) && !apart
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn lock(flag: u32, kind: u32, start: i64, len: i64) -> FileLockEntry {
        FileLockEntry {
            flag,
            r#type: kind,
            start,
            len,
            ..FileLockEntry::default()
        }
    }

    #[test]
    fn lines_of_fdinfo_become_entries_with_the_numbers_of_criu() {
        let parsed = |line| parse(line).unwrap();
        assert_eq!(
            parsed("1: FLOCK  ADVISORY  READ 617 fe:00:10362964 0 EOF"),
            lock(2, 0, 0, 0)
        );
        assert_eq!(
            parsed("1: POSIX  ADVISORY  WRITE 617 fe:00:7 100 109"),
            lock(1, 1, 100, 10)
        );
        assert_eq!(
            parsed("2: OFDLCK ADVISORY  WRITE -1 fe:00:7 5 EOF"),
            lock(4, 1, 5, 0)
        );
        assert_eq!(
            parsed("1: LEASE  ACTIVE    READ 617 fe:00:7 0 EOF"),
            lock(8, 0, 0, 0)
        );
        for other in [
            "1: LEASE  BREAKING  READ 617 fe:00:7 0 EOF",
            "1: DELEG  ACTIVE    READ 617 fe:00:7 0 EOF",
            "nonsense",
            "",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_lock_is_refused_unless_locks_are_to_be_saved() {
        let file = tempfile::tempfile().unwrap();
        file.lock().unwrap();
        let seen = Descriptor::read(Pid::this(), "x", file.as_raw_fd())
            .unwrap()
            .unwrap();
        let said = refusal(&seen, &Allow::default()).unwrap();
        assert!(said.what.contains("a lock (flock)"), "{said:?}");
        assert!(said.hint.contains("--file-locks"), "{said:?}");
        let file_locks = true;
        let allow = Allow {
            file_locks,
            ..Allow::default()
        };
        assert_eq!(refusal(&seen, &allow), None);
    }

    #[test]
    fn locks_are_in_each_other_s_way_when_they_overlap_and_one_writes() {
        let other = |lock_type, kind, first, last| Lock {
            lock_type,
            mode: procfs::LockMode::Advisory,
            kind,
            pid: Some(1),
            devmaj: 0,
            devmin: 0,
            inode: 1,
            offset_first: first,
            offset_last: last,
        };
        let write = other(LockType::Posix, LockKind::Write, 10, Some(19));
        let read = other(LockType::Posix, LockKind::Read, 10, None);
        assert!(conflict(&lock(1, 0, 19, 1), &write));
        assert!(conflict(&lock(4, 1, 0, 0), &write));
        assert!(!conflict(&lock(1, 1, 0, 10), &write));
        assert!(!conflict(&lock(1, 1, 20, 0), &write));
        assert!(!conflict(&lock(2, 1, 0, 0), &write));
        assert!(!conflict(&lock(1, 0, 0, 0), &read));
        assert!(conflict(&lock(1, 1, 5, 6), &read));
    }
}
