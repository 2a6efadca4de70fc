//! Objects of System V IPC (sysvipc(7)): segments of shared memory, sets of semaphores, message queues.
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

/// The values of all semaphores of a set that has `count` of them (semctl(2), GETALL).
///
/// # Errors
/// `EINVAL` or `EIDRM` when there is none, `EACCES` when its permissions are in the way.
pub fn semaphore_values(id: i32, count: usize) -> nix::Result<Vec<u16>> {
    // Their number is for ever; but should another set have got the id by now, there is room for any.
    const MOST: usize = 1 << 16;
    let mut values = vec![0u16; count.max(MOST)];
    // SAFETY: the buffer holds a value for each semaphore.
    Errno::result(unsafe { libc::semctl(id, 0, libc::GETALL, values.as_mut_ptr()) })?;
    values.truncate(count);
    Ok(values)
}

/// The process that changed semaphore `index` of a set last, 0 for none (semctl(2), GETPID).
///
/// # Errors
/// As [`semaphore_values`].
pub fn semaphore_pid(id: i32, index: i32) -> nix::Result<u32> {
    // SAFETY: this command takes no pointer.
    let pid = Errno::result(unsafe { libc::semctl(id, index, libc::GETPID) })?;
    Ok(pid.cast_unsigned())
}

/// Removes a set of semaphores (semctl(2), IPC_RMID).
///
/// # Errors
/// As [`remove_segment`].
pub fn remove_semaphores(id: i32) -> nix::Result<()> {
    // SAFETY: this command takes no pointer.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_RMID) }).map(drop)
}

/// Changes owner and permissions of a set of semaphores (semctl(2), IPC_SET).
///
/// # Errors
/// As [`remove_segment`].
pub fn set_semaphores(id: i32, uid: u32, gid: u32, mode: u32) -> nix::Result<()> {
    let mut state = MaybeUninit::<libc::semid_ds>::zeroed();
    // SAFETY: numbers only, of which zeros are a value; the kernel reads owner and mode alone.
    let state = unsafe { state.assume_init_mut() };
    state.sem_perm.uid = uid;
    state.sem_perm.gid = gid;
    state.sem_perm.mode = mode as _;
    // SAFETY: the kernel reads the structure, which outlives the call.
    Errno::result(unsafe { libc::semctl(id, 0, libc::IPC_SET, ptr::from_mut(state)) }).map(drop)
}

/// How many bytes a message queue holds at most (msgctl(2), IPC_STAT).
///
/// # Errors
/// As [`semaphore_values`].
pub fn queue_capacity(id: i32) -> nix::Result<u64> {
    let mut state = MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: the kernel fills the structure, which outlives the call.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_STAT, state.as_mut_ptr()) })?;
    // SAFETY: it holds numbers only, of which zeros are a value too.
    Ok(unsafe { state.assume_init() }.msg_qbytes)
}

/// Changes owner, permissions and capacity of a message queue (msgctl(2), IPC_SET).
///
/// # Errors
/// As [`remove_segment`]; `EPERM` for more than `/proc/sys/kernel/msgmnb` without CAP_SYS_RESOURCE.
pub fn set_queue(id: i32, uid: u32, gid: u32, mode: u32, capacity: u64) -> nix::Result<()> {
    let mut state = MaybeUninit::<libc::msqid_ds>::zeroed();
    // SAFETY: numbers only, of which zeros are a value; the kernel reads these four alone.
    let state = unsafe { state.assume_init_mut() };
    state.msg_perm.uid = uid;
    state.msg_perm.gid = gid;
    state.msg_perm.mode = mode as _;
    state.msg_qbytes = capacity;
    // SAFETY: the kernel reads the structure, which outlives the call.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_SET, ptr::from_mut(state)) }).map(drop)
}

/// Removes a message queue (msgctl(2), IPC_RMID).
///
/// # Errors
/// As [`remove_segment`].
pub fn remove_queue(id: i32) -> nix::Result<()> {
    // SAFETY: this command takes no pointer.
    Errno::result(unsafe { libc::msgctl(id, libc::IPC_RMID, ptr::null_mut()) }).map(drop)
}

/// Which message of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The one with this number, which stays there (MSG_COPY).
    Copy(i64),
    /// The first, which is taken out.
    Take,
}

/// A message of a queue, of at most `limit` bytes: its type and its text (msgrcv(2)).
///
/// # Errors
/// `ENOMSG` when there is none (any more), `E2BIG` when it is longer.
pub fn receive(id: i32, which: Message, limit: usize) -> nix::Result<(i64, Vec<u8>)> {
    const WORD: usize = size_of::<i64>();
    let mut buffer = vec![0u8; WORD + limit];
    let (kind, flags) = match which {
        Message::Copy(index) => (index, libc::IPC_NOWAIT | libc::MSG_COPY),
        Message::Take => (0, libc::IPC_NOWAIT),
    };
    // SAFETY: the buffer has room for the type and `limit` bytes; it need not be aligned for the kernel.
    let got = unsafe { libc::msgrcv(id, buffer.as_mut_ptr().cast(), limit, kind, flags) };
    let got = usize::try_from(Errno::result(got)?).unwrap_or(0);
    let text = buffer[WORD..WORD + got].to_vec();
    let kind = buffer.first_chunk().copied().unwrap_or_default();
    Ok((i64::from_le_bytes(kind), text))
}
