//! sched_setattr(2), sched_getattr(2), setpriority(2).
#![expect(unsafe_code, reason = "the C library has no function for them")]

use nix::errno::Errno;

/// `struct sched_attr`, first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SIZE: u32 = size_of::<Attributes>() as u32;

/// The slice in ns of a thread that has not chosen one (Linux 6.12); `None` on older kernels. A thread is
/// made for that, which takes back what ours may have chosen.
pub fn usual_slice() -> Option<u64> {
    let found = std::thread::spawn(|| {
        set(&Attributes {
            size: SIZE,
            ..Attributes::default()
        })
        .and_then(|()| get())
    });
    let slice = found.join().ok()?.ok()?.runtime;
    Some(slice).filter(|slice| *slice != 0)
}

/// Lets the calling thread, and those that it starts, stand back behind whoever else wants a processor: it
/// becomes 10 steps nicer than usual (setpriority(2); on Linux that is of one thread).
///
/// # Errors
/// EACCES when it was nicer before.
pub fn stand_back() -> nix::Result<()> {
    // SAFETY: it takes numbers only; 0 is the calling thread.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
    Errno::result(result).map(drop)
}

fn set(attributes: &Attributes) -> nix::Result<()> {
    let place: *const Attributes = attributes;
    // SAFETY: `place` points to attributes of the size that they tell, for the length of the call; 0
    // is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, place, 0) };
    Errno::result(result).map(drop)
}

fn get() -> nix::Result<Attributes> {
    let mut attributes = Attributes::default();
    let place: *mut Attributes = &raw mut attributes;
    // SAFETY: `place` points to room of SIZE bytes for the length of the call; any bytes are valid
    // attributes.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, place, SIZE, 0) };
    Errno::result(result)?;
    Ok(attributes)
}
