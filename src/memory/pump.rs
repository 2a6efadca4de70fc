//! Moving the pages of a stopped process into a file, while it waits, and those of a new one out of
//! files: as fast as the machine can.
//!
//! What bounds it is the page cache on the other side, so several threads copy at once, each with a
//! buffer that fits its cache (measured: two threads take two thirds of the time of one). Many small
//! runs are read by one call.

use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::pages::CHUNK;
use crate::chain::Ranges;
use crate::error::{Error, Kind, Result};
use crate::image::{PagesFile, Place, Run};
use crate::sys::vm::{self, Memory};
use crate::units::{PAGE_SIZE, PageRange, Pid, Vaddr};

/// Threads at most: more only fight for the memory bus.
const THREADS: usize = 4;

/// Pages that one thread moves in one go, and where in the file they belong.
#[derive(Debug, Default)]
struct Batch {
    parts: Vec<(Vaddr, usize)>,
    bytes: usize,
    offset: u64,
    /// Other processes may have some of them too, since a fork.
    shared: bool,
}

/// Copies the present runs, one after the other, to the start of an empty pages file. Pages in `cow` stay
/// shared with other processes.
///
/// # Errors
/// When a page cannot be read or written.
pub(super) fn copy(
    pid: Pid,
    memory: &Memory,
    chosen: &[Run],
    cow: &Ranges,
    out: &PagesFile,
) -> Result<()> {
    let batches = batches(chosen, cow);
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = &mut buffer[..batch.bytes];
            read(pid, memory, &batch.parts, batch.shared, bytes)?;
            out.file()
                .write_all_at(bytes, batch.offset)
                .map_err(|e| Error::io(format!("Cannot write the pages of process {pid}"), e))?;
        }
        Ok(())
    };
    together(&copying(pid), batches.len(), work)
}

/// Fills the pages `runs` of a new process: `bytes` gives the contents of a range, and is asked by
/// several threads at once, since it may have to compare them with their digests.
///
/// # Errors
/// When a page cannot be read from the layers or written into the process.
pub fn fill(
    pid: Pid,
    memory: &Memory,
    runs: impl IntoIterator<Item = PageRange>,
    bytes: impl Fn(Vaddr, &mut [u8]) -> Result<()> + Sync,
) -> Result<u64> {
    each_part(pid, runs, |at, part| {
        bytes(at, part)?;
        write(pid, memory, at, part)
    })
}

/// The same, but pages that have these contents already are not touched: they stay what they are, shared
/// with other processes perhaps.
///
/// # Errors
/// As [`fill`].
pub fn update(
    pid: Pid,
    memory: &Memory,
    runs: impl IntoIterator<Item = PageRange>,
    bytes: impl Fn(Vaddr, &mut [u8]) -> Result<()> + Sync,
) -> Result<u64> {
    const PAGE: usize = PAGE_SIZE as usize;
    each_part(pid, runs, |at, part| {
        bytes(at, part)?;
        let mut now = vec![0; part.len()];
        memory
            .read(at, &mut now)
            .map_err(|e| Error::io(format!("Cannot read page {at:x} of new process {pid}"), e))?;
        let pages = part.chunks(PAGE).zip(now.chunks(PAGE));
        for (page, (wanted, _)) in pages.enumerate().filter(|(_, (a, b))| a != b) {
            write(pid, memory, at + page as u64 * PAGE_SIZE, wanted)?;
        }
        Ok(())
    })
}

fn write(pid: Pid, memory: &Memory, at: Vaddr, bytes: &[u8]) -> Result<()> {
    memory.write(at, bytes).map_err(|e| {
        Error::io(format!("Cannot fill page {at:x} of new process {pid}"), e).kinded(Kind::Failed)
    })
}

/// Gives every part of `runs` to `work`, with a buffer as long as it, by several threads; the number of
/// pages.
fn each_part(
    pid: Pid,
    runs: impl IntoIterator<Item = PageRange>,
    work: impl Fn(Vaddr, &mut [u8]) -> Result<()> + Sync,
) -> Result<u64> {
    let mut parts: Vec<(Vaddr, usize)> = Vec::new();
    for range in runs {
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).map_or(CHUNK, |len| len.min(CHUNK));
            parts.push((at, len));
            at += len as u64;
        }
    }
    let next = AtomicUsize::new(0);
    let all = || -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while let Some((at, len)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(*at, &mut buffer[..*len])?;
        }
        Ok(())
    };
    together(&copying(pid), parts.len(), all)?;
    Ok(parts.iter().map(|(_, len)| *len as u64 / PAGE_SIZE).sum())
}

fn copying(pid: Pid) -> String {
    format!("Copying the pages of process {pid}")
}

