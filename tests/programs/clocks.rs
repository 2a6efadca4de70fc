//! Clocks that must never go back: CLOCK_MONOTONIC and CLOCK_BOOTTIME, by the vDSO and by the kernel.

use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::desk::{Answer, Desk, Program};
use crate::kernel;

const CLOCKS: [ClockId; 2] = [ClockId::CLOCK_MONOTONIC, ClockId::CLOCK_BOOTTIME];
/// How far a clock may have gone on between two looks, in ns.
const FAR: i64 = 600_000_000_000;

struct Clocks {
    last: [i64; 2],
}

/// Both clocks in ns, as the vDSO tells them.
fn now() -> [i64; 2] {
    CLOCKS.map(|clock| {
        let now = clock_gettime(clock).unwrap();
        now.tv_sec() * 1_000_000_000 + now.tv_nsec()
    })
}

/// The same, as the kernel tells them.
fn by_call() -> [i64; 2] {
    CLOCKS.map(|clock| {
        let mut now = [0i64; 2];
        let id = u64::from(clock.as_raw().cast_unsigned());
        kernel::call_with(libc::SYS_clock_gettime, &[id], &mut now, &[]).unwrap();
        now[0] * 1_000_000_000 + now[1]
    })
}

/// Looks and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    desk.serve(&mut Clocks { last: now() });
}

impl Program for Clocks {
    /// The seconds of the monotonic clock.
    fn check(&mut self) -> Answer {
        for look in [now, by_call, now, by_call] {
            let now = look();
            for (before, now) in self.last.iter().zip(now) {
                if now < *before || now - before > FAR {
                    return Err(format!("a clock went from {before} to {now}"));
                }
            }
            self.last = now;
        }
        // A wait for a point in time ends.
        let soon = nix::sys::time::TimeSpec::from_duration(std::time::Duration::from_nanos(
            self.last[0].unsigned_abs() + 1_000_000,
        ));
        clock_nanosleep(CLOCKS[0], ClockNanosleepFlags::TIMER_ABSTIME, &soon)
            .map_err(|e| e.to_string())?;
        Ok((self.last[0] / 1_000_000_000).to_string())
    }
}
