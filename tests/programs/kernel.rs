//! The system calls that the standard library lacks, safe to use for the other files: memory regions
//! with checked accesses, fork, signals, timers and a few raw calls. Man pages are those of the calls.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper, in one place"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{ForkResult, Pid};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// `-1` as the error that it stands for.
fn checked(result: impl Into<i64>) -> io::Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// A mapping of this process. It stays mapped until [`Region::unmap`].
#[derive(Debug)]
pub struct Region {
    addr: usize,
    len: usize,
}

impl Region {
    /// mmap(2).
    pub fn map(
        pages: usize,
        prot: i32,
        flags: i32,
        file: Option<(&File, i64)>,
        at: Option<usize>,
    ) -> io::Result<Self> {
        let len = pages * PAGE;
        let (fd, offset, flags) = match file {
            Some((file, offset)) => (file.as_raw_fd(), offset, flags),
            None => (-1, 0, flags | libc::MAP_ANONYMOUS),
        };
        let flags = flags | at.map_or(0, |_| libc::MAP_FIXED_NOREPLACE);
        let hint = ptr::with_exposed_provenance_mut(at.unwrap_or(0));
        // SAFETY: without MAP_FIXED the kernel chooses unused addresses.
        let addr = unsafe { libc::mmap(hint, len, prot, flags, fd, offset) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            addr: addr.expose_provenance(),
            len,
        })
    }

    /// What a system call has mapped.
    pub fn at(addr: u64, pages: usize) -> Self {
        Self {
            addr: usize::try_from(addr).unwrap(),
            len: pages * PAGE,
        }
    }

    /// Private anonymous memory, readable and writable.
    pub fn private(pages: usize) -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Self::map(pages, prot, libc::MAP_PRIVATE, None, None).unwrap()
    }

    /// Its first address.
    pub fn addr(&self) -> usize {
        self.addr
    }

    /// Its pages.
    pub fn pages(&self) -> usize {
        self.len / PAGE
    }

    /// `pages` pages of it, counted from page `first`.
    pub fn part(&self, first: usize, pages: usize) -> Self {
        assert!((first + pages) * PAGE <= self.len);
        Self {
            addr: self.addr + first * PAGE,
            len: pages * PAGE,
        }
    }

    /// The region with `pages` more below it, into which a growing stack may grow.
    pub fn with_below(&self, pages: usize) -> Self {
        Self {
            addr: self.addr - pages * PAGE,
            len: self.len + pages * PAGE,
        }
    }

    fn pointer(&self, word: usize) -> *mut u64 {
        assert!((word + 1) * 8 <= self.len, "word {word} is out of bounds");
        ptr::with_exposed_provenance_mut(self.addr + word * 8)
    }

    /// The 8 bytes at word `index`.
    pub fn word(&self, index: usize) -> u64 {
        let at = self.pointer(index);
        // SAFETY: inside the mapping; plain memory; aligned.
        unsafe { at.read_volatile() }
    }

    /// Sets the 8 bytes at word `index`.
    pub fn set_word(&self, index: usize, value: u64) {
        let at = self.pointer(index);
        // SAFETY: as above, and no Rust object lives there.
        unsafe { at.write_volatile(value) }
    }

    /// mprotect(2).
    pub fn protect(&self, prot: i32) {
        let addr = ptr::with_exposed_provenance_mut(self.addr);
        // SAFETY: no Rust object lives in the region.
        checked(unsafe { libc::mprotect(addr, self.len, prot) }).unwrap();
    }

    /// madvise(2).
    pub fn advise(&self, advice: i32) -> io::Result<()> {
        let addr = ptr::with_exposed_provenance_mut(self.addr);
        // SAFETY: no Rust object lives in the region.
        checked(unsafe { libc::madvise(addr, self.len, advice) }).map(drop)
    }

    /// mlock(2).
    pub fn lock(&self) -> io::Result<()> {
        let addr = ptr::with_exposed_provenance::<libc::c_void>(self.addr);
        // SAFETY: changes no contents.
        checked(unsafe { libc::mlock(addr, self.len) }).map(drop)
    }

    /// mremap(2) to another size, and another place if need be (`elsewhere`: in any case).
    pub fn remap(&mut self, pages: usize, elsewhere: bool) -> io::Result<()> {
        let len = pages * PAGE;
        let old = ptr::with_exposed_provenance_mut(self.addr);
        let mut flags = libc::MREMAP_MAYMOVE;
        let mut target = ptr::null_mut::<libc::c_void>();
        if elsewhere {
            // Reserved so that the place is free; replaced by the move.
            let prot = libc::PROT_NONE;
            target = ptr::with_exposed_provenance_mut(
                Self::map(pages, prot, libc::MAP_PRIVATE, None, None)?.addr,
            );
            flags |= libc::MREMAP_FIXED;
        }
        // SAFETY: no Rust object lives in the old region or at the target.
        let addr = unsafe { libc::mremap(old, self.len, len, flags, target) };
        if addr == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        *self = Self {
            addr: addr.expose_provenance(),
            len,
        };
        Ok(())
    }

    /// munmap(2).
    pub fn unmap(self) {
        let addr = ptr::with_exposed_provenance_mut(self.addr);
        // SAFETY: no Rust object lives in the region.
        checked(unsafe { libc::munmap(addr, self.len) }).unwrap();
    }

    /// Puts a function there that returns `value`.
    pub fn set_function(&self, value: u32) {
        // mov eax, value; ret
        let [a, b, c, d] = value.to_le_bytes();
        self.set_word(0, u64::from_le_bytes([0xb8, a, b, c, d, 0xc3, 0, 0]));
    }

    /// Calls the function that [`Region::set_function`] put there.
    pub fn call(&self) -> u32 {
        let code = ptr::with_exposed_provenance::<()>(self.addr);
        // SAFETY: set_function put a whole function of this type there.
        let function: extern "C" fn() -> u32 = unsafe { std::mem::transmute(code) };
        function()
    }
}

