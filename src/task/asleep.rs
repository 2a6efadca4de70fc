//! Which system call a thread sleeps in that was interrupted before.
//!
//! Such a thread is inside restart_syscall(2), and its registers do not tell what is restarted: a
//! program whose C library loads call numbers far from the `syscall` instruction (glibc since 2.41)
//! does not tell it by its code, either. The kernel's function that it waits in does, as long as it
//! waits there: it has to be asked before the thread is stopped. Somebody else may have interrupted
//! the call, as every suspension of the machine does. Sources: proc_pid_syscall(5), proc_pid_wchan(5),
//! restart_syscall(2).

use std::collections::BTreeMap;

use procfs::process::{Process as Proc, Syscall};

use super::Process;
use crate::arch::Regs;
use crate::units::Pid;

/// Threads inside restart_syscall(2), by id.
#[derive(Debug, Default)]
pub struct Restarting(BTreeMap<Pid, Sleep>);

/// Where a thread sleeps: its first arguments, stack pointer and instruction pointer; and the number
/// of the call that is restarted.
#[derive(Debug, PartialEq, Eq)]
struct Sleep {
    at: [u64; 5],
    number: i64,
}

impl Restarting {
    /// Looks at all threads of running processes. What cannot be seen is not there.
    pub fn look(processes: &[Process]) -> Self {
        let threads = processes.iter().flat_map(|process| &process.threads);
        Self(
            threads
                .filter_map(|tid| Some((*tid, sleep(*tid)?)))
                .collect(),
        )
    }

    /// The call that a thread restarts, which stands still with these registers; `None` when it slept
    /// elsewhere when it was looked at.
    pub fn number(&self, tid: Pid, regs: &Regs) -> Option<u64> {
        let found = self.0.get(&tid)?;
        let at = [regs.rdi, regs.rsi, regs.rdx, regs.rsp, regs.rip];
        (found.at == at).then(|| found.number.cast_unsigned())
    }
}

fn sleep(tid: Pid) -> Option<Sleep> {
    let thread = Proc::new(tid.as_raw()).ok()?;
    let Ok(Syscall::Blocked {
        syscall_number: libc::SYS_restart_syscall,
        argument_registers: [first, second, third, ..],
        stack_pointer,
        program_counter,
    }) = thread.syscall()
    else {
        return None;
    };
    let number = restarted(&thread.wchan().ok()?, first)?;
    Some(Sleep {
        at: [first, second, third, stack_pointer, program_counter],
        number,
    })
}

/// The system call whose restart waits in this function of the kernel. nanosleep(2) and
/// clock_nanosleep(2) share theirs: the first argument of one is a pointer, of the other a clock. Where
/// the compiler has made the restart of a sleep a jump, it is the entry of system calls that waits.
fn restarted(function: &str, first: u64) -> Option<i64> {
    const SLEEPS: [&str; 4] = ["nanosleep", "nsleep", "restart_syscall", "do_syscall_64"];
    if function.contains("futex") {
        Some(libc::SYS_futex)
    } else if function.contains("poll") {
        Some(libc::SYS_poll)
    } else if SLEEPS.iter().any(|part| function.contains(part)) {
        Some(if is_clock(first) {
            libc::SYS_clock_nanosleep
        } else {
            libc::SYS_nanosleep
        })
    } else {
        None
    }
}

/// A clock, not an address. Those of processes have negative numbers, of which some callers extend the
/// sign and some do not.
fn is_clock(value: u64) -> bool {
    value < 4096 || value >> 47 != 0 || value >> 28 == 0xf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_that_waits_tells_the_call() {
        let pointer = 0x7ffd_ffc2_c730;
        for (function, first, number) in [
            ("do_poll.constprop.0", pointer, libc::SYS_poll),
            ("poll_schedule_timeout", pointer, libc::SYS_poll),
            ("futex_do_wait", pointer, libc::SYS_futex),
            ("hrtimer_nanosleep", pointer, libc::SYS_nanosleep),
            ("do_syscall_64", pointer, libc::SYS_nanosleep),
            ("hrtimer_nanosleep", 1, libc::SYS_clock_nanosleep),
            ("do_cpu_nanosleep", u64::MAX - 5, libc::SYS_clock_nanosleep),
            ("do_cpu_nanosleep", 0xffff_fffa, libc::SYS_clock_nanosleep),
        ] {
            assert_eq!(restarted(function, first), Some(number), "{function}");
        }
        assert_eq!(restarted("ptrace_stop", pointer), None);
    }
}
