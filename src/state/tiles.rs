//! The right to use AMX (arch_prctl(2), ARCH_REQ_XCOMP_PERM; a field of our own,
//! `tc.xcomp_permission`). Without it, a program that asked for it once dies by SIGILL at its next use.
//! The tiles themselves are registers (see [`crate::arch::tiles`]).

use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::arch::tiles::COMPONENT;
use crate::error::{Obstacle, Result};
use crate::inject::Call;

const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;

/// See the module.
#[derive(Debug)]
pub(super) struct TilePermission;

impl Resource for TilePermission {
    fn name(&self) -> &'static str {
        "permission for AMX"
    }

    fn ask(&self, questions: &mut Questions) {
        if questions.leader() {
            let mask = questions.room(8);
            questions.call(libc::SYS_arch_prctl, &[ARCH_GET_XCOMP_PERM, mask]);
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        // A kernel without the call (before 5.16) has no AMX either.
        if task.leader && answers.value(0, "arch_prctl").is_ok() {
            let mask = Some(answers.word(0));
            task.task().xcomp_permission = mask.filter(|mask| mask & 1 << COMPONENT != 0);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        if task.task().is_some_and(|t| t.xcomp_permission.is_some()) {
            let args = [ARCH_REQ_XCOMP_PERM, COMPONENT.into()];
            let mut calls = [Call::new(libc::SYS_arch_prctl, &args)];
            task.remote.run(&mut calls)?;
            // Where the CPU has no AMX, the plan said so.
            if let Err(errno) = calls[0].value() {
                let what = format!("{} may not use AMX any more ({errno})", task.who());
                let hint = "restore on a CPU and kernel with AMX";
                task.warnings.push(Obstacle::unsupported(what, hint));
            }
        }
        Ok(())
    }
}
