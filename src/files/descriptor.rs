//! What `/proc` tells about one open file: a descriptor, or the exe, cwd, root or a mapped file of a
//! process. Readable with the right to trace the process, which may run meanwhile.
//!
//! Sources: proc_pid_fd(5), proc_pid_fdinfo(5).

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::socket::Nature;
use crate::error::{Error, Result};
use crate::sys::pidfd;
use crate::units::Pid;

/// The stat(2) of an open file, as far as kinds are told apart by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Device of the filesystem.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Device number of a device file.
    pub rdev: u64,
    /// Number of names.
    pub nlink: u64,
    /// Size in bytes.
    pub size: u64,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was written to, in nanoseconds (Unix time).
    pub written: i64,
}

impl Stat {
    /// The file type bits of the mode (`S_IFREG`, …); 0 for anonymous inodes.
    pub fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    /// Major and minor number of a device file.
    pub fn device(&self) -> (u32, u32) {
        (libc::major(self.rdev), libc::minor(self.rdev))
    }

    /// True when both are the same file.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

impl From<&fs::Metadata> for Stat {
    fn from(meta: &fs::Metadata) -> Self {
        Self {
            dev: meta.dev(),
            ino: meta.ino(),
            mode: meta.mode(),
            rdev: meta.rdev(),
            nlink: meta.nlink(),
            size: meta.size(),
            uid: meta.uid(),
            gid: meta.gid(),
            written: super::saved::written(meta),
        }
    }
}

/// An open file of a process as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// The process.
    pub pid: Pid,
    /// Its command name.
    pub comm: String,
    /// The descriptor's number; `None` for exe, cwd, root and mapped files.
    pub number: Option<RawFd>,
    /// The magic link below `/proc/PID`; opening it opens the file anew.
    pub link: PathBuf,
    /// What the link says: a path, or `pipe:[1]`, `anon_inode:[eventfd]`, …
    pub text: OsString,
    /// The file's stat.
    pub stat: Stat,
    /// Offset.
    pub pos: u64,
    /// Flags of the description as `F_GETFL` gives them (no `O_CLOEXEC`).
    pub flags: u32,
    /// Close-on-exec flag of the descriptor.
    pub cloexec: bool,
    /// The remaining lines of fdinfo, e.g. `lock:`, `eventfd-count:`.
    pub details: Vec<(String, String)>,
    /// What a socket was made as.
    pub socket: Option<Nature>,
}

impl Descriptor {
    /// The descriptor `number` of `pid`; `None` when it was closed meanwhile.
    ///
    /// # Errors
    /// Without the right to look, or when `/proc` is not as expected.
    pub fn read(pid: Pid, comm: &str, number: RawFd) -> Result<Option<Self>> {
        let mut found = Self::look(pid, comm, number)?;
        for _ in 0..LOOKS {
            let Some(file) = found.take_if(|file| !file.is_of_one_moment()) else {
                break;
            };
            // There are file systems that have two numbers for a file (overlayfs): it is what it was.
            found = Self::look(pid, comm, number)?;
            let same = |again: &Self| again.text == file.text && again.stat.same_file(&file.stat);
            if found.as_ref().is_some_and(same) {
                break;
            }
        }
        Ok(found)
    }

    /// False when a program that runs may have opened another file under the same number while one looked.
    fn is_of_one_moment(&self) -> bool {
        let told = self.details.iter().find(|(name, _)| name == "ino");
        told.is_none_or(|(_, ino)| *ino == self.stat.ino.to_string())
    }

    fn look(pid: Pid, comm: &str, number: RawFd) -> Result<Option<Self>> {
        let link = PathBuf::from(format!("/proc/{pid}/fd/{number}"));
        let Some((text, stat)) = resolve(&link)? else {
            return Ok(None);
        };
        let info = PathBuf::from(format!("/proc/{pid}/fdinfo/{number}"));
        let Some(info) = present(fs::read_to_string(&info), &info)? else {
            return Ok(None);
        };
        let info = FdInfo::parse(&info);
        let socket = (stat.file_type() == libc::S_IFSOCK).then(|| nature(pid, number));
        Ok(Some(Self {
            pid,
            comm: comm.to_owned(),
            number: Some(number),
            link,
            text,
            stat,
            pos: info.pos,
            flags: info.flags & !libc::O_CLOEXEC.cast_unsigned(),
            cloexec: info.flags & libc::O_CLOEXEC.cast_unsigned() != 0,
            details: info.details,
            socket: socket.flatten(),
        }))
    }

    /// The file behind another magic link of `pid`: `exe`, `cwd`, `root` or one of `map_files`,
    /// to be opened with `flags`. `None` when there is no such link.
    ///
    /// # Errors
    /// Without the right to look.
    pub fn of_link(pid: Pid, comm: &str, link: &Path, flags: u32) -> Result<Option<Self>> {
        let Some((text, stat)) = resolve(link)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            pid,
            comm: comm.to_owned(),
            number: None,
            link: link.to_owned(),
            text,
            stat,
            pos: 0,
            flags,
            cloexec: false,
            details: Vec::new(),
            socket: None,
        }))
    }

    /// The link's text for people and for comparison.
    pub fn shown(&self) -> std::borrow::Cow<'_, str> {
        self.text.to_string_lossy()
    }

    /// The path, when the link's text is one (it may still lead elsewhere, or nowhere).
    pub fn path(&self) -> Option<&Path> {
        let path = Path::new(&self.text);
        path.is_absolute().then_some(path)
    }

    /// True for an anonymous inode of this name, e.g. `eventfd`.
    pub fn is_anonymous(&self, name: &str) -> bool {
        let text = self.shown();
        let inner = text
            .strip_prefix("anon_inode:[")
            .and_then(|text| text.strip_suffix(']'));
        inner == Some(name)
    }

    /// First value of the fdinfo line `name`.
    pub fn detail(&self, name: &str) -> Option<&str> {
        self.details
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The numbers of the open descriptors of `pid`, ascending; empty for a zombie or a gone process.
///
/// # Errors
/// Without the right to look.
pub fn numbers(pid: Pid) -> Result<Vec<RawFd>> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let Some(entries) = present(fs::read_dir(&dir), &dir)? else {
        return Ok(Vec::new());
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let Some(entry) = present(entry, &dir)? else {
            break;
        };
        numbers.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RawFd>().ok()),
        );
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The command name of `pid`, `?` when it is gone.
pub fn comm(pid: Pid) -> String {
    fs::read(format!("/proc/{pid}/comm")).map_or_else(
        |_| "?".to_owned(),
        |bytes| {
            String::from_utf8_lossy(&bytes)
                .trim_end_matches('\n')
                .to_owned()
        },
    )
}

