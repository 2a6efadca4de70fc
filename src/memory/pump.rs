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
}

/// Copies the present runs, one after the other, to the start of an empty pages file.
///
/// # Errors
/// When a page cannot be read or written.
pub(super) fn copy(pid: Pid, memory: &Memory, chosen: &[Run], out: &PagesFile) -> Result<()> {
    let batches = batches(chosen);
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let bytes = &mut buffer[..batch.bytes];
            read(pid, memory, &batch.parts, bytes)?;
            out.file()
                .write_all_at(bytes, batch.offset)
                .map_err(|e| Error::io(format!("Cannot write the pages of process {pid}"), e))?;
        }
        Ok(())
    };
    together(pid, batches.len(), work)
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
    let work = || -> Result<()> {
        let mut buffer = vec![0; CHUNK];
        while let Some((at, len)) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let part = &mut buffer[..*len];
            bytes(*at, part)?;
            memory.write(*at, part).map_err(|e| {
                Error::io(format!("Cannot fill page {at:x} of new process {pid}"), e)
                    .kinded(Kind::Failed)
            })?;
        }
        Ok(())
    };
    together(pid, parts.len(), work)?;
    Ok(parts.iter().map(|(_, len)| *len as u64 / PAGE_SIZE).sum())
}

/// Lets as many threads as are worth it do the work of `batches` batches.
fn together(pid: Pid, batches: usize, work: impl Fn() -> Result<()> + Sync) -> Result<()> {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let helpers = cores.min(THREADS).min(batches / 8).saturating_sub(1);
    let work = &work;
    thread::scope(|scope| {
        let others: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let theirs = other.join().unwrap_or_else(|_| {
                Err(Error::new(
                    Kind::Failed,
                    format!("Copying the pages of process {pid} panicked"),
                ))
            });
            result = result.and(theirs);
        }
        result
    })
}

fn batches(chosen: &[Run]) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut batch = Batch::default();
    for run in chosen.iter().filter(|run| run.place == Place::Present) {
        let range = run.range();
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at)
                .unwrap_or(CHUNK)
                .min(CHUNK - batch.bytes);
            batch.parts.push((at, len));
            batch.bytes += len;
            at += len as u64;
            if batch.bytes == CHUNK || batch.parts.len() == vm::MANY {
                let offset = batch.offset + batch.bytes as u64;
                batches.push(std::mem::replace(
                    &mut batch,
                    Batch {
                        offset,
                        ..Batch::default()
                    },
                ));
            }
        }
    }
    if batch.bytes > 0 {
        batches.push(batch);
    }
    batches
}

/// Reads parts (address, length) of a stopped process into `buffer`: the fast way, or where the
/// process itself may not read, the one that may.
pub(super) fn read(
    pid: Pid,
    memory: &Memory,
    parts: &[(Vaddr, usize)],
    buffer: &mut [u8],
) -> Result<()> {
    if vm::read_many(pid, parts, buffer) == Ok(buffer.len()) {
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
        ) {
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
            for batch in batches(&chosen) {
                prop_assert_eq!(batch.offset, offset);
                prop_assert!(batch.bytes <= CHUNK && batch.parts.len() <= vm::MANY);
                offset += batch.bytes as u64;
                for (start, len) in batch.parts {
                    got.extend((0..len as u64 / PAGE_SIZE).map(|i| start + i * PAGE_SIZE));
                }
            }
            prop_assert_eq!(got, wanted);
        }
    }
}
