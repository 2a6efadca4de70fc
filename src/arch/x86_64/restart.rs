//! Interrupted system calls: how a stopped thread's registers say that it was inside one, and how
//! it gets back in (x86-64 Linux `arch_do_signal_or_restart`, signal(7)).

use super::Regs;

const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const EINTR: i64 = -4;

/// Bytes of the `syscall` instruction.
const SYSCALL_LEN: u64 = 2;

/// System calls that return a plain EINTR at any ptrace stop (measured; signal(7) lists most). Those of
/// sockets do so where a timeout is set (`SO_RCVTIMEO`, `SO_SNDTIMEO`), read(2) with inotify, too. None has
/// done anything when it says so.
const EINTR_AT_STOP: [i64; 20] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
];

/// System calls that the kernel restarts through a restart block (relative timeouts).
const RESTART_BLOCK: [i64; 4] = [
    libc::SYS_poll,
    libc::SYS_nanosleep,
    libc::SYS_futex,
    libc::SYS_clock_nanosleep,
];

fn in_syscall(regs: &Regs) -> bool {
    regs.orig_rax.cast_signed() >= 0
}

/// Makes a system call that our stop would end with a spurious EINTR restart instead. To be applied
/// to a thread that goes on in its own process.
pub fn hide_stop(regs: &mut Regs) {
    if in_syscall(regs)
        && regs.rax.cast_signed() == EINTR
        && EINTR_AT_STOP.contains(&regs.orig_rax.cast_signed())
    {
        regs.rax = ERESTARTNOHAND.cast_unsigned();
    }
}

/// Registers with which the thread goes on by itself, without the kernel's help at resume: what the
/// kernel would do with `orig_rax` done by hand. The restart block of the thread is still valid.
pub fn by_itself(regs: &Regs) -> Regs {
    let mut out = *regs;
    if in_syscall(regs) {
        match regs.rax.cast_signed() {
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {
                out.rax = regs.orig_rax;
                out.rip -= SYSCALL_LEN;
            }
            ERESTART_RESTARTBLOCK => {
                out.rax = libc::SYS_restart_syscall.cast_unsigned();
                out.rip -= SYSCALL_LEN;
            }
            _ => {}
        }
    }
    out
}

/// Registers for the image: the thread will wake in a new process, which has no restart block, so an
/// interrupted call is issued anew with its original arguments (a relative timeout starts afresh).
/// `original` is asked only when the thread was already inside restart_syscall(2): for the number of
/// the call that is restarted, which the registers do not tell.
pub fn for_image(regs: &Regs, original: impl FnOnce() -> Option<u64>) -> Regs {
    let mut out = *regs;
    if !in_syscall(regs) {
        return out;
    }
    let again = match regs.rax.cast_signed() {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => Some(regs.orig_rax),
        ERESTART_RESTARTBLOCK if regs.orig_rax.cast_signed() != libc::SYS_restart_syscall => {
            Some(regs.orig_rax)
        }
        ERESTART_RESTARTBLOCK => original(),
        _ => return out,
    };
    match again {
        Some(nr) => {
            out.rax = nr;
            out.rip -= SYSCALL_LEN;
        }
        None => out.rax = EINTR.cast_unsigned(),
    }
    out
}

/// Bytes of code for [`number_loaded`].
pub const CODE_BEFORE: usize = 32;

/// The restartable call whose number `code`, the bytes before a `syscall` instruction, loads last by
/// `mov eax, imm32`.
pub fn number_loaded(code: &[u8]) -> Option<u64> {
    const MOV_EAX: u8 = 0xb8;
    code.windows(5)
        .rev()
        .filter(|w| w[0] == MOV_EAX)
        .map(|w| i64::from(i32::from_le_bytes([w[1], w[2], w[3], w[4]])))
        .find(|nr| RESTART_BLOCK.contains(nr))
        .map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(orig_rax: i64, rax: i64) -> Regs {
        let mut r = blank();
        r.orig_rax = orig_rax.cast_unsigned();
        r.rax = rax.cast_unsigned();
        r.rip = 0x1000;
        r
    }

    fn blank() -> Regs {
        super::super::core::blank_regs()
    }

    #[test]
    fn an_interrupted_call_is_issued_again_from_the_image() {
        let r = for_image(&regs(libc::SYS_read, ERESTARTSYS), || None);
        assert_eq!((r.rax, r.rip), (libc::SYS_read.cast_unsigned(), 0xffe));
        let r = for_image(&regs(libc::SYS_nanosleep, ERESTART_RESTARTBLOCK), || None);
        assert_eq!((r.rax, r.rip), (libc::SYS_nanosleep.cast_unsigned(), 0xffe));
    }

    #[test]
    fn a_restarted_call_finds_its_number_in_the_code() {
        let code = [0x90, 0xb8, 35, 0, 0, 0, 0x0f, 0x05];
        let r = for_image(
            &regs(libc::SYS_restart_syscall, ERESTART_RESTARTBLOCK),
            || number_loaded(&code),
        );
        assert_eq!((r.rax, r.rip), (35, 0xffe));
        let r = for_image(
            &regs(libc::SYS_restart_syscall, ERESTART_RESTARTBLOCK),
            || None,
        );
        assert_eq!(r.rax.cast_signed(), EINTR);
    }

    #[test]
    fn finished_calls_and_user_code_are_left_alone() {
        for r in [regs(libc::SYS_read, 5), regs(-1, ERESTARTSYS)] {
            let image = for_image(&r, || None);
            let own = by_itself(&r);
            assert_eq!((image.rax, image.rip), (r.rax, r.rip));
            assert_eq!((own.rax, own.rip), (r.rax, r.rip));
        }
    }

    #[test]
    fn a_stop_is_hidden_from_calls_that_wait_only() {
        let mut r = regs(libc::SYS_epoll_wait, EINTR);
        hide_stop(&mut r);
        assert_eq!(r.rax.cast_signed(), ERESTARTNOHAND);
        let mut r = regs(libc::SYS_close, EINTR);
        hide_stop(&mut r);
        assert_eq!(r.rax.cast_signed(), EINTR);
    }
}
