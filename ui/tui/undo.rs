//! The way back from a roll back: of each tree the layer that was kept of it then.
//!
//! It holds as long as that layer is there and the tree still runs what it was rolled back to, which
//! its pid and start time tell. Pure.

use std::path::PathBuf;

use icecore::Pid;
use serde::{Deserialize, Serialize};

use super::model::{Focus, Model};
use super::stacks::LayerRow;

/// Ways back that are remembered.
const REMEMBERED: usize = 64;

/// The way back of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Back {
    /// The root of what runs now.
    root: i32,
    /// Its start time: another process may get the pid.
    start_time: u64,
    /// The layer that was kept of what ran before.
    layer: PathBuf,
}

/// A tree was rolled back: the way back that it had before is none any more.
pub(super) fn rolled_back(
    model: &mut Model,
    root: Pid,
    start_time: Option<u64>,
    kept: Option<PathBuf>,
) {
    model.undo.retain(|back| back.root != root.as_raw());
    if let (Some(start_time), Some(layer)) = (start_time, kept) {
        model.undo.push(Back {
            root: root.as_raw(),
            start_time,
            layer,
        });
    }
    let over = model.undo.len().saturating_sub(REMEMBERED);
    model.undo.drain(..over);
}

/// The layer that undo would restore: that of the selected tree, or else of the one that was rolled back
/// last.
pub(crate) fn layer(model: &Model) -> Option<&LayerRow> {
    let roots = selected(model);
    let of = |root: &i32| model.undo.iter().find(|back| back.root == *root);
    let layer = |back: &Back| model.layers().find(|layer| layer.dir == back.layer);
    let here = roots
        .iter()
        .filter_map(of)
        .filter(|back| holds(model, back));
    let latest = model.undo.iter().rev().filter(|back| holds(model, back));
    here.chain(latest).find_map(layer)
}

/// Those that still hold.
pub(super) fn kept(model: &Model) -> Vec<Back> {
    let held = model.undo.iter().filter(|back| holds(model, back));
    held.cloned().collect()
}

/// Whether the tree still runs what it was rolled back to.
fn holds(model: &Model, back: &Back) -> bool {
    let root = Pid::from_raw(back.root);
    // One that was restored just now is listed a little later.
    model.select == Some(root)
        || model
            .running(root)
            .is_some_and(|tree| tree.start_time == back.start_time)
}

/// The roots that what is selected may be about: of a layer the one that it is of, of a process itself
/// and those that it is below.
fn selected(model: &Model) -> Vec<i32> {
    if matches!(model.focus, Focus::Stacks | Focus::Map | Focus::Dedup) {
        let root = model.layer().and_then(|layer| layer.root);
        return root
            .and_then(|root| i32::try_from(root).ok())
            .into_iter()
            .collect();
    }
    let mut roots = Vec::new();
    let mut next = model.target().map(|(pid, _)| pid);
    while let Some(pid) = next.filter(|pid| !roots.contains(&pid.as_raw())) {
        roots.push(pid.as_raw());
        next = model.running(pid).map(|tree| tree.ppid);
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_remembered_and_of_a_tree_the_latest() {
        let theme = crate::tui::theme::Theme::of_environment(|_| String::new());
        let mut model = Model::new("/img".into(), theme, (80, 24));
        for pid in 0..100 {
            rolled_back(
                &mut model,
                Pid::from_raw(pid),
                Some(1),
                Some("/img/r/1".into()),
            );
        }
        rolled_back(
            &mut model,
            Pid::from_raw(99),
            Some(2),
            Some("/img/r/2".into()),
        );
        assert_eq!(model.undo.len(), REMEMBERED);
        let last = model.undo.last().unwrap();
        assert_eq!((last.root, last.start_time), (99, 2));
        rolled_back(&mut model, Pid::from_raw(99), Some(3), None);
        assert!(model.undo.iter().all(|back| back.root != 99));
    }
}
