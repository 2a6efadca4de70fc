//! Shared segments (memfds, shared anonymous memory): their contents as pages.
//!
//! A segment is written through any mapping and any descriptor, so no tracker of one address space
//! sees all of it. Its pages are compared with the parent's instead, which proves the same.
//! Pages that were never touched are holes (lseek(2) SEEK_DATA) and are not stored.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::uio::pwrite;
use nix::unistd::{Whence, lseek};

use super::huge::Filling;
use super::pages::{Stored, Unchanged};
use super::pump;
use crate::chain::Resolved;
use crate::error::{Error, Result};
use crate::image::{Pagemap, PagesFile, Place, Run};
use crate::units::{PAGE_SIZE, PageRange};

/// Bytes moved at once.
const CHUNK: u64 = 256 * 1024;

/// Writes the pages of the segment `file`, `size` bytes long (`huge`: in pages of so many); `below` is the parent's version.
///
/// # Errors
/// When it cannot be read or written.
pub fn store(
    file: &File,
    size: u64,
    huge: Option<u64>,
    below: Option<&Resolved<'_>>,
    pages_id: u32,
    out: &mut PagesFile,
) -> Result<(Pagemap, Stored)> {
    let cannot = |e| Error::io("Cannot read a shared segment", e);
    let mut compare;
    let mut unchanged = match below {
        None => Unchanged::Unknown,
        Some(resolved) => {
            compare = resolved_page(resolved);
            Unchanged::Compared(&mut compare)
        }
    };
    let mut pagemap = Pagemap {
        pages_id,
        runs: Vec::new(),
    };
    let mut stored = Stored::default();
    let data = match huge {
        Some(page) => written(file, size, page)?,
        None => data(file, size)?,
    };
    let parts: Vec<PageRange> = data.into_iter().flat_map(parts).collect();
    let equal = match below {
        Some(below) => equal(file, size, &parts, below)?,
        None => vec![false; parts.len()],
    };
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    for (part, equal) in parts.into_iter().zip(equal) {
        if equal {
            stored.in_parent += part.pages();
            pagemap.push(Run {
                start: part.start,
                pages: part.pages(),
                place: Place::Parent,
                lazy: false,
            });
        } else {
            let bytes = read(file, size, part, &mut buffer).map_err(cannot)?;
            unchanged.write(part.start, bytes, &mut pagemap, &mut stored, out)?;
        }
    }
    Ok((pagemap, stored))
}

/// In pieces of at most [`CHUNK`] bytes.
fn parts(range: PageRange) -> impl Iterator<Item = PageRange> {
    let starts = (range.start..range.end).step_by(CHUNK as usize);
    starts.map(move |start| PageRange::new(start, range.end.min(start + CHUNK)))
}

/// A part of a segment. The last page may reach beyond the end: what is there reads as zeros.
fn read<'b>(
    file: &File,
    size: u64,
    part: PageRange,
    buffer: &'b mut [u8],
) -> std::io::Result<&'b [u8]> {
    let length = |bytes: u64| {
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .min(buffer.len())
    };
    let (len, inside) = (
        length(part.bytes()),
        length(part.bytes().min(size - part.start)),
    );
    let bytes = &mut buffer[..len];
    file.read_exact_at(&mut bytes[..inside], part.start)?;
    bytes[inside..].fill(0);
    Ok(bytes)
}

/// Which parts are the parent's throughout. The target waits: several threads compare. What cannot be read is
/// not equal, and whoever stores it meets the error.
fn equal(file: &File, size: u64, parts: &[PageRange], below: &Resolved<'_>) -> Result<Vec<bool>> {
    let found: Vec<AtomicBool> = parts.iter().map(|_| AtomicBool::new(false)).collect();
    let next = AtomicUsize::new(0);
    pump::together("Comparing a shared segment", parts.len(), || {
        let chunk = usize::try_from(CHUNK).unwrap_or(0);
        let (mut mine, mut theirs) = (vec![0; chunk], vec![0; chunk]);
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(part), Some(found)) = (parts.get(at), found.get(at)) else {
                return Ok(());
            };
            let owned = below.ownership().within(*part).map(|run| run.range.pages());
            if owned.sum::<u64>() < part.pages() {
                continue;
            }
            let Ok(mine) = read(file, size, *part, &mut mine) else {
                continue;
            };
            let theirs = &mut theirs[..mine.len()];
            let equal = below.read_at(part.start, theirs).is_ok() && mine == theirs;
            found.store(equal, Ordering::Relaxed);
        }
    })?;
    Ok(found.into_iter().map(AtomicBool::into_inner).collect())
}

