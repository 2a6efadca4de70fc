//! Pagemaps: which pages of a task (or shared segment) are stored here, stored below, or neither.
//!
//! A pagemap image is one head record (`pages_id`, naming `pages-N.img`) followed by entries in
//! ascending, disjoint order. Only present runs advance the offset in the pages file.
//!
//! Reading normalises what old versions of CRIU wrote: `in_parent` instead of flags, no flags for
//! stored pages, `compat_nr_pages` instead of `nr_pages`. An entry with anything unknown in it (such
//! as the compressed pages of CRIU 4.3) is refused: to overlook it would mean wrong memory.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use prost::Message as _;

use super::frame;
use super::proto::{PagemapEntry, PagemapHead};
use crate::error::{Error, Kind, Result};
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// PE_PARENT: the bytes are in an ancestor.
const PARENT: u32 = 1;
/// PE_LAZY: a lazy restore may fill the page later.
const LAZY: u32 = 2;
/// PE_PRESENT: the bytes are in the pages file.
const PRESENT: u32 = 4;

/// Names a pagemap image of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PagemapId {
    /// `pagemap-PID.img`: private memory of a task; runs are virtual addresses.
    Task(u32),
    /// `pagemap-shmem-SHMID.img`: a shared segment; runs are offsets inside the segment.
    Shared(u64),
}

/// In JSON a pagemap is its file name.
impl serde::Serialize for PagemapId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.file_name())
    }
}

impl PagemapId {
    /// The file name inside the layer directory.
    pub fn file_name(self) -> String {
        match self {
            Self::Task(pid) => format!("pagemap-{pid}.img"),
            Self::Shared(id) => format!("pagemap-shmem-{id}.img"),
        }
    }

    /// Which pagemap a file with this name is.
    pub(super) fn from_file_name(name: &str) -> Option<Self> {
        let id = name.strip_prefix("pagemap-")?.strip_suffix(".img")?;
        match id.strip_prefix("shmem-") {
            Some(id) => id.parse().ok().map(Self::Shared),
            None => id.parse().ok().map(Self::Task),
        }
    }
}

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this layer's pages file.
    Present,
    /// In the nearest ancestor that covers the address.
    Parent,
}

/// One run of pages that are in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First address (or offset in a shared segment), page-aligned.
    pub start: Vaddr,
    /// Number of pages, never 0.
    pub pages: u64,
    /// Where the bytes are.
    pub place: Place,
    /// CRIU's PE_LAZY: the page may be filled later by a lazy restore. Kept for byte-exact rewrite.
    pub lazy: bool,
}

impl Run {
    /// The addresses of the run.
    pub fn range(&self) -> PageRange {
        PageRange::of_pages(self.start, self.pages)
    }
}

/// A pagemap after normalisation of legacy entries: ascending, disjoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// N of `pages-N.img`.
    pub pages_id: u32,
    /// Ascending, disjoint runs.
    pub runs: Vec<Run>,
}

impl Pagemap {
    /// Bytes that the pages file must have: the sum of the present runs.
    pub fn stored_bytes(&self) -> u64 {
        self.runs
            .iter()
            .filter(|r| r.place == Place::Present)
            .map(|r| r.pages * PAGE_SIZE)
            .sum()
    }

    /// Reads a pagemap image called `name`.
    pub(super) fn decode(name: &str, data: &[u8]) -> Result<Self> {
        let mut frames = frame::frames(name, data)?;
        let (head, _) = frames
            .next()
            .ok_or_else(|| Error::corrupt(format!("{name} has no head record")))??;
        refuse_unknown(name, head, &[1])?;
        let damaged = |e| Error::corrupt(format!("Cannot decode {name}")).because(e);
        let pages_id = PagemapHead::decode(head).map_err(damaged)?.pages_id;
        let mut map = Self {
            pages_id,
            runs: Vec::new(),
        };
        let mut end = 0;
        for frame in frames {
            let (bytes, _) = frame?;
            let Some(run) = run(name, entry(name, bytes)?)? else {
                continue;
            };
            if run.start < end {
                return Err(Error::corrupt(format!(
                    "{name} is not in ascending order at {:x}",
                    run.start
                )));
            }
            end = run.range().end;
            map.runs.push(run);
        }
        Ok(map)
    }

