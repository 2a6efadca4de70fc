//! A task of a layer as a core file, for debuggers. Sources: core(5), elf(5), Linux
//! `fs/binfmt_elf.c`.
//!
//! Every mapping is a PT_LOAD segment, or several. Anonymous memory is in the file with all its
//! zeros, once any of it was written, but for long stretches that never were: heaps of some languages
//! reserve more than any disk holds. Of a mapped file only the pages that are in the layer are
//! there; for the rest the segment is empty, and a debugger reads the file that NT_FILE names, as
//! with core files of the kernel.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::cat::CHUNK;
use super::corenotes;
use super::space::{Part, Source};
use super::view::View;
use crate::error::{Error, Kind, Result};
use crate::units::{PAGE_SIZE, PageRange};

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const SECTION_HEADER: u64 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const ET_CORE: u16 = 4;
const EM_X86_64: u16 = 62;
/// More bytes that were never written are left out.
const MOST_ZEROS: u64 = 64 << 20;
/// Number of program headers that stands for "see section header 0".
const PN_XNUM: u64 = 0xffff;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Threads.
    pub threads: usize,
    /// Segments of memory.
    pub segments: usize,
    /// Length of the file.
    pub bytes: u64,
    /// Pages that the layers should have and have not.
    pub lost: Vec<Part>,
}

/// Addresses that become one segment.
struct Segment {
    range: PageRange,
    prot: u32,
    /// What to write; nothing for a segment without bytes.
    parts: Vec<Part>,
}

impl Segment {
    fn filled(&self) -> u64 {
        if self.parts.is_empty() {
            0
        } else {
            self.range.bytes()
        }
    }
}

/// Writes process `pid` as a core file to `out`, with holes for zeros where `out` is a file.
///
/// # Errors
/// When there is no such process, its images cannot be read, or `out` cannot be written.
pub fn core_file(view: &View, pid: u32, out: File) -> Result<Exported> {
    let task = view.task(pid)?;
    let space = view.space(pid)?;
    let mut exported = Exported {
        threads: task.threads.len(),
        ..Exported::default()
    };
    let mut segments = Vec::new();
    for mapping in space.mappings() {
        let parts = space.parts(mapping.range);
        let lost = |part: &&Part| matches!(part.source, Source::Freed(_) | Source::Missing);
        exported.lost.extend(parts.iter().filter(lost));
        segments.extend(pieces(&parts, mapping.prot));
    }
    let notes = corenotes::all(view, task, &space)?;
    let headers = segments.len() as u64 + 1;
    let many = headers >= PN_XNUM;
    let note_start = HEADER + headers * PROGRAM_HEADER + if many { SECTION_HEADER } else { 0 };
    let mut at = (note_start + notes.len() as u64).next_multiple_of(PAGE_SIZE);

    let mut head = elf_header(headers);
    program_header(
        &mut head,
        PT_NOTE,
        0,
        note_start,
        PageRange::new(0, 0),
        notes.len() as u64,
        4,
    );
    for segment in &segments {
        program_header(
            &mut head,
            PT_LOAD,
            flags(segment.prot),
            at,
            segment.range,
            segment.filled(),
            PAGE_SIZE,
        );
        at += segment.filled();
    }
    if many {
        head.extend(section_header(headers)?);
    }
    head.extend(notes);
    let page = usize::try_from(PAGE_SIZE).unwrap_or(CHUNK);
    head.resize(head.len().next_multiple_of(page), 0);

    let mut out = Output::new(out)?;
    out.write(&head)?;
    let mut buffer = vec![0; CHUNK];
    for part in segments.iter().flat_map(|segment| &segment.parts) {
        if part.source == Source::Zero {
            out.zeros(part.range.bytes())?;
            continue;
        }
        let mut at = part.range.start;
        while at < part.range.end {
            let len = usize::try_from(part.range.end - at)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            space.read(part, at, &mut buffer[..len])?;
            out.write(&buffer[..len])?;
            at += len as u64;
        }
    }
    exported.segments = segments.len();
    exported.bytes = out.finish()?;
    Ok(exported)
}

