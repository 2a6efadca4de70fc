//! The stub: a piece of position-independent code that runs system calls inside a stopped thread and
//! can finish without us.
//!
//! It lives in the zero slack at the end of an executable mapping (never over an instruction), uses
//! no stack and no floating point, and ends every run with a *soft break*: it sends itself a signal
//! that the target ignores. While we trace the thread, that stops it here. If we are dead, the
//! signal is ignored and the stub falls through to its last part: unmap the batch, restore the signal
//! mask and every register from its constants, and jump back to where the thread was. So at no
//! instant is a thread left in a state that it cannot leave by itself.
//!
//! ```text
//!   0    one:    one call from the registers, result to rbx (the batch, once), soft break
//!   16   batch:  rbx = batch {count, index, pad to 64; then {nr, a0..a5, result} × count}
//!        brk:    tgkill(tgid, tid, signal)
//!        final:  munmap(rbx, size); rt_sigprocmask(SIG_SETMASK, &mask); flags; registers; jmp
//!   296  constants of the thread
//! ```

use super::Regs;
use crate::units::{Pid, Vaddr};

/// Offset of the entry that runs the one call in the registers.
pub const ONE: u64 = 0;
/// Offset of the entry that runs the batch at `rbx`.
pub const BATCH: u64 = 16;
/// Offset of the instruction after the soft break, where the thread stops.
pub const BROKEN: u64 = 0x6a;
/// Bytes of code.
const CODE_LEN: usize = 296;
/// Bytes of code and constants.
pub const LEN: usize = CODE_LEN + 160;

#[rustfmt::skip]
const CODE: [u8; CODE_LEN] = [
    0x0f, 0x05, //   0: syscall
    0x48, 0x89, 0xc3, //   2: mov rbx,rax
    0xeb, 0x4a, //   5: jmp brk
    0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, //   7: nop WORD PTR [rax+rax*1+0x0]
    0x4c, 0x8b, 0x63, 0x08, //  10: mov r12,[rbx+0x8]
    0x4c, 0x3b, 0x23, //  14: cmp r12,[rbx]
    0x73, 0x38, //  17: jae brk
    0x49, 0xc1, 0xe4, 0x06, //  19: shl r12,0x6
    0x4e, 0x8d, 0x64, 0x23, 0x40, //  1d: lea r12,[rbx+r12*1+0x40]
    0x49, 0x8b, 0x04, 0x24, //  22: mov rax,[r12]
    0x49, 0x8b, 0x7c, 0x24, 0x08, //  26: mov rdi,[r12+0x8]
    0x49, 0x8b, 0x74, 0x24, 0x10, //  2b: mov rsi,[r12+0x10]
    0x49, 0x8b, 0x54, 0x24, 0x18, //  30: mov rdx,[r12+0x18]
    0x4d, 0x8b, 0x54, 0x24, 0x20, //  35: mov r10,[r12+0x20]
    0x4d, 0x8b, 0x44, 0x24, 0x28, //  3a: mov r8,[r12+0x28]
    0x4d, 0x8b, 0x4c, 0x24, 0x30, //  3f: mov r9,[r12+0x30]
    0x0f, 0x05, //  44: syscall
    0x49, 0x89, 0x44, 0x24, 0x38, //  46: mov [r12+0x38],rax
    0x48, 0xff, 0x43, 0x08, //  4b: inc [rbx+0x8]
    0xeb, 0xbf, //  4f: jmp batch
    0x8b, 0x3d, 0xd1, 0x00, 0x00, 0x00, //  51: mov edi,[c_tgid]
    0x8b, 0x35, 0xcf, 0x00, 0x00, 0x00, //  57: mov esi,[c_tid]
    0x8b, 0x15, 0xcd, 0x00, 0x00, 0x00, //  5d: mov edx,[c_sig]
    0xb8, 0xea, 0x00, 0x00, 0x00, //  63: mov eax,0xea
    0x0f, 0x05, //  68: syscall
    0x48, 0x89, 0xdf, //  6a: mov rdi,rbx
    0x48, 0x8b, 0x35, 0xc4, 0x00, 0x00, 0x00, //  6d: mov rsi,[c_size]
    0xb8, 0x0b, 0x00, 0x00, 0x00, //  74: mov eax,0xb
    0x0f, 0x05, //  79: syscall
    0xbf, 0x02, 0x00, 0x00, 0x00, //  7b: mov edi,0x2
    0x48, 0x8d, 0x35, 0xb9, 0x00, 0x00, 0x00, //  80: lea rsi,[c_mask]
    0x31, 0xd2, //  87: xor edx,edx
    0x41, 0xba, 0x08, 0x00, 0x00, 0x00, //  89: mov r10d,0x8
    0xb8, 0x0e, 0x00, 0x00, 0x00, //  8f: mov eax,0xe
    0x0f, 0x05, //  94: syscall
    0x80, 0x3d, 0x97, 0x00, 0x00, 0x00, 0x00, //  96: cmp [c_df],0
    0x74, 0x03, //  9d: je a2 brk+0x51
    0xfd, //  9f: std
    0xeb, 0x01, //  a0: jmp a3 brk+0x52
    0xfc, //  a2: cld
    0xb0, 0x7f, //  a3: mov al,0x7f
    0x02, 0x05, 0x8a, 0x00, 0x00, 0x00, //  a5: add al,[c_of]
    0x8a, 0x25, 0x85, 0x00, 0x00, 0x00, //  ab: mov ah,[c_low]
    0x9e, //  b1: sahf
    0x4c, 0x8b, 0x3d, 0x8f, 0x00, 0x00, 0x00, //  b2: mov r15,[c_r15]
    0x4c, 0x8b, 0x35, 0x90, 0x00, 0x00, 0x00, //  b9: mov r14,[c_r14]
    0x4c, 0x8b, 0x2d, 0x91, 0x00, 0x00, 0x00, //  c0: mov r13,[c_r13]
    0x4c, 0x8b, 0x25, 0x92, 0x00, 0x00, 0x00, //  c7: mov r12,[c_r12]
    0x48, 0x8b, 0x2d, 0x93, 0x00, 0x00, 0x00, //  ce: mov rbp,[c_rbp]
    0x48, 0x8b, 0x1d, 0x94, 0x00, 0x00, 0x00, //  d5: mov rbx,[c_rbx]
    0x4c, 0x8b, 0x1d, 0x95, 0x00, 0x00, 0x00, //  dc: mov r11,[c_r11]
    0x4c, 0x8b, 0x15, 0x96, 0x00, 0x00, 0x00, //  e3: mov r10,[c_r10]
    0x4c, 0x8b, 0x0d, 0x97, 0x00, 0x00, 0x00, //  ea: mov r9,[c_r9]
    0x4c, 0x8b, 0x05, 0x98, 0x00, 0x00, 0x00, //  f1: mov r8,[c_r8]
    0x48, 0x8b, 0x05, 0x99, 0x00, 0x00, 0x00, //  f8: mov rax,[c_rax]
    0x48, 0x8b, 0x0d, 0x9a, 0x00, 0x00, 0x00, //  ff: mov rcx,[c_rcx]
    0x48, 0x8b, 0x15, 0x9b, 0x00, 0x00, 0x00, // 106: mov rdx,[c_rdx]
    0x48, 0x8b, 0x35, 0x9c, 0x00, 0x00, 0x00, // 10d: mov rsi,[c_rsi]
    0x48, 0x8b, 0x3d, 0x9d, 0x00, 0x00, 0x00, // 114: mov rdi,[c_rdi]
    0xff, 0x25, 0x9f, 0x00, 0x00, 0x00, // 11b: jmp [c_rip]
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // constants follow, 8-aligned
];

