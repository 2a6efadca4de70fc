//! What a process does on each signal (sigaction(2); `tc.sigactions`: 62 records, signals 1 to 64
//! without SIGKILL and SIGSTOP, in order).

use super::words::words;
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::{Error, Result};
use crate::image::proto::SaEntry;
use crate::inject::Call;

/// Bytes of the kernel's `struct sigaction` on x86-64: handler, flags, restorer, mask.
const SIZE: u64 = 32;
/// Bytes of the kernel's `sigset_t`.
const MASK_SIZE: u64 = 8;

/// See the module.
#[derive(Debug)]
pub(super) struct SignalActions;

/// All signals that can have an action, in the order of the image.
fn signals() -> impl Iterator<Item = u64> {
    (1..=64).filter(|s| ![9, 19].contains(s))
}

impl Resource for SignalActions {
    fn name(&self) -> &'static str {
        "signal actions"
    }

    fn ask(&self, questions: &mut Questions) {
        if questions.leader() {
            for signal in signals() {
                let place = questions.room(SIZE);
                questions.call(libc::SYS_rt_sigaction, &[signal, 0, place, MASK_SIZE]);
            }
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        if !task.leader {
            return Ok(());
        }
        let (actions, _) = answers.words.as_chunks::<4>();
        for (index, [handler, flags, restorer, mask]) in actions.iter().copied().enumerate() {
            answers.value(index, "rt_sigaction")?;
            task.task().sigactions.push(SaEntry {
                sigaction: handler,
                flags,
                restorer,
                mask,
                compat_sigaction: Some(false),
                ..SaEntry::default()
            });
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(actions) = task.task().map(|t| &t.sigactions) else {
            return Ok(());
        };
        if actions.len() != signals().count() {
            return Err(Error::corrupt(format!(
                "core-{}.img has {} signal actions instead of 62",
                task.tid,
                actions.len()
            )));
        }
        let mut calls = Vec::new();
        for (signal, action) in signals().zip(actions) {
            let action = [action.sigaction, action.flags, action.restorer, action.mask];
            let place = task.remote.put(signal * SIZE, &words(&action))?;
            calls.push(Call::new(
                libc::SYS_rt_sigaction,
                &[signal, place, 0, MASK_SIZE],
            ));
        }
        super::run(task.remote, "rt_sigaction", &mut calls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_62_signals_with_actions_and_neither_kill_nor_stop_is_one() {
        assert_eq!(signals().count(), 62);
        assert!(signals().all(|s| s != libc::SIGKILL as u64 && s != libc::SIGSTOP as u64));
        assert!(signals().is_sorted());
    }
}