/// The segments of one mapping.
fn pieces(parts: &[Part], prot: u32) -> Vec<Segment> {
    let stored = |part: &Part| matches!(part.source, Source::Stored(_) | Source::Segment(..));
    let written = parts.iter().any(stored);
    let mut segments: Vec<Segment> = Vec::new();
    for part in parts {
        let short = part.range.bytes() <= MOST_ZEROS;
        let filled = stored(part) || (part.source == Source::Zero && written && short);
        let bytes = filled.then_some(*part);
        match segments.last_mut() {
            Some(last) if last.parts.is_empty() != filled => {
                last.range.end = part.range.end;
                last.parts.extend(bytes);
            }
            _ => segments.push(Segment {
                range: part.range,
                prot,
                parts: bytes.into_iter().collect(),
            }),
        }
    }
    segments
}

fn elf_header(headers: u64) -> Vec<u8> {
    let many = headers >= PN_XNUM;
    let half = |n: u64| u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes();
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    out.resize(16, 0);
    out.extend(ET_CORE.to_le_bytes());
    out.extend(EM_X86_64.to_le_bytes());
    out.extend(1u32.to_le_bytes()); // version
    out.extend(0u64.to_le_bytes()); // entry
    out.extend(HEADER.to_le_bytes());
    let sections = if many {
        HEADER + headers * PROGRAM_HEADER
    } else {
        0
    };
    out.extend(sections.to_le_bytes());
    out.extend(0u32.to_le_bytes()); // flags
    out.extend(half(HEADER));
    out.extend(half(PROGRAM_HEADER));
    out.extend(half(headers.min(PN_XNUM)));
    out.extend(half(if many { SECTION_HEADER } else { 0 }));
    out.extend(half(u64::from(many)));
    out.extend(half(0));
    out
}

fn program_header(
    out: &mut Vec<u8>,
    kind: u32,
    flags: u32,
    offset: u64,
    range: PageRange,
    bytes: u64,
    align: u64,
) {
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for word in [offset, range.start, 0, bytes, range.bytes(), align] {
        out.extend(word.to_le_bytes());
    }
}

/// Section header 0, whose `sh_info` is the number of program headers.
fn section_header(headers: u64) -> Result<Vec<u8>> {
    let info = u32::try_from(headers).map_err(|e| {
        Error::new(Kind::Unsupported, "The memory is in too many pieces").because(e)
    })?;
    let mut out = vec![0; 44];
    out.extend(info.to_le_bytes());
    out.resize(usize::try_from(SECTION_HEADER).unwrap_or(64), 0);
    Ok(out)
}

/// `PROT_*` bits as `PF_*` bits: read and execute change places.
fn flags(prot: u32) -> u32 {
    (prot & 1) << 2 | prot & 2 | (prot & 4) >> 2
}

/// A file, or something that zeros must be written to.
struct Output {
    file: File,
    sparse: bool,
    at: u64,
}

impl Output {
    fn new(mut file: File) -> Result<Self> {
        let cannot = |e: io::Error| Error::io("Cannot write the core file", e);
        let appends = fcntl(&file, FcntlArg::F_GETFL)
            .is_ok_and(|bits| OFlag::from_bits_retain(bits).contains(OFlag::O_APPEND));
        let meta = file.metadata().map_err(cannot)?;
        let empty = meta.is_file() && meta.len() == 0 && !appends;
        let sparse = empty && file.stream_position().is_ok_and(|at| at == 0);
        Ok(Self {
            file,
            sparse,
            at: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| Error::io("Cannot write the core file", e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn zeros(&mut self, count: u64) -> Result<()> {
        if self.sparse {
            self.at += count;
            let moved = self.file.seek(SeekFrom::Start(self.at));
            return moved
                .map(drop)
                .map_err(|e| Error::io("Cannot write the core file", e));
        }
        let zeros = vec![0; CHUNK];
        let mut left = count;
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            self.write(&zeros[..len])?;
            left -= len as u64;
        }
        Ok(())
    }

    fn finish(self) -> Result<u64> {
        if self.sparse {
            let set = self.file.set_len(self.at);
            set.map_err(|e| Error::io("Cannot write the core file", e))?;
        }
        Ok(self.at)
    }
}
