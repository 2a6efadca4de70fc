//! Which control groups a process is in (cgroups(7); lines of `/proc/PID/cgroup`, in fields of our
//! own). Noted where it is not in those of icecore itself; joined again where they still are and the
//! right is there.

use std::fs;
use std::path::PathBuf;

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Kind, Obstacle, Result};
use crate::units::Pid;

/// See the module.
#[derive(Debug)]
pub(super) struct ControlGroups;

impl Resource for ControlGroups {
    fn name(&self) -> &'static str {
        "control groups"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        if task.leader {
            let groups = groups(task.pid);
            if groups != self::groups(Pid::this()) {
                task.task().cgroups = groups;
            }
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(wanted) = task.task().map(|t| &t.cgroups) else {
            return Ok(());
        };
        let present = groups(task.pid);
        for line in wanted.iter().filter(|line| !present.contains(line)) {
            let pid = task.pid.to_string();
            let join = |dir: PathBuf| fs::write(dir.join("cgroup.procs"), &pid).is_ok();
            let joined = places(line).into_iter().any(join);
            if !joined {
                // The same for all processes, so that it is said once.
                task.warnings.push(Obstacle::new(
                    Kind::Unsupported,
                    format!("The tree was in control group {line}, which cannot be joined"),
                    "it stays in icecore's: start icecore there, or move it (cgroup.procs)",
                ));
            }
        }
        Ok(())
    }
}

/// The lines of `/proc/PID/cgroup`; none without control groups.
fn groups(pid: Pid) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Where the group of a line such as `0::/user.slice` or `4:memory:/x` can be.
fn places(line: &str) -> Vec<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
    else {
        return Vec::new();
    };
    let below = path.trim_start_matches('/');
    let top = PathBuf::from("/sys/fs/cgroup");
    match number {
        // The second one where both versions are in use (cgroups(7)).
        "0" => vec![top.join(below), top.join("unified").join(below)],
        _ => vec![
            top.join(controllers.trim_start_matches("name="))
                .join(below),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lead_to_directories_of_both_versions() {
        let of = |line| {
            let dirs = places(line).into_iter();
            dirs.map(|dir| dir.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("0::/a/b"),
            ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/unified/a/b"]
        );
        assert_eq!(of("3:cpu,cpuacct:/x"), ["/sys/fs/cgroup/cpu,cpuacct/x"]);
        assert_eq!(of("1:name=systemd:/x"), ["/sys/fs/cgroup/systemd/x"]);
        assert!(of("nonsense").is_empty());
    }
}
