//! Regular files, directories, and the character devices that hold no state.
//!
//! CRIU: `reg_file_entry` (path, flags, offset, mode, size, build id). Contents are not part of a
//! layer, so a file must be as it was. As in CRIU, one that is only appended to may have any size;
//! other than in CRIU, one that is only written to may have grown (the target itself did that, when
//! it ran on after the dump), which is a warning. Sources: open(2), proc_pid_fd(5).

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Whence, lseek};

use super::descriptor::{Descriptor, Stat};
use super::{
    Allow, Dumper, FileKind, Findings, Held, Newcomers, Opening, Outside, Refusal, Reopened,
    build_id, ghost, proc_file,
};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, FownEntry, RegFileEntry};

/// Memory devices (major 1) without state: null, zero, full, random, urandom.
const STATELESS_DEVICES: [u32; 5] = [3, 5, 7, 8, 9];

/// Everything that a path and an offset bring back.
#[derive(Debug)]
pub(super) struct Regular;

impl FileKind for Regular {
    fn name(&self) -> &'static str {
        "file"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        let path_only = file.flags & libc::O_PATH.cast_unsigned() != 0;
        let by_path = match file.stat.file_type() {
            libc::S_IFREG | libc::S_IFDIR => true,
            libc::S_IFCHR => {
                let (major, minor) = file.stat.device();
                major == 1 && STATELESS_DEVICES.contains(&minor)
            }
            _ => false,
        };
        // Of anything, a terminal or a symbolic link too: then the path is all there is to it.
        file.path().is_some() && (by_path || path_only)
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
        match proc_file::is_one(file, outside.root) {
            true => proc_file::refusal(file, outside),
            false => message_queue(file).or_else(|| path_refusal(file, allow)),
        }
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Reg
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        push_entry(held.file, held.fown, id, dumper)
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        let entry = part(entry)?;
        if entry.ext == Some(true) {
            findings.obstacle(Obstacle::unsupported(
                format!(
                    "File {} was handed to CRIU from outside (--external)",
                    entry.name
                ),
                "restore this layer with criu",
            ));
        } else if let Some(remap) = findings.remap(entry.id) {
            ghost::check(entry, remap, findings);
        } else if let Some(pid) = proc_file::process(Path::new(&entry.name)) {
            proc_file::check(&entry.name, pid, findings);
        } else {
            compare(entry, findings);
        }
        Ok(())
    }

    fn open(&self, whole: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(whole)?;
        // The path of a FIFO: only its kind may open it, an open would wait for the other end.
        if opening.serves_another(entry.id) {
            return Ok(None);
        }
        if proc_file::is_late(entry) {
            opening.late.wait(whole)?;
            return Ok(None);
        }
        let door = ghost::door(entry, opening)?;
        reopened(entry, &door).map(Some)
    }

    fn open_late(&self, entry: &FileEntry, there: &Newcomers<'_>) -> Result<Reopened> {
        let entry = part(entry)?;
        reopened(entry, &proc_file::door(entry, there))
    }
}

/// A message queue of POSIX, which looks like a file of eighty bytes (mq_overview(7)).
fn message_queue(file: &Descriptor) -> Option<Refusal> {
    const MQUEUE_MAGIC: i64 = 0x1980_0202;
    let is_queue = || {
        let system = nix::sys::statfs::statfs(&file.link).ok()?;
        (system.filesystem_type().0 == MQUEUE_MAGIC).then_some(())
    };
    // Asked of small files only: there are many others.
    (file.stat.size == 80).then(is_queue).flatten()?;
    Some(Refusal {
        what: format!("the POSIX message queue {}", file.shown()),
        hint: "have the program close it before the dump, or use a queue of System V or a pipe"
            .to_owned(),
    })
}

fn reopened(entry: &RegFileEntry, door: &Path) -> Result<Reopened> {
    Ok(Reopened {
        file: reopen(entry, door)?,
        flags: entry.flags,
        fown: entry.fown,
    })
}

