//! Regular files, directories, and the character devices that hold no state.
//!
//! CRIU: `reg_file_entry` (path, flags, offset, mode, size). Contents are not part of a layer.
//! Sources: open(2), proc_pid_fd(5).

use std::fs;
use std::path::Path;

use super::descriptor::{Descriptor, Stat};
use super::{FileKind, Outside, Refusal};

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
        file.path().is_some()
            && match file.stat.file_type() {
                libc::S_IFREG | libc::S_IFDIR => true,
                libc::S_IFCHR => {
                    let (major, minor) = file.stat.device();
                    major == 1 && STATELESS_DEVICES.contains(&minor)
                }
                _ => false,
            }
    }

    fn refusal(&self, file: &Descriptor, _: &Outside) -> Option<Refusal> {
        path_refusal(file).or_else(|| lock_refusal(file))
    }
}

/// Why the path of `file` will not lead back to it.
pub(super) fn path_refusal(file: &Descriptor) -> Option<Refusal> {
    let shown = file.shown();
    if file.text.to_str().is_none() {
        return Some(Refusal {
            what: format!("the file {shown}, whose name is not UTF-8,"),
            hint: "rename it before the program opens it".to_owned(),
        });
    }
    let path = file.path()?;
    if of_a_process(path) {
        return Some(Refusal {
            what: format!("{shown}, a file of a process,"),
            hint: "have the program close it before the dump".to_owned(),
        });
    }
    let there = fs::symlink_metadata(path)
        .ok()
        .map(|meta| Stat::from(&meta));
    if there.is_some_and(|stat| stat.same_file(&file.stat)) {
        return None;
    }
    let name = shown.strip_suffix(" (deleted)").unwrap_or(&shown);
    Some(if file.stat.nlink == 0 {
        Refusal {
            what: format!("the deleted file {name}"),
            hint: "files without a name cannot be dumped yet: restart the program (if an update \
                   replaced the file), or have it keep the file's name"
                .to_owned(),
        }
    } else {
        Refusal {
            what: format!("the file {name}, whose path leads elsewhere,"),
            hint: "it was renamed, hidden by a mount, or belongs to another mount namespace: put \
                   it back, or run icecore inside that namespace (nsenter -m -t PID)"
                .to_owned(),
        }
    })
}

/// Why the locks held through `file` prevent its dump.
pub(super) fn lock_refusal(file: &Descriptor) -> Option<Refusal> {
    let lock = file.detail("lock")?;
    // `1: FLOCK  ADVISORY  WRITE 12 08:01:7 0 EOF`
    let kind = lock.split_whitespace().nth(1).unwrap_or("file");
    Some(Refusal {
        what: format!("{} with a lock ({kind})", file.shown()),
        hint: "file locks cannot be dumped yet: dump while the program does not hold it".to_owned(),
    })
}

/// `/proc/PID/…`: it would be another process's after a restore, if anybody's.
fn of_a_process(path: &Path) -> bool {
    path.strip_prefix("/proc")
        .ok()
        .and_then(|rest| rest.iter().next()?.to_str())
        .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::super::testing::descriptor;
    use super::*;
    use crate::units::Pid;

    fn open_file(path: &Path) -> (fs::File, Descriptor) {
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
        assert_eq!(Regular.refusal(&seen, &Outside::default()), None);
    }

    #[test]
    fn deleted_and_replaced_files_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let (file, _) = open_file(&path);
        fs::remove_file(&path).unwrap();
        let seen = Descriptor::read(Pid::this(), "x", file.as_raw_fd())
            .unwrap()
            .unwrap();
        let deleted = format!("the deleted file {}", path.display());
        assert_eq!(path_refusal(&seen).unwrap().what, deleted);
        fs::write(&path, "another").unwrap();
        assert_eq!(path_refusal(&seen).unwrap().what, deleted);
    }

    #[test]
    fn a_file_hidden_behind_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_file, mut seen) = open_file(&dir.path().join("a"));
        seen.stat.ino += 1;
        assert!(
            path_refusal(&seen)
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
    fn files_of_processes_are_refused_and_global_ones_are_not() {
        assert!(of_a_process(Path::new("/proc/12/maps")));
        assert!(!of_a_process(Path::new("/proc/meminfo")));
        assert!(!of_a_process(Path::new("/srv/proc/12")));
    }

    #[test]
    fn a_lock_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (file, _) = open_file(&dir.path().join("a"));
        file.lock().unwrap();
        let seen = Descriptor::read(Pid::this(), "x", file.as_raw_fd())
            .unwrap()
            .unwrap();
        assert!(
            Regular
                .refusal(&seen, &Outside::default())
                .unwrap()
                .what
                .contains("FLOCK")
        );
    }
}
