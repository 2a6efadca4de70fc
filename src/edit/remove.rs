//! Dropping layers, and squashing a range of layers into the uppermost of them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::family::{Family, settled};
use super::plan::{Plan, Request};
use crate::chain::{Layer, Stack};
use crate::error::{Error, Kind, Result};

/// Plans to drop the layers in `dirs`: the layers that stand on them take over what they still need.
///
/// # Errors
/// When one is no layer, its stack cannot be opened, or somebody changes it.
pub fn drop_layers(dirs: &[PathBuf]) -> Result<Plan> {
    Request::Drop(dirs.to_vec()).plan()
}

pub(super) fn plan_drop(dirs: &[PathBuf]) -> Result<Plan> {
    let gone: BTreeSet<PathBuf> = dirs.iter().map(|dir| settled(dir)).collect::<Result<_>>()?;
    let family = Family::around(&gone.iter().cloned().collect::<Vec<_>>())?;
    let mut plan = Plan::new("drop", Request::Drop(dirs.to_vec()), &family);
    plan.remove(&family, &gone)?;
    Ok(plan)
}

/// Plans to make one layer of all from `from` up to `to`, which keeps its place, name and identity.
///
/// # Errors
/// When `from` is no ancestor of `to`, the stack cannot be opened, or somebody changes it.
pub fn squash(from: &Path, to: &Path) -> Result<Plan> {
    Request::Squash(from.to_path_buf(), to.to_path_buf()).plan()
}

pub(super) fn plan_squash(from: &Path, to: &Path) -> Result<Plan> {
    let request = Request::Squash(from.to_path_buf(), to.to_path_buf());
    let (from, to) = (settled(from)?, settled(to)?);
    let stack = Stack::open(&to)?;
    let line: Vec<PathBuf> = stack
        .levels()
        .iter()
        .map(|level| level.dir().to_path_buf())
        .collect();
    let Some(end) = line.iter().position(|dir| *dir == from) else {
        return rest(&from, &to, request);
    };
    if end == 0 {
        let what = format!("{} is one layer already", to.display());
        return Err(Error::new(Kind::Usage, what).hint("Name two layers: FROM..TO"));
    }
    let gone: BTreeSet<PathBuf> = line[1..=end].iter().cloned().collect();
    let family = Family::around(&[to])?;
    let mut plan = Plan::new("squash", request, &family);
    plan.remove(&family, &gone)?;
    Ok(plan)
}

/// What is left of a squash that was cut off: `to` is done, and some of the layers that are part of
/// it now are still there.
fn rest(from: &Path, to: &Path, request: Request) -> Result<Plan> {
    let family = Family::around(&[from.to_path_buf(), to.to_path_buf()])?;
    let parts = &family.layer(to)?.parts;
    let part = |layer: &Layer| layer.id.as_ref().is_some_and(|id| parts.contains(id));
    let mut gone = BTreeSet::new();
    let mut todo = vec![family.layer(from)?];
    while let Some(layer) = todo.pop() {
        if part(layer) && gone.insert(layer.dir.clone()) {
            todo.extend(family.children(&layer.dir));
        }
    }
    if gone.is_empty() {
        let what = format!("{} is not below {}", from.display(), to.display());
        return Err(Error::new(Kind::Usage, what).hint("Name the lower layer first: FROM..TO"));
    }
    let mut plan = Plan::new("squash", request, &family);
    plan.remove(&family, &gone)?;
    Ok(plan)
}
