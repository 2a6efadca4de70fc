//! Catches its own system calls when it wants to (syscall user dispatch), as Wine does.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, handle, prctl};

const PR_SET_SYSCALL_USER_DISPATCH: i32 = 59;
const PR_SYS_DISPATCH_ON: u64 = 1;
/// Values of the selector.
const ALLOW: u8 = 0;
const BLOCK: u8 = 1;

static SELECTOR: AtomicU8 = AtomicU8::new(ALLOW);
static CAUGHT: AtomicU32 = AtomicU32::new(0);

/// Lets the selector, which allows all calls, decide for this thread from now on.
pub fn begin() -> &'static AtomicU8 {
    let selector: &'static AtomicU8 = &SELECTOR;
    let address = std::ptr::from_ref(selector).expose_provenance() as u64;
    let args = [PR_SYS_DISPATCH_ON, 0, 0, address];
    prctl(PR_SET_SYSCALL_USER_DISPATCH, args).unwrap();
    selector
}

extern "C" fn caught(_: i32, _: *const libc::siginfo_t, _: *const libc::c_void) {
    // The way out of a handler is a system call.
    SELECTOR.store(ALLOW, Ordering::SeqCst);
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

struct Catcher;

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    handle(libc::SIGSYS, caught, 0, &[]);
    begin();
    desk.serve(&mut Catcher);
}

impl Program for Catcher {
    fn check(&mut self) -> Answer {
        let before = CAUGHT.load(Ordering::SeqCst);
        SELECTOR.store(BLOCK, Ordering::SeqCst);
        let _number = call(libc::SYS_getppid, [0; 6]);
        same(
            "calls caught",
            &(CAUGHT.load(Ordering::SeqCst) - before),
            &1,
        )?;
        Ok("1 call".into())
    }
}
