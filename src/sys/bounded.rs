//! A system call that waits, but not for ever: a timer interrupts it (timer_create(2), EINTR in signal(7)).
//! Looking again and again instead would take the CPU from whom we wait for.
#![expect(
    unsafe_code,
    reason = "timers that signal one thread have no safe interface"
)]

use std::sync::OnceLock;
use std::time::Duration;

use nix::errno::Errno;

/// A timer of this thread that interrupts what it waits for; gone when dropped.
#[derive(Debug)]
pub(super) struct Alarm(libc::timer_t);

/// Nothing happens but that a call is interrupted.
extern "C" fn nothing(_: i32) {}

/// The signal, which has a handler from the first call on.
fn signal() -> nix::Result<i32> {
    static SIGNAL: OnceLock<nix::Result<i32>> = OnceLock::new();
    *SIGNAL.get_or_init(|| {
        let signal = libc::SIGRTMAX() - 2;
        // SAFETY: all zeros is a valid `sigaction`: no flags, so without SA_RESTART, and an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        // SAFETY: `action` outlives the call; its handler touches nothing, so it may run at any time.
        let set = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        Errno::result(set).map(|_| signal)
    })
}

impl Alarm {
    /// Rings after `time`, and often afterwards: the first one may come just before the call that it is
    /// to interrupt.
    ///
    /// # Errors
    /// EAGAIN when the queue for signals of our user is full.
    pub(super) fn after(time: Duration) -> nix::Result<Self> {
        // SAFETY: all zeros is a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = signal()?;
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer: libc::timer_t = std::ptr::null_mut();
        let clock = libc::CLOCK_MONOTONIC;
        // SAFETY: both places outlive the call.
        let made = unsafe { libc::timer_create(clock, &raw mut event, &raw mut timer) };
        Errno::result(made)?;
        let alarm = Self(timer);
        let spec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs().cast_signed(),
            tv_nsec: time.subsec_nanos().into(),
        };
        let times = libc::itimerspec {
            it_interval: spec(Duration::from_millis(20)),
            // 0 would never ring.
            it_value: spec(time.max(Duration::from_micros(1))),
        };
        // SAFETY: the timer is ours, `times` outlives the call.
        let set = unsafe { libc::timer_settime(timer, 0, &raw const times, std::ptr::null_mut()) };
        Errno::result(set).map(|_| alarm)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is deleted once.
        unsafe { libc::timer_delete(self.0) };
    }
}
