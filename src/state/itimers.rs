//! The three interval timers of a process (setitimer(2); `tc.timers`). What counts down is restored
//! with the time that was left.

use super::words::words;
use super::{Answers, DumpThread, Questions, Resource, RestoreThread};
use crate::error::Result;
use crate::image::proto::ItimerEntry;
use crate::inject::Call;

/// Bytes of `struct itimerval`.
const SIZE: u64 = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct IntervalTimers;

impl Resource for IntervalTimers {
    fn name(&self) -> &'static str {
        "interval timers"
    }

    fn ask(&self, questions: &mut Questions) {
        if questions.leader() {
            // ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF are 0, 1, 2.
            for which in 0..3 {
                let place = questions.room(SIZE);
                questions.call(libc::SYS_getitimer, &[which, place]);
            }
        }
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        if !task.leader {
            return Ok(());
        }
        let entry = |which| -> Result<ItimerEntry> {
            answers.value(which, "getitimer")?;
            let [isec, iusec, vsec, vusec] = [0, 1, 2, 3].map(|n| answers.word(which * 4 + n));
            Ok(ItimerEntry {
                isec,
                iusec,
                vsec,
                vusec,
            })
        };
        let timers = task.task().timers.get_or_insert_default();
        (timers.real, timers.virt, timers.prof) = (entry(0)?, entry(1)?, entry(2)?);
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(timers) = task.task().and_then(|t| t.timers.as_ref()) else {
            return Ok(());
        };
        let mut calls = Vec::new();
        for (n, entry) in (0..).zip([&timers.real, &timers.virt, &timers.prof]) {
            if let Some(value) = armed(entry) {
                let place = task.remote.put(n * SIZE, &words(&value))?;
                calls.push(Call::new(libc::SYS_setitimer, &[n, place, 0]));
            }
        }
        super::run(task.remote, "setitimer", &mut calls)
    }
}

/// The argument of setitimer, `None` when the timer is off. A periodic timer without time left has
/// expired in the instant of the freeze (its signal is pending): it starts a new period.
fn armed(entry: &ItimerEntry) -> Option<[u64; 4]> {
    let ItimerEntry {
        isec,
        iusec,
        vsec,
        vusec,
    } = *entry;
    match (isec | iusec, vsec | vusec) {
        (0, 0) => None,
        (_, 0) => Some([isec, iusec, isec, iusec]),
        _ => Some([isec, iusec, vsec, vusec]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(isec: u64, iusec: u64, vsec: u64, vusec: u64) -> ItimerEntry {
        ItimerEntry {
            isec,
            iusec,
            vsec,
            vusec,
        }
    }

    #[test]
    fn a_timer_that_is_off_stays_off() {
        assert_eq!(armed(&entry(0, 0, 0, 0)), None);
    }

    #[test]
    fn a_timer_goes_on_with_the_time_left() {
        assert_eq!(armed(&entry(5, 6, 1, 2)), Some([5, 6, 1, 2]));
        assert_eq!(armed(&entry(0, 0, 0, 2)), Some([0, 0, 0, 2]));
    }

    #[test]
    fn a_periodic_timer_frozen_as_it_fired_starts_a_new_period() {
        assert_eq!(armed(&entry(0, 250, 0, 0)), Some([0, 250, 0, 250]));
    }
}
