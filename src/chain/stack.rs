//! A stack: a layer with all its ancestors, tip first; what a restore of that layer needs.
//!
//! The `parent` link of a layer is resolved relative to the layer's own directory, as CRIU does.
//! A stack that opens has no loop, no missing parent, and no parent other than the recorded one.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::descent::{self, Source};
use super::layer::name_of;
use super::names::mappings;
use super::{Ownership, Resolved, Why};
use crate::error::{Error, Kind, Result};
use crate::image::{Images, Pagemap, PagemapId, SIDECAR, Sidecar};
use crate::store::is_staging;
use crate::units::{PAGE_SIZE, PageRange};

/// More layers than this are refused: CRIU would need as many open files per task.
pub const MAX_DEPTH: usize = 4096;

/// One layer of an open stack.
#[derive(Debug)]
pub struct Level {
    images: Images,
    sidecar: Option<Sidecar>,
}

impl Level {
    fn open(dir: &Path) -> Result<Self> {
        let images = Images::open(dir)?;
        let sidecar = Sidecar::read(&images)?;
        Ok(Self { images, sidecar })
    }

    /// The layer's directory, absolute and free of symlinks.
    pub fn dir(&self) -> &Path {
        self.images.dir()
    }

    /// The layer's files.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// What we noted beside the images, if the layer is ours or was marked by us.
    pub fn sidecar(&self) -> Option<&Sidecar> {
        self.sidecar.as_ref()
    }

    /// The mappings of a task with their names, ascending (a segment is one), as far as the images
    /// can be read. See [`named`](super::named).
    pub fn mappings(&self, id: PagemapId) -> Vec<(PageRange, String)> {
        mappings(&self.images, id)
    }

    /// The last part of the directory, for messages.
    pub fn name(&self) -> String {
        name_of(self.dir())
    }
}

/// A layer with all its ancestors, tip first.
#[derive(Debug)]
pub struct Stack {
    levels: Vec<Level>,
}

impl Stack {
    /// Opens the layer in `dir` and every layer below it.
    ///
    /// Fails on a missing, wrong or looping parent, and on more than [`MAX_DEPTH`] layers.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let mut next = Some(canonical(dir).map_err(|e| e.hint("Name an images directory"))?);
        let mut seen = HashSet::new();
        let mut levels: Vec<Level> = Vec::new();
        while let Some(dir) = next {
            let meta = fs::metadata(&dir).map_err(|e| Error::path("read", &dir, e))?;
            if !seen.insert((meta.dev(), meta.ino())) {
                return Err(Error::corrupt(format!(
                    "The parents of {} run in a loop: {} is its own ancestor",
                    levels.first().map_or_else(String::new, Level::name),
                    dir.display()
                ))
                .hint("Correct the `parent` links: ls -l */parent"));
            }
            if levels.len() >= MAX_DEPTH {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("The stack has more than {MAX_DEPTH} layers"),
                ));
            }
            let level = Level::open(&dir)?;
            if let Some(child) = levels.last() {
                same_parent(child.dir(), child.sidecar(), level.dir(), level.sidecar())?;
            }
            next = parent_dir(level.images(), level.sidecar())?;
            levels.push(level);
        }
        Ok(Self { levels })
    }

    /// The layers, tip first; never empty.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The layer that was opened.
    pub fn tip(&self) -> &Level {
        #[expect(
            clippy::indexing_slicing,
            reason = "open() never returns an empty stack"
        )]
        &self.levels[0]
    }

    /// The layer at `index` (0 = tip), or an error that names the index.
    pub fn level(&self, index: usize) -> Result<&Level> {
        self.levels.get(index).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("The stack has no layer number {index}"),
            )
        })
    }

    /// Number of layers.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }

    /// The pagemaps of `id`, tip first, down to the first layer that has none.
    pub fn pagemaps(&self, id: PagemapId) -> impl Iterator<Item = Result<Pagemap>> + '_ {
        self.pagemaps_from(0, id)
    }

    fn pagemaps_from(
        &self,
        index: usize,
        id: PagemapId,
    ) -> impl Iterator<Item = Result<Pagemap>> + '_ {
        self.levels
            .iter()
            .skip(index)
            .map_while(move |level| pagemap(&level.images, id).transpose())
    }

    /// Who owns each page of `id` as of the tip. Empty if the tip has no such pagemap.
    pub fn ownership(&self, id: PagemapId) -> Result<Ownership> {
        self.ownership_as_of(0, id)
    }

    /// Who owns each page of `id` as of the layer number `index`; owners are still counted from the
    /// tip. Empty if that layer has no such pagemap.
    pub fn ownership_as_of(&self, index: usize, id: PagemapId) -> Result<Ownership> {
        descent::ownership(index, |below| {
            let Some(level) = self.levels.get(index + below) else {
                return Ok(Err(Why::NoParent));
            };
            let source = level.images.runs(id)?.map(|runs| Source {
                pages_id: runs.pages_id(),
                runs: Box::new(runs),
            });
            Ok(source.ok_or(Why::NoPagemap))
        })
    }

    /// For [`Resolved::read_run`]: no page of its own.
    pub fn runs_of(&self, id: PagemapId) -> Resolved<'_> {
        Resolved::new(self, id, Ownership::default())
    }

    /// The pages of `id` that the layer number `index` itself stores, ready to be read.
    pub fn stored(&self, index: usize, pagemap: &Pagemap, id: PagemapId) -> Resolved<'_> {
        Resolved::new(self, id, Ownership::of(index, pagemap))
    }

    /// The bytes of `id` as of the tip, ready to be read.
    pub fn resolved(&self, id: PagemapId) -> Result<Resolved<'_>> {
        self.resolved_as_of(0, id)
    }

    /// The bytes of `id` as of the layer number `index`, ready to be read.
    pub fn resolved_as_of(&self, index: usize, id: PagemapId) -> Result<Resolved<'_>> {
        Ok(Resolved::new(self, id, self.ownership_as_of(index, id)?))
    }
}

