//! Files and directories of the tree's own processes below `/proc`: `/proc/self/maps`, `/proc/7/fd`; and
//! everything else there where the tree has a `/proc` for itself.
//!
//! CRIU: a `reg_file_entry` with the path; what is on the tree's own procfs has a mount, too (`mnt_id`). They
//! are opened again when the process is there; what they show is made when it is read. A path has the ids
//! that processes have on its instance of procfs: on ours those that we see, on the tree's its own, which
//! the layer has in both cases. Source: proc(5), pid_namespaces(7).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::descriptor::Descriptor;
use super::{Dumper, Findings, Newcomers, Outside, Refusal};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::RegFileEntry;
use crate::task;
use crate::units::Pid;

/// Where procfs is.
const PROC: &str = "/proc";

/// The process that a path below `/proc` is of.
pub(super) fn process(path: &Path) -> Option<Pid> {
    let name = path.strip_prefix(PROC).ok()?.iter().next()?.to_str()?;
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok().map(Pid::from_raw))?
}

/// What is at `/proc/REST` where the process `root` lives.
fn there(root: Pid, rest: &Path) -> PathBuf {
    let inside = rest.strip_prefix("/").unwrap_or(rest);
    PathBuf::from(format!("/proc/{root}/root")).join(inside)
}

/// The instance of procfs that the tree of `root` has on `/proc` for itself: its device.
fn own(root: Pid) -> Option<u64> {
    let device = |path: &Path| fs::metadata(path).ok().map(|meta| meta.dev());
    let instance = device(&there(root, Path::new(PROC)));
    let instance = instance.filter(|own| Some(*own) != device(Path::new(PROC)))?;
    // Its first process is in the namespace that it is an instance of.
    let first = fs::read_link(there(root, Path::new("/proc/1/ns/pid")));
    let roots = fs::read_link(format!("/proc/{root}/ns/pid"));
    let same = first.is_ok_and(|first| roots.is_ok_and(|roots| first == roots));
    same.then_some(instance)
}

/// An instance of procfs, which tells whose ids are in the path of a file there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Instance {
    /// The one that we have.
    Ours,
    /// The one that the tree has for itself.
    Trees,
}

/// The one that `file` is on, when it is one of those.
fn instance(file: &Descriptor, root: Option<Pid>) -> Option<Instance> {
    let ours = fs::metadata(PROC).ok().map(|meta| meta.dev());
    match Some(file.stat.dev) {
        device if device == ours => Some(Instance::Ours),
        device if device == root.and_then(own) => Some(Instance::Trees),
        _ => None,
    }
}

/// True for what is opened again when the processes are there.
pub(super) fn is_one(file: &Descriptor, root: Option<Pid>) -> bool {
    let below = file.path().filter(|path| path.starts_with(PROC));
    below.is_some_and(|path| {
        process(path).is_some() || instance(file, root) == Some(Instance::Trees)
    })
}

/// What to try where a file of another process is open, which programs that look through `/proc` have open for
/// moments only.
pub const PASSING: &str =
    "have the program close it before the dump; where it looks through /proc, try again";

/// Why `file`, which [is one](is_one), cannot be dumped.
pub(super) fn refusal(file: &Descriptor, outside: &Outside) -> Option<Refusal> {
    let shown = file.shown();
    let close = "have the program close it before the dump";
    let refused = |what: String| {
        Some(Refusal {
            what,
            hint: close.to_owned(),
        })
    };
    let path = file.path()?;
    let pid = process(path);
    if file.number.is_none() {
        let of = if pid.is_some() {
            "a process"
        } else {
            "a /proc of its own"
        };
        return refused(format!("{shown}, a file of {of},"));
    }
    if pid.is_some_and(|pid| comes_late(path, pid)) {
        return refused(format!(
            "{shown}, which is not there before its process is complete,"
        ));
    }
    let members = outside.members.as_ref()?;
    let Some(instance) = instance(file, outside.root) else {
        return refused(format!("{shown}, {ANOTHER},"));
    };
    let pid = pid?;
    let is_member = match instance {
        Instance::Ours => members.contains(&pid),
        Instance::Trees => members.iter().any(|member| innermost(*member) == Some(pid)),
    };
    if !is_member || shown.ends_with(" (deleted)") {
        return Some(Refusal {
            what: format!("{shown}, a file of a process that is not in the tree,"),
            hint: PASSING.to_owned(),
        });
    }
    None
}

/// True for what a process has only when all its threads, descriptors and mappings are there.
fn comes_late(path: &Path, pid: Pid) -> bool {
    let Ok(inner) = path.strip_prefix(format!("{PROC}/{pid}")) else {
        return false;
    };
    let mut parts = inner.iter().filter_map(|part| part.to_str());
    match (parts.next(), parts.next()) {
        (Some("task"), Some(thread)) => thread != pid.to_string(),
        (Some("fdinfo" | "map_files"), Some(_)) => true,
        _ => false,
    }
}

/// What a process is called in its own pid namespace.
fn innermost(pid: Pid) -> Option<Pid> {
    let status = task::proc::status(pid, pid).ok()?;
    status.nspid?.last().copied().map(Pid::from_raw)
}

/// What is neither on our procfs nor on the tree's.
const ANOTHER: &str = "a file of a process on another /proc than the one of the tree";

/// The number that the layer has for the mount of the tree's own procfs.
const OWN_MOUNT: i32 = 1;

