//! x86-64: the only architecture whose processes can be dumped and restored so far.

pub mod core;
mod features;
pub mod restart;
pub mod stub;
pub mod tiles;

pub use features::{instruction_sets, lacking};

/// General registers of a thread, `fs_base`, `gs_base` and `orig_rax` included.
pub type Regs = libc::user_regs_struct;

/// `core_entry.mtype` of images made here.
pub const MARCH: i32 = 1;

/// Code segment of 64-bit user code; anything else is a 32-bit program.
pub const CODE_SEGMENT_64: u64 = 0x33;

/// `si_code` of a signal sent by tgkill(2).
pub const SI_TKILL: i32 = -6;