    /// The pagemap as image called `name`.
    pub(super) fn encode(&self, name: &str) -> Result<Vec<u8>> {
        let mut out = frame::header(name)?;
        frame::put(
            &mut out,
            &PagemapHead {
                pages_id: self.pages_id,
            },
        )?;
        for run in &self.runs {
            let place = match run.place {
                Place::Parent => PARENT,
                Place::Present => PRESENT,
            };
            let entry = PagemapEntry {
                vaddr: run.start,
                // CRIU before 4.2 knows only this one and would restore nothing without it.
                compat_nr_pages: u32::try_from(run.pages).unwrap_or(0),
                flags: Some(place | if run.lazy { LAZY } else { 0 }),
                nr_pages: Some(run.pages),
                ..PagemapEntry::default()
            };
            frame::put(&mut out, &entry)?;
        }
        Ok(out)
    }

    /// Appends a run, merging it with the last one where they touch and agree.
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.range().end == run.start
            && last.place == run.place
            && last.lazy == run.lazy
        {
            last.pages += run.pages;
        } else if run.pages > 0 {
            self.runs.push(run);
        }
    }
}

/// One entry. Stacks have millions of them, so the form that everybody writes is decoded by hand.
fn entry(name: &str, bytes: &[u8]) -> Result<PagemapEntry> {
    if let Some(entry) = usual(bytes) {
        return Ok(entry);
    }
    refuse_unknown(name, bytes, &[1, 2, 3, 4, 5])?;
    PagemapEntry::decode(bytes)
        .map_err(|e| Error::corrupt(format!("Cannot decode {name}")).because(e))
}

/// The entry, if it has only numbers of known fields; what is odd in any way is left to the library.
fn usual(mut bytes: &[u8]) -> Option<PagemapEntry> {
    let mut entry = PagemapEntry::default();
    while let [tag, rest @ ..] = bytes {
        bytes = rest;
        let value = varint(&mut bytes)?;
        let small = || u32::try_from(value).ok();
        match tag {
            0x08 => entry.vaddr = value,
            0x10 => entry.compat_nr_pages = small()?,
            0x18 => entry.in_parent = Some(value != 0),
            0x20 => entry.flags = Some(small()?),
            0x28 => entry.nr_pages = Some(value),
            _ => return None,
        }
    }
    Some(entry)
}

/// A number in protobuf's encoding.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The runs of a pagemap image, read one after the other: a stack may have more than fit into memory.
#[derive(Debug)]
pub struct Runs {
    /// Directory of the layer.
    dir: PathBuf,
    name: String,
    file: BufReader<File>,
    frame: Vec<u8>,
    pages_id: u32,
    end: Vaddr,
    /// Bytes of the pages file that the runs so far explain.
    stored: u64,
    failed: bool,
}

impl Runs {
    /// Begins to read the pagemap image `file`, called `name`, of the layer in `dir`.
    pub(super) fn new(dir: &Path, name: String, file: File) -> Result<Self> {
        let mut runs = Self {
            file: BufReader::with_capacity(1 << 16, file),
            frame: Vec::new(),
            pages_id: 0,
            end: 0,
            stored: 0,
            failed: false,
            dir: dir.to_path_buf(),
            name,
        };
        let magic = frame::header(&runs.name)?;
        let mut found = vec![0; magic.len()];
        runs.file
            .read_exact(&mut found)
            .map_err(|e| Error::corrupt(format!("{} ends too early", runs.name)).because(e))?;
        if found != magic {
            return Err(Error::corrupt(format!("{} is no pagemap", runs.name)));
        }
        if !runs.next_frame()? {
            return Err(Error::corrupt(format!("{} has no head record", runs.name)));
        }
        refuse_unknown(&runs.name, &runs.frame, &[1])?;
        runs.pages_id = PagemapHead::decode(&runs.frame[..])
            .map_err(|e| Error::corrupt(format!("Cannot decode {}", runs.name)).because(e))?
            .pages_id;
        Ok(runs)
    }

    /// N of `pages-N.img`.
    pub fn pages_id(&self) -> u32 {
        self.pages_id
    }

