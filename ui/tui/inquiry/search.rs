//! Where something is in the memory of a stack: each place once, with the layers in which it is there.

use std::collections::BTreeMap;
use std::path::Path;

use icecore::image::PagemapId;
use icecore::inspect::{self, Pattern, Place, Space, View};
use icecore::{Cancel, PAGE_SIZE, PageRange, Result, Vaddr};
use serde_json::json;
use unicode_width::UnicodeWidthStr as _;

use super::{Answer, Inquiry, Lead, Row};
use crate::format;
use crate::tui::popup::Mark;
use crate::tui::reader::Look;
use crate::tui::text::fit;

/// Places that are shown.
const FOUND: usize = 10_000;
/// Columns of the layers, at most.
const LAYERS: usize = 20;
/// Bytes shown of what was found, of what is before it and of what follows.
const SHOWN: usize = 48;
const BEFORE: u64 = 12;
const AFTER: u64 = 32;

/// A place: process or segment, address.
type Spot = (bool, u64, Vaddr);

/// What was found at a place.
struct Hit {
    /// The layers, the newest first.
    layers: Vec<usize>,
    /// As of that.
    found: inspect::Found,
    /// What is before and after it there.
    around: [Vec<u8>; 2],
}

/// Looks through the memory as of each layer.
pub(super) fn search(
    inquiry: &Inquiry,
    dir: &Path,
    pattern: &Pattern,
    cancel: &Cancel,
) -> Result<Answer> {
    let tip = View::open(dir)?;
    let dirs: Vec<_> = tip
        .stack()
        .levels()
        .iter()
        .map(|level| level.dir())
        .collect();
    let mut places: BTreeMap<Spot, Hit> = BTreeMap::new();
    let mut unread = Vec::new();
    let mut full = false;
    for (n, dir) in dirs.iter().enumerate() {
        cancel.check()?;
        let view = match View::open(dir) {
            Ok(view) => view,
            // One that cannot be restored any more can still be below others.
            Err(error) if n > 0 => {
                unread.push(format!("{}: {}", super::name(dir), error.one_line()));
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut memory: Option<(Place, Space<'_>)> = None;
        inspect::search(&view, pattern, &mut |found| {
            let spot = match found.place {
                Place::Task(pid) => (false, u64::from(pid), found.addr),
                Place::Segment(shmid) => (true, shmid, found.addr),
            };
            if places.len() >= FOUND && !places.contains_key(&spot) {
                full = true;
            } else if let Some(hit) = places.get_mut(&spot) {
                hit.layers.push(n);
            } else {
                // Places of one memory follow each other.
                let known = memory.take().filter(|(place, _)| *place == found.place);
                let (_, space) = memory.insert(match known {
                    Some(known) => known,
                    None => (found.place, space(&view, found.place)?),
                });
                let hit = Hit {
                    layers: vec![n],
                    around: around(space, &found)?,
                    found,
                };
                places.insert(spot, hit);
            }
            Ok(cancel.check().is_ok())
        })?;
    }
    cancel.check()?;
    let mut rows: Vec<Row> = Vec::new();
    let wide = places.values().map(|hit| layers(&dirs, hit).width()).max();
    let wide = wide.unwrap_or(0).clamp("IN LAYERS".len(), LAYERS);
    for hit in places.values() {
        rows.push(row(&dirs, hit, wide));
    }
    let count = rows.len();
    for text in unread {
        rows.push(Row {
            text: format!(" not searched: layer {}", format::plain(&text)),
            cells: None,
            mark: Mark::Warn,
            lead: None,
        });
    }
    let searched = format::count(dirs.len() as u64, "layer");
    let head = match (count, full) {
        (0, _) => format!(" it is nowhere in the memory of {searched}"),
        (_, true) => format!(" the first {FOUND} places in {searched}"),
        (_, false) => format!(
            "  {} {:>10} {:<14} MAPPING, [FOUND] WITH WHAT IS AROUND",
            fit("IN LAYERS", wide),
            "TASK",
            "ADDRESS",
        ),
    };
    Ok(Answer::of_rows(inquiry, head, rows))
}

fn space(view: &View, place: Place) -> Result<Space<'_>> {
    match place {
        Place::Task(pid) => view.space(pid),
        Place::Segment(shmid) => view.segment(shmid),
    }
}

/// The bytes before and after what was found, as far as there are any.
fn around(space: &Space<'_>, found: &inspect::Found) -> Result<[Vec<u8>; 2]> {
    let (start, length) = (found.addr, found.bytes.len() as u64);
    let end = start.saturating_add(length);
    let read = |from: Vaddr, to: Vaddr| -> Result<Vec<(Vaddr, Vec<u8>)>> {
        let pages = PageRange::new(
            from - from % PAGE_SIZE,
            to.checked_next_multiple_of(PAGE_SIZE).unwrap_or(to),
        );
        let mut there = Vec::new();
        for part in space.parts(pages) {
            let (from, to) = (part.range.start.max(from), part.range.end.min(to));
            if part.source.absence().is_some() || from >= to {
                continue;
            }
            let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(0)];
            // A part begins where its bytes do.
            space.read(&part, from, &mut bytes)?;
            there.push((from, bytes));
        }
        Ok(there)
    };
    // Only what is directly beside it.
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut at = start;
    for (from, mut bytes) in read(start.saturating_sub(BEFORE), start)?.into_iter().rev() {
        if from + bytes.len() as u64 != at {
            break;
        }
        at = from;
        bytes.append(&mut before);
        before = bytes;
    }
    for (from, mut bytes) in read(end, end.saturating_add(AFTER))? {
        if from != end + after.len() as u64 {
            break;
        }
        after.append(&mut bytes);
    }
    Ok([before, after])
}

/// The layers in which it is, in words.
fn layers(dirs: &[&Path], hit: &Hit) -> String {
    if hit.layers.len() == dirs.len() && dirs.len() > 1 {
        return format!("all {}", dirs.len());
    }
    let names = hit.layers.iter().filter_map(|n| dirs.get(*n));
    let names: Vec<String> = names.map(|dir| super::name(dir)).collect();
    names.join(" ")
}

fn row(dirs: &[&Path], hit: &Hit, wide: usize) -> Row {
    let found = &hit.found;
    let names = || hit.layers.iter().filter_map(|n| dirs.get(*n));
    let (id, place) = match found.place {
        Place::Task(pid) => (PagemapId::Task(pid), pid.to_string()),
        Place::Segment(shmid) => (PagemapId::Shared(shmid), format!("shm {shmid}")),
    };
    let shown = found.bytes.get(..SHOWN).unwrap_or(&found.bytes);
    let dots = if shown.len() < found.bytes.len() {
        "…"
    } else {
        ""
    };
    let mapping = format::plain(&found.mapping);
    let mapping = mapping.rsplit('/').next().unwrap_or_default();
    let [before, after] = hit.around.each_ref().map(|bytes| format::readable(bytes));
    let text = format!(
        "  {} {place:>10} {:<14x} {mapping} {before}[{}{dots}]{after}",
        fit(&layers(dirs, hit), wide),
        found.addr,
        shown.escape_ascii()
    );
    // As of the newest layer that has it.
    let lead = names().next().map(|dir| {
        Lead::Look(Look::Page {
            dir: dir.to_path_buf(),
            id,
            addr: found.addr - found.addr % PAGE_SIZE,
            marked: found.addr..found.addr.saturating_add(found.bytes.len() as u64),
        })
    });
    let (process, segment) = match found.place {
        Place::Task(pid) => (Some(pid), None),
        Place::Segment(shmid) => (None, Some(shmid)),
    };
    let layers: Vec<String> = names().map(|dir| super::name(dir)).collect();
    let cells = json!({
        "layers": layers.join(" "),
        "process": process,
        "shared_segment": segment,
        "address": format!("{:x}", found.addr),
        "mapping": format::plain(&found.mapping),
        "bytes": found.bytes.escape_ascii().to_string(),
        "before": before,
        "after": after,
    });
    Row {
        text,
        cells: Some(cells),
        mark: Mark::Plain,
        lead,
    }
}
