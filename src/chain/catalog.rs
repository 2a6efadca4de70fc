//! The catalog: all layers under a directory, with their parents and branches.
//!
//! Directories are searched to a bounded depth; symlinks are not followed (the `parent` link is
//! read, not walked). A parent that lies elsewhere is added, so that no line of ancestors is cut.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::layer::{Layer, State};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::store::is_staging;

/// How deep below the root layers are looked for.
const SCAN_DEPTH: usize = 8;

/// All layers under a directory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Catalog {
    layers: Vec<Layer>,
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    unreadable: Vec<Obstacle>,
}

impl Catalog {
    /// Finds all layers in `root` and in the directories below it.
    pub fn scan(root: impl AsRef<Path>) -> Result<Self> {
        Self::scan_to(root, SCAN_DEPTH)
    }

    /// Like [`Catalog::scan`], at most `depth` directories deep.
    pub fn scan_to(root: impl AsRef<Path>, depth: usize) -> Result<Self> {
        let root = root.as_ref();
        let root = fs::canonicalize(root).map_err(|e| Error::path("read", root, e))?;
        let mut unreadable = Vec::new();
        let mut found = Vec::new();
        search(&root, depth, &mut found, &mut unreadable);
        Ok(Self::of(found, unreadable))
    }

    /// The catalog of the layers in `dirs` and all their ancestors.
    fn of(dirs: Vec<PathBuf>, unreadable: Vec<Obstacle>) -> Self {
        let mut layers: BTreeMap<PathBuf, Layer> = BTreeMap::new();
        let mut todo = dirs;
        while let Some(dir) = todo.pop() {
            if layers.contains_key(&dir) {
                continue;
            }
            // One that went while it was looked at is not there.
            let Some(layer) = Layer::settled(&dir) else {
                continue;
            };
            todo.extend(
                layer
                    .parent
                    .iter()
                    .filter(|parent| parent.is_dir())
                    .cloned(),
            );
            layers.insert(dir, layer);
        }
        let mut layers: Vec<Layer> = layers.into_values().collect();
        layers.sort_by_cached_key(|layer| natural(&layer.dir));
        let index: HashMap<PathBuf, usize> = layers
            .iter()
            .enumerate()
            .map(|(n, layer)| (layer.dir.clone(), n))
            .collect();
        let parents: Vec<Option<usize>> = layers
            .iter()
            .map(|l| l.parent.as_ref().and_then(|p| index.get(p).copied()))
            .collect();
        let mut children = vec![Vec::new(); layers.len()];
        for (child, parent) in parents.iter().enumerate() {
            if let Some(parent) = *parent {
                children[parent].push(child);
            }
        }
        let mut catalog = Self {
            layers,
            parents,
            children,
            unreadable,
        };
        catalog.judge();
        catalog
    }
}

impl Catalog {
    /// The layers, in the order of their paths (numbers in names count as numbers).
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The layer in `dir`, if the catalog has it.
    pub fn find(&self, dir: impl AsRef<Path>) -> Option<usize> {
        let dir = fs::canonicalize(dir).ok()?;
        self.layers.iter().position(|layer| layer.dir == dir)
    }

    /// The parent of a layer, if it is there.
    pub fn parent(&self, layer: usize) -> Option<usize> {
        self.parents.get(layer).copied().flatten()
    }

    /// The layers made on top of a layer; more than one means branches.
    pub fn children(&self, layer: usize) -> &[usize] {
        self.children.get(layer).map_or(&[], Vec::as_slice)
    }

