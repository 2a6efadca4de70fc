//! Two layers, their mappings, a page of both.

use std::path::Path;
use std::sync::Arc;

use icecore::image::PagemapId;
use icecore::inspect::{self, Diff, Pages, Source, Space, View};
use icecore::{Cancel, PAGE_SIZE, Result, Vaddr};
use serde_json::json;

use super::{Answer, Body, Differing, Inquiry, Lead, Row, Side};
use crate::cli::diff;
use crate::format::{self, plain};
use crate::tui::popup::Mark;
use crate::tui::text::tally;

/// Pages that are listed of a mapping.
const LISTED: usize = 5000;

/// By mapping.
pub(super) fn layers(inquiry: &Inquiry, from: &Path, to: &Path) -> Result<Answer> {
    let (a, b) = (View::open(from)?, View::open(to)?);
    let found = inspect::diff(&a, &b, &mut |_| {})?;
    let mut rows = Vec::new();
    let add = |rows: &mut Vec<Row>, id, pages: &Pages| {
        let count = |n: u64| match n {
            0 => "-".to_owned(),
            n => tally(n),
        };
        let name = plain(&pages.name);
        let text = format!(
            "  {:<26} {:>7} {:>9} {:>5} {:>5}  {name}",
            pages.mapping.to_string(),
            count(pages.changed.pages()),
            count(pages.bytes),
            count(pages.appeared.pages()),
            count(pages.gone.pages()),
        );
        let of = Differing {
            from: from.to_path_buf(),
            to: to.to_path_buf(),
            id,
            pages: pages.clone(),
        };
        let (process, segment) = match id {
            PagemapId::Task(pid) => (Some(pid), None),
            PagemapId::Shared(shmid) => (None, Some(shmid)),
        };
        let cells = json!({
            "process": process,
            "shared_segment": segment,
            "start": format!("{:x}", pages.mapping.start),
            "end": format!("{:x}", pages.mapping.end),
            "name": name,
            "changed_pages": pages.changed.pages(),
            "changed_bytes": pages.bytes,
            "new_pages": pages.appeared.pages(),
            "gone_pages": pages.gone.pages(),
        });
        rows.push(Row {
            text,
            cells: Some(cells),
            mark: Mark::Plain,
            lead: Some(Lead::Inquiry(Inquiry::Pages(Arc::new(of)))),
        });
    };
    for task in &found.tasks {
        let mut about = task.clone();
        about.pages.clear();
        rows.extend(said(&Diff {
            tasks: vec![about],
            segments: Vec::new(),
            ..found.clone()
        }));
        for pages in &task.pages {
            add(&mut rows, PagemapId::Task(task.pid), pages);
        }
    }
    for segment in &found.segments {
        let mut about = segment.clone();
        about.pages.clear();
        rows.extend(said(&Diff {
            tasks: Vec::new(),
            segments: vec![about],
            ..found.clone()
        }));
        for pages in &segment.pages {
            add(&mut rows, PagemapId::Shared(segment.shmid), pages);
        }
    }
    if rows.is_empty() {
        rows.push(Row {
            text: " nothing differs".into(),
            cells: None,
            mark: Mark::Good,
            lead: None,
        });
    }
    let head = format!(
        "  {:<26} {:>7} {:>9} {:>5} {:>5}  NAME   (pages)",
        "MAPPING", "CHANGED", "BYTES", "NEW", "GONE"
    );
    Ok(Answer::of_rows(inquiry, head, rows))
}

/// All but the pages, in words.
fn said(about: &Diff) -> Vec<Row> {
    let text = diff::text(about);
    let row = |line: &str| Row {
        text: format!(" {line}"),
        cells: None,
        mark: Mark::Hint,
        lead: None,
    };
    text.lines().map(row).collect()
}

fn space(view: &View, id: PagemapId) -> Result<Space<'_>> {
    match id {
        PagemapId::Task(pid) => view.space(pid),
        PagemapId::Shared(shmid) => view.segment(shmid),
    }
}

/// All pages that differ, with what became of them, ascending.
fn listed(pages: &Pages) -> Vec<(Vaddr, &'static str)> {
    let mut all = Vec::new();
    for (set, what) in [
        (&pages.changed, "changed"),
        (&pages.appeared, "new"),
        (&pages.gone, "gone"),
    ] {
        for range in set.iter() {
            let addrs = (range.start..range.end).step_by(4096);
            all.extend(addrs.map(|addr| (addr, what)));
        }
    }
    all.sort_unstable();
    all
}

