//! Looking into layers for the reader: runs in a thread of its own.

mod layer;

use std::ops::Range;
use std::path::{Path, PathBuf};

use icecore::chain::{self, Catalog, Depth, Stack};
use icecore::image::PagemapId;
use icecore::inspect::{Source, Space, View};
use icecore::{Cancel, PAGE_SIZE, PageRange, Pid, Result, Vaddr};
use serde_json::json;

use super::probe::held;
use super::reader::{Look, Reader, Tab};
use crate::cli::verify;
use crate::format::{self, plain};

/// Bytes in a line of a page.
const LINE: usize = 16;
/// Lines of a page before what is marked in it.
const BEFORE: usize = 2;
/// Bytes of it that are said.
const SAID: usize = 24;

/// Looks.
///
/// # Errors
/// When a layer cannot be read.
pub(crate) fn look(wanted: &Look) -> Result<Reader> {
    match wanted {
        Look::Layer { dir, tab } => layer::layer(dir, *tab),
        Look::Page {
            dir,
            id,
            addr,
            marked,
        } => page(dir, *id, *addr, marked),
        Look::Check(pids) => all_checked(pids),
        Look::Verify(dir) => verified(dir),
    }
}

fn name(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    plain(&name.to_string_lossy())
}

fn reader(title: String, tabs: Vec<Tab>) -> Reader {
    Reader {
        title,
        tabs,
        at: 0,
        scroll: 0,
        beside: [None, None],
        through: [None, None],
        layer: None,
    }
}

fn tab(name: &str, head: &str, lines: Vec<String>) -> Tab {
    Tab {
        name: name.into(),
        head: head.into(),
        lines,
        cells: Vec::new(),
        marked: 0..0,
        read: true,
    }
}

/// A tab of each tree.
fn all_checked(pids: &[Pid]) -> Result<Reader> {
    if let [pid] = pids {
        return checked(*pid);
    }
    let mut tabs = Vec::new();
    for pid in pids {
        // One that has ended meanwhile is no reason to say nothing of the others.
        let name = format!("process {pid}");
        tabs.push(match held_by(*pid) {
            Ok(held) => Tab { name, ..held },
            Err(error) => tab(&name, "", vec![format!(" {}", plain(&error.one_line()))]),
        });
    }
    let trees = format::count(pids.len() as u64, "tree");
    Ok(reader(format!("What {trees} hold"), tabs))
}

/// The table of `icecore check`.
fn checked(pid: Pid) -> Result<Reader> {
    Ok(reader(
        format!("What process {pid} holds"),
        vec![held_by(pid)?],
    ))
}

fn held_by(pid: Pid) -> Result<Tab> {
    let report = held(pid, &crate::cli::ourselves()?)?;
    let text = crate::cli::check::as_text(&report, pid.as_raw());
    let lines = text.lines().map(|line| format!(" {line}")).collect();
    let cells = report.lines.iter().map(|line| {
        json!({
            "verdict": line.verdict,
            "count": line.count,
            "what": line.what,
            "hint": line.hint,
        })
    });
    Ok(Tab {
        cells: cells.collect(),
        ..tab("held", "", lines)
    })
}

/// The same in the layer below and in the newest one above.
fn through(stack: &Stack, look: impl Fn(PathBuf) -> Look) -> [Option<Look>; 2] {
    let below = stack.levels().get(1).map(|level| level.dir().to_path_buf());
    [below, above(stack.tip().dir())].map(|dir| dir.map(&look))
}

/// The newest layer on top of the one in `dir`.
fn above(dir: &Path) -> Option<PathBuf> {
    let catalog = Catalog::scan(dir.parent()?).ok()?;
    let here = catalog.find(dir)?;
    let above = catalog.children(here).iter();
    let newest = above.filter_map(|child| catalog.layers().get(*child));
    newest
        .max_by_key(|layer| layer.created_unix_ns)
        .map(|layer| layer.dir.clone())
}

fn space(view: &View, id: PagemapId) -> Result<Space<'_>> {
    match id {
        PagemapId::Task(pid) => view.space(pid),
        PagemapId::Shared(shmid) => view.segment(shmid),
    }
}

fn whose(id: PagemapId) -> String {
    match id {
        PagemapId::Task(pid) => format!("process {pid}"),
        PagemapId::Shared(shmid) => format!("shared segment {shmid}"),
    }
}

