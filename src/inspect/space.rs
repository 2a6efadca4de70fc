//! The address space of a task as of a layer: for each address what is there, and whose bytes.
//!
//! A page that the task's pagemap has is the task's own. Elsewhere a mapping shows what is behind
//! it: zeros (anonymous memory that was never written), a shared segment, a file (not part of any
//! layer), the kernel's data. Parts are ascending and disjoint; neighbours are not joined.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use serde::Serialize;

use super::view::View;
use crate::chain::{Missing, Owned, Ranges, Resolved, lost as lost_in};
use crate::error::{Error, Kind, Result};
use crate::image::proto::{MmEntry, VmaEntry};
use crate::image::{PagemapId, status};
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// What is behind a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    /// Nothing: zeros.
    Anonymous,
    /// A file.
    File,
    /// A shared segment, by its number.
    Segment(u64),
    /// The kernel.
    Kernel,
}

/// One mapping of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mapping {
    /// Its addresses.
    pub range: PageRange,
    /// `PROT_*` bits.
    pub prot: u32,
    /// MAP_SHARED rather than MAP_PRIVATE.
    pub shared: bool,
    /// What is behind it.
    pub backing: Backing,
    /// Where in the file or segment it begins, in bytes.
    pub offset: u64,
    /// As in `/proc/PID/maps`; empty for anonymous memory.
    pub name: String,
}

impl Mapping {
    /// `rwxp`, as in `/proc/PID/maps`.
    pub fn permissions(&self) -> String {
        let bit = |mask: i32, letter| {
            if self.prot & mask.cast_unsigned() != 0 {
                letter
            } else {
                '-'
            }
        };
        let shared = if self.shared { 's' } else { 'p' };
        [
            bit(libc::PROT_READ, 'r'),
            bit(libc::PROT_WRITE, 'w'),
            bit(libc::PROT_EXEC, 'x'),
            shared,
        ]
        .into_iter()
        .collect()
    }
}

/// Where the bytes of a part are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a pages file.
    Stored(Owned),
    /// In the pages file of the shared segment with this number.
    Segment(u64, Owned),
    /// Never written: zeros.
    Zero,
    /// In the file that is mapped there.
    File,
    /// The kernel's own data.
    Kernel,
    /// Guard pages: any access is an error.
    Guard,
    /// Nothing is mapped there.
    Unmapped,
    /// Dedup freed the page in the layer with this number (0 = tip).
    Freed(usize),
    /// No layer has the page.
    Missing,
}

impl Source {
    /// Why there are no bytes, if so.
    pub fn absence(self) -> Option<&'static str> {
        match self {
            Self::Stored(_) | Self::Segment(..) | Self::Zero => None,
            Self::File => Some("in a mapped file, not in the layer"),
            Self::Kernel => Some("the kernel's data"),
            Self::Guard => Some("guard pages"),
            Self::Unmapped => Some("not mapped"),
            Self::Freed(_) => Some("freed by dedup"),
            Self::Missing => Some("missing in the layers below"),
        }
    }
}

/// A range of addresses with one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The addresses.
    pub range: PageRange,
    /// Where the bytes are.
    pub source: Source,
}

/// The memory of a task (or of a shared segment) as of a layer.
#[derive(Debug)]
pub struct Space<'v> {
    id: PagemapId,
    mappings: Vec<Mapping>,
    guards: Ranges,
    memory: Resolved<'v>,
    segments: BTreeMap<u64, Resolved<'v>>,
    /// What dedup punched, by layer and pages file, as file offsets.
    gone: BTreeMap<(usize, u32), Ranges>,
}

impl<'v> Space<'v> {
    pub(super) fn of_task(view: &'v View, pid: u32) -> Result<Self> {
        let mm: MmEntry = view.images().one(&format!("mm-{pid}.img"))?;
        let mut mappings = Vec::new();
        let mut guards = Vec::new();
        for vma in &mm.vmas {
            let range = PageRange::new(vma.start, vma.end);
            if vma.status & status::GUARD != 0 {
                guards.push(range);
            } else {
                mappings.push(mapping(view, &mm, vma));
            }
        }
        mappings.sort_by_key(|mapping| mapping.range);
        let memory = view.stack().resolved(PagemapId::Task(pid))?;
        let mut space = Self {
            id: PagemapId::Task(pid),
            segments: BTreeMap::new(),
            guards: guards.into_iter().collect(),
            gone: BTreeMap::new(),
            mappings,
            memory,
        };
        for mapping in &space.mappings {
            if let Backing::Segment(shmid) = mapping.backing
                && !space.segments.contains_key(&shmid)
            {
                let memory = view.stack().resolved(PagemapId::Shared(shmid))?;
                space.segments.insert(shmid, memory);
            }
        }
        space.find_gone(view)?;
        Ok(space)
    }

