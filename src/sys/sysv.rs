//! Objects of System V IPC (sysvipc(7)): segments of shared memory.
#![expect(unsafe_code, reason = "calls without a safe wrapper")]

use std::mem::MaybeUninit;
use std::ptr;

use nix::errno::Errno;

/// A segment attached to this process for reading; nobody reads through it: it is for
/// `/proc/self/map_files`. Detached on drop.
#[derive(Debug)]
pub struct Attached(*mut libc::c_void);

impl Attached {
    /// Attaches the segment `id` (shmat(2)).
    ///
    /// # Errors
    /// `EINVAL` or `EIDRM` when there is none, `EACCES` when its permissions are in the way.
    pub fn new(id: i32) -> nix::Result<Self> {
        // SAFETY: at an address that the kernel chooses, no memory of ours is touched.
        let at = unsafe { libc::shmat(id, ptr::null(), libc::SHM_RDONLY) };
        if at.addr() == usize::MAX {
            return Err(Errno::last());
        }
        Ok(Self(at))
    }

    /// Where.
    pub fn address(&self) -> u64 {
        self.0.addr() as u64
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // SAFETY: attached there by `new`, and nothing refers to it.
        let _detached = unsafe { libc::shmdt(self.0) };
    }
}

/// Marks a segment for removal: it goes when nobody has it attached (shmctl(2), IPC_RMID).
///
/// # Errors
/// `EINVAL` or `EIDRM` when there is none, `EPERM` when it belongs to somebody else.
pub fn remove_segment(id: i32) -> nix::Result<()> {
    // SAFETY: this command takes no pointer.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// Keeps the pages of a segment in memory (shmctl(2), SHM_LOCK).
///
/// # Errors
/// As [`remove_segment`]; `ENOMEM` above the limit on locked memory.
pub fn lock_segment(id: i32) -> nix::Result<()> {
    // SAFETY: this command takes no pointer.
    Errno::result(unsafe { libc::shmctl(id, libc::SHM_LOCK, ptr::null_mut()) }).map(drop)
}

/// Changes owner and permissions (the lowest nine bits of `mode`) of a segment (shmctl(2), IPC_SET).
///
/// # Errors
/// As [`remove_segment`].
pub fn set_segment(id: i32, uid: u32, gid: u32, mode: u32) -> nix::Result<()> {
    let mut state = MaybeUninit::<libc::shmid_ds>::zeroed();
    // SAFETY: the kernel fills the structure, which outlives the call.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_STAT, state.as_mut_ptr()) })?;
    // SAFETY: it holds numbers only, of which zeros are a value too.
    let mut state = unsafe { state.assume_init() };
    state.shm_perm.uid = uid;
    state.shm_perm.gid = gid;
    state.shm_perm.mode = mode as _;
    // SAFETY: the kernel reads the structure, which outlives the call.
    Errno::result(unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut state) }).map(drop)
}