/// By page.
pub(super) fn pages(inquiry: &Inquiry, of: &Arc<Differing>, cancel: &Cancel) -> Result<Answer> {
    let (a, b) = (View::open(&of.from)?, View::open(&of.to)?);
    // A process that only one of them has is no error.
    let (a, b) = (space(&a, of.id).ok(), space(&b, of.id).ok());
    let all = listed(&of.pages);
    let mut rows = Vec::new();
    for (addr, what) in all.iter().copied().take(LISTED) {
        cancel.check()?;
        let mut text = format!("  {addr:<16x} {what:<8}");
        let mut cells = json!({
            "page": format!("{addr:x}"),
            "what": what,
            "changed_bytes": null,
            "first": null,
            "last": null,
        });
        if what == "changed" {
            let (a, b) = (side(a.as_ref(), addr)?, side(b.as_ref(), addr)?);
            let differ: Vec<usize> = match (&a, &b) {
                (Ok(a), Ok(b)) => (0..a.len()).filter(|n| a.get(*n) != b.get(*n)).collect(),
                _ => Vec::new(),
            };
            if let (Some(first), Some(last)) = (differ.first(), differ.last()) {
                text.push_str(&format!(" {:>5}   {first:03x} to {last:03x}", differ.len()));
                cells["changed_bytes"] = differ.len().into();
                cells["first"] = (*first).into();
                cells["last"] = (*last).into();
            }
        }
        let lead = Lead::Inquiry(Inquiry::Bytes {
            of: Arc::clone(of),
            addr,
        });
        rows.push(Row {
            text,
            cells: Some(cells),
            mark: Mark::Plain,
            lead: Some(lead),
        });
    }
    if let Some(more) = all.len().checked_sub(LISTED).filter(|more| *more > 0) {
        let text = format!("  {} more", format::count(more as u64, "page"));
        rows.push(Row {
            text,
            cells: None,
            mark: Mark::Hint,
            lead: None,
        });
    }
    let head = format!(
        "  {:<16} {:<8} {:>5}   WHERE IN THE PAGE",
        "PAGE", "WHAT", "BYTES"
    );
    Ok(Answer::of_rows(inquiry, head, rows))
}

/// Byte by byte.
pub(super) fn bytes(inquiry: &Inquiry, of: &Arc<Differing>, addr: Vaddr) -> Result<Answer> {
    let (a, b) = (View::open(&of.from)?, View::open(&of.to)?);
    let (a, b) = (space(&a, of.id).ok(), space(&b, of.id).ok());
    let sides = [side(a.as_ref(), addr)?, side(b.as_ref(), addr)?];
    let first = match &sides {
        [Ok(a), Ok(b)] => a.iter().zip(b).position(|(a, b)| a != b),
        _ => None,
    };
    let [from, to] = sides;
    let all = listed(&of.pages);
    let here = all.partition_point(|(other, _)| *other < addr);
    let step = |at: Option<usize>| {
        let (addr, _) = all.get(at?)?;
        Some(Inquiry::Bytes {
            of: Arc::clone(of),
            addr: *addr,
        })
    };
    Ok(Answer {
        at: first.unwrap_or(0) / 16,
        body: Body::Bytes([(super::name(&of.from), from), (super::name(&of.to), to)]),
        beside: [step(here.checked_sub(1)), step(Some(here + 1))],
        ..Answer::waits(inquiry.clone())
    })
}

/// The bytes of a page in one of them.
fn side(space: Option<&Space<'_>>, addr: Vaddr) -> Result<Side> {
    let Some(space) = space else {
        return Ok(Err("there is no such process or segment".into()));
    };
    let part = space.parts(icecore::PageRange::of_pages(addr, 1));
    let Some(part) = part.first() else {
        return Ok(Err("nothing is mapped here".into()));
    };
    if let Some(why) = part.source.absence() {
        return Ok(Err(why.into()));
    }
    if part.source == Source::Unmapped {
        return Ok(Err("nothing is mapped here".into()));
    }
    let mut bytes = vec![0; usize::try_from(PAGE_SIZE).unwrap_or(4096)];
    space.read(part, addr, &mut bytes)?;
    Ok(Ok(bytes))
}
