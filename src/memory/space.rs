//! The address space of a new process: everything inherited goes, the mappings of the image come.
//!
//! Sources: mmap(2), mremap(2), vdso(7), CRIU's `vma_entry`. The kernel's own pages (vDSO and its
//! data) cannot be made, only moved: they are put aside, then to where the image has them.

use std::os::fd::RawFd;

use crate::error::{Error, Kind, Result};
use crate::image::proto::VmaEntry;
use crate::inject::{Call, Foothold, Remote};
use crate::memory::mappings::{self, Backing};
use crate::units::{PAGE_SIZE, PageRange, Pid};

pub use crate::image::status;

/// One past the last address of a process (4-level page tables).
const TASK_SIZE: u64 = 0x7fff_ffff_f000;
/// Nothing of ours goes below (mmap_min_addr).
const LOWEST: u64 = 0x10_0000;
/// mseal(2), on every architecture (Linux 6.10).
const SYS_MSEAL: i64 = 462;
/// mmap(2): instead of MAP_PRIVATE (Linux 6.11).
const MAP_DROPPABLE: u32 = 8;
/// MAP_HUGETLB and the size of its pages.
const HUGE_BITS: u32 = libc::MAP_HUGETLB.cast_unsigned() | 0x3f << 26;
const MADV_GUARD_INSTALL: u64 = 102;
const MLOCK_ONFAULT: u64 = 1;

/// True for the mappings that the kernel gives and that can only be moved.
fn is_kernels(vma: &VmaEntry) -> bool {
    vma.status & (status::VDSO | status::VVAR) != 0
}

pub(super) fn range(vma: &VmaEntry) -> PageRange {
    PageRange::new(vma.start, vma.end)
}

/// A range of `bytes` bytes that touches none of `taken`.
pub fn hole(taken: impl IntoIterator<Item = PageRange>, bytes: u64) -> Option<PageRange> {
    let mut taken: Vec<PageRange> = taken.into_iter().collect();
    taken.sort_unstable();
    // From high to low: low addresses are where programs grow.
    let mut ceiling = TASK_SIZE - bytes;
    for range in taken.iter().rev() {
        if range.start >= TASK_SIZE {
            continue;
        }
        if range.end <= ceiling && ceiling - range.end >= bytes + GAP {
            break;
        }
        ceiling = ceiling.min(range.start);
    }
    let start = ceiling.checked_sub(bytes + GAP / 2)? & !0xfff;
    (start >= LOWEST).then(|| PageRange::new(start, start + bytes))
}

/// Kept free around a hole: a stack next to it may need its guard gap (1 MiB).
const GAP: u64 = 4 << 20;

/// The kernel's mappings in a process as they are now: `[vvar]`, `[vvar_vclock]`, `[vdso]`.
///
/// # Errors
/// When /proc cannot be read.
pub fn kernels_now(pid: Pid) -> Result<Vec<PageRange>> {
    Ok(mappings::read(pid)?
        .iter()
        .filter(|m| matches!(m.backing, Backing::Vdso | Backing::Vvar))
        .map(|m| m.range)
        .collect())
}

/// The kernel's mappings of an image, ascending.
pub fn kernels_then(vmas: &[VmaEntry]) -> Vec<PageRange> {
    vmas.iter().filter(|v| is_kernels(v)).map(range).collect()
}

/// What a mapping is of that cannot be made again, if so.
pub fn unsupported(vma: &VmaEntry) -> Option<&'static str> {
    let sorts = status::ANON_SHARED | status::MEMFD | status::SYSVIPC;
    let old_shared = vma.status & sorts == status::ANON_SHARED;
    [
        (vma.status & status::SOCKET != 0, "a socket"),
        (vma.status & status::SHSTK != 0, "a shadow stack"),
        (vma.status & status::UPROBES != 0, "a uprobes page"),
        (
            old_shared,
            "shared memory in the format of CRIU before 3.15",
        ),
    ]
    .into_iter()
    .find_map(|(is, what)| is.then_some(what))
}

/// Why the kernel's pages of the image cannot be had here, if so. CRIU may have recorded adjacent
/// ones as one.
pub fn kernels_differ(now: &[PageRange], then: &[PageRange]) -> bool {
    let sum = |ranges: &[PageRange]| ranges.iter().map(|r| r.bytes()).sum::<u64>();
    !then.is_empty() && (sum(now) != sum(then) || then.len() > now.len())
}

