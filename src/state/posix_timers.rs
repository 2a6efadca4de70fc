//! POSIX timers of a process (timer_create(2); `tc.timers.posix`). What they are is in
//! `/proc/PID/timers` (proc(5)); how much time is left only the process can ask.
//!
//! A timer keeps its id. Kernels since 6.16 take it as a wish (PR_TIMER_CREATE_RESTORE_IDS); on
//! older ones ids count up, so timers are created and deleted until the right one comes.

use std::fs;

use super::words::{at, get, halves, low, pair, words};
use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::PosixTimerEntry;
use crate::inject::{Call, Remote};
use crate::task::{is_inside, proc};
use crate::units::Pid;

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Bit of `sigev_notify`: the signal goes to one thread.
const SIGEV_THREAD_ID: u32 = 4;
/// The clock of the thread that created the timer, as the kernel writes it: which thread that was,
/// nobody can tell.
const OWN_THREAD_CLOCK: i32 = -2;
/// The highest id that is tried for on kernels which do not take wishes.
const HIGHEST_COUNTED_ID: u32 = 100_000;

/// Bytes of `struct itimerspec`.
const SPEC: u64 = 32;
/// Bytes kept for one timer in the scratch area: sigevent (64), itimerspec (32), id (4).
const SLOT: u64 = 128;
/// Timers handled in one batch; their slots fill half of the smallest scratch area.
const BATCH: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct PosixTimers;

/// One paragraph of `/proc/PID/timers`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) id: u32,
    signal: u32,
    value: u64,
    /// SIGEV_SIGNAL 0, SIGEV_NONE 1, SIGEV_THREAD 2, with SIGEV_THREAD_ID.
    notify: u32,
    /// Thread (or process) that gets the signal.
    target: i32,
    clock: i32,
}

impl Resource for PosixTimers {
    fn name(&self) -> &'static str {
        "POSIX timers"
    }

    fn check(&self, pid: Pid) -> Result<Vec<Obstacle>> {
        if fs::exists("/proc/self/timers").is_ok_and(|there| there) {
            return Ok(Vec::new());
        }
        Ok(vec![Obstacle::unsupported(
            format!("The kernel does not list the POSIX timers of process {pid}"),
            "a kernel with CONFIG_CHECKPOINT_RESTORE is needed",
        )])
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        if !task.leader {
            return Ok(());
        }
        let mut listed = parse(&proc::line(task.pid, "timers")?).ok_or_else(|| {
            Error::new(Kind::Unsupported, "Cannot make sense of /proc/PID/timers")
        })?;
        listed.sort_by_key(|t| t.id);
        let many = answers.status.threads > 1;
        if let Some(timer) = listed.iter().find(|t| many && t.clock == OWN_THREAD_CLOCK) {
            task.warnings.push(Obstacle::unsupported(
                format!(
                    "Timer {} of {} runs on a thread's CPU clock",
                    timer.id,
                    task.who()
                ),
                "after a restore it runs on the clock of the first thread",
            ));
        }
        let mut entries = Vec::new();
        for batch in listed.chunks(BATCH) {
            let base = at(task.remote, 0);
            let mut calls = Vec::new();
            for (slot, timer) in (0..).zip(batch) {
                let id = u64::from(timer.id);
                calls.push(Call::new(
                    libc::SYS_timer_gettime,
                    &[id, base + slot * SPEC],
                ));
                calls.push(Call::new(libc::SYS_timer_getoverrun, &[id]));
            }
            super::run(task.remote, "timer_gettime", &mut calls)?;
            for ((slot, timer), call) in (0..).zip(batch).zip(calls.iter().skip(1).step_by(2)) {
                let [isec, insec, vsec, vnsec] = get(task.remote, slot * SPEC)?;
                entries.push(PosixTimerEntry {
                    it_id: timer.id,
                    clock_id: timer.clock.cast_unsigned(),
                    si_signo: timer.signal,
                    it_sigev_notify: timer.notify,
                    sival_ptr: timer.value,
                    overrun: low(call.result.cast_unsigned()),
                    isec,
                    insec,
                    vsec,
                    vnsec,
                    notify_thread_id: match timer.notify & SIGEV_THREAD_ID {
                        0 => None,
                        _ => Some(own_id(task.pid, timer.target, answers)?),
                    },
                });
            }
        }
        task.task().timers.get_or_insert_default().posix = entries;
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(timers) = task.task().and_then(|t| t.timers.as_ref()) else {
            return Ok(());
        };
        if timers.posix.is_empty() {
            return Ok(());
        }
        let mut wanted: Vec<&PosixTimerEntry> = timers.posix.iter().collect();
        wanted.sort_by_key(|t| t.it_id);
        let mut wish = [Call::new(
            libc::SYS_prctl,
            &[PR_TIMER_CREATE_RESTORE_IDS, 1],
        )];
        task.remote.run(&mut wish)?;
        if wish[0].value().is_ok() {
            for batch in wanted.chunks(BATCH) {
                create_by_wish(task.remote, batch)?;
            }
            let off = [PR_TIMER_CREATE_RESTORE_IDS, 0];
            task.remote
                .call("prctl(PR_TIMER_CREATE_RESTORE_IDS)", libc::SYS_prctl, &off)?;
        } else {
            create_by_counting(task.remote, &wanted)?;
        }
        for batch in wanted.chunks(BATCH) {
            arm(task.remote, batch)?;
        }
        Ok(())
    }
}