/// fork(2): runs `run` in a child, which must not return from it.
pub fn child(run: impl FnOnce()) -> Pid {
    // SAFETY: called while the process has one thread.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            run();
            exit(0)
        }
    }
}

/// The same, with these flags and the signal at its end (clone(2)).
pub fn child_with(flags: i32, run: impl FnOnce()) -> Pid {
    let flags = flags.unsigned_abs().into();
    match call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]).unwrap() {
        0 => {
            run();
            exit(0)
        }
        child => Pid::from_raw(i32::try_from(child).unwrap()),
    }
}

/// Ends this process without running anything else.
pub fn exit(code: i32) -> ! {
    // SAFETY: no state of this process matters any more.
    unsafe { libc::_exit(code) }
}

/// Does nothing any more.
pub fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: has no memory effects.
        unsafe { libc::pause() };
    }
}

/// There is such a child.
pub static CHILD: AtomicBool = AtomicBool::new(false);

/// Waits, as in vfork(2), for a child that shares the memory of its parent and ends when `end` is set.
pub fn wait_for_vm_child(end: &'static AtomicBool) {
    extern "C" fn run(end: *mut libc::c_void) -> i32 {
        CHILD.store(true, Ordering::SeqCst);
        let end: *mut AtomicBool = end.cast();
        // SAFETY: it is a static; the child shares the memory.
        while !unsafe { &*end }.load(Ordering::SeqCst) {
            // SAFETY: has no memory effects.
            unsafe { libc::usleep(1000) };
        }
        0
    }
    let stack = Region::private(16);
    let top = ptr::with_exposed_provenance_mut(stack.addr + stack.len);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let end = ptr::from_ref(end).cast_mut().cast();
    // SAFETY: the child uses its own stack, which is never unmapped, and touches nothing else.
    checked(unsafe { libc::clone(run, top, flags, end) }).unwrap();
}

/// A child that shares the memory of its parent and sleeps for ever, as after vfork(2); with other flags of
/// clone(2), too.
pub fn vm_child(flags: i32) {
    extern "C" fn sleep(_: *mut libc::c_void) -> i32 {
        loop {
            // SAFETY: has no memory effects.
            unsafe { libc::pause() };
        }
    }
    let stack = Region::private(16);
    let top = ptr::with_exposed_provenance_mut(stack.addr + stack.len);
    let flags = flags | libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the child uses its own stack, which is never unmapped, and touches nothing else.
    checked(unsafe { libc::clone(sleep, top, flags, ptr::null_mut()) }).unwrap();
}

