//! Children that are stopped, each in another way: by signals with the shell's name for it (SIGTSTP,
//! SIGTTIN), with threads, with signals waiting that it gets when it goes on; and its parent, which
//! takes note of stops by waitid(2) or has done so. `modest`: only what CRIU can.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel;

/// Signals that a child got after it went on.
static GOT: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: i32, info: *const libc::siginfo_t, _: *const libc::c_void) {
    let value = u64::try_from(kernel::value_of(info)).unwrap_or(0);
    GOT.fetch_add(value, Ordering::SeqCst);
}

struct Stops {
    children: Vec<Pid>,
}

struct Child;

/// Builds them and serves. Desks: `main`, `stop-0` and so on.
pub fn run(mut desk: Desk, args: &[String]) {
    let mut ways = vec![Signal::SIGSTOP, Signal::SIGTSTP];
    if !args.iter().any(|a| a == "modest") {
        ways.push(Signal::SIGTTIN);
    }
    let mut children = Vec::new();
    for (number, signal) in ways.into_iter().enumerate() {
        let name = format!("stop-{number}");
        let child = kernel::child(|| {
            kernel::handle(libc::SIGRTMIN(), on_signal, libc::SA_RESTART, &[]);
            // It has begun when the child is stopped: a thread that is being made blocks all signals.
            let (begun, begins) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                begun.send(()).unwrap();
                loop {
                    std::thread::park();
                }
            });
            begins.recv().unwrap();
            // A group of its own, not orphaned: its parent is in the session.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).unwrap();
            desk.beside(&name).serve(&mut Child);
        });
        desk.wait_for(&name);
        kill(child, signal).unwrap();
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(child), flags).unwrap();
        kernel::queue_to(child.as_raw(), libc::SIGRTMIN(), 100);
        kernel::queue_to(child.as_raw(), libc::SIGRTMIN(), 11);
        children.push(child);
    }
    desk.serve(&mut Stops { children });
}

impl Program for Stops {
    /// All are stopped, and wait with what they got.
    fn check(&mut self) -> Answer {
        for child in &self.children {
            let status = std::fs::read_to_string(format!("/proc/{child}/status"));
            let status = status.map_err(|e| e.to_string())?;
            let line = |name: &str| {
                let found = status.lines().find_map(|l| l.strip_prefix(name));
                found.unwrap_or_default().trim().to_owned()
            };
            same("state", &line("State:"), &"T (stopped)".to_owned())?;
            let waiting = u64::from_str_radix(&line("ShdPnd:"), 16).unwrap_or(0);
            let queued = kernel::bit(libc::SIGRTMIN());
            same("waiting signals", &(waiting & queued), &queued)?;
        }
        Ok(self.children.len().to_string())
    }

    /// `continue`: they go on, and get what waited for them.
    fn command(&mut self, _: &[&str]) -> Answer {
        for child in &self.children {
            kill(*child, Signal::SIGCONT).map_err(|e| e.to_string())?;
            let flags = WaitPidFlag::WCONTINUED;
            let went_on = waitid(Id::Pid(*child), flags).map_err(|e| e.to_string())?;
            same("it", &went_on, &WaitStatus::Continued(*child))?;
        }
        Ok(String::new())
    }
}

impl Program for Child {
    fn check(&mut self) -> Answer {
        same("values", &GOT.load(Ordering::SeqCst), &111)?;
        Ok(String::new())
    }
}