/// Empties the address space of a new process but for the foothold and what it has in its place already
/// (`kept`), and puts the kernel's pages to
/// where `vmas` has them.
///
/// # Errors
/// [`Kind::Unsupported`] when this kernel's pages have another size than the image's.
pub fn clear(
    pid: Pid,
    remote: &mut Remote,
    foothold: &Foothold,
    vmas: &[VmaEntry],
    kept: &[VmaEntry],
) -> Result<()> {
    let now = kernels_now(pid)?;
    let then = kernels_then(vmas);
    if kernels_differ(&now, &then) {
        return Err(Error::new(
            Kind::Unsupported,
            format!("The vDSO of process {pid} in the image is not of this kernel"),
        )
        .hint("restore on the kernel that the layer was made on"));
    }
    let mut calls = Vec::new();
    let mut aside = foothold.spare().start;
    let mut moved = Vec::new();
    for range in &now {
        calls.push(mremap(*range, aside));
        moved.push(PageRange::new(aside, aside + range.bytes()));
        aside += range.bytes();
    }
    let mut stay: Vec<PageRange> = kept.iter().map(range).collect();
    stay.push(foothold.region());
    stay.sort_unstable();
    let mut at = 0;
    for range in stay {
        if range.start > at {
            calls.push(munmap(PageRange::new(at, range.start)));
        }
        at = range.end;
    }
    calls.push(munmap(PageRange::new(at, TASK_SIZE)));
    // Adjacent in the image as they are now: the first one's place gives all.
    if then.len() == moved.len() {
        calls.extend(
            moved
                .iter()
                .zip(&then)
                .map(|(from, to)| mremap(*from, to.start)),
        );
    } else if let Some(first) = then.first() {
        let base = moved[0].start;
        calls.extend(
            moved
                .iter()
                .map(|from| mremap(*from, first.start + (from.start - base))),
        );
    }
    check(remote, "rebuilding the address space", &mut calls)
}

/// Makes the mappings of the image but for those of System V shared memory (see [`super::sysv`]) and rings
/// (see [`super::aio`]). `fd` gives the descriptor, inherited by the process, of a file id. Private mappings that hold pages, as `holds`
/// tells, but may not be written stay writable until [`protect`]. Others are never writable, so that the kernel
/// does not count what a program merely reserves (a database 8 TiB) as memory that it may need.
///
/// # Errors
/// When the kernel refuses a mapping.
pub fn map<'v>(
    remote: &mut Remote,
    vmas: impl IntoIterator<Item = &'v VmaEntry>,
    fd: &dyn Fn(u32) -> Option<RawFd>,
    holds: &dyn Fn(PageRange) -> bool,
) -> Result<()> {
    let mut calls = Vec::new();
    let others = status::SYSVIPC | status::AIORING;
    let mapped = |v: &&VmaEntry| is_made(v) && v.status & others == 0;
    for vma in vmas.into_iter().filter(mapped) {
        let by_file = vma.status
            & (status::FILE_PRIVATE | status::FILE_SHARED | status::MEMFD | status::ANON_SHARED)
            != 0;
        let (fd, anonymous) = if by_file {
            let id = u32::try_from(vma.shmid).unwrap_or(u32::MAX);
            let fd = fd(id).ok_or_else(|| {
                Error::corrupt(format!(
                    "Mapping {} is of file {id}, which no image has",
                    range(vma)
                ))
            })?;
            (i64::from(fd).cast_unsigned(), 0)
        } else {
            (u64::MAX, libc::MAP_ANONYMOUS.cast_unsigned())
        };
        let keep = libc::MAP_SHARED
            | libc::MAP_PRIVATE
            | libc::MAP_GROWSDOWN
            | libc::MAP_LOCKED
            | libc::MAP_NORESERVE;
        // Of a file, the file says it.
        let huge = match by_file || vma.flags & libc::MAP_HUGETLB.cast_unsigned() == 0 {
            true => 0,
            false => vma.flags & HUGE_BITS,
        };
        let flags = vma.flags & keep.cast_unsigned()
            | anonymous
            | huge
            | libc::MAP_FIXED_NOREPLACE.cast_unsigned();
        let flags = if vma.droppable == Some(true) {
            flags & !libc::MAP_PRIVATE.cast_unsigned() | MAP_DROPPABLE
        } else {
            flags
        };
        let offset = if by_file { vma.pgoff } else { 0 };
        calls.push(Call::new(
            libc::SYS_mmap,
            &[
                vma.start,
                vma.end - vma.start,
                u64::from(match holds(range(vma)) {
                    true => first_prot(vma),
                    false => vma.prot,
                }),
                u64::from(flags),
                fd,
                offset,
            ],
        ));
    }
    check(remote, "mmap", &mut calls)
}