/// The page of a resolved stack as a comparison wants it. Of who asks for one page after the other, more and
/// more is read ahead.
pub fn resolved_page<'a>(
    resolved: &'a Resolved<'_>,
) -> impl FnMut(u64, &mut [u8]) -> Result<bool> + 'a {
    let mut ahead = Vec::new();
    let (mut start, mut next) = (0, 0);
    let mut wanted = PAGE_SIZE;
    move |at, page| {
        let Some(run) = resolved.ownership().at(at) else {
            return Ok(false);
        };
        let inside = |start: u64, ahead: &[u8]| {
            let from = usize::try_from(at.checked_sub(start)?).ok()?;
            Some(from..from + page.len()).filter(|part| part.end <= ahead.len())
        };
        if inside(start, &ahead).is_none() {
            wanted = if at == next {
                CHUNK.min(wanted * 2)
            } else {
                PAGE_SIZE
            };
            let len = (run.range.end - at).min(wanted);
            ahead.resize(usize::try_from(len).unwrap_or(0), 0);
            start = at;
            // What cannot be read is an error only of the page that is asked for.
            if resolved.read_at(at, &mut ahead).is_err() {
                ahead.clear();
            }
        }
        next = at + page.len() as u64;
        match inside(start, &ahead).and_then(|part| ahead.get(part)) {
            Some(known) => page.copy_from_slice(known),
            None => resolved.read_at(at, page)?,
        }
        Ok(true)
    }
}

/// The parts of a segment that were ever written, page-aligned, ascending.
fn data(file: &File, size: u64) -> Result<Vec<PageRange>> {
    let cannot = |e| Error::os("Cannot find the data of a shared segment", e);
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match lseek(file, at.cast_signed(), Whence::SeekData) {
            Ok(start) => start.cast_unsigned() / PAGE_SIZE * PAGE_SIZE,
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(cannot(e)),
        };
        let end = lseek(file, start.cast_signed(), Whence::SeekHole).map_err(cannot)?;
        let end = end.cast_unsigned().next_multiple_of(PAGE_SIZE);
        found.push(PageRange::new(start, end));
        at = end;
    }
    Ok(found)
}

/// The huge pages that are not all zeros: their files tell no holes.
fn written(file: &File, size: u64, page: u64) -> Result<Vec<PageRange>> {
    let cannot = |e| Error::io("Cannot read a segment of huge pages", e);
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    let mut found = Vec::new();
    let mut start = 0;
    while start < size {
        let end = (start + page).min(size);
        let mut at = start;
        while at < end {
            let len = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
            file.read_exact_at(&mut buffer[..len], at).map_err(cannot)?;
            if buffer[..len].iter().any(|byte| *byte != 0) {
                found.push(PageRange::new(start, end.next_multiple_of(PAGE_SIZE)));
                break;
            }
            at += len as u64;
        }
        start = end;
    }
    Ok(found)
}

/// Fills a new segment of `size` bytes (`huge`: in pages of so many) with the pages of a stack.
///
/// # Errors
/// When a page cannot be read or written.
pub fn fill(fd: &OwnedFd, size: u64, huge: Option<u64>, resolved: &Resolved<'_>) -> Result<u64> {
    let filling = huge.map(|page| Filling::new(fd, size.next_multiple_of(page)));
    let filling = filling.transpose()?;
    let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(0)];
    let mut pages = 0;
    for run in resolved.runs() {
        let mut at = run.range.start;
        while at < run.range.end {
            let len = (run.range.end - at).min(CHUNK);
            let part = &mut buffer[..usize::try_from(len).unwrap_or(0)];
            resolved.read_at(at, part)?;
            let inside = usize::try_from(len.min(size.saturating_sub(at))).unwrap_or(0);
            match &filling {
                Some(filling) => filling.write(&part[..inside], at),
                None => write_at(fd, &part[..inside], at)?,
            }
            at += len;
            pages += len / PAGE_SIZE;
        }
    }
    Ok(pages)
}

/// Fills a new segment with these bytes; the number of pages.
///
/// # Errors
/// When it cannot be written.
pub fn write(fd: &OwnedFd, bytes: &[u8]) -> Result<u64> {
    write_at(fd, bytes, 0)?;
    Ok((bytes.len() as u64).div_ceil(PAGE_SIZE))
}

fn write_at(fd: &OwnedFd, bytes: &[u8], at: u64) -> Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        done += pwrite(fd, &bytes[done..], (at + done as u64).cast_signed())
            .map_err(|e| Error::os("Cannot fill a shared segment", e))?;
    }
    Ok(())
}
