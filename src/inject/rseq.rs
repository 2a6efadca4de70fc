//! Restartable sequences (rseq(2), `linux/rseq.h`): a thread stopped inside one must take its abort
//! path, because the kernel forgets the sequence as soon as it runs anything else.

use crate::arch::Regs;
use crate::sys::ptrace;
use crate::sys::vm::Memory;
use crate::units::{Pid, Vaddr};

/// Offset of `rseq_cs` in `struct rseq`.
const RSEQ_CS: Vaddr = 8;

/// Moves the instruction pointer of the stopped thread to the abort handler when it stands inside a
/// restartable sequence; what the kernel does at any preemption there.
pub fn abort_sequence(tid: Pid, memory: &Memory, regs: &mut Regs) {
    let Ok(Some(area)) = ptrace::rseq_configuration(tid) else {
        return;
    };
    let Some(cs) = word(memory, area.ptr + RSEQ_CS).filter(|cs| *cs != 0) else {
        return;
    };
    // struct rseq_cs { u32 version, flags; u64 start_ip, post_commit_offset, abort_ip }
    let (Some(start), Some(len), Some(abort)) = (
        word(memory, cs + 8),
        word(memory, cs + 16),
        word(memory, cs + 24),
    ) else {
        return;
    };
    if regs.rip.wrapping_sub(start) < len {
        regs.rip = abort;
    }
}

fn word(memory: &Memory, at: Vaddr) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(at, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
