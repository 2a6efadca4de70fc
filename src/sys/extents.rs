//! Files that share their blocks: ioctl_fideduperange(2), and where blocks are: the ioctl
//! `FS_IOC_FIEMAP` (kernel: filesystems/fiemap).
#![expect(unsafe_code, reason = "ioctls with structures that nix does not know")]

use std::os::fd::{AsFd, AsRawFd as _};

use linux_raw_sys::general::file_dedupe_range_info;
use linux_raw_sys::ioctl::{FIDEDUPERANGE, FS_IOC_FIEMAP};
use nix::errno::Errno;

/// `file_dedupe_range` with one destination.
#[repr(C)]
struct DedupeOne {
    src_offset: u64,
    src_length: u64,
    dest_count: u16,
    reserved1: u16,
    reserved2: u32,
    info: file_dedupe_range_info,
}

/// What became of a request to share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// So many bytes share their blocks now; it may be fewer than asked for.
    Bytes(u64),
    /// The bytes are not equal: nothing was done.
    Differ,
}

/// Lets `len` bytes of `to` share the blocks of equal bytes of `from`. The kernel compares them.
///
/// # Errors
/// `EOPNOTSUPP`, `EINVAL` or `ENOTTY` when the file system cannot do it, `EXDEV` when the files are
/// not on the same one.
pub fn share(
    from: impl AsFd,
    from_offset: u64,
    to: impl AsFd,
    to_offset: u64,
    len: u64,
) -> nix::Result<Shared> {
    const SAME: i32 = 0; // FILE_DEDUPE_RANGE_SAME
    const DIFFERS: i32 = 1; // FILE_DEDUPE_RANGE_DIFFERS
    let mut request = DedupeOne {
        src_offset: from_offset,
        src_length: len,
        dest_count: 1,
        reserved1: 0,
        reserved2: 0,
        info: file_dedupe_range_info {
            dest_fd: i64::from(to.as_fd().as_raw_fd()),
            dest_offset: to_offset,
            bytes_deduped: 0,
            status: 0,
            reserved: 0,
        },
    };
    let fd = from.as_fd().as_raw_fd();
    // SAFETY: the structure is laid out as the kernel's, with the one destination that it announces,
    // and outlives the call; both descriptors are open while they are borrowed.
    let done = unsafe { libc::ioctl(fd, FIDEDUPERANGE as _, &raw mut request) };
    Errno::result(done)?;
    match request.info.status {
        SAME => Ok(Shared::Bytes(request.info.bytes_deduped)),
        DIFFERS => Ok(Shared::Differ),
        errno => Err(Errno::from_raw(-errno)),
    }
}

/// Blocks of a file that follow each other on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Where they begin in the file.
    pub offset: u64,
    /// Where they begin on the disk.
    pub place: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Other files (or other parts of this one) use them too.
    pub shared: bool,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Extents that are asked for at once.
const MANY: usize = 128;

/// `struct fiemap` with room for extents.
#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; MANY],
}

/// Where the blocks of a file are, from `start` on: some of them, ascending; none after the last.
///
/// # Errors
/// `EOPNOTSUPP` or `ENOTTY` when the file system does not tell.
pub fn blocks(file: impl AsFd, start: u64) -> nix::Result<Vec<Blocks>> {
    const SYNC: u32 = 1; // FIEMAP_FLAG_SYNC
    const UNKNOWN: u32 = 0x2 | 0x4 | 0x200; // unknown place, not yet written, stored in the inode
    const SHARED: u32 = 0x2000; // FIEMAP_EXTENT_SHARED
    let mut request = Fiemap {
        start,
        length: u64::MAX - start,
        flags: SYNC,
        mapped_extents: 0,
        extent_count: u32::try_from(MANY).unwrap_or(0),
        reserved: 0,
        extents: [Extent::default(); MANY],
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the structure is laid out as the kernel's, with room for the extents that it announces,
    // and outlives the call; the descriptor is open while it is borrowed.
    let done = unsafe { libc::ioctl(fd, FS_IOC_FIEMAP as _, &raw mut request) };
    Errno::result(done)?;
    let found = usize::try_from(request.mapped_extents)
        .unwrap_or(0)
        .min(MANY);
    Ok(request.extents[..found]
        .iter()
        .map(|extent| Blocks {
            offset: extent.logical,
            // A place that is not known is no other's.
            place: if extent.flags & UNKNOWN == 0 {
                extent.physical
            } else {
                u64::MAX
            },
            bytes: extent.length,
            shared: extent.flags & SHARED != 0,
        })
        .collect())
}
