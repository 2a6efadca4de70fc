//! A restored shell job is a job of `icecore restore`, which in turn is one of the shell: it has the
//! terminal while it is in the foreground, and when it stops, so do we, until the shell goes on.
//!
//! Sources: credentials(7), tcsetpgrp(3), `Implementing a Job Control Shell` in the manual of the GNU C
//! library.

use std::fs::File;
use std::process::ExitCode;

use icecore::{Error, Pid, Result};
use nix::sys::signal::{SigSet, Signal, kill, killpg, raise};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{getpgrp, tcgetpgrp, tcsetpgrp};

/// The terminal as it was before the job had it.
#[derive(Debug)]
pub(super) struct Lender {
    terminal: File,
    before: Termios,
    /// The shell has given it to us, and so we to the job.
    foreground: bool,
}

impl Lender {
    /// Our terminal, when there is one.
    pub(super) fn new() -> Option<Self> {
        let mut options = File::options();
        let terminal = options.read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let foreground = tcgetpgrp(&terminal) == Ok(getpgrp());
        Some(Self {
            terminal,
            before,
            foreground,
        })
    }

    /// Waits for the end of `root`; `group` is the job's foreground group, which has the terminal.
    pub(super) fn wait(mut self, root: Pid, group: Option<Pid>) -> Result<ExitCode> {
        // What is typed is meant for the job, and taking the terminal back must not stop us.
        let mut typed = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
        ] {
            typed.add(signal);
        }
        let cannot = |e| Error::os(format!("Cannot wait for process {root}"), e);
        typed.thread_block().map_err(cannot)?;
        let tell = |signal| {
            let _gone = match group {
                Some(group) => killpg(group, signal),
                None => kill(root, signal),
            };
        };
        // Whatever was on the screen is to be drawn again.
        tell(Signal::SIGWINCH);
        loop {
            match waitpid(root, Some(WaitPidFlag::WUNTRACED)) {
                Ok(WaitStatus::Exited(_, code)) => {
                    // Its settings are meant to stay: it may be stty(1).
                    self.take_back_as_it_is();
                    return Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)));
                }
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    self.take_back();
                    let code = u8::try_from(128 + signal as i32).unwrap_or(1);
                    return Ok(ExitCode::from(code));
                }
                Ok(WaitStatus::Stopped(..)) => {
                    let during = tcgetattr(&self.terminal);
                    self.take_back();
                    let _never_fails = raise(Signal::SIGSTOP);
                    // The shell lets us go on, in the foreground or not.
                    self.foreground = tcgetpgrp(&self.terminal) == Ok(getpgrp());
                    if let (true, Ok(during)) = (self.foreground, during) {
                        let _hung_up = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &during);
                        let _gone = group.map(|group| tcsetpgrp(&self.terminal, group));
                    }
                    tell(Signal::SIGCONT);
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(cannot(e)),
            }
        }
    }

    fn take_back_as_it_is(&self) {
        if self.foreground {
            let _hung_up = tcsetpgrp(&self.terminal, getpgrp());
        }
    }

    /// Takes the terminal back and makes it what it was before the job.
    fn take_back(&self) {
        self.take_back_as_it_is();
        if self.foreground {
            let _hung_up = tcsetattr(&self.terminal, SetArg::TCSADRAIN, &self.before);
        }
    }
}
