//! inotify instances with their watches.
//!
//! CRIU: `inotify_file_entry` with one `inotify_wd_entry` per watch: mask, number, and the watched
//! inode as file handle and path. The kernel tells the handle only; it leads to the path through any
//! mount of the filesystem, which needs the right to open by handle. Watches come back when this
//! process has closed its own files, so that a restore causes no event. Events that wait to be read
//! are lost, as with CRIU; the dump warns. Sources: inotify(7), proc_pid_fdinfo(5),
//! open_by_handle_at(2), `fs/notify/fdinfo.c`.

use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::descriptor::Descriptor;
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FhEntry, FileEntry, InotifyFileEntry, InotifyWdEntry};
use crate::sys::descriptor::unread;
use crate::sys::{events, names};
use crate::units::Pid;

/// Words of 8 bytes that CRIU keeps for a handle.
const HANDLE_WORDS: usize = 16;

/// inotify_init1(2).
#[derive(Debug)]
pub(super) struct Inotify;

impl FileKind for Inotify {
    fn name(&self) -> &'static str {
        "inotify instance"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.text == "anon_inode:inotify"
    }

    fn refusal(&self, file: &Descriptor, _: &Outside, _: &Allow) -> Option<Refusal> {
        for watch in watches(file) {
            let Some(watch) = watch else {
                return Some(Refusal {
                    what: "an inotify instance with a watch of which the kernel tells too little"
                        .to_owned(),
                    hint: "watched files have to be on a filesystem with handles (not overlayfs)"
                        .to_owned(),
                });
            };
            if path(file.pid, &watch).is_none() {
                return Some(Refusal {
                    what: format!(
                        "an inotify instance that watches inode {} of device {}:{}, the path of \
                         which cannot be found,",
                        watch.i_ino,
                        watch.s_dev >> 20,
                        watch.s_dev & 0xf_ffff
                    ),
                    hint:
                        "run icecore as root; a deleted file that is still open cannot be watched \
                           again: have the program remove that watch (see /proc/PID/fdinfo)"
                            .to_owned(),
                });
            }
        }
        None
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Inotify
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let mut wd = Vec::new();
        for mut watch in watches(file).flatten() {
            watch.f_handle.path = path(file.pid, &watch);
            wd.push(watch);
        }
        if held.copy.is_some_and(|copy| unread(copy).unwrap_or(0) > 0) {
            dumper.warn(Obstacle::unsupported(
                format!(
                    "{} (pid {}) has not read all inotify events of {}",
                    file.comm,
                    file.pid,
                    file.link.display()
                ),
                "a restored process does not get those",
            ));
        }
        dumper.push(FileEntry {
            r#type: FdTypes::Inotify.into(),
            id,
            ify: Some(InotifyFileEntry {
                id,
                flags: file.flags,
                fown: held.fown,
                wd,
            }),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        for watch in &part(entry)?.wd {
            if let Some(path) = watch.f_handle.path.as_ref()
                && let Err(e) = fs::symlink_metadata(path)
            {
                findings.cannot_find(
                    format!("File {path}, which is watched (inotify),"),
                    &e,
                    "put it back, or restore another layer",
                );
            }
        }
        Ok(())
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let cannot = |e| Error::os(format!("Cannot make inotify instance {}", entry.id), e);
        let file = events::inotify().map_err(cannot)?;
        let mut watched = Vec::new();
        for watch in &entry.wd {
            watched.push((watch.clone(), door(watch)?));
        }
        let instance = file
            .try_clone()
            .map_err(|e| Error::io(format!("Cannot duplicate inotify instance {}", entry.id), e))?;
        opening.watches.push(Watches { instance, watched });
        Ok(Some(Reopened {
            file,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

/// An instance and what it is to watch.
#[derive(Debug)]
pub(super) struct Watches {
    instance: OwnedFd,
    watched: Vec<(InotifyWdEntry, File)>,
}

impl Watches {
    /// Enters them, each under its number.
    pub(super) fn begin(&self) -> Result<()> {
        for (watch, door) in &self.watched {
            let path = PathBuf::from(format!("/proc/self/fd/{}", door.as_raw_fd()));
            let wanted = watch.wd.cast_signed();
            let set = events::next_watch(&self.instance, wanted)
                .and_then(|()| events::watch(&self.instance, &path, watch.mask & USER_MASK));
            let cannot = || {
                let path = watch.f_handle.path.as_deref().unwrap_or("a file");
                format!("Cannot watch {path} (inotify, number {wanted})")
            };
            match set {
                Ok(number) if number == wanted => {}
                Ok(other) => {
                    return Err(Error::new(Kind::Failed, cannot()).hint(format!(
                        "two of its paths lead to one file by now (it is number {other})"
                    )));
                }
                Err(e) => {
                    return Err(Error::os(cannot(), e).hint("see fs.inotify.max_user_watches"));
                }
            }
        }
        Ok(())
    }
}

/// Number of watches in a layer.
pub(super) fn count(entries: &[FileEntry]) -> usize {
    let instances = entries.iter().filter_map(|entry| entry.ify.as_ref());
    instances.map(|instance| instance.wd.len() + 1).sum()
}

/// What a watch may ask for: all events, `IN_EXCL_UNLINK`, `IN_ONESHOT`.
const USER_MASK: u32 = libc::IN_ALL_EVENTS | libc::IN_EXCL_UNLINK | libc::IN_ONESHOT;

fn part(entry: &FileEntry) -> Result<&InotifyFileEntry> {
    super::part(entry, entry.ify.as_ref(), "an inotify instance")
}

/// The watches that fdinfo shows; `None` for a line that does not tell enough.
fn watches(file: &Descriptor) -> impl Iterator<Item = Option<InotifyWdEntry>> {
    let lines = file.details.iter();
    lines
        .filter(|(name, _)| name == "inotify wd")
        .map(|(_, line)| parse(line))
}

/// `4 ino:9e2083 sdev:fe00000 mask:2 ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:8320…`
fn parse(line: &str) -> Option<InotifyWdEntry> {
    let mut words = line.split_whitespace();
    let number = words.next()?;
    let mut watch = InotifyWdEntry {
        wd: u32::from_str_radix(number, 16).ok()?,
        ..InotifyWdEntry::default()
    };
    let small = |value| u32::from_str_radix(value, 16).ok();
    for word in words {
        match word.split_once(':')? {
            ("ino", value) => watch.i_ino = u64::from_str_radix(value, 16).ok()?,
            ("sdev", value) => watch.s_dev = small(value)?,
            ("mask", value) => watch.mask = small(value)?,
            ("ignored_mask", value) => watch.ignored_mask = small(value)?,
            ("fhandle-bytes", value) => watch.f_handle.bytes = small(value)?,
            ("fhandle-type", value) => watch.f_handle.r#type = small(value)?,
            ("f_handle", value) => watch.f_handle.handle = handle_words(value)?,
            _ => {}
        }
    }
    let known = watch.f_handle.bytes > 0 && !watch.f_handle.handle.is_empty();
    known.then_some(watch)
}

/// The bytes of a handle, two digits each, as the image has them.
fn handle_words(digits: &str) -> Option<Vec<u64>> {
    let mut bytes = Vec::new();
    for pair in digits.as_bytes().chunks(2) {
        bytes.push(u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?);
    }
    bytes.resize(HANDLE_WORDS * 8, 0);
    let words = bytes.as_chunks().0.iter();
    Some(words.map(|word| u64::from_le_bytes(*word)).collect())
}

/// The handle as the kernel takes it.
fn handle_bytes(handle: &FhEntry) -> Vec<u8> {
    let mut bytes: Vec<u8> = handle.handle.iter().flat_map(|w| w.to_le_bytes()).collect();
    bytes.truncate(handle.bytes as usize);
    bytes
}

/// The watched file by its handle, as process `pid` can reach its filesystem.
fn by_handle(pid: Pid, watch: &InotifyWdEntry) -> impl Iterator<Item = File> {
    let device = format!("{}:{}", watch.s_dev >> 20, watch.s_dev & 0xf_ffff);
    let process = procfs::process::Process::new(pid.as_raw());
    let mounts = process.and_then(|process| process.mountinfo());
    let bytes = handle_bytes(&watch.f_handle);
    let kind = watch.f_handle.r#type;
    let mounts = mounts.into_iter().flatten();
    let on_device = mounts.filter(move |mount| mount.majmin == device);
    on_device.filter_map(move |mount| {
        let inside = mount.mount_point.strip_prefix("/").ok()?.to_owned();
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let directory = File::open(root.join(inside)).ok()?;
        names::by_handle(&directory, kind, &bytes)
            .map(File::from)
            .ok()
    })
}

/// A path that leads process `pid` to the watched file.
fn path(pid: Pid, watch: &InotifyWdEntry) -> Option<String> {
    by_handle(pid, watch).find_map(|file| {
        let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        let inside = path.strip_prefix("/").ok()?;
        let seen = fs::symlink_metadata(Path::new(&format!("/proc/{pid}/root")).join(inside));
        let right = seen.is_ok_and(|meta| meta.ino() == watch.i_ino);
        right.then(|| path.to_str().map(str::to_owned)).flatten()
    })
}

/// The watched file, opened as a place only.
fn door(watch: &InotifyWdEntry) -> Result<File> {
    let Some(path) = &watch.f_handle.path else {
        let gone = || {
            let what = format!("Cannot find the watched inode {}", watch.i_ino);
            Error::new(Kind::NotFound, what).hint("restore another layer")
        };
        return by_handle(Pid::this(), watch).next().ok_or_else(gone);
    };
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let door = options.open(path);
    door.map_err(|e| Error::path("watch (inotify)", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_read_from_its_line_with_the_numbers_of_criu() {
        let line = "4 ino:9e2083 sdev:fe00000 mask:80000002 ignored_mask:0 fhandle-bytes:8 \
                    fhandle-type:1 f_handle:83209e00bdf82657";
        let watch = parse(line).unwrap();
        assert_eq!((watch.wd, watch.i_ino), (4, 10_363_011));
        assert_eq!((watch.mask, watch.s_dev), (2_147_483_650, 266_338_304));
        let handle = &watch.f_handle;
        assert_eq!((handle.bytes, handle.r#type), (8, 1));
        assert_eq!(handle.handle.len(), HANDLE_WORDS);
        assert_eq!(handle.handle[0], 6_279_980_221_057_605_763);
        assert_eq!(handle_bytes(handle).len(), 8);
        assert_eq!(
            parse("4 ino:9e2083 sdev:fe00000 mask:2 ignored_mask:0"),
            None
        );
        assert_eq!(parse("nonsense"), None);
    }
}
