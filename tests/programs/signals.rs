//! Signals: actions of every sort, mask, pending ones with their values, alternate stack.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{self, Action, Region, bit};

/// Deliveries and sum of values, since the last look.
static COUNT: AtomicU64 = AtomicU64::new(0);
static VALUES: AtomicU64 = AtomicU64::new(0);
/// An address in the stack frame of the handler.
static STACK: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: i32, info: *const libc::siginfo_t, _: *const libc::c_void) {
    let here = 0u8;
    STACK.store((&raw const here).addr() as u64, Ordering::SeqCst);
    COUNT.fetch_add(1, Ordering::SeqCst);
    VALUES.fetch_add(
        u64::try_from(kernel::value_of(info)).unwrap_or(0),
        Ordering::SeqCst,
    );
}

/// Signals that are blocked and pending: to the process, to the thread, queued with values.
fn pending() -> Vec<i32> {
    let first = libc::SIGRTMIN();
    vec![libc::SIGTERM, libc::SIGUSR2, first + 2, first + 3]
}

struct Signals {
    actions: Vec<Action>,
    mask: u64,
    stack: (usize, i32, usize),
    region: Region,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let region = Region::private(16);
    kernel::altstack(Some((region.addr(), 16 * kernel::PAGE)));
    kernel::handle(
        libc::SIGUSR1,
        on_signal,
        libc::SA_ONSTACK | libc::SA_RESTART,
        &[libc::SIGHUP],
    );
    kernel::handle(
        libc::SIGTERM,
        on_signal,
        libc::SA_NODEFER | libc::SA_RESTART,
        &[],
    );
    kernel::handle(
        libc::SIGUSR2,
        on_signal,
        libc::SA_RESTART,
        &[libc::SIGINT, libc::SIGQUIT],
    );
    for signal in 0..5 {
        kernel::handle(libc::SIGRTMIN() + signal, on_signal, libc::SA_RESTART, &[]);
    }
    kernel::ignore(libc::SIGHUP);
    kernel::ignore(libc::SIGWINCH);
    let blocked = pending()
        .into_iter()
        .chain([libc::SIGINT])
        .fold(0, |set, s| set | bit(s));
    kernel::mask(Some(blocked));
    send();
    let mut state = Signals {
        actions: actions(),
        mask: blocked,
        stack: kernel::altstack(None),
        region,
    };
    desk.serve(&mut state);
}

/// Makes them pending: 7 deliveries with values that add up to 111.
fn send() {
    nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::SIGTERM).unwrap();
    kernel::raise(libc::SIGUSR2);
    let first = libc::SIGRTMIN();
    for value in [1, 10, 100] {
        kernel::queue(first + 2, value);
    }
    kernel::raise(first + 3);
    kernel::raise(first + 3);
}

fn actions() -> Vec<Action> {
    (1..=64)
        .filter(|s| ![9, 19, 32, 33].contains(s))
        .map(kernel::action)
        .collect()
}

impl Program for Signals {
    fn check(&mut self) -> Answer {
        for (is, should) in actions().iter().zip(&self.actions) {
            same("a signal action", is, should)?;
        }
        same("mask", &kernel::mask(None), &self.mask)?;
        let waiting = pending().into_iter().fold(0, |set, s| set | bit(s));
        same("pending signals", &kernel::pending(), &waiting)?;
        same("alternate stack", &kernel::altstack(None), &self.stack)?;
        // One that is not blocked, on the alternate stack.
        COUNT.store(0, Ordering::SeqCst);
        kernel::raise(libc::SIGUSR1);
        same("deliveries", &COUNT.load(Ordering::SeqCst), &1)?;
        let at = usize::try_from(STACK.load(Ordering::SeqCst)).unwrap();
        let inside = (self.region.addr()..self.region.addr() + 16 * kernel::PAGE).contains(&at);
        same("handler on the alternate stack", &inside, &true)?;
        Ok(format!("{} actions", self.actions.len()))
    }

    /// `deliver`: lets the pending ones in, with their values, and makes them pending again.
    fn command(&mut self, _: &[&str]) -> Answer {
        COUNT.store(0, Ordering::SeqCst);
        VALUES.store(0, Ordering::SeqCst);
        kernel::mask(Some(0));
        kernel::mask(Some(self.mask));
        let count = COUNT.load(Ordering::SeqCst);
        send();
        same("deliveries of pending signals", &count, &7)?;
        // kill and tgkill carry no value; a uid or pid may be read instead of it.
        let values = VALUES.load(Ordering::SeqCst);
        if values % 1000 < 111 {
            return Err(format!("values add up to {values}"));
        }
        Ok(format!("{count} delivered"))
    }
}
