//! Attachments of segments in a new process, wherever they begin in the segment.

use std::collections::BTreeMap;

use super::{Wanted, mapped_size};
use crate::error::{Error, Kind, Result};
use crate::image::proto::VmaEntry;
use crate::image::status;
use crate::inject::{Call, Remote};
use crate::memory::huge;
use crate::units::{PAGE_SIZE, PageRange};

/// Attaches segments as `vmas` have them; the rest of the address space is still empty. What came of one
/// shmat(2) comes of one again, so that shmdt(2) ends all of it. `hole` gives that many bytes that no
/// mapping is to have.
///
/// # Errors
/// When the kernel refuses.
pub fn attach(
    remote: &mut Remote,
    vmas: &[VmaEntry],
    segments: &[Wanted],
    hole: &dyn Fn(u64) -> Option<PageRange>,
) -> Result<()> {
    let mut attachments: BTreeMap<(u64, u64), Vec<&VmaEntry>> = BTreeMap::new();
    for vma in vmas.iter().filter(|v| v.status & status::SYSVIPC != 0) {
        let base = vma.start.wrapping_sub(vma.pgoff);
        attachments.entry((base, vma.shmid)).or_default().push(vma);
    }
    for ((_, id), parts) in attachments {
        let segment = segments.iter().find(|s| u64::from(s.entry.desc.id) == id);
        let entry = segment.map(|s| &s.entry).ok_or_else(|| {
            Error::corrupt(format!("Segment {id} is attached, but no image has it"))
        })?;
        let bytes = mapped_size(entry);
        // Huge pages begin at multiples of their size only.
        let page = huge::of_system_v(entry).unwrap_or(PAGE_SIZE);
        let room = hole(bytes + page).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("No room to attach segment {id}"))
        })?;
        let start = room.start.next_multiple_of(page);
        let room = PageRange::new(start, start + bytes);
        attach_one(remote, id, &parts, room)?;
    }
    Ok(())
}

/// Attaches a segment in `room`, from where its parts move to their places.
fn attach_one(remote: &mut Remote, id: u64, parts: &[&VmaEntry], room: PageRange) -> Result<()> {
    let flags = match parts.iter().any(|vma| is_writable(vma)) {
        true => 0,
        false => libc::SHM_RDONLY,
    };
    let given = match flags {
        0 => libc::PROT_READ | libc::PROT_WRITE,
        _ => libc::PROT_READ,
    };
    let mut calls = vec![Call::new(
        libc::SYS_shmat,
        &[id, room.start, u64::from(flags.cast_unsigned())],
    )];
    for vma in parts {
        let (from, bytes) = (room.start + vma.pgoff, vma.end - vma.start);
        let mode = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let mode = u64::from(mode.cast_unsigned());
        calls.push(Call::new(
            libc::SYS_mremap,
            &[from, bytes, bytes, mode, vma.start],
        ));
        if vma.prot != given.cast_unsigned() {
            let prot = u64::from(vma.prot);
            calls.push(Call::new(libc::SYS_mprotect, &[vma.start, bytes, prot]));
        }
    }
    calls.push(Call::new(libc::SYS_munmap, &[room.start, room.bytes()]));
    remote.run(&mut calls)?;
    for call in &calls {
        call.value().map_err(|e| {
            let what = format!(
                "Cannot attach segment {id} of System V shared memory in process {} (call {} at {:x})",
                remote.tid(),
                call.nr,
                call.args[0]
            );
            Error::os(what, e)
        })?;
    }
    Ok(())
}

/// True for what was not attached by SHM_RDONLY.
fn is_writable(vma: &VmaEntry) -> bool {
    let by_flags = vma.fdflags == Some(libc::O_RDWR.cast_unsigned());
    by_flags || vma.prot & libc::PROT_WRITE.cast_unsigned() != 0
}
