//! Adopting layers that CRIU made: they get an identity, and digests of all their files.
//!
//! Nothing but the sidecar is written, so CRIU reads them as before. A layer that is adopted already
//! stays as it is: new digests would hide damage.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Catalog, Held, State};
use crate::error::Result;
use crate::event::{Cancel, Event, Reporter};
use crate::image::{Images, Sidecar};

/// What adopting did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Adopted {
    /// Layers that got digests now.
    pub layers: Vec<PathBuf>,
    /// Layers that had them.
    pub known: Vec<PathBuf>,
    /// Directories whose dump was never finished, left alone.
    pub partial: Vec<PathBuf>,
}

/// Adopts the layers in and below `dir`, with their ancestors, parents first.
///
/// # Errors
/// When there is no layer, somebody is using one of them, or one cannot be read or written. What is
/// adopted by then stays so.
pub fn adopt(dir: &Path, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Adopted> {
    let catalog = Catalog::scan(dir)?;
    if catalog.layers().is_empty() {
        return Err(catalog.no_layer(dir));
    }
    let mut adopted = Adopted::default();
    let total = catalog.layers().len() as u64;
    let in_order = catalog.trees().into_iter().flatten();
    for (done, (index, _)) in in_order.enumerate() {
        cancel.check()?;
        let layer = &catalog.layers()[index];
        let parent = catalog
            .parent(index)
            .map(|p| catalog.layers()[p].dir.as_path());
        if layer.state == State::Partial {
            adopted.partial.push(layer.dir.clone());
        } else if one(&layer.dir, parent)? {
            adopted.layers.push(layer.dir.clone());
        } else {
            adopted.known.push(layer.dir.clone());
        }
        let done = done as u64 + 1;
        reporter.report(Event::Progress { done, total });
    }
    Ok(adopted)
}

/// Adopts one layer whose parent is adopted; false when it was already.
fn one(dir: &Path, parent: Option<&Path>) -> Result<bool> {
    let _held = Held::alone(dir)?;
    let parent_id = match parent {
        Some(parent) => Sidecar::read(&Images::open(parent)?)?.map(|s| s.id),
        None => None,
    };
    let images = Images::open(dir)?;
    Sidecar::update(&images, |sidecar| {
        if sidecar.has_digests() {
            return Ok(false);
        }
        // What dedup noted of the files stays known; a mark may be all there is.
        let marks = sidecar.clone();
        sidecar.digest(dir, &Sidecar::default())?;
        for old in marks.pages {
            let file = images.pages_file(old.pages_id)?;
            let pages = sidecar.pages_of(old.pages_id);
            pages.free(&file, &old.freed)?;
            pages.zero(&old.zeros);
        }
        if sidecar.id.is_empty() {
            sidecar.id = Sidecar::new_id()?;
        }
        if sidecar.parent_id.is_empty() {
            sidecar.parent_id = parent_id.unwrap_or_default();
        }
        Ok(true)
    })
}
