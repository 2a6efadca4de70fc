//! Rings of asynchronous I/O (io_setup(2)): a mapping that the kernel writes events to, whose address is
//! the name of the context.
//!
//! A ring comes back empty, so a dump wants it empty: events that the program has not taken yet end it.
//! Requests that are under way cannot be told from outside; they are lost, and the plan says so.
//! CRIU: `mm_entry.aios`, and all pages of the ring. Sources: io_setup(2), `fs/aio.c` (size of a ring;
//! a ring that is moved takes its context along).

use super::mappings::{Backing, Mapping};
use super::space;
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{AioRingEntry, MmEntry, VmaEntry};
use crate::image::status;
use crate::inject::{Call, Remote};
use crate::sys::vm::Memory;
use crate::units::{PAGE_SIZE, PageRange, Pid, Vaddr};

/// Begin of a ring (`struct aio_ring`): index, number of events, head, tail, this.
const MAGIC: u32 = 0xa10a_10a1;

fn rings(mappings: &[Mapping]) -> impl Iterator<Item = &Mapping> {
    mappings.iter().filter(|m| m.backing == Backing::AioRing)
}

/// What a plan has to say of them.
pub fn warnings(pid: Pid, mappings: &[Mapping]) -> Option<Obstacle> {
    rings(mappings).next()?;
    let what = format!(
        "Requests of asynchronous I/O of process {pid} (io_submit) that are under way are lost"
    );
    let hint = "the kernel does not tell of them: dump while the program does none";
    Some(Obstacle::unsupported(what, hint))
}

/// Dump half: the rings of a process that stands still.
///
/// # Errors
/// [`Kind::Busy`] when one holds events.
pub fn dump(pid: Pid, memory: &Memory, mappings: &[Mapping]) -> Result<Vec<AioRingEntry>> {
    let mut all = Vec::new();
    for ring in rings(mappings) {
        let start = ring.range.start;
        let mut header = [0; 20];
        let what = format!("ring of asynchronous I/O of process {pid} at {start:x}");
        memory
            .read(start, &mut header)
            .map_err(|e| Error::io(format!("Cannot read the {what}"), e))?;
        let (words, _) = header.as_chunks();
        let [_, _, head, tail, magic] = [0, 1, 2, 3, 4]
            .map(|n: usize| u32::from_le_bytes(words.get(n).copied().unwrap_or_default()));
        if magic != MAGIC {
            return Err(Error::new(
                Kind::Unsupported,
                format!("The {what} is not as it should be"),
            ));
        }
        if head != tail {
            let what = format!("The {what} holds events that the program has not taken yet");
            return Err(Error::new(Kind::Busy, what).hint("try again"));
        }
        all.push(AioRingEntry {
            id: start,
            nr_req: requests(ring.range.pages()),
            ring_len: u32::try_from(ring.range.bytes()).unwrap_or(0),
        });
    }
    Ok(all)
}

/// The most requests for which the kernel makes a ring of so many pages: it makes room for twice as many
/// and two more, 32 bytes each, behind a header of 32 bytes.
fn requests(pages: u64) -> u32 {
    u32::try_from((pages * PAGE_SIZE - 3 * 32) / 64).unwrap_or(0)
}

/// Restore half, in an address space without mappings: makes the rings at their places. `hole` gives room
/// that touches neither the mappings to come nor the range given.
///
/// # Errors
/// When the kernel refuses, or makes a ring of another size (on a machine with many more CPUs).
pub fn restore(
    remote: &mut Remote,
    mm: &MmEntry,
    hole: &dyn Fn(PageRange) -> Option<PageRange>,
) -> Result<()> {
    for vma in mm.vmas.iter().filter(|v| is_ring(v)) {
        let bytes = vma.end - vma.start;
        let place = remote.put(0, &[0; 8])?;
        let args = [requests(bytes / PAGE_SIZE).into(), place];
        remote.call("io_setup", libc::SYS_io_setup, &args)?;
        let mut at = [0; 8];
        remote.get(0, &mut at)?;
        let at = Vaddr::from_le_bytes(at);
        let got = PageRange::new(at, at + bytes);
        // What the kernel chose may overlap the place where it has to be.
        let aside = hole(got).ok_or_else(|| Error::new(Kind::Unsupported, "No room for a ring"))?;
        let mode = u64::from((libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED).cast_unsigned());
        let to = |from, to| Call::new(libc::SYS_mremap, &[from, bytes, bytes, mode, to]);
        let mut calls = [to(at, aside.start), to(aside.start, vma.start)];
        remote.run(&mut calls)?;
        for call in calls {
            call.value().map_err(|e| {
                let what = format!(
                    "Cannot move the ring of asynchronous I/O to {:x}",
                    vma.start
                );
                Error::os(what, e).hint("a ring is larger where there are many more CPUs")
            })?;
        }
    }
    Ok(())
}

/// True for a ring.
pub fn is_ring(vma: &VmaEntry) -> bool {
    vma.status & status::AIORING != 0
}

/// The rings of an image: their pages are the kernel's to write.
pub fn ranges(vmas: &[VmaEntry]) -> Vec<PageRange> {
    let rings = vmas.iter().filter(|v| is_ring(v));
    rings.map(space::range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_come_back_with_as_many_pages_as_they_had() {
        // As fs/aio.c computes it.
        let pages = |requests: u64| (32 + 32 * (requests * 2 + 2)).div_ceil(PAGE_SIZE);
        for before in 1..5000 {
            let had = pages(before);
            assert_eq!(pages(requests(had).into()), had);
            assert!(u64::from(requests(had)) >= before);
        }
    }
}