/// The kind's own part of an entry.
fn part(entry: &FileEntry) -> Result<&RegFileEntry> {
    let missing = || Error::corrupt(format!("files.img: entry {} has no path", entry.id));
    entry.reg.as_ref().ok_or_else(missing)
}

/// Enters the path of `file` under `id`.
///
/// # Errors
/// When it has none, and what it holds instead cannot be read.
pub(super) fn push_entry(
    file: &Descriptor,
    fown: FownEntry,
    id: u32,
    dumper: &mut Dumper,
) -> Result<()> {
    let of_process = proc_file::is_one(file, dumper.root);
    let (name, mnt_id) = match of_process {
        true => proc_file::name(file, dumper)?,
        false => (ghost::keep(file, id, dumper)?, None),
    };
    let regular = file.stat.file_type() == libc::S_IFREG;
    // Opening a leased file would break the lease.
    let readable = is_read_only(file.flags) && !of_process && !super::locks::is_leased(file);
    if let (true, true, Some(path)) = (regular, readable, file.path()) {
        dumper.build_id_for_next(path, file.stat);
    }
    if regular && !of_process && file.path().is_some() {
        dumper.note_file(id, &file.stat);
        let writable = !is_read_only(file.flags) && dumper.allow().snapshot_files;
        // What has lost its name is in the layer anyway.
        if writable && file.stat.nlink > 0 {
            let refused = dumper.saving.note(file, &name);
            refused.into_iter().for_each(|why| dumper.warn(why));
        }
    }
    let reg = RegFileEntry {
        id,
        flags: stored_flags(file.flags),
        pos: file.pos,
        fown,
        name,
        mnt_id,
        size: (regular && size_matters(file.flags)).then_some(file.stat.size),
        mode: Some(file.stat.mode),
        ..RegFileEntry::default()
    };
    dumper.push(FileEntry {
        r#type: FdTypes::Reg.into(),
        id,
        reg: Some(reg),
        ..FileEntry::default()
    });
    Ok(())
}

/// The flags to open the file with: one that was made without a name (O_TMPFILE) has one now.
fn stored_flags(flags: u32) -> u32 {
    let unnamed = libc::O_TMPFILE.cast_unsigned();
    if flags & unnamed == unnamed {
        flags & !unnamed
    } else {
        flags
    }
}

fn is_read_only(flags: u32) -> bool {
    flags & libc::O_ACCMODE.cast_unsigned() == libc::O_RDONLY.cast_unsigned()
}

fn is_write_only(flags: u32) -> bool {
    flags & libc::O_ACCMODE.cast_unsigned() == libc::O_WRONLY.cast_unsigned()
}

/// CRIU's rule: a file that is only appended to (a log) may have any size.
fn size_matters(flags: u32) -> bool {
    !(is_write_only(flags) && flags & libc::O_APPEND.cast_unsigned() != 0)
}

/// How the size of a file is now, against the layer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Same,
    GrownByWriter,
    Changed,
}

fn compare_size(flags: u32, then: Option<u64>, now: u64) -> Size {
    match then {
        None => Size::Same,
        Some(then) if then == now => Size::Same,
        Some(then) if is_write_only(flags) && now > then => Size::GrownByWriter,
        Some(_) => Size::Changed,
    }
}