/// The path that the layer has for `file`, which [is one](is_one), with the ids of the tree; and its mount.
///
/// # Errors
/// When it is of a process that is not in the tree that is being dumped, or on another `/proc`.
pub(super) fn name(file: &Descriptor, dumper: &Dumper) -> Result<(String, Option<i32>)> {
    let shown = file.shown();
    let pid = file.path().and_then(process);
    match instance(file, dumper.root) {
        Some(Instance::Trees) => {
            pid.map_or(Ok(()), |pid| dumper.member_called(pid, file))?;
            Ok((shown.into_owned(), Some(OWN_MOUNT)))
        }
        Some(Instance::Ours) => {
            let own = |pid| Ok(renamed(&shown, pid, dumper.member(pid, file)?));
            Ok((pid.map_or_else(|| Ok(shown.to_string()), own)?, None))
        }
        None => {
            let what = format!("{} is {ANOTHER}: {shown}", file.link.display());
            let hint = "have the program close it before the dump";
            Err(Error::new(Kind::Unsupported, what).hint(hint))
        }
    }
}

/// A path of process `from`, and of its first thread, as one of process `to`.
fn renamed(path: &str, from: Pid, to: Pid) -> String {
    let (from, to) = (from.to_string(), to.to_string());
    let mut parts: Vec<&str> = path.split('/').collect();
    // An empty part, proc, the process, task, the thread.
    let is_thread = parts.get(3) == Some(&"task");
    for at in [2, 4].into_iter().filter(|at| *at == 2 || is_thread) {
        if let Some(part) = parts.get_mut(at).filter(|part| **part == from) {
            *part = &to;
        }
    }
    parts.join("/")
}

/// True for the entry of a file that is opened when the processes are there.
pub(super) fn is_late(entry: &RegFileEntry) -> bool {
    process(Path::new(&entry.name)).is_some() || entry.mnt_id == Some(OWN_MOUNT)
}

/// The way to its file, now that they are.
pub(super) fn door(entry: &RegFileEntry, newcomers: &Newcomers<'_>) -> PathBuf {
    let path = Path::new(&entry.name);
    match process(path) {
        _ if entry.mnt_id == Some(OWN_MOUNT) => there(newcomers.root(), path),
        Some(pid) => renamed(&entry.name, pid, newcomers.seen(pid)).into(),
        None => path.to_owned(),
    }
}

/// Names a file of a process that the layer does not have.
pub(super) fn check(name: &str, pid: Pid, findings: &mut Findings<'_>) {
    // So the tree has a pid namespace; there CRIU does not note what processes are called inside.
    let has_first = findings.has_process(1);
    if has_first && findings.is_of_criu() {
        findings.obstacle(Obstacle::unsupported(
            format!("File {name} has the id of a process outside of the pid namespace of the tree"),
            "CRIU cannot restore it either: make a layer of the tree with icecore",
        ));
    } else if !findings.has_process(pid.as_raw()) {
        findings.obstacle(Obstacle::unsupported(
            format!("File {name} is of a process that is not in the layer"),
            "restore another layer",
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::super::descriptor::Stat;
    use super::super::testing::descriptor;
    use super::*;

    #[test]
    fn a_path_tells_its_process() {
        let of = |path| process(Path::new(path)).map(Pid::as_raw);
        assert_eq!(of("/proc/77/maps"), Some(77));
        assert_eq!(of("/proc/77"), Some(77));
        assert_eq!(of("/proc/sys/kernel"), None);
        assert_eq!(of("/proc"), None);
        assert_eq!(of("/tmp/77"), None);
    }

    /// What is said of our own file, as if `shown` were its path, when `members` were the tree.
    fn refused(shown: &str, members: &[Pid]) -> Option<Refusal> {
        let file = File::open("/proc/self/maps").unwrap();
        let number = file.as_raw_fd();
        let mut seen = Descriptor::read(Pid::this(), "x", number).unwrap().unwrap();
        seen.text = shown.into();
        let mut outside = Outside::of(Some(Pid::this()));
        outside.members = Some(HashSet::from_iter(members.iter().copied()));
        assert!(is_one(&seen, outside.root));
        refusal(&seen, &outside)
    }

    #[test]
    fn what_comes_late_or_is_of_others_is_refused() {
        let (none, member) = (Pid::from_raw(i32::MAX - 2), Pid::this());
        for inner in [
            format!("{none}/maps"),
            format!("{member}/fdinfo/3"),
            format!("{member}/task/9/comm"),
        ] {
            let said = refused(&format!("/proc/{inner}"), &[member]);
            assert!(said.is_some(), "{inner}");
        }
        for inner in ["maps".to_owned(), format!("task/{member}/comm")] {
            let path = format!("/proc/{member}/{inner}");
            assert_eq!(refused(&path, &[member]), None);
            assert!(refused(&path, &[none]).is_some());
        }
    }

    #[test]
    fn what_is_on_another_procfs_is_refused() {
        let me = Pid::this();
        let mut file = descriptor(&format!("/proc/{me}/maps"), Stat::default());
        let mut outside = Outside::of(Some(me));
        outside.members = Some(HashSet::from([me]));
        let what = refusal(&file, &outside).unwrap().what;
        assert!(what.contains("on another /proc"), "{what}");
        // What is of no process is found by its path, unless it is on the tree's own.
        file.text = "/proc/meminfo".into();
        assert!(!is_one(&file, outside.root));
    }

    #[test]
    fn a_process_and_its_first_thread_are_renamed_and_nothing_else() {
        let named = |path| renamed(path, Pid::from_raw(7), Pid::from_raw(12));
        assert_eq!(named("/proc/7"), "/proc/12");
        assert_eq!(named("/proc/7/maps"), "/proc/12/maps");
        assert_eq!(named("/proc/7/task/7/7"), "/proc/12/task/12/7");
        assert_eq!(named("/proc/7/net/7"), "/proc/12/net/7");
        assert_eq!(named("/proc/77/maps"), "/proc/77/maps");
    }
}
