//! Flattening: a layer that stands alone.

use std::path::Path;

use super::family::{Family, settled};
use super::plan::{Plan, Request};
use crate::error::Result;

/// Plans to make the layer in `dir` a full one, in its place or as a new layer in `into`.
///
/// # Errors
/// When it is no layer, its stack cannot be opened, or somebody changes it.
pub fn flatten(dir: &Path, into: Option<&Path>) -> Result<Plan> {
    Request::Flatten(dir.to_path_buf(), into.map(Path::to_path_buf)).plan()
}

pub(super) fn plan_flatten(dir: &Path, into: Option<&Path>) -> Result<Plan> {
    let request = Request::Flatten(dir.to_path_buf(), into.map(Path::to_path_buf));
    let dir = settled(dir)?;
    let family = Family::around(std::slice::from_ref(&dir))?;
    let mut plan = Plan::new("flatten", request, &family);
    let layer = family.layer(&dir)?;
    if layer.parent.is_some() || into.is_some() {
        plan.rebase(layer, None, into.map(Path::to_path_buf))?;
    }
    Ok(plan)
}
