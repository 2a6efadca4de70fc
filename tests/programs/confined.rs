//! Threads and a child with seccomp filters: one that all have, another one of a thread, a third one of
//! a child. Each filter answers one call with an error of its own; the first one ends a process that
//! asks for its I/O priority, which a dump does.

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, child, prctl};

const SECCOMP_SET_MODE_FILTER: u64 = 1;
const SECCOMP_FILTER_FLAG_LOG: u64 = 2;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
/// Calls that nobody needs, each with the error that a filter makes of it.
const CALLS: [(i64, i32); 3] = [
    (libc::SYS_uselib, 81),
    (libc::SYS_ustat, 82),
    (libc::SYS_sysfs, 83),
];

/// The number of filters that hold here.
struct Confined(usize);

/// Builds it and serves. Argument `plain`: with the right to do without no_new_privs. Desks: `main`,
/// `thread`, `child`.
pub fn run(mut desk: Desk, args: &[String]) {
    if !args.iter().any(|arg| arg == "plain") {
        prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
    }
    answer(libc::SYS_ioprio_get, KILL_PROCESS, 0);
    let confine = |n: usize| {
        let (number, errno) = CALLS[n];
        answer(
            number,
            ERRNO | errno.cast_unsigned(),
            SECCOMP_FILTER_FLAG_LOG * (n as u64 % 2),
        );
    };
    confine(0);
    child(|| {
        confine(1);
        confine(2);
        desk.beside("child").serve(&mut Confined(3));
    });
    let mut beside = desk.beside("thread");
    std::thread::spawn(move || {
        confine(1);
        beside.serve(&mut Confined(2));
    });
    desk.wait_for("child");
    desk.wait_for("thread");
    desk.serve(&mut Confined(1));
}

/// A filter with one answer to one call, for this thread and what it makes.
fn answer(number: i64, action: u32, flags: u64) {
    let instruction = |code: u16, jt: u8, jf: u8, k: u32| {
        u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32
    };
    let program = [
        // The number of the call; the action if it is that one; SECCOMP_RET_ALLOW.
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, u32::try_from(number).unwrap()),
        instruction(0x06, 0, 0, action),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ];
    let header = [4u64, (&raw const program).expose_provenance() as u64];
    let header = (&raw const header).expose_provenance() as u64;
    let args = [SECCOMP_SET_MODE_FILTER, flags, header, 0, 0, 0];
    call(libc::SYS_seccomp, args).unwrap();
}

impl Program for Confined {
    fn check(&mut self) -> Answer {
        for (n, (number, errno)) in CALLS.into_iter().enumerate() {
            // With such arguments they fail in any case.
            let is = call(number, [u64::MAX; 6]).map_err(|e| e.raw_os_error());
            let answered = is == Err(Some(errno));
            same(
                &format!("call {number} is answered"),
                &answered,
                &(n < self.0),
            )?;
        }
        let killed = child(|| {
            let _ends = call(libc::SYS_ioprio_get, [1, 0, 0, 0, 0, 0]);
        });
        let end = waitpid(killed, None);
        let by = matches!(end, Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)));
        same("the forbidden call ends it", &by, &true)?;
        Ok(format!("{} filters", self.0 + 1))
    }
}
