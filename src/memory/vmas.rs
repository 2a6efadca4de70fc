//! Mappings to and from the `mm` image (CRIU's `vma_entry`).

use super::mappings::{Backing, Mapping};
use super::policy::Policy;
use super::space::status;
use crate::image::proto::VmaEntry;
use crate::units::PageRange;

/// The entry of a mapping. `file` is the id in `files.img` of what is behind it, and the open flags
/// the mapping needs.
pub fn to_image(mapping: &Mapping, file: Option<(u32, u32)>, policy: Option<&Policy>) -> VmaEntry {
    let mut bits = match (&mapping.backing, mapping.shared) {
        (Backing::Anonymous, _) => status::REGULAR | status::ANON_PRIVATE,
        (Backing::File(_), false) => status::REGULAR | status::FILE_PRIVATE,
        (Backing::File(_), true) => status::REGULAR | status::FILE_SHARED,
        (Backing::Segment(_), false) => status::REGULAR | status::FILE_PRIVATE | status::MEMFD,
        (Backing::Segment(_), true) => status::REGULAR | status::FILE_SHARED | status::MEMFD,
        (Backing::SystemV, _) => status::REGULAR | status::ANON_SHARED | status::SYSVIPC,
        (Backing::AioRing, _) => status::REGULAR | status::AIORING,
        (Backing::Vdso, _) => status::REGULAR | status::VDSO | status::ANON_PRIVATE,
        (Backing::Vvar, _) => status::REGULAR | status::VVAR | status::ANON_PRIVATE,
        (Backing::Vsyscall, _) => status::VSYSCALL | status::ANON_PRIVATE,
    };
    if mapping.heap {
        bits |= status::HEAP;
    }
    let by_file = file.is_some();
    let segment = mapping.system_v();
    VmaEntry {
        start: mapping.range.start,
        end: mapping.range.end,
        pgoff: if by_file || segment.is_some() {
            mapping.offset
        } else {
            0
        },
        shmid: file.map_or(segment, |(id, _)| Some(id)).unwrap_or(0).into(),
        prot: mapping.prot,
        flags: mapping.flags(),
        status: bits,
        fd: -1,
        madv: Some(mapping.advice()).filter(|m| *m != 0),
        fdflags: file.map_or(segment.map(|_| mapping.open_flags()), |(_, flags)| {
            Some(flags)
        }),
        sealed: mapping.sealed.then_some(true),
        droppable: mapping.droppable.then_some(true),
        lock_on_fault: mapping.lock_on_fault.then_some(true),
        protection_key: Some(mapping.key).filter(|key| *key != 0),
        memory_policy: policy.map(|p| p.mode),
        memory_nodes: policy.map_or_else(Vec::new, |p| p.nodes.clone()),
    }
}

/// Appends an entry. The kernel's data pages come as several mappings since Linux 6.13; CRIU looks
/// for one.
pub fn push(entries: &mut Vec<VmaEntry>, entry: VmaEntry) {
    if let Some(last) = entries.last_mut()
        && last.status & entry.status & status::VVAR != 0
        && last.end == entry.start
    {
        last.end = entry.end;
    } else {
        entries.push(entry);
    }
}

/// The entry of guard pages inside another mapping.
pub fn guard(range: PageRange) -> VmaEntry {
    VmaEntry {
        start: range.start,
        end: range.end,
        flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned(),
        status: status::GUARD,
        fd: -1,
        ..VmaEntry::default()
    }
}
