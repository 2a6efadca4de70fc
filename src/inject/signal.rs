//! The signal of the soft break: by which one the injected code stops.
//!
//! While we trace the thread, any signal stops it. Should we be dead, it must change nothing: best is one
//! that the process ignores, by its own will or because it never said anything about it. SIGCONT drops
//! stop signals that wait and ends a stop, so it is only for who has neither. Last comes one that the process handles
//! and that comes by itself all the time: if we die in the very instant between signal and stop, the
//! handler runs once more than it should, on the thread's own stack and with its own mask inside.
//!
//! Sources: signal(7), `prepare_signal` of the kernel, proc_pid_status(5).

use procfs::process::Status;

use crate::error::{Error, Kind, Obstacle, Result};
use crate::sys::ptrace;
use crate::task::proc;
use crate::units::Pid;

/// Signals that do nothing unless a program handles them.
const HARMLESS: [i32; 3] = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD];

/// Signals that stop a process, which SIGCONT takes back.
const STOPS: u64 =
    bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);

/// Never for a soft break, even where they are ignored: what cannot be ignored, what a faulty instruction
/// of ours would send, what takes back other signals.
const NEVER: u64 = STOPS
    | bit(libc::SIGKILL)
    | bit(libc::SIGSEGV)
    | bit(libc::SIGILL)
    | bit(libc::SIGBUS)
    | bit(libc::SIGFPE)
    | bit(libc::SIGSYS)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGCONT);

/// Bit `n - 1` for signal `n`.
const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What a process does with signals; bit `n - 1` for signal `n`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses {
    caught: u64,
    ignored: u64,
    /// By any thread.
    blocked: u64,
    /// In the queue of the process or of any thread.
    pending: u64,
    /// It is stopped by a signal (job control).
    stopped: bool,
}

impl Uses {
    /// Of a process whose threads are all stopped and traced by us; `status` is its leader's.
    ///
    /// # Errors
    /// When a thread is gone.
    pub(super) fn of_frozen(pid: Pid, threads: &[Pid], status: &Status) -> Result<Self> {
        let mut uses = Self::of(status);
        for tid in threads {
            uses.blocked |= ptrace::sigmask(*tid).map_err(|e| {
                Error::os(format!("Cannot read the signal mask of thread {tid}"), e)
            })?;
            uses.pending |= proc::status(pid, *tid)?.sigpnd;
            uses.stopped |= ptrace::siginfo(*tid).is_ok_and(|(signal, code, _)| {
                code >> 8 == libc::PTRACE_EVENT_STOP && signal != libc::SIGTRAP
            });
        }
        Ok(uses)
    }

    /// Of a process that runs, as far as /proc tells.
    fn of_running(pid: Pid) -> Result<Self> {
        let mut uses = Self::default();
        for (_, status) in proc::of_threads(pid, proc::status)? {
            let one = Self::of(&status);
            uses.caught |= one.caught;
            uses.ignored |= one.ignored;
            uses.blocked |= one.blocked;
            uses.pending |= one.pending;
            uses.stopped |= one.stopped;
        }
        Ok(uses)
    }

    fn of(status: &Status) -> Self {
        Self {
            caught: status.sigcgt,
            ignored: status.sigign,
            blocked: status.sigblk,
            pending: status.sigpnd | status.shdpnd,
            stopped: status.state.starts_with('T'),
        }
    }

    /// The best signal to stop by, if there is any. One that is blocked is unblocked in the thread that
    /// works for us; only if we die in the instant before that, it stays pending there, where nothing but
    /// a sigwait(3) for it can see it. One that waits already is of no use: ours would be lost in it.
    pub(super) fn choose(&self) -> Option<i32> {
        let is = |set: u64, signal: &i32| set & bit(*signal) != 0;
        // Real-time signals of ours could be refused: the queue of the user may be full.
        let quiet = HARMLESS
            .into_iter()
            .filter(|s| !is(self.caught, s))
            .chain((1..32).filter(|s| is(self.ignored, s) && !is(NEVER, s)));
        let quiet: Vec<i32> = quiet.filter(|s| !is(self.pending, s)).collect();
        let free = quiet.iter().find(|s| !is(self.blocked, s));
        if let Some(signal) = free.or_else(|| quiet.first()) {
            return Some(*signal);
        }
        let proceed = libc::SIGCONT;
        let in_the_way = self.caught | self.pending;
        if !self.stopped && self.pending & STOPS == 0 && !is(in_the_way, &proceed) {
            return Some(proceed);
        }
        HARMLESS.into_iter().find(|s| !is(self.pending, s))
    }
}

/// That our code could not be stopped in a process, if so.
///
/// # Errors
/// When the process is gone.
pub fn obstacle(pid: Pid) -> Result<Option<Obstacle>> {
    let missing = Uses::of_running(pid)?.choose().is_none();
    Ok(missing.then(|| Obstacle::new(Kind::Busy, none(pid), HINT)))
}

/// That no signal is left.
pub(super) fn none_left(pid: Pid) -> Error {
    Error::new(Kind::Busy, none(pid)).hint(HINT)
}

fn none(pid: Pid) -> String {
    format!("SIGURG, SIGWINCH, SIGCHLD and SIGCONT all wait in process {pid}, or cannot be used")
}

const HINT: &str = "one of them must be free to stop the injected code safely: try again when the program has taken them";

#[cfg(test)]
mod tests {
    use super::*;

    fn set(signals: &[i32]) -> u64 {
        signals.iter().fold(0, |set, s| set | bit(*s))
    }

    #[test]
    fn a_signal_that_nobody_handles_and_nothing_blocks_comes_first() {
        let uses = Uses::default();
        assert_eq!(uses.choose(), Some(libc::SIGURG));
        let blocked = set(&[libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD]);
        let uses = Uses { blocked, ..uses };
        assert_eq!(uses.choose(), Some(libc::SIGURG));
        let ignored = set(&[libc::SIGTSTP, libc::SIGSEGV, libc::SIGPIPE]);
        let uses = Uses { ignored, ..uses };
        assert_eq!(uses.choose(), Some(libc::SIGPIPE));
    }

    #[test]
    fn an_ignored_signal_stands_in_for_harmless_ones_that_are_handled() {
        let uses = Uses {
            caught: set(&HARMLESS),
            ignored: set(&[libc::SIGTTOU, libc::SIGHUP]),
            ..Uses::default()
        };
        assert_eq!(uses.choose(), Some(libc::SIGHUP));
    }

    #[test]
    fn who_is_stopped_or_about_to_be_gets_no_sigcont() {
        let caught = set(&HARMLESS);
        let uses = Uses {
            caught,
            ..Uses::default()
        };
        assert_eq!(uses.choose(), Some(libc::SIGCONT));
        let stopped = Uses {
            stopped: true,
            ..uses
        };
        assert_eq!(stopped.choose(), Some(libc::SIGURG));
        let pending = set(&[libc::SIGTTIN, libc::SIGURG]);
        let waits = Uses { pending, ..uses };
        assert_eq!(waits.choose(), Some(libc::SIGWINCH));
    }

    #[test]
    fn a_program_that_handles_everything_is_stopped_by_what_comes_anyway() {
        let caught = u64::MAX;
        let uses = Uses {
            caught,
            ..Uses::default()
        };
        assert_eq!(uses.choose(), Some(libc::SIGURG));
        let pending = set(&HARMLESS);
        assert_eq!(Uses { pending, ..uses }.choose(), None);
    }
}