/// The directory of the parent of a layer, if it has one. It exists, or this fails.
///
/// The `parent` link leads there. Where it leads nowhere, or to another layer than the recorded one,
/// the parent may have been renamed or moved: then it is found by its identity, beside the layer or in a
/// stack beside its own.
pub(super) fn parent_dir(images: &Images, sidecar: Option<&Sidecar>) -> Result<Option<PathBuf>> {
    let dir = images.dir();
    let wanted = sidecar.map(|s| s.parent_id.as_slice()).unwrap_or_default();
    let Some(target) = images.parent_link()? else {
        if wanted.is_empty() {
            return Ok(None);
        }
        return found_again(dir, wanted).map(Some).ok_or_else(|| {
            Error::corrupt(format!(
                "Layer {} has lost its `parent` link (it was made on top of another layer)",
                dir.display()
            ))
            .hint(format!(
                "Link it again: ln -s ../PARENT {}/parent",
                dir.display()
            ))
        });
    };
    match canonical(&dir.join(&target)) {
        // The caller says what is wrong with one that cannot be read.
        Ok(found) if wanted.is_empty() || identity(&found).is_none_or(|id| id == wanted) => {
            Ok(Some(found))
        }
        Ok(found) => Ok(Some(found_again(dir, wanted).unwrap_or(found))),
        Err(e) => found_again(dir, wanted).map(Some).ok_or_else(|| {
            Error::new(
                e.kind(),
                format!(
                    "The parent {} of layer {} is missing",
                    target.display(),
                    dir.display()
                ),
            )
            .because(e)
            .hint("Put the parent directory back where it was; every ancestor is needed")
        }),
    }
}

/// The identity of the layer in `dir`, empty when it has none; `None` when that cannot be read.
fn identity(dir: &Path) -> Option<Vec<u8>> {
    let sidecar = Images::open(dir).and_then(|images| Sidecar::read(&images));
    Some(sidecar.ok()?.map(|sidecar| sidecar.id).unwrap_or_default())
}

/// Most directories that are looked into for a parent that is not where it was.
const SEARCHED: usize = 4096;

/// The layer with this identity beside `dir`, or in a directory beside that which holds `dir`: another
/// stack of the same store. Of several copies the first by name.
fn found_again(dir: &Path, id: &[u8]) -> Option<PathBuf> {
    if id.is_empty() {
        return None;
    }
    let stack = dir.parent()?;
    let others = stack.parent().map(directories).unwrap_or_default();
    let others = others.iter().filter(|other| *other != stack);
    let mut all = directories(stack);
    all.extend(others.flat_map(|other| directories(other)).take(SEARCHED));
    let mut layers = all
        .into_iter()
        .filter(|path| path != dir && path.join(SIDECAR).is_file());
    layers.find(|path| identity(path).is_some_and(|found| found == id))
}

/// The directories in a directory, by name; none when it cannot be read, or when everybody may write to
/// it: somebody could have put a layer there that pretends to be the one which is looked for.
fn directories(dir: &Path) -> Vec<PathBuf> {
    if fs::metadata(dir).is_ok_and(|found| found.mode() & 0o002 != 0) {
        return Vec::new();
    }
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| !is_staging(&entry.file_name()))
        .map(|entry| entry.path())
        .take(SEARCHED)
        .collect();
    found.sort();
    found
}

/// Checks that the layer in `parent_dir` is the one that the layer in `dir` was made on.
pub(super) fn same_parent(
    dir: &Path,
    sidecar: Option<&Sidecar>,
    parent_dir: &Path,
    parent: Option<&Sidecar>,
) -> Result<()> {
    let expected = sidecar.map(|s| s.parent_id.as_slice()).unwrap_or_default();
    let actual = parent.map(|s| s.id.as_slice()).unwrap_or_default();
    if expected.is_empty() || expected == actual {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "Wrong parent: layer {} was made on layer {}, but {} is {}",
        dir.display(),
        Sidecar::short(expected),
        parent_dir.display(),
        if actual.is_empty() {
            "without identity".to_owned()
        } else {
            Sidecar::short(actual)
        },
    ))
    .hint("Put the directory it was made on back to where the `parent` link points"))
}

/// A pagemap whose runs are ascending, disjoint, aligned and not empty, or an error.
///
/// Every computation on pagemaps relies on this.
pub(crate) fn pagemap(images: &Images, id: PagemapId) -> Result<Option<Pagemap>> {
    let Some(pagemap) = images.pagemap(id)? else {
        return Ok(None);
    };
    let mut end = 0;
    for run in &pagemap.runs {
        let bytes = run.pages.checked_mul(PAGE_SIZE).filter(|bytes| *bytes > 0);
        let after = bytes.and_then(|bytes| run.start.checked_add(bytes));
        match after {
            Some(after) if run.start >= end && run.start % PAGE_SIZE == 0 => end = after,
            _ => {
                return Err(Error::corrupt(format!(
                    "{}: the entry of {} pages at {:x} is empty, unaligned or out of order",
                    images.dir().join(id.file_name()).display(),
                    run.pages,
                    run.start
                ))
                .hint("The image is damaged; restore another layer"));
            }
        }
    }
    Ok(Some(pagemap))
}

fn canonical(dir: &Path) -> Result<PathBuf> {
    let found = fs::canonicalize(dir).map_err(|e| Error::path("open layer", dir, e))?;
    if found.is_dir() {
        return Ok(found);
    }
    Err(Error::new(
        Kind::NotFound,
        format!("{} is not a directory", found.display()),
    ))
}
