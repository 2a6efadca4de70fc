//! Bits of `vma_entry.status`, by which CRIU says what a mapping is.

/// A mapping to be made again.
pub const REGULAR: u32 = 1;
/// The fixed vsyscall page.
pub const VSYSCALL: u32 = 1 << 2;
/// The vDSO.
pub const VDSO: u32 = 1 << 3;
/// The brk(2) heap.
pub const HEAP: u32 = 1 << 5;
/// MAP_PRIVATE of a file.
pub const FILE_PRIVATE: u32 = 1 << 6;
/// MAP_SHARED of a file.
pub const FILE_SHARED: u32 = 1 << 7;
/// Shared anonymous memory, older way: `shmid` names the segment.
pub const ANON_SHARED: u32 = 1 << 8;
/// MAP_PRIVATE and MAP_ANONYMOUS.
pub const ANON_PRIVATE: u32 = 1 << 9;
/// System V shared memory.
pub const SYSVIPC: u32 = 1 << 10;
/// A mapped socket.
pub const SOCKET: u32 = 1 << 11;
/// The vDSO's data.
pub const VVAR: u32 = 1 << 12;
/// An AIO ring.
pub const AIORING: u32 = 1 << 13;
/// Of a memfd, or of shared anonymous memory, which is much the same: `shmid` is a file id.
pub const MEMFD: u32 = 1 << 14;
/// A shadow stack.
pub const SHSTK: u32 = 1 << 15;
/// Guard pages inside another mapping.
pub const GUARD: u32 = 1 << 16;
/// The uprobes page.
pub const UPROBES: u32 = 1 << 17;
