//! A branch: a new layer on top of another one, with nothing of its own.
//!
//! It restores to the same state, costs next to nothing, and keeps the layer below from being
//! changed by what is dumped on top of it under another name.

use std::path::Path;
use std::time::SystemTime;

use super::family::settled;
use super::rebase::relative;
use crate::chain::{self, Held, Stack};
use crate::error::{Error, Result};
use crate::image::{LayerWriter, Pagemap, Place, Run, SIDECAR, Sidecar};

/// Makes the layer `into` on top of the one in `dir`.
///
/// # Errors
/// When that cannot be restored, or `into` cannot be written.
pub fn branch(dir: &Path, into: &Path, label: Option<&str>) -> Result<()> {
    let dir = settled(dir)?;
    let _held = Held::shared(&dir)?;
    let stack = Stack::open(&dir)?;
    let report = chain::check(&stack);
    if !report.is_sound() {
        let what = format!("Layer {} cannot be branched", dir.display());
        return Err(Error::refused(what, report.obstacles));
    }
    let images = stack.tip().images();
    let writer = LayerWriter::create(into)?;
    let mut pages = 0;
    let mut anew = vec![
        SIDECAR.to_owned(),
        "parent".to_owned(),
        "stats-dump".to_owned(),
    ];
    for id in images.pagemaps()? {
        let Some(pagemap) = chain::pagemap(images, id)? else {
            continue;
        };
        let mut below = Pagemap {
            pages_id: pagemap.pages_id,
            runs: Vec::new(),
        };
        for run in &pagemap.runs {
            pages += run.pages;
            below.push(Run {
                place: Place::Parent,
                ..*run
            });
        }
        anew.push(id.file_name());
        anew.push(format!("pages-{}.img", pagemap.pages_id));
        drop(writer.pages(pagemap.pages_id)?);
        writer.pagemap(id, &below)?;
    }
    for name in images.names()? {
        let is_image = name.ends_with(".img") && images.dir().join(&name).is_file();
        if is_image && !anew.contains(&name) {
            writer.copy(images, &name)?;
        }
    }
    // The directory in which it is being made lies beside its place.
    let above = writer
        .partial()
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    let place = above.join(into.file_name().unwrap_or_default());
    writer.link_parent(&relative(&place, &dir))?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let old = stack.tip().sidecar().cloned().unwrap_or_default();
    writer.sidecar(Sidecar {
        parent_id: old.id.clone(),
        id: Sidecar::new_id()?,
        created: u64::try_from(now.as_nanos()).ok(),
        label: label.map(str::to_owned),
        freeze_ns: None,
        total_ns: None,
        pinned: None,
        consumed: None,
        pages_stored: Some(0),
        pages_in_parent: Some(pages),
        bytes: Some(0),
        ..old
    })?;
    writer.commit()
}
