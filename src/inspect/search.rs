//! Looking for bytes in memory as of a layer.
//!
//! A window slides over every run of bytes that follow each other, whichever layers and mappings
//! they are of, so a match is found across all borders. Memory that was never written is zeros; of
//! such a stretch only the first and last page are searched, lest reservations of terabytes are.
//! What is not in the layer (mapped files) is not searched. Memory use is bounded by the window.

use regex::bytes::{Regex, RegexBuilder};
use serde::Serialize;

use super::space::{Backing, Part, Source, Space};
use super::view::View;
use crate::error::{Error, Kind, Result};
use crate::image::PagemapId;
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// Bytes read at once.
const STEP: usize = 1 << 20;
/// The longest match; longer ones are reported in pieces.
const LONGEST: usize = 64 << 10;
/// Bytes before a match that a regular expression may look at (`\b`, `^`).
const BEHIND: usize = 16;

/// What is looked for.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// These bytes.
    pub fn bytes(bytes: &[u8]) -> Result<Self> {
        let text: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        Self::regex(&text)
    }

    /// This text, as UTF-8.
    pub fn text(text: &str) -> Result<Self> {
        Self::bytes(text.as_bytes())
    }

    /// A regular expression over bytes (syntax of the crate `regex`; `.` is any byte but a newline).
    pub fn regex(text: &str) -> Result<Self> {
        let wrong = |what: String| {
            Error::new(Kind::Usage, what).hint("The syntax is that of docs.rs/regex")
        };
        let regex = RegexBuilder::new(text)
            .unicode(false)
            .size_limit(32 << 20)
            .build()
            .map_err(|e| wrong(format!("{text:?} is no regular expression")).because(e))?;
        if regex.is_match(b"") {
            return Err(wrong(format!(
                "The pattern {text:?} matches nothing at all everywhere"
            )));
        }
        Ok(Self(regex))
    }
}

/// Where something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the memory of this process.
    Task(u32),
    /// In the shared segment with this number.
    Segment(u64),
}

/// A match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// Its address (in a segment: the offset).
    pub addr: Vaddr,
    /// Name of the mapping (of the segment); may be empty.
    pub mapping: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// Looks through the memory of every task, then of every shared segment. `found` is told each match
/// and says whether to go on.
///
/// # Errors
/// When memory cannot be read.
pub fn search(
    view: &View,
    pattern: &Pattern,
    found: &mut dyn FnMut(Found) -> Result<bool>,
) -> Result<()> {
    for task in view.tasks().iter().filter(|task| task.alive) {
        if !within(&view.space(task.pid)?, pattern, found)? {
            return Ok(());
        }
    }
    for shmid in view.segments()? {
        if !within(&view.segment(shmid)?, pattern, found)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Looks through one memory. False when there is enough.
fn within(
    space: &Space<'_>,
    pattern: &Pattern,
    found: &mut dyn FnMut(Found) -> Result<bool>,
) -> Result<bool> {
    let mut window = Window::new(space, pattern);
    for mapping in space.mappings() {
        // A shared mapping shows a segment, which is searched once by itself.
        if mapping.shared && matches!(mapping.backing, Backing::Segment(_)) {
            continue;
        }
        for part in space.parts(mapping.range) {
            if part.source.absence().is_some() {
                continue;
            }
            for range in worth_reading(&part) {
                if !window.add(&part, range, found)? {
                    return Ok(false);
                }
            }
        }
    }
    window.finish(found)
}

/// Of a long stretch of zeros only both ends.
fn worth_reading(part: &Part) -> Vec<PageRange> {
    let range = part.range;
    if part.source != Source::Zero || range.pages() <= 2 {
        return vec![range];
    }
    vec![
        PageRange::new(range.start, range.start + PAGE_SIZE),
        PageRange::new(range.end - PAGE_SIZE, range.end),
    ]
}

/// Bytes that follow each other, as many as are needed at a time.
struct Window<'a> {
    space: &'a Space<'a>,
    pattern: &'a Pattern,
    bytes: Vec<u8>,
    /// Address of the first of them.
    start: Vaddr,
    /// From here on there may be matches that were not told.
    from: usize,
}

impl<'a> Window<'a> {
    fn new(space: &'a Space<'a>, pattern: &'a Pattern) -> Self {
        Self {
            space,
            pattern,
            bytes: Vec::new(),
            start: 0,
            from: 0,
        }
    }

    fn add(
        &mut self,
        part: &Part,
        range: PageRange,
        found: &mut dyn FnMut(Found) -> Result<bool>,
    ) -> Result<bool> {
        if self.start + self.bytes.len() as u64 != range.start {
            if !self.finish(found)? {
                return Ok(false);
            }
            self.start = range.start;
        }
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(STEP).min(STEP);
            let old = self.bytes.len();
            self.bytes.resize(old + len, 0);
            self.space.read(part, at, &mut self.bytes[old..])?;
            at += len as u64;
            if self.bytes.len() >= STEP && !self.look(false, found)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing follows: tells what is left, and begins anew.
    fn finish(&mut self, found: &mut dyn FnMut(Found) -> Result<bool>) -> Result<bool> {
        let go_on = self.look(true, found)?;
        self.bytes.clear();
        self.from = 0;
        Ok(go_on)
    }

    /// Tells the matches that more bytes could not change, and drops what is done with.
    fn look(&mut self, last: bool, found: &mut dyn FnMut(Found) -> Result<bool>) -> Result<bool> {
        let safe = if last {
            self.bytes.len()
        } else {
            self.bytes.len().saturating_sub(LONGEST)
        };
        while let Some(hit) = self.pattern.0.find_at(&self.bytes, self.from) {
            if hit.start() >= safe && !last {
                break;
            }
            let addr = self.start + hit.start() as u64;
            self.from = hit.end();
            if !found(self.found(addr, hit.as_bytes()))? {
                return Ok(false);
            }
        }
        if !last {
            self.from = self.from.max(safe);
            let done = self.from.saturating_sub(BEHIND);
            self.bytes.drain(..done);
            self.start += done as u64;
            self.from -= done;
        }
        Ok(true)
    }

    fn found(&self, addr: Vaddr, bytes: &[u8]) -> Found {
        let mapping = self.space.mapping_at(addr);
        Found {
            place: match self.space.id() {
                PagemapId::Task(pid) => Place::Task(pid),
                PagemapId::Shared(shmid) => Place::Segment(shmid),
            },
            addr,
            mapping: mapping.map(|m| m.name.clone()).unwrap_or_default(),
            bytes: bytes.to_vec(),
        }
    }
}
