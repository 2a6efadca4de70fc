//! How much the out-of-memory killer likes a process (`/proc/PID/oom_score_adj`, proc(5);
//! `tc.oom_score_adj`). Written from outside.

use std::fs;

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::task::proc;

/// See the module.
#[derive(Debug)]
pub(super) struct OomScoreAdj;

impl Resource for OomScoreAdj {
    fn name(&self) -> &'static str {
        "out-of-memory score"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        if task.leader {
            let text = proc::line(task.pid, "oom_score_adj")?;
            let value = text
                .parse()
                .map_err(|e| proc::unreadable("oom_score_adj", e))?;
            task.task().oom_score_adj = Some(value);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(wanted) = task.task().and_then(|t| t.oom_score_adj) else {
            return Ok(());
        };
        let present = proc::line(task.pid, "oom_score_adj")?;
        if present == wanted.to_string() {
            return Ok(());
        }
        let path = format!("/proc/{}/oom_score_adj", task.pid);
        match fs::write(&path, wanted.to_string()).map_err(|e| Error::path("write", &path, e)) {
            // Lowering it needs CAP_SYS_RESOURCE, which even root may lack.
            Err(e) if e.kind() == Kind::Permission => {
                task.warnings.push(Obstacle::new(
                    Kind::Permission,
                    format!(
                        "oom_score_adj of {} stays {present}, not {wanted}",
                        task.who()
                    ),
                    "lowering it needs CAP_SYS_RESOURCE",
                ));
                Ok(())
            }
            other => other,
        }
    }
}
