//! Seccomp (seccomp(2); `thread_core.seccomp_*`, `seccomp.img`). Not saved yet: a thread that is
//! confined is an obstacle.

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Obstacle, Result};
use crate::image::proto::CoreEntry;
use crate::task::proc;
use crate::units::Pid;

/// See the module.
#[derive(Debug)]
pub(super) struct Seccomp;

impl Resource for Seccomp {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn check(&self, pid: Pid) -> Result<Vec<Obstacle>> {
        let mut obstacles = Vec::new();
        for (tid, status) in proc::of_threads(pid, proc::status)? {
            let mode = match status.seccomp.unwrap_or(0) {
                0 => continue,
                1 => "strict mode".to_owned(),
                2 => "a filter".to_owned(),
                other => format!("mode {other}"),
            };
            obstacles.push(Obstacle::unsupported(
                format!("{} is confined by seccomp ({mode})", super::who(pid, tid)),
                "start it without seccomp (for containers: --security-opt seccomp=unconfined)",
            ));
        }
        Ok(obstacles)
    }

    fn check_image(&self, tid: Pid, core: &CoreEntry) -> Vec<Obstacle> {
        let mode = |m: Option<i32>| m.is_some_and(|m| m != 0);
        let thread = core
            .thread_core
            .as_ref()
            .is_some_and(|t| mode(t.seccomp_mode));
        let old = core.tc.as_ref().is_some_and(|t| mode(t.old_seccomp_mode));
        if !thread && !old {
            return Vec::new();
        }
        vec![Obstacle::unsupported(
            format!("Thread {tid} was confined by seccomp"),
            "this cannot be restored yet; use criu restore",
        )]
    }

    fn dump(&self, _task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        // No field means: not confined.
        Ok(())
    }

    fn restore(&self, _task: &mut RestoreThread<'_>) -> Result<()> {
        // What `check_image` lets through has none.
        Ok(())
    }
}