/// Ends this thread only, whichever it is.
pub fn end_thread() -> ! {
    // SAFETY: nothing of this thread is used by others.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    std::process::abort()
}

/// A raw system call.
pub fn call(number: i64, args: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: callers pass numbers, or addresses of memory that outlives the call and has the size
    // that the call expects.
    checked(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// futex(2), with its number in the instruction before the call, as compiled code usually has it:
/// where a call has been interrupted more than once, that is the only trace of what it is.
pub fn futex(word: u64, operation: u64, value: u64, timeout: &[u64; 2]) -> io::Result<()> {
    let timeout = ptr::from_ref(timeout).expose_provenance();
    let result: i64;
    // SAFETY: the addresses are of memory that outlives the call; the kernel changes rcx and r11.
    unsafe {
        std::arch::asm!(
            "mov eax, {number}",
            "syscall",
            number = const libc::SYS_futex,
            in("rdi") word,
            in("rsi") operation,
            in("rdx") value,
            in("r10") timeout,
            out("rax") result,
            out("rcx") _,
            out("r11") _,
        );
    }
    if result < 0 {
        let errno = i32::try_from(-result).unwrap();
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(())
}

/// nanosleep(2), once.
pub fn nanosleep(time: std::time::Duration) -> io::Result<()> {
    let time = timespec(time);
    // SAFETY: reads one structure.
    checked(unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) }).map(drop)
}

/// clock_nanosleep(2) on the monotonic clock until a time from now.
pub fn sleep_until(time: std::time::Duration) -> io::Result<()> {
    let clock = libc::CLOCK_MONOTONIC;
    let mut now = timespec(std::time::Duration::ZERO);
    // SAFETY: writes one structure.
    checked(unsafe { libc::clock_gettime(clock, &raw mut now) })?;
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap();
    let since = std::time::Duration::from_secs(u64::try_from(now.tv_sec).unwrap());
    let until = timespec(since + std::time::Duration::from_nanos(nanoseconds) + time);
    let flags = libc::TIMER_ABSTIME;
    // SAFETY: reads one structure.
    match unsafe { libc::clock_nanosleep(clock, flags, &raw const until, ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// select(2) on nothing.
pub fn select(time: std::time::Duration) -> io::Result<()> {
    let mut time = libc::timeval {
        tv_sec: i64::try_from(time.as_secs()).unwrap(),
        tv_usec: time.subsec_micros().into(),
    };
    let none = ptr::null_mut();
    // SAFETY: reads and writes one structure.
    checked(unsafe { libc::select(0, none, none, none, &raw mut time) }).map(drop)
}

/// poll(2) on nothing.
pub fn poll(milliseconds: i32) -> io::Result<()> {
    // SAFETY: there are no descriptors.
    checked(unsafe { libc::poll(ptr::null_mut(), 0, milliseconds) }).map(drop)
}

fn timespec(time: std::time::Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap(),
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// A raw system call with one structure that the kernel may read and write.
pub fn call_with<T>(number: i64, before: &[u64], value: &mut T, after: &[u64]) -> io::Result<i64> {
    let mut args = [0; 6];
    let address = ptr::from_mut(value).expose_provenance() as u64;
    let all = before.iter().chain([&address]).chain(after);
    for (slot, arg) in args.iter_mut().zip(all) {
        *slot = *arg;
    }
    call(number, args)
}

/// A descriptor that a raw system call returned.
pub fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just made it for us.
    unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) }
}

/// The action of a signal, as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Action {
    /// Handler, or `SIG_DFL` (0), `SIG_IGN` (1).
    pub handler: usize,
    /// `SA_*`.
    pub flags: u64,
    /// Address of the code that returns from the handler.
    pub restorer: usize,
    /// Signals blocked while it runs.
    pub mask: u64,
}

/// A handler that takes the value of a queued signal.
pub type Handler = extern "C" fn(i32, *const libc::siginfo_t, *const libc::c_void);

/// The number and value that a handler was called with.
pub fn value_of(info: *const libc::siginfo_t) -> i32 {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: such signals carry a value.
    let value = unsafe { info.si_value() };
    i32::try_from(value.sival_ptr.addr() & 0x7fff_ffff).unwrap_or(-1)
}

/// rt_sigaction(2): reads the action.
pub fn action(signal: i32) -> Action {
    let mut action = Action::default();
    let signal = u64::try_from(signal).unwrap();
    call_with(libc::SYS_rt_sigaction, &[signal, 0], &mut action, &[8]).unwrap();
    action
}

/// sigaction(3): sets a handler, with `SA_SIGINFO`.
pub fn handle(signal: i32, handler: Handler, flags: i32, mask: &[i32]) {
    // SAFETY: all zeros is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags | libc::SA_SIGINFO;
    for signal in mask {
        // SAFETY: a valid set.
        checked(unsafe { libc::sigaddset(&raw mut action.sa_mask, *signal) }).unwrap();
    }
    // SAFETY: the handlers of this program only touch atomics.
    checked(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) }).unwrap();
}