fn page(dir: &Path, id: PagemapId, addr: Vaddr, marked: &Range<Vaddr>) -> Result<Reader> {
    let view = View::open(dir)?;
    let space = space(&view, id)?;
    let addr = addr - addr % PAGE_SIZE;
    let here = PageRange::of_pages(addr, 1);
    let part = space.parts(here).into_iter().next();
    let source = part.map_or(Source::Unmapped, |part| part.source);
    let owner = |layer: usize| {
        let level = view.stack().levels().get(layer);
        level.map_or_else(String::new, |level| plain(&level.name()))
    };
    let from = match source {
        Source::Stored(run) | Source::Segment(_, run) => {
            let layer = owner(run.layer);
            format!(
                "stored in layer {layer}, pages-{}.img at {:#x}",
                run.pages_id, run.offset
            )
        }
        Source::Zero => "zeros: never written".into(),
        Source::Freed(layer) => format!("freed by dedup in layer {}", owner(layer)),
        other => other.absence().unwrap_or_default().into(),
    };
    let mut bytes = vec![0; usize::try_from(PAGE_SIZE).unwrap_or(4096)];
    let mut lines = Vec::new();
    if let Some(part) = part.filter(|part| part.source.absence().is_none()) {
        space.read(&part, addr, &mut bytes)?;
        lines = (addr..)
            .step_by(LINE)
            .zip(bytes.chunks(LINE))
            .map(|(at, bytes)| {
                let star = touches(&(at..at + 16), marked);
                let sign = if star { '*' } else { ' ' };
                format!("{sign}{}", format::marked_line(at, bytes, marked))
            })
            .collect();
    }
    let mapping = space.mapping_at(addr).map_or_else(String::new, |m| {
        format!("{} {} {}", m.range, m.permissions(), plain(&m.name))
    });
    let title = format!("Page {addr:x} of {} in layer {}", whose(id), name(dir));
    let here = touches(&(here.start..here.end), marked) && !lines.is_empty();
    let first = marked.start.saturating_sub(addr);
    let hit = if here {
        // What is marked may be far on the right of a narrow screen.
        let text = bytes.iter().zip(addr..);
        let text = text.filter(|(_, at)| marked.contains(at)).take(SAID);
        let text: Vec<u8> = text.map(|(byte, _)| *byte).collect();
        let text = format::readable(&text);
        format!(" at {:x}: “{text}” ·", marked.start.max(addr))
    } else {
        String::new()
    };
    let head = format!("{hit} {from} · {mapping}");
    let bytes = Tab {
        marked: marked.clone(),
        ..tab("bytes", &head, lines)
    };
    let mut reader = reader(title, vec![bytes]);
    if here {
        let line = usize::try_from(first).unwrap_or(0) / LINE;
        reader.scroll = line.saturating_sub(BEFORE);
    }
    let at = |dir: &Path, addr| Look::Page {
        dir: dir.to_path_buf(),
        id,
        addr,
        marked: marked.clone(),
    };
    reader.beside = beside(&space, addr).map(|addr| addr.map(|addr| at(dir, addr)));
    reader.through = through(view.stack(), |dir| at(&dir, addr));
    reader.layer = Some(dir.to_path_buf());
    Ok(reader)
}

/// Whether two ranges have an address in common.
fn touches(a: &Range<Vaddr>, b: &Range<Vaddr>) -> bool {
    a.start < b.end && b.start < a.end && !a.is_empty() && !b.is_empty()
}

/// The pages before and after `addr` that a layer holds.
fn beside(space: &Space<'_>, addr: Vaddr) -> [Option<Vaddr>; 2] {
    let runs = space.memory().runs();
    let before = runs.iter().rev().find(|run| run.range.start < addr);
    let before = before.map(|run| run.range.end.min(addr) - PAGE_SIZE);
    let after = runs.iter().find(|run| run.range.end > addr + PAGE_SIZE);
    let after = after.map(|run| run.range.start.max(addr + PAGE_SIZE));
    [before, after]
}

fn verified(dir: &Path) -> Result<Reader> {
    let found = chain::verify(dir, Depth::Full, &(), &Cancel::default())?;
    let text = verify::as_text(&found);
    let lines = text.lines().map(|line| format!(" {line}")).collect();
    let verdict = if found.is_sound() { "sound" } else { "DAMAGED" };
    let title = format!("Layer {} and those below: {verdict}", name(dir));
    Ok(reader(title, vec![tab("verified", "", lines)]))
}