    /// Reads the next record into `frame`; false at the end of the file.
    fn next_frame(&mut self) -> Result<bool> {
        let damaged = |name: &str| Error::corrupt(format!("{name} ends in a record"));
        let ahead = self.file.fill_buf();
        let ahead = ahead.map_err(|e| Error::path("read", &self.name, e))?;
        if ahead.is_empty() {
            return Ok(false);
        }
        let mut len = [0; 4];
        self.file
            .read_exact(&mut len)
            .map_err(|e| damaged(&self.name).because(e))?;
        let len = usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX);
        // An entry has five numbers; a length that lies would cost memory.
        if len > 4096 {
            return Err(damaged(&self.name));
        }
        self.frame.resize(len, 0);
        self.file
            .read_exact(&mut self.frame)
            .map_err(|e| damaged(&self.name).because(e))?;
        Ok(true)
    }

    fn next_run(&mut self) -> Result<Option<Run>> {
        while self.next_frame()? {
            let Some(run) = run(&self.name, entry(&self.name, &self.frame)?)? else {
                continue;
            };
            if run.start < self.end {
                let what = format!("{} is not in ascending order at {:x}", self.name, run.start);
                return Err(Error::corrupt(what));
            }
            self.end = run.range().end;
            if run.place == Place::Present {
                self.stored = self.stored.saturating_add(run.range().bytes());
            }
            return Ok(Some(run));
        }
        refuse_excess(
            &self.dir.join(format!("pages-{}.img", self.pages_id)),
            self.stored,
        )?;
        Ok(None)
    }
}

impl Iterator for Runs {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Result<Run>> {
        if self.failed {
            return None;
        }
        let next = self.next_run().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}

/// Refuses a pages file with more bytes than its pagemap explains: its offsets would be wrong.
/// One with too few is for a check of the stack, which knows whether they are needed.
pub(super) fn refuse_excess(pages: &Path, stored: u64) -> Result<()> {
    let bytes = fs::metadata(pages).map_or(0, |meta| meta.len());
    if bytes <= stored {
        return Ok(());
    }
    let what = format!("{} has {bytes} bytes instead of {stored}", pages.display());
    Err(Error::new(Kind::Unsupported, what)
        .hint("It is damaged, or another program wrote pages in a form not known here"))
}

/// One entry, normalised; an entry without pages is none.
fn run(name: &str, entry: PagemapEntry) -> Result<Option<Run>> {
    let flags = match entry.flags {
        _ if entry.in_parent() => PARENT | entry.flags(),
        None | Some(0) => PRESENT,
        Some(flags) => flags,
    };
    let at = entry.vaddr;
    let place = match flags & !LAZY {
        PARENT => Place::Parent,
        PRESENT => Place::Present,
        0 => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{name} leaves the pages at {at:x} to a lazy restore"),
            )
            .hint("make the dump without --lazy-pages"));
        }
        _ if flags & !(PARENT | LAZY | PRESENT) == 0 => {
            return Err(Error::corrupt(format!(
                "{name} has pages at {at:x} both here and below"
            )));
        }
        _ => {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{name} has unknown flags {flags:#x} at {at:x}"),
            ));
        }
    };
    let pages = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
    let end = pages
        .checked_mul(PAGE_SIZE)
        .and_then(|bytes| bytes.checked_add(at));
    if end.is_none() || !at.is_multiple_of(PAGE_SIZE) {
        return Err(Error::corrupt(format!(
            "{name} has an impossible entry: {pages} pages at {at:x}"
        )));
    }
    let lazy = flags & LAZY != 0;
    Ok((pages > 0).then_some(Run {
        start: at,
        pages,
        place,
        lazy,
    }))
}

