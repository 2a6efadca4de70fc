//! Threads that sleep in one system call each, for short times again and again, and for ever. None
//! may see `EINTR` or wake up early because somebody looked at the process.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::TimeVal;

use crate::desk::{Answer, Desk, Program};
use crate::kernel;

/// One sleep of a kind; the time is over, or it is wrong.
type Sleep = fn(Duration) -> Result<(), String>;

/// All kinds. The names select some of them on the command line.
const SLEEPS: &[(&str, Sleep)] = &[
    ("nanosleep", nap),
    ("absolute", absolute),
    ("futex", futex),
    ("poll", poll),
    ("select", select),
    ("sigtimedwait", sigtimedwait),
    ("epoll_wait", epoll_wait),
    ("receive", receive),
    ("accept", accept),
];

/// Those that need no descriptor of a kind that cannot be dumped yet.
const USUAL: usize = 6;

struct Sleepers {
    ticks: Vec<(&'static str, Arc<AtomicU64>)>,
    wrong: Arc<Mutex<Option<String>>>,
}

/// Builds it and serves. Arguments: names of sleeps; none: the usual ones.
pub fn run(mut desk: Desk, names: &[String]) {
    let mut state = Sleepers {
        ticks: Vec::new(),
        wrong: Arc::default(),
    };
    let chosen: Vec<&(&str, Sleep)> = if names.is_empty() {
        SLEEPS.iter().take(USUAL).collect()
    } else {
        SLEEPS
            .iter()
            .filter(|(name, _)| names.iter().any(|n| n == name))
            .collect()
    };
    for (name, sleep) in chosen {
        let ticks = Arc::new(AtomicU64::new(0));
        state.ticks.push((name, Arc::clone(&ticks)));
        // A short one again and again …
        let wrong = Arc::clone(&state.wrong);
        std::thread::spawn(move || {
            loop {
                let woken = timed(name, *sleep, Duration::from_millis(40));
                if let Err(text) = woken {
                    *wrong.lock().unwrap() = Some(text);
                    return;
                }
                ticks.fetch_add(1, Ordering::SeqCst);
            }
        });
        // … and one that nobody lives to see the end of.
        let wrong = Arc::clone(&state.wrong);
        std::thread::spawn(move || {
            let woken = timed(name, *sleep, Duration::from_secs(86_400));
            *wrong.lock().unwrap() = Some(format!("the long {name} ended: {woken:?}"));
        });
    }
    desk.serve(&mut state);
}

/// One sleep, not shorter than it should be.
fn timed(name: &str, sleep: Sleep, time: Duration) -> Result<(), String> {
    let start = Instant::now();
    sleep(time).map_err(|e| format!("{name}: {e}"))?;
    let slept = start.elapsed();
    // poll and epoll_wait count in milliseconds.
    if slept + Duration::from_millis(1) < time {
        return Err(format!("{name} woke up after {slept:?} of {time:?}"));
    }
    Ok(())
}

impl Program for Sleepers {
    fn check(&mut self) -> Answer {
        let count = |sleepers: &Self| -> Vec<u64> {
            sleepers
                .ticks
                .iter()
                .map(|(_, t)| t.load(Ordering::SeqCst))
                .collect()
        };
        let before = count(self);
        for _ in 0..1000 {
            if let Some(wrong) = &*self.wrong.lock().unwrap() {
                return Err(wrong.clone());
            }
            let now = count(self);
            if now
                .iter()
                .zip(&before)
                .all(|(now, before)| *now > before + 2)
            {
                return Ok(format!("{now:?}"));
            }
            nap(Duration::from_millis(10))?;
        }
        Err(format!(
            "a sleeper never woke up: {before:?}, {:?}",
            count(self)
        ))
    }
}

/// Seconds and nanoseconds.
fn timespec(time: Duration) -> [u64; 2] {
    [time.as_secs(), time.subsec_nanos().into()]
}

fn said(result: std::io::Result<()>) -> Result<(), String> {
    match result {
        Ok(()) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ETIMEDOUT) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

/// nanosleep(2), once, so that an interruption is seen.
pub fn nap(time: Duration) -> Result<(), String> {
    said(kernel::nanosleep(time))
}

/// clock_nanosleep(2) until a point in time.
fn absolute(time: Duration) -> Result<(), String> {
    said(kernel::sleep_until(time))
}

/// futex(2): `FUTEX_WAIT`, private, with a timeout; nobody wakes it.
fn futex(time: Duration) -> Result<(), String> {
    let word = Box::new(0u32);
    let address = (&raw const *word).expose_provenance() as u64;
    said(kernel::futex(address, 128, 0, &timespec(time)))
}

/// poll(2) on nothing.
fn poll(time: Duration) -> Result<(), String> {
    said(kernel::poll(i32::try_from(time.as_millis()).unwrap()))
}

/// select(2) on nothing.
fn select(time: Duration) -> Result<(), String> {
    said(kernel::select(time))
}

/// rt_sigtimedwait(2) for a signal that nobody sends.
fn sigtimedwait(time: Duration) -> Result<(), String> {
    let set = kernel::bit(libc::SIGRTMAX());
    let address = (&raw const set).expose_provenance() as u64;
    let mut time = timespec(time);
    match kernel::call_with(libc::SYS_rt_sigtimedwait, &[address, 0], &mut time, &[8]) {
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// recv(2) from a socket with a timeout, to which nobody sends. The kernel itself returns `EINTR` when such
/// a call is traced.
fn receive(time: Duration) -> Result<(), String> {
    let (mut near, _far) = UnixStream::pair().map_err(|e| e.to_string())?;
    near.set_read_timeout(Some(time)).unwrap();
    timed_out(near.read(&mut [0]).map(drop))
}

/// accept(2) with a timeout, to which nobody connects.
fn accept(time: Duration) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    let seconds = i64::try_from(time.as_secs()).unwrap();
    let timeout = TimeVal::new(seconds, time.subsec_micros().into());
    setsockopt(&listener, ReceiveTimeout, &timeout).unwrap();
    let fd = u64::try_from(listener.as_raw_fd()).unwrap();
    timed_out(kernel::call(libc::SYS_accept, [fd, 0, 0, 0, 0, 0]).map(drop))
}

fn timed_out(result: std::io::Result<()>) -> Result<(), String> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// epoll_wait(2) on nothing. The kernel itself returns `EINTR` when such a call is traced.
fn epoll_wait(time: Duration) -> Result<(), String> {
    thread_local!(static EPOLL: i64 = kernel::call(libc::SYS_epoll_create1, [0; 6]).unwrap());
    let ms = u64::try_from(time.as_millis()).unwrap();
    let mut event = [0u64; 2];
    let fd = u64::try_from(EPOLL.with(|fd| *fd)).unwrap();
    let waited = kernel::call_with(libc::SYS_epoll_wait, &[fd], &mut event, &[1, ms]);
    said(waited.map(drop))
}
