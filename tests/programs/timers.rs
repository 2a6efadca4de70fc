//! Interval timers and POSIX timers: long ones whose remaining time is watched, and one that fires
//! all the time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{self, Left};

const SECOND: u64 = 1_000_000_000;

static FIRED: AtomicU64 = AtomicU64::new(0);
static WRONG_VALUE: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_timer(_: i32, info: *const libc::siginfo_t, _: *const libc::c_void) {
    if kernel::value_of(info) == 4711 {
        FIRED.fetch_add(1, Ordering::SeqCst);
    } else {
        WRONG_VALUE.fetch_add(1, Ordering::SeqCst);
    }
}

struct Timers {
    /// Kind and what was left when last seen.
    interval: Vec<(u64, Left)>,
    /// Id and what was left when last seen.
    posix: Vec<(u64, Left)>,
    deleted: u64,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let signal = libc::SIGRTMIN() + 1;
    kernel::handle(signal, on_timer, libc::SA_RESTART, &[]);
    kernel::set_itimer(0, [500, 3000]);
    kernel::set_itimer(1, [0, 4000]);
    kernel::set_itimer(2, [700, 5000]);
    let new = |clock, notify, signal, value| kernel::timer(clock, notify, signal, value);
    let monotonic = new(libc::CLOCK_MONOTONIC, libc::SIGEV_SIGNAL, signal, 4711);
    let deleted = new(libc::CLOCK_REALTIME, libc::SIGEV_NONE, 0, 0);
    let silent = new(libc::CLOCK_REALTIME, libc::SIGEV_NONE, 0, 0);
    let disarmed = new(libc::CLOCK_BOOTTIME, libc::SIGEV_SIGNAL, libc::SIGUSR1, 5);
    let thread = new(
        libc::CLOCK_MONOTONIC,
        libc::SIGEV_THREAD_ID,
        libc::SIGUSR2,
        6,
    );
    kernel::delete_timer(deleted);
    let long = |interval, value| Left {
        interval: interval * SECOND,
        value: value * SECOND,
    };
    kernel::set_timer(silent, long(1000, 6000));
    kernel::set_timer(thread, long(0, 7000));
    let often = Left {
        interval: SECOND / 50,
        value: SECOND / 50,
    };
    kernel::set_timer(monotonic, often);
    let seen = |id| (id, kernel::timer_left(id).unwrap());
    let mut state = Timers {
        interval: (0..3).map(|which| (which, kernel::itimer(which))).collect(),
        posix: [monotonic, silent, disarmed, thread].map(seen).to_vec(),
        deleted,
    };
    desk.serve(&mut state);
}

/// The kernel adds a tick to the timers of CPU time whenever they are set (`set_cpu_itimer`).
const TICKS: u64 = SECOND / 50;

/// Time runs down, slowly, and never up; a timer that is not armed stays so.
fn running(what: &str, is: Left, before: Left) -> Result<(), String> {
    same(
        &format!("interval of {what}"),
        &is.interval,
        &before.interval,
    )?;
    let fires = before.interval > 0 && before.interval < SECOND;
    let fine = fires
        || is.value <= before.value + TICKS
            && (is.value > 0) == (before.value > 0)
            && before.value < is.value + 300 * SECOND;
    if fine {
        Ok(())
    } else {
        Err(format!("{what}: {is:?} after {before:?}"))
    }
}

impl Program for Timers {
    fn check(&mut self) -> Answer {
        for (which, left) in &mut self.interval {
            let is = kernel::itimer(*which);
            running(&format!("interval timer {which}"), is, *left)?;
            *left = is;
        }
        for (id, left) in &mut self.posix {
            let is = kernel::timer_left(*id).map_err(|e| format!("timer {id}: {e}"))?;
            running(&format!("POSIX timer {id}"), is, *left)?;
            *left = is;
        }
        let gone = kernel::timer_left(self.deleted).is_err();
        same("the deleted timer is gone", &gone, &true)?;
        let before = FIRED.load(Ordering::SeqCst);
        for _ in 0..500 {
            if FIRED.load(Ordering::SeqCst) > before + 2 {
                return same("wrong values", &WRONG_VALUE.load(Ordering::SeqCst), &0)
                    .map(|()| format!("fired {before} times"));
            }
            // Is interrupted by the timer, of course.
            drop(crate::sleepers::nap(Duration::from_millis(10)));
        }
        Err("the timer does not fire any more".into())
    }
}
