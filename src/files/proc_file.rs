//! Files and directories of the tree's own processes below `/proc`: `/proc/self/maps`, `/proc/7/fd`.
//!
//! CRIU: a `reg_file_entry` with the path. They are opened again when the process is there; what they
//! show is made when it is read. Source: proc(5).

use std::path::Path;

use super::descriptor::Descriptor;
use super::{Dumper, Findings, Outside, Refusal};
use crate::error::{Obstacle, Result};
use crate::task;
use crate::units::Pid;

/// The process that a path below `/proc` is of.
pub(super) fn process(path: &Path) -> Option<Pid> {
    let name = path.strip_prefix("/proc").ok()?.iter().next()?.to_str()?;
    let digits = name.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| name.parse().ok().map(Pid::from_raw))?
}

/// What to try where a file of another process is open, which programs that look through `/proc` have open for
/// moments only.
pub const PASSING: &str =
    "have the program close it before the dump; where it looks through /proc, try again";

/// Why `file`, which is one of `pid`, cannot be dumped.
pub(super) fn refusal(file: &Descriptor, pid: Pid, outside: &Outside) -> Option<Refusal> {
    let shown = file.shown();
    let close = "have the program close it before the dump";
    let refused = |what: String| {
        Some(Refusal {
            what,
            hint: close.to_owned(),
        })
    };
    if file.number.is_none() {
        return refused(format!("{shown}, a file of a process,"));
    }
    let inner = file.path()?.strip_prefix(format!("/proc/{pid}")).ok()?;
    let mut parts = inner.iter().filter_map(|part| part.to_str());
    let later = match (parts.next(), parts.next()) {
        (Some("task"), Some(thread)) => thread != pid.to_string(),
        (Some("fdinfo" | "map_files"), Some(_)) => true,
        _ => false,
    };
    if later {
        return refused(format!(
            "{shown}, which is not there before its process is complete,"
        ));
    }
    let members = outside.members.as_ref()?;
    // There it is called by another number than here.
    let status = task::proc::status(file.pid, file.pid).ok()?;
    if task::is_inside(&status) {
        return refused(format!(
            "{shown}, a file of a process in a pid namespace of its own,"
        ));
    }
    if !members.contains(&pid) || file.shown().ends_with(" (deleted)") {
        return Some(Refusal {
            what: format!("{shown}, a file of a process that is not in the tree,"),
            hint: PASSING.to_owned(),
        });
    }
    None
}

/// Checks that `pid`, of which `file` is one, is in the tree that is being dumped.
pub(super) fn dump(file: &Descriptor, pid: Pid, dumper: &Dumper) -> Result<()> {
    dumper.member(pid, file).map(drop)
}

/// Names a file of a process that the layer does not have.
pub(super) fn check(name: &str, pid: Pid, findings: &mut Findings<'_>) {
    if !findings.has_process(pid.as_raw()) {
        findings.obstacle(Obstacle::unsupported(
            format!("File {name} is of a process that is not in the layer"),
            "restore another layer",
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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

    #[test]
    fn what_comes_late_or_is_of_others_is_refused() {
        let mut outside = Outside::default();
        outside.members = Some(HashSet::from([Pid::from_raw(i32::MAX - 2)]));
        for inner in ["3/maps", "2147483645/fdinfo/3", "2147483645/task/9/comm"] {
            let file = descriptor(&format!("/proc/{inner}"), Stat::default());
            let pid = process(file.path().unwrap()).unwrap();
            assert!(refusal(&file, pid, &outside).is_some(), "{inner}");
        }
        let file = descriptor("/proc/2147483645/task/2147483645/comm", Stat::default());
        assert_eq!(refusal(&file, Pid::from_raw(i32::MAX - 2), &outside), None);
    }
}
