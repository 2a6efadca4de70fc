//! Carrying out a dedup: lock, look again, then what the strategy does; and punching holes.
//!
//! fallocate(2) with `FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`: offsets and pagemaps stay as
//! they are, so the layers above read on as before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use serde::Serialize;

use super::plan::{Cut, Plan, plan_held};
use super::strategy;
use crate::chain::{Held, Ranges};
use crate::error::{Error, Kind, Result};
use crate::event::{Cancel, Reporter};
use crate::image::Extent;
use crate::units::PageRange;

/// What a dedup gave back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Pages freed.
    pub pages: u64,
    /// Bytes that the disk got back, as measured by the files' blocks (for *content*, by the free
    /// space of the file system, for shared blocks count for each file).
    pub bytes: u64,
    /// The same, layer by layer, nearest first.
    pub layers: Vec<FreedLayer>,
    /// Layers that were marked as consumed now (and not before).
    pub marked: Vec<PathBuf>,
}

/// What one layer gave back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FreedLayer {
    /// Its directory.
    pub dir: PathBuf,
    /// Pages freed.
    pub pages: u64,
    /// Bytes that the disk got back.
    pub bytes: u64,
}

/// Carries out `plan`. Refused when it has obstacles, or when the layers changed since it was made
/// so that more would be lost than it says. May be repeated, also after it was interrupted.
pub fn apply(plan: &Plan, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Freed> {
    refuse(plan)?;
    let _held = Held::alone(&plan.dir)?;
    let now = plan_held(&plan.dir, strategy(plan.strategy)?, cancel)?;
    refuse(&now)?;
    if !within(&now, plan) {
        return Err(Error::new(
            Kind::Busy,
            format!(
                "The layers below {} changed since the dedup was planned",
                plan.dir.display()
            ),
        )
        .hint("Plan it again"));
    }
    cancel.check()?;

    let mut freed = Freed::default();
    strategy(now.strategy)?.apply(&now, &mut freed, reporter, cancel)?;
    Ok(freed)
}

/// Adds what a layer gave back.
pub(super) fn note(freed: &mut Freed, dir: &Path, pages: u64, bytes: u64) {
    freed.pages += pages;
    freed.bytes += bytes;
    match freed.layers.iter_mut().find(|layer| layer.dir == dir) {
        Some(layer) => {
            layer.pages += pages;
            layer.bytes += bytes;
        }
        None => freed.layers.push(FreedLayer {
            dir: dir.to_path_buf(),
            pages,
            bytes,
        }),
    }
}

fn refuse(plan: &Plan) -> Result<()> {
    if plan.is_possible() {
        return Ok(());
    }
    let what = format!(
        "The layers below {} cannot be deduplicated",
        plan.dir.display()
    );
    Err(Error::refused(what, plan.obstacles.clone()))
}

/// True when `now` frees nothing and costs nothing that `agreed` does not name.
fn within(now: &Plan, agreed: &Plan) -> bool {
    let named = |dir: &Path| agreed.victims.iter().any(|victim| victim.dir == dir);
    now.victims.iter().all(|victim| named(&victim.dir))
        && now.cuts.iter().all(|cut| {
            agreed.cuts.iter().any(|old| {
                (&old.dir, old.pagemap, old.pages_id) == (&cut.dir, cut.pagemap, cut.pages_id)
                    && cut.offsets.minus(&old.offsets).is_empty()
            })
        })
}

/// Parts of a pages file as the sidecar notes them.
pub(super) fn extents(offsets: &Ranges) -> Vec<Extent> {
    let extent = |range: PageRange| Extent {
        offset: range.start,
        bytes: range.bytes(),
    };
    offsets.iter().map(extent).collect()
}

/// Punches one cut; returns how many bytes the file takes less.
pub(super) fn punch(cut: &Cut) -> Result<u64> {
    let path = cut.file();
    let cannot = |e| Error::path("free pages of", &path, e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)
        .map_err(cannot)?;
    let before = blocks(&file).map_err(cannot)?;
    for range in cut.offsets.iter() {
        punch_range(&file, range).map_err(|errno| match errno {
            Errno::EOPNOTSUPP => {
                Error::os(format!("Cannot punch holes into {}", path.display()), errno)
                    .hint("The file system cannot do it; ext4, xfs, btrfs and tmpfs can")
            }
            errno => cannot(errno.into()),
        })?;
    }
    file.sync_all().map_err(cannot)?;
    let after = blocks(&file).map_err(cannot)?;
    Ok(before.saturating_sub(after) * 512)
}

fn punch_range(file: &File, range: PageRange) -> nix::Result<()> {
    let offset = i64::try_from(range.start).map_err(|_too_far| Errno::EOVERFLOW)?;
    let len = i64::try_from(range.bytes()).map_err(|_too_far| Errno::EOVERFLOW)?;
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, offset, len)
}

fn blocks(file: &File) -> std::io::Result<u64> {
    Ok(file.metadata()?.blocks())
}