/// What a socket of `pid` was made as; its descriptor is copied for a moment. `None` when it was closed
/// meanwhile.
fn nature(pid: Pid, number: RawFd) -> Option<Nature> {
    let process = pidfd::open(pid).ok()?;
    let copy = pidfd::get_fd(process, number).ok()?;
    Nature::of(copy).ok()
}

/// How often to look again at a descriptor that is another file meanwhile.
const LOOKS: usize = 20;

/// Text and stat of a magic link; `None` when it is not there.
fn resolve(link: &Path) -> Result<Option<(OsString, Stat)>> {
    // The text between the two that tell the inode: each change of the file meanwhile is seen.
    let Some(meta) = present(fs::metadata(link), link)? else {
        return Ok(None);
    };
    let text = match fs::read_link(link) {
        // No magic link but the file itself: where the magic one may not be followed.
        Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(link.to_owned()),
        other => other,
    };
    let Some(text) = present(text, link)? else {
        return Ok(None);
    };
    Ok(Some((text.into_os_string(), Stat::from(&meta))))
}

/// Things of a process vanish while one looks: that is `None`, all else an error.
fn present<T>(result: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(e) => {
            let denied = e.kind() == ErrorKind::PermissionDenied;
            let error = Error::path("look at", path, e);
            Err(if denied {
                error.hint("run as root")
            } else {
                error
            })
        }
    }
}

/// `/proc/PID/fdinfo/N`, taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
struct FdInfo {
    pos: u64,
    flags: u32,
    details: Vec<(String, String)>,
}

impl FdInfo {
    /// Lines are `name:` blanks `value`; lines without a colon are skipped.
    fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let (name, value) = (name.trim(), value.trim());
            match name {
                // A negative offset (memory of a process as file) is kept as its bits.
                "pos" => {
                    info.pos = value.parse::<i64>().map_or(0, i64::cast_unsigned);
                }
                "flags" => info.flags = u32::from_str_radix(value, 8).unwrap_or(0),
                _ => info.details.push((name.to_owned(), value.to_owned())),
            }
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn fdinfo_gives_offset_octal_flags_and_the_remaining_lines() {
        let info = FdInfo::parse(
            "pos:\t70\nflags:\t02100001\nmnt_id:\t29\nino:\t7\n\
             lock:\t1: FLOCK  ADVISORY  WRITE 12 08:01:7 0 EOF\n",
        );
        assert_eq!(info.pos, 70);
        assert_eq!(info.flags, 0o2_100_001);
        assert_eq!(info.details.len(), 3);
        assert_eq!(info.details[2].0, "lock");
        assert!(info.details[2].1.starts_with("1: FLOCK"));
    }

    #[test]
    fn a_descriptor_that_becomes_one_file_after_the_other_is_never_seen_as_half_of_each() {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<fs::File> = (0..300)
            .map(|n| fs::File::create(dir.path().join(n.to_string())).unwrap())
            .collect();
        let inodes: Vec<u64> = files
            .iter()
            .map(|file| Stat::from(&file.metadata().unwrap()).ino)
            .collect();
        let place = files[0].try_clone().unwrap();
        let number = place.as_raw_fd();
        let walk = std::thread::spawn(move || {
            let mut place = std::os::fd::OwnedFd::from(place);
            for file in &files {
                nix::unistd::dup2(file, &mut place).unwrap();
            }
            place
        });
        while !walk.is_finished() {
            let seen = Descriptor::read(Pid::this(), "x", number).unwrap().unwrap();
            let name = seen.path().unwrap().file_name().unwrap();
            let name: usize = name.to_str().unwrap().parse().unwrap();
            assert_eq!(inodes[name], seen.stat.ino);
        }
        drop(walk.join());
    }

    #[test]
    fn a_descriptor_shows_its_flags_and_close_on_exec_apart() {
        let file = fs::File::open("/dev/null").unwrap();
        let me = Pid::this();
        let seen = Descriptor::read(me, "x", file.as_raw_fd())
            .unwrap()
            .unwrap();
        assert!(seen.cloexec);
        assert_eq!(seen.flags & libc::O_CLOEXEC.cast_unsigned(), 0);
        assert_eq!(seen.path(), Some(Path::new("/dev/null")));
        assert_eq!(seen.stat.device(), (1, 3));
        assert!(numbers(me).unwrap().contains(&file.as_raw_fd()));
    }

    #[test]
    fn a_closed_descriptor_and_a_gone_process_are_nothing() {
        assert!(
            Descriptor::read(Pid::this(), "x", 999_999)
                .unwrap()
                .is_none()
        );
        assert!(numbers(Pid::from_raw(i32::MAX - 1)).unwrap().is_empty());
    }
}
