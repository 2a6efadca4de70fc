//! The robust futex list of a thread (get_robust_list(2)).
#![expect(unsafe_code, reason = "get_robust_list(2) has no safe interface")]

use nix::errno::Errno;

use crate::units::{Pid, Vaddr};

/// Head address and length of the list that `tid` registered, (0, 24) when it registered none.
///
/// # Errors
/// EPERM without the right to trace the thread, ESRCH when it is gone.
pub fn robust_list(tid: Pid) -> nix::Result<(Vaddr, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes one word to each of `head` and `len`, which outlive the call.
    let got = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid.as_raw(),
            &raw mut head,
            &raw mut len,
        )
    };
    Errno::result(got).map(|_| (head, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_list_is_the_one_that_the_c_library_registered() {
        let (head, len) = robust_list(nix::unistd::gettid()).unwrap();
        assert!(head != 0 && len == 24, "{head:x} {len}");
    }

    #[test]
    fn a_thread_that_does_not_exist_is_esrch() {
        assert_eq!(robust_list(Pid::from_raw(i32::MAX)), Err(Errno::ESRCH));
    }
}