/// The thread `target` as the process itself calls it: /proc has the ids that we see.
fn own_id(pid: Pid, target: i32, answers: &Answers<'_>) -> Result<i32> {
    if !is_inside(answers.status) {
        return Ok(target);
    }
    let status = proc::status(pid, Pid::from_raw(target))?;
    Ok(status
        .nspid
        .iter()
        .flatten()
        .last()
        .copied()
        .unwrap_or(target))
}

/// `struct sigevent` of a timer.
fn sigevent(timer: &PosixTimerEntry) -> Vec<u8> {
    let thread = timer.notify_thread_id.unwrap_or(0).cast_unsigned();
    let mut bytes = words(&[
        timer.sival_ptr,
        pair(timer.si_signo, timer.it_sigev_notify),
        pair(thread, 0),
    ]);
    bytes.resize(64, 0);
    bytes
}

/// The call that creates `timer`; the id is read from and written to the end of its slot.
fn create(remote: &mut Remote, slot: u64, timer: &PosixTimerEntry) -> Result<Call> {
    let event = remote.put(slot * SLOT, &sigevent(timer))?;
    let id = remote.put(slot * SLOT + 64 + SPEC, &halves(&[timer.it_id]))?;
    Ok(Call::new(
        libc::SYS_timer_create,
        &[u64::from(timer.clock_id), event, id],
    ))
}

/// The id that the kernel gave to the timer in `slot`.
fn created(remote: &Remote, slot: u64) -> Result<u32> {
    let [id] = get(remote, slot * SLOT + 64 + SPEC)?;
    Ok(low(id))
}

fn create_by_wish(remote: &mut Remote, batch: &[&PosixTimerEntry]) -> Result<()> {
    let mut calls = Vec::new();
    for (slot, timer) in (0..).zip(batch) {
        calls.push(create(remote, slot, timer)?);
    }
    super::run(remote, "timer_create", &mut calls)
}

