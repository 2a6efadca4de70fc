//! Dedup: pages that the layers below store for nothing are given back to the disk.
//!
//! A plan first (data that can be shown, tested, refused), then apply. The plan names every layer
//! that would stop being restorable, and is refused while a branch, a pinned layer or a dump in
//! progress still needs the bytes. Apply marks those layers durably *before* it punches anything,
//! so that after a kill at any instant no layer looks whole that is not, and it can be repeated.
//!
//! Another way to find such pages is one file here and one line in [`STRATEGIES`].

mod apply;
mod branches;
mod plan;
mod superseded;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use crate::chain::{Ranges, Stack};
use crate::error::{Error, Kind, Result};
use crate::image::{Pagemap, PagemapId};

pub use apply::{Freed, FreedLayer, apply};
pub use plan::{Cut, Plan, Victim, plan};
pub use superseded::Superseded;

/// A way to find pages that may go.
pub trait Strategy: Debug + Sync {
    /// The word on the command line.
    fn name(&self) -> &'static str;

    /// What it frees and what that costs, in one line.
    fn summary(&self) -> &'static str;

    /// Which stored pages of each pagemap may go. `pagemaps` are those of `id`, tip first, down to
    /// the first layer without one; so is the answer. The tip must not need any of the pages.
    fn decide(&self, stack: &Stack, id: PagemapId, pagemaps: &[Pagemap]) -> Result<Vec<Ranges>>;
}

/// All strategies; the first is the default.
pub static STRATEGIES: &[&dyn Strategy] = &[&Superseded];

/// The strategy called `name`.
pub fn strategy(name: &str) -> Result<&'static dyn Strategy> {
    STRATEGIES
        .iter()
        .copied()
        .find(|s| s.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = STRATEGIES.iter().map(|s| s.name()).collect();
            Error::new(Kind::Usage, format!("There is no dedup strategy {name}"))
                .hint(format!("Choose one of: {}", names.join(", ")))
        })
}
