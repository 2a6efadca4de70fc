//! A range of memory as bytes.
//!
//! What the layer does not hold becomes zeros, so that every byte stays where it belongs, and is
//! named. A range is `START-END` or `START+LENGTH` (hexadecimal), an address (its mapping), or the
//! name of a mapping (the last part of a path is enough).

use std::io::Write;

use super::space::{Mapping, Part, Space};
use crate::error::{Error, Kind, Result};
use crate::units::{PageRange, Vaddr};

/// Bytes moved at once.
pub(super) const CHUNK: usize = 256 * 1024;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catted {
    /// Bytes in all.
    pub bytes: u64,
    /// Parts that no layer holds: zeros were written.
    pub absent: Vec<Part>,
}

/// Writes the bytes of `range` (any addresses) to `out`.
///
/// # Errors
/// When nothing of it is mapped, or it cannot be read or written.
pub fn cat(space: &Space<'_>, range: PageRange, out: &mut dyn Write) -> Result<Catted> {
    let parts = space.parts(range);
    if parts
        .iter()
        .all(|part| part.source == super::Source::Unmapped)
    {
        let what = format!("Nothing is mapped at {range}");
        return Err(Error::new(Kind::NotFound, what).hint(known(space)));
    }
    let mut catted = Catted::default();
    let mut buffer = vec![0; CHUNK];
    for part in parts {
        if part.source.absence().is_some() {
            catted.absent.push(part);
        }
        let mut at = part.range.start;
        while at < part.range.end {
            let len = usize::try_from(part.range.end - at)
                .unwrap_or(CHUNK)
                .min(CHUNK);
            let bytes = &mut buffer[..len];
            space.read(&part, at, bytes)?;
            out.write_all(bytes)
                .map_err(|e| Error::io("Cannot write the memory", e))?;
            at += len as u64;
            catted.bytes += len as u64;
        }
    }
    Ok(catted)
}

impl Space<'_> {
    /// The range that `text` names.
    ///
    /// # Errors
    /// When it names none, or more than one that do not touch.
    pub fn range(&self, text: &str) -> Result<PageRange> {
        if let Some(range) = numbers(text) {
            return Ok(range);
        }
        if let Some(addr) = hex(text) {
            let mapping = self.mapping_at(addr).ok_or_else(|| {
                Error::new(Kind::NotFound, format!("Nothing is mapped at {addr:x}"))
                    .hint(known(self))
            })?;
            return Ok(mapping.range);
        }
        let named: Vec<&Mapping> = self
            .mappings()
            .iter()
            .filter(|m| is_called(m, text))
            .collect();
        let [first, rest @ ..] = named.as_slice() else {
            let what = format!("There is no mapping {text}");
            return Err(Error::new(Kind::NotFound, what).hint(known(self)));
        };
        let mut range = first.range;
        for mapping in rest {
            if mapping.range.start != range.end {
                let all: Vec<String> = named.iter().map(|m| m.range.to_string()).collect();
                let what = format!("{} mappings are called {text}", named.len());
                return Err(Error::new(Kind::Usage, what)
                    .hint(format!("Give one of the ranges: {}", all.join(" "))));
            }
            range.end = mapping.range.end;
        }
        Ok(range)
    }
}

fn is_called(mapping: &Mapping, text: &str) -> bool {
    !mapping.name.is_empty()
        && (mapping.name == text || mapping.name.rsplit('/').next() == Some(text))
}

fn numbers(text: &str) -> Option<PageRange> {
    let (start, end) = if let Some((start, len)) = text.split_once('+') {
        let start = hex(start)?;
        (start, start.checked_add(hex(len)?)?)
    } else {
        let (start, end) = text.split_once('-')?;
        (hex(start)?, hex(end)?)
    };
    (start < end).then(|| PageRange::new(start, end))
}

/// A hexadecimal number, with or without `0x`.
fn hex(text: &str) -> Option<Vaddr> {
    Vaddr::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

/// The names that there are, for a hint.
fn known(space: &Space<'_>) -> String {
    let mut names: Vec<&str> = space.mappings().iter().map(|m| m.name.as_str()).collect();
    names.retain(|name| !name.is_empty());
    names.dedup();
    format!(
        "Give START-END, START+LENGTH or an address, or one of: {}",
        names.join(" ")
    )
}