/// Compares the file at the path with the layer's entry.
pub(super) fn compare(entry: &RegFileEntry, findings: &mut Findings<'_>) {
    let name = &entry.name;
    if findings.will_be_put_back(name) {
        return;
    }
    let back = if findings.is_saved(name) {
        "restore with --with-files to put the layer's copy back, or restore another layer"
    } else {
        "put it back as it was when the layer was made, or restore another layer"
    };
    let nofollow = (libc::O_PATH | libc::O_NOFOLLOW).cast_unsigned();
    let found = if entry.flags & nofollow == nofollow {
        fs::symlink_metadata(name)
    } else {
        fs::metadata(name)
    };
    let (meta, written) = match found {
        Ok(meta) => (Stat::from(&meta), meta.modified()),
        Err(e) => {
            findings.cannot_find(format!("File {name}"), &e, back);
            return;
        }
    };
    if let Some(mode) = entry.mode.filter(|mode| *mode != meta.mode) {
        if mode & libc::S_IFMT == meta.file_type() {
            findings.warning(Obstacle::new(
                Kind::Differs,
                format!(
                    "File {name} has permissions {:o} now, had {mode:o}",
                    meta.mode
                ),
                "nothing to do if you changed them",
            ));
        } else {
            findings.obstacle(Obstacle::new(
                Kind::Differs,
                format!("File {name} is of another type than when the layer was made"),
                "put it back as it was, or restore another layer",
            ));
            return;
        }
    }
    let then = entry.size.unwrap_or(0);
    match compare_size(entry.flags, entry.size, meta.size) {
        Size::Same => {
            // Files of /proc are empty and always new.
            let has_contents = meta.file_type() == libc::S_IFREG && meta.size > 0;
            let readable = has_contents && !is_write_only(entry.flags);
            let then = findings.as_it_was(entry.id);
            let later = match then {
                Some(then) => then.written != meta.written,
                None => written.is_ok_and(|time| findings.is_later(time)),
            };
            if has_contents && then.is_some_and(|then| then.inode != meta.ino) {
                findings.warning(Obstacle::new(
                    Kind::Differs,
                    format!("File {name} is another one than when the layer was made"),
                    "the restored process will find what took its place",
                ));
            } else if readable && later {
                findings.warning(Obstacle::new(
                    Kind::Differs,
                    format!("File {name} was written to since the layer was made"),
                    "the restored process will find the new contents",
                ));
            }
            compare_build_id(entry, findings);
        }
        Size::GrownByWriter => findings.warning(Obstacle::new(
            Kind::Differs,
            format!(
                "File {name} has grown from {then} to {} bytes since the layer",
                meta.size
            ),
            format!("the restored process goes on writing at byte {}", entry.pos),
        )),
        Size::Changed => findings.obstacle(Obstacle::new(
            Kind::Differs,
            format!(
                "File {name} has {} bytes now, had {then} when the layer was made",
                meta.size
            ),
            back,
        )),
    }
}

fn compare_build_id(entry: &RegFileEntry, findings: &mut Findings<'_>) {
    if entry.build_id.is_empty() {
        return;
    }
    let now = File::open(&entry.name)
        .ok()
        .and_then(|file| build_id::build_id(&file));
    if now.is_some_and(|now| now != entry.build_id) {
        findings.obstacle(Obstacle::new(
            Kind::Differs,
            format!(
                "{} is another build than when the layer was made",
                entry.name
            ),
            "install that version again, or restore another layer",
        ));
    }
}

/// Opens the file that `door` leads to with its flags, at its offset.
pub(super) fn reopen(entry: &RegFileEntry, door: &Path) -> Result<OwnedFd> {
    let mut never = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_TRUNC;
    if door.starts_with("/proc/self/fd") {
        // Such a door is a link.
        never |= OFlag::O_NOFOLLOW;
    }
    let flags = OFlag::from_bits_retain(entry.flags.cast_signed()) - never;
    let cannot = |what: &str, e| Error::os(format!("Cannot {what} {}", entry.name), e);
    let file = open(
        door,
        flags | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| cannot("open", e))?;
    if entry.pos != 0 && !flags.contains(OFlag::O_PATH) {
        lseek(&file, entry.pos.cast_signed(), Whence::SeekSet).map_err(|e| cannot("seek in", e))?;
    }
    Ok(file)
}

