//! Where something is in the memory of a stack: each place once, with the layers in which it is there.

use std::collections::BTreeMap;
use std::path::Path;

use icecore::image::PagemapId;
use icecore::inspect::{self, Pattern, Place, View};
use icecore::{Cancel, PAGE_SIZE, Result, Vaddr};
use serde_json::json;

use super::{Answer, Inquiry, Lead, Row};
use crate::format;
use crate::tui::popup::Mark;
use crate::tui::reader::Look;
use crate::tui::text::{cut, fit};

/// Places that are shown.
const FOUND: usize = 10_000;
/// Columns of the layers.
const LAYERS: usize = 20;
/// Bytes shown of what was found.
const SHOWN: usize = 48;

/// A place: process or segment, address.
type Spot = (bool, u64, Vaddr);

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
    // By place: the layers, the newest first, and what is there as of that.
    let mut places: BTreeMap<Spot, (Vec<usize>, inspect::Found)> = BTreeMap::new();
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
        inspect::search(&view, pattern, &mut |found| {
            let spot = match found.place {
                Place::Task(pid) => (false, u64::from(pid), found.addr),
                Place::Segment(shmid) => (true, shmid, found.addr),
            };
            if places.len() >= FOUND && !places.contains_key(&spot) {
                full = true;
            } else {
                let place = places.entry(spot);
                place.or_insert_with(|| (Vec::new(), found)).0.push(n);
            }
            Ok(cancel.check().is_ok())
        })?;
    }
    cancel.check()?;
    let mut rows: Vec<Row> = Vec::new();
    for (layers, found) in places.values() {
        rows.push(row(&dirs, layers, found));
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
            "  {} {:>10} {:<14} MAPPING, BYTES",
            fit("IN LAYERS", LAYERS),
            "TASK",
            "ADDRESS",
        ),
    };
    Ok(Answer::of_rows(inquiry, head, rows))
}

fn row(dirs: &[&Path], layers: &[usize], found: &inspect::Found) -> Row {
    let names = || layers.iter().filter_map(|n| dirs.get(*n));
    let layer_names = if layers.len() == dirs.len() && dirs.len() > 1 {
        format!("all {}", dirs.len())
    } else {
        let names: Vec<String> = names().map(|dir| super::name(dir)).collect();
        cut(&names.join(" "), LAYERS)
    };
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
    let text = format!(
        "  {} {place:>10} {:<14x} {mapping} “{}”{dots}",
        fit(&layer_names, LAYERS),
        found.addr,
        shown.escape_ascii()
    );
    // As of the newest layer that has it.
    let lead = names().next().map(|dir| {
        Lead::Look(Look::Page {
            dir: dir.to_path_buf(),
            id,
            addr: found.addr - found.addr % PAGE_SIZE,
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
    });
    Row {
        text,
        cells: Some(cells),
        mark: Mark::Plain,
        lead,
    }
}