/// signal(2) with `SIG_IGN`.
pub fn ignore(signal: i32) {
    // SAFETY: no handler is involved.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// rt_sigprocmask(2): sets the mask of this thread; `None` only reads. Returns the previous one.
pub fn mask(new: Option<u64>) -> u64 {
    let mut old = 0u64;
    let new_value = new.unwrap_or(0);
    let address = new.map_or(0, |_| (&raw const new_value).expose_provenance() as u64);
    let how = u64::try_from(libc::SIG_SETMASK).unwrap();
    call_with(libc::SYS_rt_sigprocmask, &[how, address], &mut old, &[8]).unwrap();
    old
}

/// rt_sigpending(2).
pub fn pending() -> u64 {
    let mut set = 0u64;
    call_with(libc::SYS_rt_sigpending, &[], &mut set, &[8]).unwrap();
    set
}

/// Bit of a signal in a mask.
pub fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// sigqueue(3) to this process.
pub fn queue(signal: i32, value: usize) {
    queue_to(Pid::this().as_raw(), signal, value);
}

/// sigqueue(3) to a process.
pub fn queue_to(pid: i32, signal: i32, value: usize) {
    let value = libc::sigval {
        sival_ptr: ptr::without_provenance_mut(value),
    };
    // SAFETY: only numbers are passed.
    checked(unsafe { libc::sigqueue(pid, signal, value) }).unwrap();
}

/// tgkill(2) to this thread.
pub fn raise(signal: i32) {
    let (pid, tid) = (std::process::id(), nix::unistd::gettid().as_raw());
    let args = [
        u64::from(pid),
        tid.unsigned_abs().into(),
        signal.unsigned_abs().into(),
        0,
        0,
        0,
    ];
    call(libc::SYS_tgkill, args).unwrap();
}

/// sigaltstack(2): base, flags, size.
pub fn altstack(new: Option<(usize, usize)>) -> (usize, i32, usize) {
    let mut stack = libc::stack_t {
        ss_sp: ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    if let Some((base, size)) = new {
        stack.ss_sp = ptr::with_exposed_provenance_mut(base);
        stack.ss_size = size;
        // SAFETY: the memory stays mapped for the life of this program.
        checked(unsafe { libc::sigaltstack(&raw const stack, ptr::null_mut()) }).unwrap();
    }
    // SAFETY: only reads the present one.
    checked(unsafe { libc::sigaltstack(ptr::null(), &raw mut stack) }).unwrap();
    (stack.ss_sp.addr(), stack.ss_flags, stack.ss_size)
}

/// Interval and time left of a timer, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// 0: fires once.
    pub interval: u64,
    /// 0: not armed.
    pub value: u64,
}

/// setitimer(2).
pub fn set_itimer(which: u64, seconds: [u64; 2]) {
    let mut value = [seconds[0], 0, seconds[1], 0];
    call_with(libc::SYS_setitimer, &[which], &mut value, &[0]).unwrap();
}

/// getitimer(2).
pub fn itimer(which: u64) -> Left {
    let mut value = [0u64; 4];
    call_with(libc::SYS_getitimer, &[which], &mut value, &[]).unwrap();
    Left {
        interval: value[0] * 1_000_000_000 + value[1] * 1000,
        value: value[2] * 1_000_000_000 + value[3] * 1000,
    }
}

/// timer_create(2). `notify` is `SIGEV_*`; with `SIGEV_THREAD_ID` it goes to this thread.
pub fn timer(clock: i32, notify: i32, signal: i32, value: u64) -> u64 {
    #[repr(C)]
    struct Event {
        value: u64,
        signal: i32,
        notify: i32,
        tid: i32,
        rest: [i32; 11],
    }
    let tid = nix::unistd::gettid().as_raw();
    let event = Event {
        value,
        signal,
        notify,
        tid,
        rest: [0; 11],
    };
    let address = (&raw const event).expose_provenance() as u64;
    let mut id = 0u32;
    let clock = clock.unsigned_abs().into();
    call_with(libc::SYS_timer_create, &[clock, address], &mut id, &[]).unwrap();
    id.into()
}

/// timer_settime(2), relative, in nanoseconds.
pub fn set_timer(id: u64, left: Left) {
    let split = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
    let [a, b] = split(left.interval);
    let [c, d] = split(left.value);
    let mut value = [a, b, c, d];
    call_with(libc::SYS_timer_settime, &[id, 0], &mut value, &[0]).unwrap();
}

/// timer_gettime(2).
pub fn timer_left(id: u64) -> io::Result<Left> {
    let mut value = [0u64; 4];
    call_with(libc::SYS_timer_gettime, &[id], &mut value, &[])?;
    Ok(Left {
        interval: value[0] * 1_000_000_000 + value[1],
        value: value[2] * 1_000_000_000 + value[3],
    })
}

/// timer_delete(2).
pub fn delete_timer(id: u64) {
    call(libc::SYS_timer_delete, [id, 0, 0, 0, 0, 0]).unwrap();
}

/// prctl(2) with numbers only.
pub fn prctl(option: i32, args: [u64; 4]) -> io::Result<i64> {
    let [a, b, c, d] = args;
    call(
        libc::SYS_prctl,
        [option.unsigned_abs().into(), a, b, c, d, 0],
    )
}

/// FIONREAD of ioctl_tty(2): bytes in a pipe.
pub fn unread(fd: &impl std::os::fd::AsRawFd) -> usize {
    let mut bytes = 0i32;
    // SAFETY: the call writes one int.
    checked(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut bytes) }).unwrap();
    usize::try_from(bytes).unwrap()
}

