//! Descriptors that signal something: eventfd, timerfd, signalfd, and an epoll instance that watches
//! them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{self, bit, call, call_with, owned};

/// What the epoll instance calls each of them.
const COUNTER: u64 = 0x1111_2222_3333;
const TIMER: u64 = 77;
const SIGNALS: u64 = u64::MAX;

/// Readable; told once (`EPOLLET`).
pub const READABLE: u32 = 1;
const ONCE: u32 = 1 << 31;

struct Events {
    counter: OwnedFd,
    semaphore: OwnedFd,
    often: OwnedFd,
    late: OwnedFd,
    signals: OwnedFd,
    epoll: OwnedFd,
    /// Set to a moment of the wall clock, with that in seconds; one that would wake the machine.
    wall: OwnedFd,
    moment: u64,
    alarm: OwnedFd,
    modest: bool,
}

/// The number of a descriptor, as system calls take it.
pub fn number(fd: &OwnedFd) -> u64 {
    fd.as_raw_fd().unsigned_abs().into()
}

/// The descriptor that a system call makes.
pub fn new(call_number: i64, args: [u64; 6]) -> OwnedFd {
    owned(call(call_number, args).unwrap())
}

/// Builds it and serves. Argument `modest`: without what CRIU forgets.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    let signal = libc::SIGRTMIN() + 2;
    kernel::mask(Some(bit(signal)));
    let set = bit(signal);
    let set = (&raw const set).expose_provenance() as u64;
    let monotonic = 1;
    let moment = kernel_now() + 5400;
    let mut events = Events {
        wall: new(libc::SYS_timerfd_create, [0; 6]),
        moment,
        // CRIU does not know that clock.
        alarm: new(
            libc::SYS_timerfd_create,
            [if modest { monotonic } else { ALARM }, 0, 0, 0, 0, 0],
        ),
        modest,
        counter: new(libc::SYS_eventfd2, [41, 0o4000, 0, 0, 0, 0]),
        semaphore: new(
            libc::SYS_eventfd2,
            if modest {
                [1, 0, 0, 0, 0, 0]
            } else {
                [3, 1, 0, 0, 0, 0]
            },
        ),
        often: new(libc::SYS_timerfd_create, [monotonic, 0, 0, 0, 0, 0]),
        late: new(libc::SYS_timerfd_create, [monotonic, 0o4000, 0, 0, 0, 0]),
        signals: new(libc::SYS_signalfd4, [u64::MAX, set, 8, 0o4000, 0, 0]),
        epoll: new(libc::SYS_epoll_create1, [0; 6]),
    };
    // Every 20 ms; once, in an hour and a half.
    arm(&events.often, 0, [0, 20_000_000, 0, 20_000_000]);
    arm(&events.late, 0, [0, 0, 5400, 0]);
    arm(&events.wall, ABSOLUTE, [0, 0, moment, 0]);
    // Since the machine was started: within years.
    arm(&events.alarm, ABSOLUTE, [0, 0, 1 << 30, 0]);
    for (fd, name, flags) in [
        (&events.counter, COUNTER, READABLE),
        (&events.often, TIMER, READABLE),
        (&events.signals, SIGNALS, READABLE | ONCE),
    ] {
        watch(&events.epoll, fd, name, flags);
    }
    kernel::queue(signal, 5);
    desk.serve(&mut events);
}

/// `CLOCK_BOOTTIME_ALARM`, `TFD_TIMER_ABSTIME`.
const ALARM: u64 = 9;
const ABSOLUTE: u64 = 1;

/// Seconds since 1970.
fn kernel_now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The interval of a timer, and the time until it goes off: seconds and nanoseconds of each.
fn left(timer: &OwnedFd) -> [u64; 4] {
    let mut left = [0u64; 4];
    let timer = [number(timer)];
    call_with(libc::SYS_timerfd_gettime, &timer, &mut left, &[]).unwrap();
    left
}

fn arm(timer: &OwnedFd, flags: u64, mut value: [u64; 4]) {
    call_with(
        libc::SYS_timerfd_settime,
        &[number(timer), flags],
        &mut value,
        &[0],
    )
    .unwrap();
}

/// Enters a watch. `struct epoll_event` is packed: events, then data.
pub fn watch(epoll: &OwnedFd, fd: &OwnedFd, name: u64, flags: u32) {
    let mut event = [0u32, 0, 0];
    event[0] = flags;
    event[1] = (name & 0xffff_ffff) as u32;
    event[2] = (name >> 32) as u32;
    call_with(
        libc::SYS_epoll_ctl,
        &[number(epoll), 1, number(fd)],
        &mut event,
        &[],
    )
    .unwrap();
}

/// Names of what is ready in an epoll instance, waiting up to a second for the first.
pub fn ready(epoll: &OwnedFd) -> Vec<u64> {
    let mut events = [[0u32; 3]; 16];
    let wait = [16, 1000];
    let count = call_with(libc::SYS_epoll_wait, &[number(epoll)], &mut events, &wait).unwrap();
    let count = usize::try_from(count).unwrap();
    let name = |event: &[u32; 3]| u64::from(event[1]) | u64::from(event[2]) << 32;
    events[..count].iter().map(name).collect()
}

fn read(fd: &OwnedFd) -> Result<u64, String> {
    let mut value = 0u64;
    let result = call_with(libc::SYS_read, &[number(fd)], &mut value, &[8]);
    result.map(|_| value).map_err(|e| e.to_string())
}

impl Program for Events {
    fn check(&mut self) -> Answer {
        // Reading takes; what was there is put back.
        same("counter", &read(&self.counter)?, &41)?;
        let mut value = 41u64;
        call_with(libc::SYS_write, &[number(&self.counter)], &mut value, &[8]).unwrap();
        same("semaphore", &read(&self.semaphore)?, &1)?;
        let mut value = 1u64;
        call_with(
            libc::SYS_write,
            &[number(&self.semaphore)],
            &mut value,
            &[8],
        )
        .unwrap();
        same("expirations", &(read(&self.often)? > 0), &true)?;
        let late = left(&self.late);
        same("time left", &(5000..5400).contains(&late[2]), &true)?;
        same("interval", &[late[0], late[1]], &[0, 0])?;
        same("alarm", &(left(&self.alarm)[2] > 1 << 29), &true)?;
        let (before, wall, after) = (kernel_now(), left(&self.wall)[2], kernel_now());
        let is_then = (before..=after + 1).contains(&(self.moment - wall));
        same("moment", &(is_then || self.modest), &true)?;
        let mut names = ready(&self.epoll);
        while !names.contains(&TIMER) {
            names = ready(&self.epoll);
        }
        same("the counter is ready", &names.contains(&COUNTER), &true)?;
        // signalfd_siginfo: the number first, the value at byte 44.
        let mut info = [0u32; 32];
        call_with(libc::SYS_read, &[number(&self.signals)], &mut info, &[128])
            .map_err(|e| format!("no signal: {e}"))?;
        same(
            "signal",
            &info[0],
            &u32::try_from(libc::SIGRTMIN() + 2).unwrap(),
        )?;
        same("value", &info[11], &5)?;
        kernel::queue(libc::SIGRTMIN() + 2, 5);
        same(
            "news of the signal",
            &ready(&self.epoll).contains(&SIGNALS),
            &true,
        )?;
        Ok(String::new())
    }
}