/// Why the path of `file` will not lead back to it.
pub(super) fn path_refusal(file: &Descriptor, allow: &Allow) -> Option<Refusal> {
    let shown = file.shown();
    if file.text.to_str().is_none() {
        return Some(Refusal {
            what: format!("the file {shown}, whose name is not UTF-8,"),
            hint: "rename it before the program opens it".to_owned(),
        });
    }
    let path = file.path()?;
    if proc_file::process(path).is_some() {
        return Some(Refusal {
            what: format!("{shown}, a file of a process,"),
            hint: "have the program close it before the dump".to_owned(),
        });
    }
    ghost::refusal(file, allow)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::super::testing::descriptor;
    use super::*;
    use crate::units::Pid;

    fn open_file(path: &Path) -> (File, Descriptor) {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        let seen = Descriptor::read(Pid::this(), "x", file.as_raw_fd())
            .unwrap()
            .unwrap();
        (file, seen)
    }

    #[test]
    fn a_file_that_its_path_leads_to_has_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let (_file, seen) = open_file(&dir.path().join("a"));
        assert!(Regular.recognises(&seen));
        assert_eq!(
            Regular.refusal(&seen, &Outside::default(), &Allow::default()),
            None
        );
    }

    #[test]
    fn a_file_hidden_behind_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_file, mut seen) = open_file(&dir.path().join("a"));
        seen.stat.ino += 1;
        assert!(
            path_refusal(&seen, &Allow::default())
                .unwrap()
                .what
                .contains("leads elsewhere")
        );
    }

    #[test]
    fn devices_without_state_are_files_and_others_are_not() {
        let device = |minor| {
            let rdev = libc::makedev(1, minor);
            descriptor(
                "/dev/x",
                Stat {
                    mode: libc::S_IFCHR,
                    rdev,
                    ..Stat::default()
                },
            )
        };
        assert!(Regular.recognises(&device(3)));
        assert!(!Regular.recognises(&device(1)));
    }

    #[test]
    fn a_device_that_is_open_as_a_place_only_is_a_path() {
        let rdev = libc::makedev(5, 2);
        let mode = libc::S_IFCHR;
        let stat = Stat {
            mode,
            rdev,
            ..Stat::default()
        };
        let mut master = descriptor("/dev/ptmx", stat);
        assert!(!Regular.recognises(&master));
        master.flags = libc::O_PATH.cast_unsigned();
        let kind = super::super::kind_of(&master).map(FileKind::name);
        assert_eq!(kind, Some(Regular.name()));
    }

    #[test]
    fn a_log_may_have_any_size_a_written_file_may_grow_and_all_else_must_be_the_same() {
        let log = (libc::O_WRONLY | libc::O_APPEND).cast_unsigned();
        let (write, read) = (
            libc::O_WRONLY.cast_unsigned(),
            libc::O_RDONLY.cast_unsigned(),
        );
        let both = (libc::O_RDWR | libc::O_APPEND).cast_unsigned();
        assert!(!size_matters(log));
        assert!([write, read, both].into_iter().all(size_matters));
        assert_eq!(compare_size(write, Some(5), 9), Size::GrownByWriter);
        assert_eq!(compare_size(write, Some(5), 4), Size::Changed);
        assert_eq!(compare_size(read, Some(5), 9), Size::Changed);
        assert_eq!(compare_size(both, Some(5), 9), Size::Changed);
        assert_eq!(compare_size(read, Some(5), 5), Size::Same);
        assert_eq!(compare_size(read, None, 5), Size::Same);
    }

    #[test]
    fn a_file_made_without_a_name_is_opened_by_its_name() {
        let flags = (libc::O_TMPFILE | libc::O_RDWR).cast_unsigned();
        assert_eq!(stored_flags(flags), libc::O_RDWR.cast_unsigned());
        let directory = libc::O_DIRECTORY.cast_unsigned();
        assert_eq!(stored_flags(directory), directory);
    }
}
