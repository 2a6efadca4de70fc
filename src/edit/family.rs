//! The layers around a layer: its ancestors, and everything that stands on any of them.
//!
//! Looked for in the folders that hold the layers; a layer elsewhere that stands on one of these is
//! not found.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::chain::{Catalog, Layer, Stack};
use crate::error::{Error, Kind, Obstacle, Result};

/// Folders are searched no deeper than this: siblings lie beside each other.
const DEPTH: usize = 2;

/// Layers by directory, with what stands on them.
#[derive(Debug, Default)]
pub(super) struct Family {
    layers: BTreeMap<PathBuf, Layer>,
    children: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Directories in which more layers may be hidden.
    pub(super) unreadable: Vec<Obstacle>,
}

impl Family {
    /// All layers in the folders of the stacks of `dirs`.
    pub(super) fn around(dirs: &[PathBuf]) -> Result<Self> {
        let mut folders = BTreeSet::new();
        for dir in dirs {
            let stack = Stack::open(dir)?;
            let of_level = stack
                .levels()
                .iter()
                .filter_map(|level| level.dir().parent());
            folders.extend(of_level.map(Path::to_path_buf));
        }
        let mut family = Self::default();
        for folder in folders {
            family.add(&Catalog::scan_to(folder, DEPTH)?);
        }
        Ok(family)
    }

    /// All layers below a directory, and their ancestors.
    pub(super) fn below(dir: &Path) -> Result<Self> {
        let catalog = Catalog::scan(dir)?;
        let mut family = Self::default();
        family.add(&catalog);
        let folders: BTreeSet<PathBuf> = family.folders();
        for folder in folders {
            family.add(&Catalog::scan_to(folder, DEPTH)?);
        }
        Ok(family)
    }

    fn add(&mut self, catalog: &Catalog) {
        for layer in catalog.layers() {
            if self
                .layers
                .insert(layer.dir.clone(), layer.clone())
                .is_none()
                && let Some(parent) = &layer.parent
            {
                self.children
                    .entry(parent.clone())
                    .or_default()
                    .push(layer.dir.clone());
            }
        }
        for hidden in catalog.unreadable() {
            if !self.unreadable.contains(hidden) {
                self.unreadable.push(hidden.clone());
            }
        }
    }

    /// The layer in `dir`.
    pub(super) fn layer(&self, dir: &Path) -> Result<&Layer> {
        self.layers.get(dir).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{} is no layer", dir.display()))
                .hint("Name an images directory; icecore stacks DIR lists them")
        })
    }

    /// All layers, in order of their directories.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.layers.values()
    }

    /// The layers that stand on the one in `dir`.
    pub(super) fn children(&self, dir: &Path) -> impl Iterator<Item = &Layer> {
        let dirs = self.children.get(dir).map_or(&[][..], Vec::as_slice);
        dirs.iter().filter_map(|dir| self.layers.get(dir))
    }

    /// The folders that hold the layers.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        let parents = self.layers.keys().filter_map(|dir| dir.parent());
        parents.map(Path::to_path_buf).collect()
    }
}

/// A directory as the family knows it.
pub(super) fn settled(dir: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(dir).map_err(|e| Error::path("open layer", dir, e))
}
