//! Pruning: which layers of a tree are worth keeping, by age, label and pin.
//!
//! Each tree of layers is looked at by itself. Only layers that can be restored count; those that
//! dedup consumed and pre-dumps go unless they are pinned or labelled. What cannot be judged (a dump
//! that is not finished, a damaged layer, an orphan) is left alone. Hours and days are those of UTC.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::family::Family;
use super::plan::{Plan, Request};
use crate::chain::{Layer, State};
use crate::error::{Error, Kind, Result};

const HOUR: u64 = 3600 * 1_000_000_000;

/// What is kept; a layer that any of these wants stays, and so does every pinned one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest layers.
    pub last: usize,
    /// The newest layer of each of so many of the latest hours that have any.
    pub hourly: usize,
    /// The newest layer of each of so many of the latest days that have any.
    pub daily: usize,
    /// Layers with one of these labels.
    pub labels: Vec<String>,
}

impl Keep {
    /// The layers among `layers` (of one tree) that stay.
    fn choose<'a>(&self, layers: &[&'a Layer]) -> BTreeSet<&'a Path> {
        let mut kept: BTreeSet<&Path> = layers
            .iter()
            .filter(|layer| {
                let named = layer
                    .label
                    .as_ref()
                    .is_some_and(|l| self.labels.contains(l));
                layer.pinned || named || cannot_be_judged(layer)
            })
            .map(|layer| layer.dir.as_path())
            .collect();
        let mut newest: Vec<&Layer> = layers
            .iter()
            .copied()
            .filter(|layer| layer.is_restorable())
            .collect();
        newest.sort_by_key(|layer| std::cmp::Reverse((layer.created_unix_ns, &layer.dir)));
        kept.extend(
            newest
                .iter()
                .take(self.last)
                .map(|layer| layer.dir.as_path()),
        );
        for (count, length) in [(self.hourly, HOUR), (self.daily, 24 * HOUR)] {
            let mut slots = BTreeSet::new();
            for layer in &newest {
                let slot = layer.created_unix_ns.unwrap_or(0) / length;
                if slots.len() < count && slots.insert(slot) {
                    kept.insert(&layer.dir);
                }
            }
        }
        kept
    }

    fn is_empty(&self) -> bool {
        self.last == 0 && self.hourly == 0 && self.daily == 0 && self.labels.is_empty()
    }
}

fn cannot_be_judged(layer: &Layer) -> bool {
    matches!(layer.state, State::Partial | State::Damaged | State::Orphan)
}

/// Plans to drop all layers in and below `dir` but those that `keep` wants.
///
/// # Errors
/// When `keep` wants nothing at all, the layers cannot be read, or somebody changes them.
pub fn prune(dir: &Path, keep: &Keep) -> Result<Plan> {
    Request::Prune(dir.to_path_buf(), keep.clone()).plan()
}

pub(super) fn plan_prune(dir: &Path, keep: &Keep) -> Result<Plan> {
    if keep.is_empty() {
        return Err(Error::new(Kind::Usage, "Nothing would be kept").hint(
            "Say what to keep: --keep-last N, --keep-hourly N, --keep-daily N, --keep-label L",
        ));
    }
    let request = Request::Prune(dir.to_path_buf(), keep.clone());
    let dir = super::family::settled(dir)?;
    let family = Family::below(&dir)?;
    let mut plan = Plan::new("prune", request, &family);
    let mut gone: BTreeSet<PathBuf> = BTreeSet::new();
    for tree in trees(&family) {
        let kept = keep.choose(&tree);
        // Ancestors elsewhere are not what was asked for.
        let candidates = tree.iter().filter(|layer| layer.dir.starts_with(&dir));
        gone.extend(
            candidates
                .filter(|layer| !kept.contains(layer.dir.as_path()))
                .map(|layer| layer.dir.clone()),
        );
    }
    plan.remove(&family, &gone)?;
    Ok(plan)
}

/// The layers, tree by tree. What a prune that was cut off has left over still counts to the tree
/// whose layers took over its pages: it would be a tree of its own, with newest layers of its own.
fn trees(family: &Family) -> Vec<Vec<&Layer>> {
    let is_root = |layer: &&Layer| {
        layer
            .parent
            .as_ref()
            .is_none_or(|p| family.layer(p).is_err())
    };
    let mut seen = BTreeSet::new();
    let mut trees: Vec<Vec<&Layer>> = Vec::new();
    for root in family.layers().filter(is_root) {
        let mut tree = Vec::new();
        let mut todo = vec![root];
        while let Some(layer) = todo.pop() {
            if seen.insert(&layer.dir) {
                tree.push(layer);
                todo.extend(family.children(&layer.dir));
            }
        }
        let of = |other: &Vec<&Layer>| tree.iter().any(|layer| is_part(layer, other));
        let takes = |other: &Vec<&Layer>| other.iter().any(|layer| is_part(layer, &tree));
        match trees.iter().position(|other| of(other) || takes(other)) {
            Some(at) => trees[at].extend(tree),
            None => trees.push(tree),
        }
    }
    trees
}

/// True when `layer` became part of one of `others`.
fn is_part(layer: &Layer, others: &[&Layer]) -> bool {
    let takes = |id: &String| others.iter().any(|other| other.parts.contains(id));
    layer.id.as_ref().is_some_and(takes)
}