    pub(super) fn of_segment(view: &'v View, shmid: u64) -> Result<Self> {
        let memory = view.stack().resolved(PagemapId::Shared(shmid))?;
        let listed = view.listed(shmid);
        let end = memory.runs().last().map_or(0, |run| run.range.end);
        let size = listed.map_or(0, |s| s.size).next_multiple_of(PAGE_SIZE);
        let mapping = Mapping {
            range: PageRange::new(0, end.max(size)),
            prot: 0,
            shared: true,
            backing: Backing::Anonymous,
            offset: 0,
            name: listed.map_or_else(String::new, |s| s.name.clone()),
        };
        let mut space = Self {
            id: PagemapId::Shared(shmid),
            mappings: vec![mapping],
            guards: Ranges::new(),
            memory,
            segments: BTreeMap::new(),
            gone: BTreeMap::new(),
        };
        space.find_gone(view)?;
        Ok(space)
    }

    /// The pagemap that it is of.
    pub fn id(&self) -> PagemapId {
        self.id
    }

    /// The mappings, ascending.
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Pages whose owner is a layer: the task's own.
    pub fn memory(&self) -> &Resolved<'v> {
        &self.memory
    }

    /// The mapping that contains `addr`.
    pub fn mapping_at(&self, addr: Vaddr) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|m| m.range.start <= addr);
        let mapping = self.mappings.get(after.checked_sub(1)?)?;
        mapping.range.contains(addr).then_some(mapping)
    }

    /// What is in `range`, ascending, without gaps.
    pub fn parts(&self, range: PageRange) -> Vec<Part> {
        let mut parts = Parts(Vec::new());
        let mut at = range.start;
        let first = self
            .mappings
            .partition_point(|m| m.range.end <= range.start);
        for mapping in self.mappings.iter().skip(first) {
            let inside = mapping.range.intersect(PageRange::new(at, range.end));
            if mapping.range.start >= range.end {
                break;
            }
            parts.push(PageRange::new(at, inside.start), Source::Unmapped);
            self.inside(mapping, inside, &mut parts);
            at = inside.end;
        }
        parts.push(PageRange::new(at, range.end), Source::Unmapped);
        parts.0
    }

    /// Fills `buf` with the bytes at `addr`, which `part` contains; zeros where there are none.
    pub fn read(&self, part: &Part, addr: Vaddr, buf: &mut [u8]) -> Result<()> {
        let (memory, run) = match part.source {
            Source::Stored(run) => (&self.memory, run),
            Source::Segment(shmid, run) => match self.segments.get(&shmid) {
                Some(memory) => (memory, run),
                None => return Err(Error::new(Kind::NotFound, format!("No segment {shmid}"))),
            },
            _ => {
                buf.fill(0);
                return Ok(());
            }
        };
        let offset = run.offset + (addr - part.range.start);
        memory.file(&run)?.read_exact_at(buf, offset).map_err(|e| {
            let what = format!("Cannot read page {addr:x} of {}", self.id.file_name());
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::corrupt(what + ": its pages file is too short")
            } else {
                Error::io(what, e)
            }
        })
    }

    /// The parts inside one mapping.
    fn inside(&self, mapping: &Mapping, range: PageRange, parts: &mut Parts) {
        let mut at = range.start;
        for run in self.memory.ownership().within(range) {
            self.beneath(mapping, PageRange::new(at, run.range.start), parts);
            self.stored(run.range, run, Source::Stored, parts);
            at = run.range.end;
        }
        self.beneath(mapping, PageRange::new(at, range.end), parts);
    }

    /// Parts of `range` that the task has no pages of its own in.
    fn beneath(&self, mapping: &Mapping, range: PageRange, parts: &mut Parts) {
        if range.is_empty() {
            return;
        }
        let lost = lost(self.memory.ownership().missing());
        let whole = Ranges::from(range);
        let odd = lost.union(&self.guards).intersect(&whole);
        let mut at = range.start;
        for next in odd.iter() {
            self.behind(mapping, PageRange::new(at, next.start), parts);
            let guarded = self.guards.contains(next.start);
            parts.push(
                next,
                if guarded {
                    Source::Guard
                } else {
                    Source::Missing
                },
            );
            at = next.end;
        }
        self.behind(mapping, PageRange::new(at, range.end), parts);
    }

    /// What the backing of a mapping shows.
    fn behind(&self, mapping: &Mapping, range: PageRange, parts: &mut Parts) {
        match mapping.backing {
            Backing::Anonymous => parts.push(range, Source::Zero),
            Backing::File => parts.push(range, Source::File),
            Backing::Kernel => parts.push(range, Source::Kernel),
            Backing::Segment(shmid) => {
                let Some(segment) = self.segments.get(&shmid) else {
                    return parts.push(range, Source::Missing);
                };
                let there = |addr: Vaddr| addr - mapping.range.start + mapping.offset;
                let here = |offset: u64| offset - mapping.offset + mapping.range.start;
                let wanted = PageRange::new(there(range.start), there(range.end));
                let mut at = range.start;
                for run in segment.ownership().within(wanted) {
                    let stored = PageRange::new(here(run.range.start), here(run.range.end));
                    parts.push(PageRange::new(at, stored.start), Source::Zero);
                    self.stored(stored, run, |run| Source::Segment(shmid, run), parts);
                    at = stored.end;
                }
                parts.push(PageRange::new(at, range.end), Source::Zero);
            }
        }
    }

    /// A stored run at the addresses `range`, less what dedup punched.
    fn stored(
        &self,
        range: PageRange,
        run: Owned,
        source: impl Fn(Owned) -> Source,
        parts: &mut Parts,
    ) {
        let none = Ranges::new();
        let gone = self.gone.get(&(run.layer, run.pages_id)).unwrap_or(&none);
        let whole = PageRange::new(run.offset, run.end_offset());
        let mut at = 0;
        let mut put = |from: u64, to: u64, lost: bool| {
            let shift = |by: u64| PageRange::new(range.start + by, range.start + to);
            let owned = Owned {
                range: PageRange::new(run.range.start + from, run.range.start + to),
                offset: run.offset + from,
                ..run
            };
            let source = if lost {
                Source::Freed(run.layer)
            } else {
                source(owned)
            };
            parts.push(shift(from), source);
        };
        for hole in gone.intersect(&whole.into()).iter() {
            let (from, to) = (hole.start - run.offset, hole.end - run.offset);
            put(at, from, false);
            put(from, to, true);
            at = to;
        }
        put(at, whole.bytes(), false);
    }

    /// Looks for holes in all pages files that are read.
    fn find_gone(&mut self, view: &View) -> Result<()> {
        let mut gone = BTreeMap::new();
        for memory in self.segments.values().chain([&self.memory]) {
            for run in memory.runs() {
                let key = (run.layer, run.pages_id);
                if gone.contains_key(&key) {
                    continue;
                }
                let level = view.stack().level(run.layer)?;
                let dir = level.dir();
                let path = dir.join(format!("pages-{}.img", run.pages_id));
                let cannot = |e| Error::path("read", &path, e);
                let meta = fs::metadata(&path).map_err(cannot)?;
                let found = if meta.blocks() * 512 < meta.len() {
                    let known = level.sidecar().and_then(|s| s.known_pages(run.pages_id));
                    lost_in(memory.file(run)?, meta.len(), known).map_err(cannot)?
                } else {
                    Ranges::new() // no byte is missing
                };
                gone.insert(key, found);
            }
        }
        self.gone = gone;
        Ok(())
    }
}