/// Gives the mappings their final protection and advice; the last step after their pages are there.
///
/// # Errors
/// When the kernel refuses.
pub fn protect(remote: &mut Remote, vmas: &[VmaEntry]) -> Result<()> {
    let mut calls = Vec::new();
    for vma in vmas {
        let len = vma.end - vma.start;
        if vma.status & status::GUARD != 0 {
            calls.push(Call::new(
                libc::SYS_madvise,
                &[vma.start, len, MADV_GUARD_INSTALL],
            ));
        } else if is_made(vma) {
            // With a key it has its protection already.
            if first_prot(vma) != vma.prot && vma.protection_key.is_none() {
                calls.push(Call::new(
                    libc::SYS_mprotect,
                    &[vma.start, len, u64::from(vma.prot)],
                ));
            }
            let advice = vma.madv.unwrap_or(0);
            for bit in (0..64).filter(|bit| advice & 1 << bit != 0) {
                calls.push(Call::new(libc::SYS_madvise, &[vma.start, len, bit]));
            }
            if vma.lock_on_fault == Some(true) {
                calls.push(Call::new(
                    libc::SYS_mlock2,
                    &[vma.start, len, MLOCK_ONFAULT],
                ));
            }
        }
    }
    for vma in vmas.iter().filter(|v| is_made(v) && v.sealed == Some(true)) {
        calls.push(Call::new(SYS_MSEAL, &[vma.start, vma.end - vma.start, 0]));
    }
    check(remote, "setting the protection of mappings", &mut calls)
}

/// True when the mappings of an image can be: whole pages, ascending, apart from each other. Guard
/// pages lie inside the mapping before them.
pub fn is_sound(vmas: &[VmaEntry]) -> bool {
    let whole = |v: &VmaEntry| {
        v.start < v.end && v.start.is_multiple_of(PAGE_SIZE) && v.end.is_multiple_of(PAGE_SIZE)
    };
    let mut last = 0;
    vmas.iter().all(|vma| {
        if vma.status & status::GUARD != 0 {
            return whole(vma) && vma.end <= last;
        }
        let apart = vma.start >= last;
        last = vma.end;
        whole(vma) && apart
    })
}

/// Whether we make the mapping with mmap(2).
fn is_made(vma: &VmaEntry) -> bool {
    vma.status & status::REGULAR != 0 && vma.status & status::GUARD == 0 && !is_kernels(vma)
}

/// Protection while pages are filled in: inaccessible private memory must be writable until then.
fn first_prot(vma: &VmaEntry) -> u32 {
    let private = vma.flags & libc::MAP_PRIVATE.cast_unsigned() != 0;
    if private && vma.prot & libc::PROT_WRITE.cast_unsigned() == 0 {
        vma.prot | (libc::PROT_READ | libc::PROT_WRITE).cast_unsigned()
    } else {
        vma.prot
    }
}

fn mremap(from: PageRange, to: u64) -> Call {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    Call::new(
        libc::SYS_mremap,
        &[
            from.start,
            from.bytes(),
            from.bytes(),
            u64::from(flags.cast_unsigned()),
            to,
        ],
    )
}

fn munmap(range: PageRange) -> Call {
    Call::new(libc::SYS_munmap, &[range.start, range.bytes()])
}

/// Runs the calls; the first failure is the error.
fn check(remote: &mut Remote, what: &str, calls: &mut [Call]) -> Result<()> {
    remote.run(calls)?;
    for call in calls {
        call.value().map_err(|e| {
            Error::os(
                format!(
                    "{what} failed in process {} (call {} at {:x}, {} bytes)",
                    remote.tid(),
                    call.nr,
                    call.args[0],
                    call.args[1]
                ),
                e,
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_hole_touches_nothing_that_is_taken(
            starts in proptest::collection::vec((0x100u64..0x7_ffff_0000, 1u64..0x10_0000), 0..20),
            bytes in 1u64..512,
        ) {
            let taken: Vec<_> =
                starts.iter().map(|(s, n)| PageRange::of_pages(s << 12, *n)).collect();
            if let Some(hole) = hole(taken.iter().copied(), bytes << 12) {
                prop_assert_eq!(hole.bytes(), bytes << 12);
                prop_assert!(hole.end <= TASK_SIZE && hole.start >= LOWEST);
                for range in taken {
                    prop_assert!(range.intersect(hole).is_empty());
                }
            }
        }
    }
}