    /// The layers without a parent (and those whose parents run in a loop): the bottom of each
    /// tree.
    pub fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.layers.len()).filter(|layer| self.parent(*layer).is_none())
    }

    /// The trees: for each root all layers above it, parents before children, with their height
    /// above the root.
    pub fn trees(&self) -> Vec<Vec<(usize, usize)>> {
        self.roots()
            .map(|root| {
                let mut tree = Vec::new();
                let mut todo = vec![(root, 0)];
                while let Some((layer, height)) = todo.pop() {
                    tree.push((layer, height));
                    todo.extend(self.children(layer).iter().rev().map(|c| (*c, height + 1)));
                }
                tree
            })
            .collect()
    }

    /// Why there is no layer in `dir`, whose catalog this is: perhaps there are some that nobody may read.
    pub(super) fn no_layer(&self, dir: &Path) -> Error {
        let what = format!("There is no layer in {}", dir.display());
        if self.unreadable.is_empty() {
            return Error::new(Kind::NotFound, what).hint("Name an images directory");
        }
        Error::refused(what + " that can be read", self.unreadable.clone())
    }

    /// Directories that could not be read, so that layers in them are not listed.
    pub fn unreadable(&self) -> &[Obstacle] {
        &self.unreadable
    }

    /// Cuts loops, and carries the news of a missing or wrong parent up to all descendants.
    fn judge(&mut self) {
        self.cut_loops();
        for tree in self.trees() {
            for (layer, _) in tree {
                let Some(parent) = self.parent(layer) else {
                    continue;
                };
                let reason = if self.layers[parent].state == State::Orphan {
                    Some(format!(
                        "its parent {} is an orphan",
                        self.layers[parent].name
                    ))
                } else {
                    self.layers[layer].mismatch(&self.layers[parent])
                };
                if let Some(reason) = reason {
                    self.layers[layer].set(State::Orphan, reason);
                }
            }
        }
    }

    /// Layers of a loop lose their parent here, so that walking up or down always ends.
    fn cut_loops(&mut self) {
        let mut seen = vec![0_usize; self.layers.len()];
        for start in 0..self.layers.len() {
            let mut at = Some(start);
            while let Some(layer) = at {
                if seen[layer] == start + 1 {
                    self.break_loop(layer);
                    break;
                }
                if seen[layer] != 0 {
                    break;
                }
                seen[layer] = start + 1;
                at = self.parents[layer];
            }
        }
    }

    fn break_loop(&mut self, first: usize) {
        let mut layer = first;
        while let Some(parent) = self.parents[layer].take() {
            self.children[parent].retain(|child| *child != layer);
            self.layers[layer].set(State::Orphan, "its parents run in a loop");
            layer = parent;
        }
    }
}

/// Collects the layers in `dir` and below.
fn search(dir: &Path, depth: usize, found: &mut Vec<PathBuf>, unreadable: &mut Vec<Obstacle>) {
    let cannot = |error| {
        let error = Error::path("read", dir, error);
        let hint = "layers in there are not listed: that takes CAP_DAC_OVERRIDE, or a user who may read it";
        Obstacle::new(error.kind(), error.one_line(), hint)
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // It was a layer that is finished now, or gone.
        Err(error) if error.kind() == ErrorKind::NotFound => return,
        Err(error) => return unreadable.push(cannot(error)),
    };
    let mut is_layer = false;
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                unreadable.push(cannot(error));
                break;
            }
        };
        if is_staging(&entry.file_name()) {
            continue;
        }
        is_layer |= is_image(&entry.file_name().to_string_lossy());
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            search(&entry.path(), depth - 1, found, unreadable);
        }
    }
    if is_layer {
        found.push(dir.to_path_buf());
    }
}

/// True for files that only a layer has; a dump that was cut short may lack the inventory.
fn is_image(name: &str) -> bool {
    name == "inventory.img"
        || name == "pstree.img"
        || (name.starts_with("pagemap-") && name.ends_with(".img"))
        || (name.starts_with("core-") && name.ends_with(".img"))
}

/// A sort key in which `10` comes after `9`.
fn natural(dir: &Path) -> Vec<(String, u64)> {
    let text = dir.to_string_lossy();
    let mut key = Vec::new();
    let mut rest = text.as_ref();
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(digits);
        let end = after
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(after.len());
        let (number, after) = after.split_at(end);
        key.push((word.to_owned(), number.parse().unwrap_or(0)));
        rest = after;
    }
    key
}