/// Parts, ascending, none empty.
struct Parts(Vec<Part>);

impl Parts {
    fn push(&mut self, range: PageRange, source: Source) {
        if !range.is_empty() {
            self.0.push(Part { range, source });
        }
    }
}

fn lost(missing: &[Missing]) -> Ranges {
    missing.iter().map(|gap| gap.range).collect()
}

/// What an entry of the image says about a mapping.
fn mapping(view: &View, mm: &MmEntry, vma: &VmaEntry) -> Mapping {
    let range = PageRange::new(vma.start, vma.end);
    let is = |bits: u32| vma.status & bits != 0;
    let file = u32::try_from(vma.shmid).ok();
    let (backing, name) = if is(status::VVAR) {
        (Backing::Kernel, "[vvar]".to_owned())
    } else if is(status::VSYSCALL) {
        (Backing::Kernel, "[vsyscall]".to_owned())
    } else if is(status::UPROBES) {
        (Backing::Kernel, "[uprobes]".to_owned())
    } else if is(status::MEMFD) {
        match file.and_then(|file| view.segment_of(file)) {
            Some(segment) => (Backing::Segment(segment.shmid), segment.name.clone()),
            None => (Backing::File, String::new()),
        }
    } else if is(status::ANON_SHARED | status::SYSVIPC) {
        let listed = view.listed(vma.shmid).map(|s| s.name.clone());
        let name = listed.unwrap_or_else(|| "/dev/zero".to_owned());
        (Backing::Segment(vma.shmid), name)
    } else if is(status::FILE_PRIVATE | status::FILE_SHARED) {
        let reg = file.and_then(|file| view.file(file)?.reg.as_ref());
        (
            Backing::File,
            reg.map_or_else(String::new, |reg| reg.name.clone()),
        )
    } else if is(status::SOCKET) {
        (Backing::Kernel, "socket".to_owned())
    } else if is(status::VDSO) {
        (Backing::Anonymous, "[vdso]".to_owned())
    } else if is(status::HEAP) {
        (Backing::Anonymous, "[heap]".to_owned())
    } else if range.contains(mm.mm_start_stack) {
        (Backing::Anonymous, "[stack]".to_owned())
    } else {
        (Backing::Anonymous, String::new())
    };
    Mapping {
        range,
        prot: vma.prot,
        shared: vma.flags & libc::MAP_SHARED.cast_unsigned() != 0,
        offset: if matches!(backing, Backing::Anonymous) {
            0
        } else {
            vma.pgoff
        },
        backing,
        name,
    }
}
