//! Carrying out one rewrite: the layer anew, on another parent.

use std::io;
use std::path::{Component, Path, PathBuf};

use super::plan::{Rewrite, level_of, moving};
use crate::chain::{self, Ranges, Resolved, Stack};
use crate::error::{Error, Result};
use crate::event::Cancel;
use crate::image::{
    Images, LayerWriter, Pagemap, PagemapId, PagesFile, Place, Run, SIDECAR, Sidecar,
};
use crate::units::{PAGE_SIZE, PageRange};

/// Bytes moved at once.
const CHUNK: usize = 1 << 20;

/// Writes the layer as `rewrite` says, and puts it in its place in one step. Returns how many bytes
/// of pages were written.
pub(super) fn rewrite(rewrite: &Rewrite, cancel: &Cancel) -> Result<u64> {
    let stack = Stack::open(&rewrite.dir)?;
    let level = level_of(&stack, rewrite.parent.as_deref())?;
    let images = stack.tip().images();
    let sidecar = stack.tip().sidecar();
    let (writer, target) = match &rewrite.into {
        None => (LayerWriter::replace(&rewrite.dir)?, rewrite.dir.clone()),
        Some(into) => (LayerWriter::create(into)?, absolute(into)?),
    };
    let mut anew: Vec<String> = vec![SIDECAR.to_owned(), "parent".to_owned()];
    let mut figures = Figures::default();
    for id in images.pagemaps()? {
        let Some(pagemap) = chain::pagemap(images, id)? else {
            continue;
        };
        let moved = moving(&stack, id, level)?;
        let result = if moved.is_empty() {
            pagemap // it and its pages are taken over as they are
        } else {
            anew.push(id.file_name());
            anew.push(format!("pages-{}.img", pagemap.pages_id));
            let result = merged(&pagemap, &moved);
            let mut out = writer.pages(pagemap.pages_id)?;
            store(&stack, id, &result, &mut out, cancel)?;
            writer.pagemap(id, &result)?;
            figures.written += result.stored_bytes();
            result
        };
        figures.count(&result);
    }
    for name in images.names()? {
        let there = images.dir().join(&name).is_file();
        if there && !anew.contains(&name) && !is_leftover(&name) {
            if rewrite.into.is_some() {
                writer.copy(images, &name)?; // both layers live on
            } else {
                writer.keep(images, sidecar, &name)?;
            }
        }
    }
    let mut parent_id = Vec::new();
    if let Some(parent) = &rewrite.parent {
        let old = images.parent_link()?;
        let stays_absolute = old.is_some_and(|link| link.is_absolute());
        let link = if stays_absolute {
            parent.clone()
        } else {
            relative(&target, parent)
        };
        writer.link_parent(&link)?;
        let parent = stack.level(level)?.sidecar();
        parent_id = parent.map(|s| s.id.clone()).unwrap_or_default();
    }
    // A layer that CRIU made stays without a sidecar.
    if let Some(sidecar) = sidecar {
        let mut sidecar = sidecar.clone();
        sidecar.parent_id = parent_id;
        sidecar.pages_stored = Some(figures.stored);
        sidecar.pages_in_parent = Some(figures.in_parent);
        sidecar.bytes = Some(figures.stored * PAGE_SIZE);
        let joined = joined(&rewrite.joined)?;
        if !joined.is_empty() {
            sidecar.squashed.get_or_insert_default().extend(joined);
        }
        if rewrite.into.is_some() {
            sidecar.id = Sidecar::new_id()?;
            sidecar.pinned = None;
        }
        writer.sidecar(sidecar)?;
    }
    cancel.check()?;
    writer.commit()?;
    Ok(figures.written)
}

/// Identities of the layers in `dirs`, and of those that are part of them, one after the other.
fn joined(dirs: &[PathBuf]) -> Result<Vec<u8>> {
    let mut ids = Vec::new();
    for dir in dirs {
        if let Some(sidecar) = Sidecar::read(&Images::open(dir)?)? {
            ids.extend(sidecar.id);
            ids.extend(sidecar.squashed.unwrap_or_default());
        }
    }
    Ok(ids)
}

/// What a process that died while it replaced a sidecar left behind.
fn is_leftover(name: &str) -> bool {
    name == "icecore.img.new"
}

/// Pages of the result.
#[derive(Debug, Default)]
struct Figures {
    stored: u64,
    in_parent: u64,
    written: u64,
}

impl Figures {
    fn count(&mut self, pagemap: &Pagemap) {
        for run in &pagemap.runs {
            match run.place {
                Place::Present => self.stored += run.pages,
                Place::Parent => self.in_parent += run.pages,
            }
        }
    }
}

/// The pagemap with the pages of `moved` stored.
fn merged(pagemap: &Pagemap, moved: &Ranges) -> Pagemap {
    let mut result = Pagemap {
        pages_id: pagemap.pages_id,
        runs: Vec::new(),
    };
    for run in &pagemap.runs {
        let mut push = |range: PageRange, place| {
            result.push(Run {
                start: range.start,
                pages: range.pages(),
                place,
                lazy: run.lazy,
            });
        };
        if run.place == Place::Present {
            push(run.range(), Place::Present);
            continue;
        }
        let mut at = run.start;
        for part in moved.intersect(&run.range().into()).iter() {
            push(PageRange::new(at, part.start), Place::Parent);
            push(part, Place::Present);
            at = part.end;
        }
        push(PageRange::new(at, run.range().end), Place::Parent);
    }
    result
}

/// Writes the pages that `result` stores, from wherever they are now.
fn store(
    stack: &Stack,
    id: PagemapId,
    result: &Pagemap,
    out: &mut PagesFile,
    cancel: &Cancel,
) -> Result<()> {
    let memory: Resolved<'_> = stack.resolved(id)?.checked();
    let mut buffer = vec![0; CHUNK];
    for run in result.runs.iter().filter(|run| run.place == Place::Present) {
        let range = run.range();
        let mut at = range.start;
        while at < range.end {
            cancel.check()?;
            let len = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            memory.read_at(at, &mut buffer[..len])?;
            out.append(&buffer[..len])?;
            at += len as u64;
        }
    }
    Ok(())
}

/// A new directory without `.` and `..`, before it exists.
fn absolute(dir: &Path) -> Result<PathBuf> {
    let cannot = |e: io::Error| Error::path("create", dir, e);
    let name = dir.file_name().map(PathBuf::from).unwrap_or_default();
    let above = dir
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    Ok(above.canonicalize().map_err(cannot)?.join(name))
}

/// The way from the directory `from` to `to`; both are absolute and free of links.
pub(super) fn relative(from: &Path, to: &Path) -> PathBuf {
    let (from, to): (Vec<Component<'_>>, Vec<_>) =
        (from.components().collect(), to.components().collect());
    let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - common);
    up.chain(to[common..].iter().copied()).collect()
}
