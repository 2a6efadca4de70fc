//! Signals that wait to be delivered, of the thread and of its process (sigpending(2),
//! PTRACE_PEEKSIGINFO in ptrace(2), rt_sigqueueinfo(2); `thread_core.signals_p`, `tc.signals_s`),
//! and the mask that holds them back (`blk_sigset`).
//!
//! The mask itself is put back by the engine when it lets the thread go. Until then all signals are
//! blocked, except the one by which the injected code talks to the engine: that one must not be
//! among [`pending_signals`], or it would be swallowed.

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Error, Obstacle, Result};
use crate::image::proto::{CoreEntry, SiginfoEntry, SignalQueueEntry};
use crate::inject::Call;
use crate::sys::ptrace::{SIGINFO_SIZE, peek_siginfo};

/// Signals queued at once; their siginfo fill half of the smallest scratch area.
const BATCH: usize = 64;

/// The signal mask.
#[derive(Debug)]
pub(super) struct SignalMask;

impl Resource for SignalMask {
    fn name(&self) -> &'static str {
        "signal mask"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        let mask = task.sigmask;
        if task.leader {
            task.task().blk_sigset = mask;
        } else {
            task.thread().blk_sigset = Some(mask);
        }
        Ok(())
    }

    fn restore(&self, _task: &mut RestoreThread<'_>) -> Result<()> {
        Ok(())
    }
}

/// The two queues.
#[derive(Debug)]
pub(super) struct PendingSignals;

impl Resource for PendingSignals {
    fn name(&self) -> &'static str {
        "pending signals"
    }

    fn dump(&self, task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        let own = queue(task, false)?;
        task.thread().signals_p = Some(own);
        if task.leader {
            let shared = queue(task, true)?;
            task.task().signals_s = Some(shared);
        }
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        if let Some(own) = task.thread().and_then(|t| t.signals_p.as_ref()) {
            enqueue(task, own, false)?;
        }
        if let Some(shared) = task.task().and_then(|t| t.signals_s.as_ref()) {
            enqueue(task, shared, true)?;
        }
        Ok(())
    }
}

fn queue(task: &DumpThread<'_>, shared: bool) -> Result<SignalQueueEntry> {
    let queue = peek_siginfo(task.tid, shared)
        .map_err(|e| Error::os(format!("Cannot read pending signals of {}", task.who()), e))?;
    let signals = queue
        .iter()
        .map(|info| SiginfoEntry {
            siginfo: info.to_vec(),
        })
        .collect();
    Ok(SignalQueueEntry { signals })
}

fn enqueue(task: &mut RestoreThread<'_>, queue: &SignalQueueEntry, shared: bool) -> Result<()> {
    if queue.signals.is_empty() {
        return Ok(());
    }
    // The kernel takes any siginfo from a task for itself only, by the ids that it sees itself.
    let mut ids = [
        Call::new(libc::SYS_getpid, &[]),
        Call::new(libc::SYS_gettid, &[]),
    ];
    super::run(task.remote, "getpid", &mut ids)?;
    let [pid, tid] = ids.map(|call| call.result.cast_unsigned());
    for batch in queue.signals.chunks(BATCH) {
        let mut calls = Vec::new();
        for (slot, entry) in (0..).zip(batch) {
            let Some(signal) = number(entry) else {
                return Err(Error::corrupt(format!(
                    "core-{}.img: a broken siginfo",
                    task.tid
                )));
            };
            if [libc::SIGKILL, libc::SIGSTOP]
                .map(|s| s.cast_unsigned())
                .contains(&signal)
            {
                task.warnings.push(Obstacle::unsupported(
                    format!("Signal {signal} was on its way to {}", task.who()),
                    "it is not sent again; use kill if it is wanted",
                ));
                continue;
            }
            let place = task
                .remote
                .put(slot * SIGINFO_SIZE as u64, &entry.siginfo)?;
            let signal = u64::from(signal);
            calls.push(if shared {
                Call::new(libc::SYS_rt_sigqueueinfo, &[pid, signal, place])
            } else {
                Call::new(libc::SYS_rt_tgsigqueueinfo, &[pid, tid, signal, place])
            });
        }
        super::run(task.remote, "rt_sigqueueinfo", &mut calls)?;
    }
    Ok(())
}

/// The signal number in a siginfo of the right size.
fn number(entry: &SiginfoEntry) -> Option<u32> {
    if entry.siginfo.len() != SIGINFO_SIZE {
        return None;
    }
    let number = u32::from_le_bytes(*entry.siginfo.first_chunk()?);
    (1..=64).contains(&number).then_some(number)
}

/// The signals in both queues of a thread's record, bit `n - 1` for signal `n`.
pub fn pending_signals(core: &CoreEntry) -> u64 {
    let own = core.thread_core.as_ref().and_then(|t| t.signals_p.as_ref());
    let shared = core.tc.as_ref().and_then(|t| t.signals_s.as_ref());
    [own, shared]
        .into_iter()
        .flatten()
        .flat_map(|queue| &queue.signals)
        .filter_map(number)
        .fold(0, |set, number| set | 1 << (number - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::proto::{TaskCoreEntry, ThreadCoreEntry};

    fn entry(signal: u8) -> SiginfoEntry {
        let mut siginfo = vec![0; SIGINFO_SIZE];
        siginfo[0] = signal;
        SiginfoEntry { siginfo }
    }

    #[test]
    fn a_siginfo_of_another_size_or_without_a_signal_is_not_one() {
        assert_eq!(number(&entry(12)), Some(12));
        assert_eq!(number(&entry(0)), None);
        assert_eq!(number(&entry(65)), None);
        assert_eq!(
            number(&SiginfoEntry {
                siginfo: vec![12; 4]
            }),
            None
        );
    }

    #[test]
    fn pending_signals_are_those_of_the_thread_and_of_the_process() {
        let queue = |s| {
            Some(SignalQueueEntry {
                signals: vec![entry(s)],
            })
        };
        let core = CoreEntry {
            tc: Some(TaskCoreEntry {
                signals_s: queue(1),
                ..TaskCoreEntry::default()
            }),
            thread_core: Some(ThreadCoreEntry {
                signals_p: queue(64),
                ..Default::default()
            }),
            ..CoreEntry::default()
        };
        assert_eq!(pending_signals(&core), 1 | 1 << 63);
        assert_eq!(pending_signals(&CoreEntry::default()), 0);
    }
}