/// A semaphore of sem_overview(7) with a name; it stays open.
#[derive(Debug)]
pub struct Semaphore(*mut libc::sem_t);

impl Semaphore {
    /// sem_open(3): a new one.
    pub fn open(name: &str, value: u32) -> Self {
        let name = std::ffi::CString::new(name).unwrap();
        let flags = libc::O_CREAT | libc::O_EXCL;
        // SAFETY: the name is a string that outlives the call; mode and value follow O_CREAT.
        let made = unsafe { libc::sem_open(name.as_ptr(), flags, 0o600, value) };
        assert!(made != libc::SEM_FAILED, "{}", io::Error::last_os_error());
        Self(made)
    }

    /// sem_getvalue(3).
    pub fn value(&self) -> u64 {
        let mut value = 0;
        // SAFETY: open for ever.
        checked(unsafe { libc::sem_getvalue(self.0, &raw mut value) }).unwrap();
        value.unsigned_abs().into()
    }

    /// sem_post(3).
    pub fn post(&self) {
        // SAFETY: open for ever.
        checked(unsafe { libc::sem_post(self.0) }).unwrap();
    }

    /// sem_wait(3).
    pub fn wait(&self) {
        // SAFETY: open for ever.
        checked(unsafe { libc::sem_wait(self.0) }).unwrap();
    }
}

/// shm_open(3): a new file of shared memory.
pub fn open_shared(name: &str) -> File {
    let name = std::ffi::CString::new(name).unwrap();
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
    // SAFETY: the name is a string that outlives the call.
    let fd = checked(unsafe { libc::shm_open(name.as_ptr(), flags, 0o600) }).unwrap();
    owned(fd).into()
}