fn refuse_unknown(name: &str, bytes: &[u8], known: &[u32]) -> Result<()> {
    match frame::unknown_field(bytes, known) {
        None => Ok(()),
        Some(field) => Err(Error::new(
            Kind::Unsupported,
            format!("{name} has pages in a form that this version cannot read (field {field})"),
        )
        .hint("if a newer CRIU made the dump, make it again without --compress")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use proptest::prelude::*;

    use super::*;

    const NAME: &str = "pagemap-1.img";

    /// An image with these entries.
    fn image(entries: &[PagemapEntry]) -> Vec<u8> {
        let mut out = frame::header(NAME).unwrap();
        frame::put(&mut out, &PagemapHead { pages_id: 1 }).unwrap();
        for entry in entries {
            frame::put(&mut out, entry).unwrap();
        }
        out
    }

    /// The image as a file, read run by run.
    fn streamed(image: &[u8]) -> Result<Runs> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(image).unwrap();
        file.rewind().unwrap();
        Runs::new(Path::new("nowhere"), NAME.to_owned(), file)
    }

    fn entry(page: u64, pages: u64, flags: u32) -> PagemapEntry {
        PagemapEntry {
            vaddr: page * PAGE_SIZE,
            nr_pages: Some(pages),
            flags: Some(flags),
            ..PagemapEntry::default()
        }
    }

    fn kind_of(entries: &[PagemapEntry]) -> Kind {
        Pagemap::decode(NAME, &image(entries)).unwrap_err().kind()
    }

    fn pagemap() -> impl Strategy<Value = Pagemap> {
        let run = (1..1000_u64, 1..1000_u64, any::<bool>(), any::<bool>());
        (any::<u32>(), prop::collection::vec(run, 0..50)).prop_map(|(pages_id, runs)| {
            let mut map = Pagemap {
                pages_id,
                runs: Vec::new(),
            };
            let mut at = 0;
            for (gap, pages, present, lazy) in runs {
                let start = at + gap * PAGE_SIZE;
                let place = if present {
                    Place::Present
                } else {
                    Place::Parent
                };
                map.runs.push(Run {
                    start,
                    pages,
                    place,
                    lazy,
                });
                at = start + pages * PAGE_SIZE;
            }
            map
        })
    }

    proptest! {
        #[test]
        fn a_pagemap_reads_back_as_written(map in pagemap()) {
            let image = map.encode(NAME).unwrap();
            prop_assert_eq!(&Pagemap::decode(NAME, &image).unwrap(), &map);
            let runs: Vec<Run> = streamed(&image).unwrap().collect::<Result<_>>().unwrap();
            prop_assert_eq!(runs, map.runs);
        }

        #[test]
        fn a_flipped_bit_gives_a_pagemap_or_an_error(map in pagemap(), at: prop::sample::Index, bit in 0..8) {
            let mut image = map.encode(NAME).unwrap();
            let at = at.index(image.len());
            image[at] ^= 1_u8 << bit;
            let streamed = streamed(&image).and_then(Iterator::collect::<Result<Vec<Run>>>);
            match Pagemap::decode(NAME, &image) {
                Ok(map) => {
                    map.stored_bytes();
                    prop_assert_eq!(map.runs, streamed.unwrap());
                }
                Err(_) => drop(streamed.unwrap_err()),
            }
        }

        #[test]
        fn a_truncated_pagemap_gives_a_pagemap_or_an_error(map in pagemap(), to: prop::sample::Index) {
            let image = map.encode(NAME).unwrap();
            drop(Pagemap::decode(NAME, &image[..to.index(image.len())]));
        }
    }

    #[test]
    fn old_entries_are_normalised() {
        let old = PagemapEntry {
            vaddr: 0x1000,
            compat_nr_pages: 2,
            ..PagemapEntry::default()
        };
        let below = PagemapEntry {
            vaddr: 0x5000,
            in_parent: Some(true),
            ..old
        };
        let map = Pagemap::decode(NAME, &image(&[old, below])).unwrap();
        assert_eq!(
            map.runs[0],
            Run {
                start: 0x1000,
                pages: 2,
                place: Place::Present,
                lazy: false
            }
        );
        assert_eq!(
            map.runs[1],
            Run {
                start: 0x5000,
                pages: 2,
                place: Place::Parent,
                lazy: false
            }
        );
    }

    #[test]
    fn entries_that_cannot_be_are_refused() {
        assert_eq!(kind_of(&[entry(5, 1, 4), entry(4, 1, 4)]), Kind::Corrupt);
        assert_eq!(kind_of(&[entry(5, 2, 4), entry(6, 1, 4)]), Kind::Corrupt);
        assert_eq!(kind_of(&[entry(5, 1, 5)]), Kind::Corrupt);
        assert_eq!(kind_of(&[entry(5, u64::MAX, 4)]), Kind::Corrupt);
        assert_eq!(
            kind_of(&[PagemapEntry {
                vaddr: 1,
                ..entry(0, 1, 4)
            }]),
            Kind::Corrupt
        );
        assert_eq!(kind_of(&[entry(5, 1, 2)]), Kind::Unsupported);
        assert_eq!(kind_of(&[entry(5, 1, 12)]), Kind::Unsupported);
    }

    #[test]
    fn an_entry_with_an_unknown_field_is_refused() {
        let mut bytes = entry(5, 1, 4).encode_to_vec();
        bytes.extend([6 << 3, 9]); // field 6, varint 9
        let mut data = image(&[]);
        data.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        data.extend(bytes);
        let error = Pagemap::decode(NAME, &data).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.one_line().contains("field 6"), "{error}");
    }
}