pub(super) fn create_by_counting(remote: &mut Remote, wanted: &[&PosixTimerEntry]) -> Result<()> {
    for timer in wanted {
        if timer.it_id > HIGHEST_COUNTED_ID {
            return Err(Error::new(
                Kind::Unsupported,
                format!("Cannot create a POSIX timer with id {}", timer.it_id),
            )
            .hint("Linux 6.16 or newer can (PR_TIMER_CREATE_RESTORE_IDS)"));
        }
        loop {
            let call = create(remote, 0, timer)?;
            super::run(remote, "timer_create", &mut [call])?;
            let id = created(remote, 0)?;
            if id == timer.it_id {
                break;
            }
            remote.call("timer_delete", libc::SYS_timer_delete, &[u64::from(id)])?;
            if id > timer.it_id {
                return Err(Error::new(
                    Kind::Busy,
                    format!(
                        "Timer id {} of thread {} is taken",
                        timer.it_id,
                        remote.tid()
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn arm(remote: &mut Remote, batch: &[&PosixTimerEntry]) -> Result<()> {
    let mut calls = Vec::new();
    for (slot, timer) in (0..).zip(batch) {
        if let Some(spec) = armed(timer) {
            let place = remote.put(slot * SLOT + 64, &words(&spec))?;
            let args = [u64::from(timer.it_id), 0, place, 0];
            calls.push(Call::new(libc::SYS_timer_settime, &args));
        }
    }
    super::run(remote, "timer_settime", &mut calls)
}

/// The argument of timer_settime, `None` when the timer is off. A periodic timer without time left
/// has expired in the instant of the freeze: it starts a new period.
fn armed(timer: &PosixTimerEntry) -> Option<[u64; 4]> {
    let PosixTimerEntry {
        isec,
        insec,
        vsec,
        vnsec,
        ..
    } = *timer;
    match (isec | insec, vsec | vnsec) {
        (0, 0) => None,
        (_, 0) => Some([isec, insec, isec, insec]),
        _ => Some([isec, insec, vsec, vnsec]),
    }
}

/// Reads `/proc/PID/timers`.
pub(super) fn parse(text: &str) -> Option<Vec<Listed>> {
    let mut lines = text.lines();
    let mut timers = Vec::new();
    while let Some(line) = lines.next() {
        let id = line.strip_prefix("ID: ")?.parse().ok()?;
        let (signal, value) = lines.next()?.strip_prefix("signal: ")?.split_once('/')?;
        let (notify, target) = lines.next()?.strip_prefix("notify: ")?.split_once('/')?;
        let (scope, target) = target.split_once('.')?;
        let notify = match notify {
            "signal" => 0,
            "none" => 1,
            "thread" => 2,
            _ => return None,
        };
        timers.push(Listed {
            id,
            signal: signal.parse().ok()?,
            value: u64::from_str_radix(value, 16).ok()?,
            notify: if scope == "tid" {
                notify | SIGEV_THREAD_ID
            } else {
                notify
            },
            target: target.parse().ok()?,
            clock: lines.next()?.strip_prefix("ClockID: ")?.parse().ok()?,
        });
    }
    Some(timers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "ID: 3\nsignal: 10/0000000000000005\nnotify: none/pid.15445\nClockID: 7\n\
        ID: 2\nsignal: 34/00007ffcf5d16f68\nnotify: signal/tid.15446\nClockID: 0\n\
        ID: 1\nsignal: 10/0000000000000005\nnotify: signal/pid.15445\nClockID: -6\n";

    #[test]
    fn the_list_of_timers_is_read_as_the_kernel_writes_it() {
        let timers = parse(SAMPLE).unwrap();
        assert_eq!(timers.iter().map(|t| t.id).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(
            timers.iter().map(|t| t.notify).collect::<Vec<_>>(),
            [1, SIGEV_THREAD_ID, 0]
        );
        assert_eq!(
            timers.iter().map(|t| t.clock).collect::<Vec<_>>(),
            [7, 0, -6]
        );
        assert_eq!((timers[1].signal, timers[1].target), (34, 15446));
        assert_eq!(timers[1].value, 0x7ffc_f5d1_6f68);
        assert_eq!(parse(""), Some(Vec::new()));
    }

    #[test]
    fn a_list_that_looks_otherwise_is_not_guessed_at() {
        assert_eq!(parse("ID: 3\nsignal: 10/5\n"), None);
        assert_eq!(parse(&SAMPLE.replace("none", "other")), None);
    }

    #[test]
    fn a_sigevent_has_value_signal_notification_and_thread_in_64_bytes() {
        let timer = PosixTimerEntry {
            si_signo: 10,
            it_sigev_notify: SIGEV_THREAD_ID,
            sival_ptr: 5,
            notify_thread_id: Some(77),
            ..PosixTimerEntry::default()
        };
        let bytes = sigevent(&timer);
        assert_eq!(bytes.len(), 64);
        assert_eq!(bytes[..24], halves(&[5, 0, 10, 4, 77, 0]));
    }

    #[test]
    fn a_periodic_timer_frozen_as_it_fired_starts_a_new_period() {
        let timer = PosixTimerEntry {
            insec: 9,
            ..PosixTimerEntry::default()
        };
        assert_eq!(armed(&timer), Some([0, 9, 0, 9]));
        assert_eq!(armed(&PosixTimerEntry::default()), None);
    }
}