/// Lets as many threads as are worth it do the work of `batches` batches: each takes one after the other.
///
/// # Errors
/// The first one; `what` panicked.
pub(super) fn together(
    what: &str,
    batches: usize,
    work: impl Fn() -> Result<()> + Sync,
) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let helpers = cores.min(THREADS).min(batches / 8).saturating_sub(1);
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let theirs = other
                .join()
                .unwrap_or_else(|_| Err(Error::new(Kind::Failed, format!("{what} panicked"))));
            result = result.and(theirs);
        }
        result
    })
}

fn batches(chosen: &[Run], cow: &Ranges) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    let mut next = |batch: &mut Batch| {
        let empty = Batch {
            offset: batch.offset + batch.bytes as u64,
            ..Batch::default()
        };
        batches.push(std::mem::replace(batch, empty));
    };
    for run in chosen.iter().filter(|run| run.place == Place::Present) {
        for (range, shared) in apart(run.range(), cow) {
            if batch.shared != shared && batch.bytes > 0 {
                next(&mut batch);
            }
            batch.shared = shared;
            let mut at = range.start;
            while at < range.end {
                let len = usize::try_from(range.end - at)
                    .unwrap_or(CHUNK)
                    .min(CHUNK - batch.bytes);
                batch.parts.push((at, len));
                batch.bytes += len;
                at += len as u64;
                if batch.bytes == CHUNK || batch.parts.len() == vm::MANY {
                    next(&mut batch);
                    batch.shared = shared;
                }
            }
        }
    }
    if batch.bytes > 0 {
        batches.push(batch);
    }
    batches
}

/// The parts of `range` outside and inside of `cow`, ascending.
fn apart(range: PageRange, cow: &Ranges) -> Vec<(PageRange, bool)> {
    let whole = Ranges::from(range);
    let inside = whole.intersect(cow);
    if inside.is_empty() {
        return vec![(range, false)];
    }
    let outside = whole.minus(&inside);
    let outside = outside.iter().map(|part| (part, false));
    let mut all: Vec<_> = inside
        .iter()
        .map(|part| (part, true))
        .chain(outside)
        .collect();
    all.sort_unstable();
    all
}

/// Reads parts (address, length) of a stopped process into `buffer`: the fast way, or where the
/// process itself may not read, the one that may. What it shares with other processes since a fork is
/// not read the fast way, which would give it copies of its own (process_vm_readv pins the pages).
pub(super) fn read(
    pid: Pid,
    memory: &Memory,
    parts: &[(Vaddr, usize)],
    shared: bool,
    buffer: &mut [u8],
) -> Result<()> {
    if !shared && vm::read_many(pid, parts, buffer) == Ok(buffer.len()) {
        return Ok(());
    }
    let mut rest = buffer;
    for (at, len) in parts {
        let (part, after) = rest.split_at_mut(*len);
        memory.read(*at, part).map_err(|e| {
            Error::io(
                format!("Cannot read {len} bytes at {at:x} of process {pid}"),
                e,
            )
        })?;
        rest = after;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_hold_every_present_page_once_and_in_order(
            runs in proptest::collection::vec((0u64..3, 1u64..200, any::<bool>()), 0..40),
            cow in proptest::collection::vec((0u64..100, 1u64..300), 0..10),
        ) {
            let mut end = 0;
            let cow: Ranges = cow
                .into_iter()
                .map(|(gap, pages)| {
                    let start = end + gap * PAGE_SIZE;
                    end = start + pages * PAGE_SIZE;
                    PageRange::new(start, end)
                })
                .collect();
            let mut at = 0;
            let mut chosen = Vec::new();
            for (gap, pages, present) in runs {
                at += gap;
                let place = if present { Place::Present } else { Place::Parent };
                chosen.push(Run { start: at * PAGE_SIZE, pages, place, lazy: false });
                at += pages;
            }
            let wanted: Vec<u64> = chosen
                .iter()
                .filter(|r| r.place == Place::Present)
                .flat_map(|r| (0..r.pages).map(|i| r.start + i * PAGE_SIZE))
                .collect();
            let (mut got, mut offset) = (Vec::new(), 0);
            for batch in batches(&chosen, &cow) {
                prop_assert_eq!(batch.offset, offset);
                prop_assert!(batch.bytes <= CHUNK && batch.parts.len() <= vm::MANY);
                offset += batch.bytes as u64;
                for (start, len) in batch.parts {
                    let part = Ranges::from(PageRange::new(start, start + len as u64));
                    let inside = cow.intersect(&part);
                    prop_assert_eq!(inside.pages(), if batch.shared { part.pages() } else { 0 });
                    got.extend((0..len as u64 / PAGE_SIZE).map(|i| start + i * PAGE_SIZE));
                }
            }
            prop_assert_eq!(got, wanted);
        }
    }
}