/// What a thread needs in order to go on by itself.
#[derive(Debug)]
pub struct Return<'a> {
    /// Its process and thread id as the thread itself sees them (its own pid namespace).
    pub own_ids: (Pid, Pid),
    /// The signal of the soft break: one that the thread neither blocks nor handles.
    pub signal: i32,
    /// Length in bytes of the mapping at `rbx` to be unmapped.
    pub unmap: u64,
    /// Its signal mask.
    pub mask: u64,
    /// Its registers, restart of an interrupted system call already arranged.
    pub regs: &'a Regs,
}

/// Code and constants for one thread, to be written to an executable place (8-aligned).
pub fn bytes(back: &Return<'_>) -> [u8; LEN] {
    let mut out = [0; LEN];
    out[..CODE_LEN].copy_from_slice(&CODE);
    let mut at = CODE_LEN;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    let r = back.regs;
    let flag = |bit: u64| u8::from(r.eflags & bit != 0);
    put(&back.own_ids.0.as_raw().to_le_bytes());
    put(&back.own_ids.1.as_raw().to_le_bytes());
    put(&back.signal.to_le_bytes());
    // DF, OF (added to 0x7f: overflows or not), then the low byte for `sahf`.
    put(&[flag(0x400), flag(0x800), r.eflags.to_le_bytes()[0], 0]);
    for word in [
        back.unmap, back.mask, r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8,
        r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.rip,
    ] {
        put(&word.to_le_bytes());
    }
    out
}

/// Code that jumps to an address and changes no register.
pub fn jump_to(address: Vaddr) -> [u8; 14] {
    // jmp [rip], then the address.
    let mut code = [0xff, 0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    code[6..].copy_from_slice(&address.to_le_bytes());
    code
}

/// True when `bytes` (at least [`LEN`]) hold a stub of ours, whatever its constants: left behind by
/// an engine that died. It is inert; the place can be used again.
pub fn is_stub(bytes: &[u8]) -> bool {
    bytes.get(..CODE_LEN).is_some_and(|code| code == CODE)
}

/// True when the instruction pointer lies in a stub at `stub`.
pub fn holds(stub: Vaddr, rip: u64) -> bool {
    (stub..stub + LEN as u64).contains(&rip)
}
