//! What prctl(2) can do here, asked without changing anything.
#![expect(unsafe_code, reason = "prctl(2) has no safe interface for these")]

use nix::errno::Errno;

/// Bytes of `struct prctl_mm_map`, by which a process gets back its layout (PR_SET_MM_MAP_SIZE).
///
/// # Errors
/// EINVAL on a kernel without CONFIG_CHECKPOINT_RESTORE.
pub fn mm_map_size() -> nix::Result<u32> {
    const PR_SET_MM_MAP_SIZE: libc::c_ulong = 15;
    let mut size = 0_u32;
    let zero: libc::c_ulong = 0;
    // SAFETY: the kernel writes one unsigned int to `size`, which outlives the call.
    let got = unsafe {
        libc::prctl(
            libc::PR_SET_MM,
            PR_SET_MM_MAP_SIZE,
            &raw mut size,
            zero,
            zero,
        )
    };
    Errno::result(got).map(|_| size)
}

/// Whether this process now chooses the ids of its new POSIX timers (PR_TIMER_CREATE_RESTORE_IDS_GET,
/// Linux 6.16).
///
/// # Errors
/// EINVAL on older kernels.
pub fn chooses_timer_ids() -> nix::Result<bool> {
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const GET: libc::c_ulong = 2;
    let zero: libc::c_ulong = 0;
    // SAFETY: numbers only.
    let got = unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, zero, zero, zero) };
    Errno::result(got).map(|on| on == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_has_the_size_that_restore_fills() {
        // A kernel without it says EINVAL, and doctor says so.
        assert!(matches!(mm_map_size(), Ok(104) | Err(Errno::EINVAL)));
    }

    #[test]
    fn asking_for_timer_ids_changes_nothing() {
        assert!(matches!(
            chooses_timer_ids(),
            Ok(false) | Err(Errno::EINVAL)
        ));
    }
}
