//! Dedup: pages that layers store for nothing are given back to the disk.
//!
//! A plan first (data that can be shown, tested, refused), then apply. Most strategies are lossless:
//! every layer reads as before, to the bit, during and after. *Superseded* (what CRIU means by dedup)
//! is not: its plan names every layer that would stop being restorable, and is refused while a branch,
//! a pinned layer or a dump in progress still needs the bytes. It marks those layers durably *before*
//! it punches anything, so that after a kill at any instant no layer looks whole that is not. All of
//! them can be repeated.
//!
//! Another way to find such pages is one file here and one line in [`STRATEGIES`].

mod apply;
mod branches;
mod content;
mod intact;
mod plan;
mod superseded;
#[cfg(test)]
mod tests;
mod unchanged;
mod zero;

use std::fmt::Debug;

use crate::chain::Stack;
use crate::error::{Error, Kind, Result};
use crate::event::{Cancel, Reporter};

pub use apply::{Freed, FreedLayer, apply};
pub use content::Content;
pub use plan::{Cut, Part, Plan, Share, Victim, on_disk, plan, plan_unless};
pub use superseded::{Superseded, Unneeded};
pub use unchanged::Unchanged;
pub use zero::Zero;

/// A way to find pages that may go, and to let them go.
pub trait Strategy: Debug + Sync {
    /// The word on the command line.
    fn name(&self) -> &'static str;

    /// What it frees and what that costs, in one line.
    fn summary(&self) -> &'static str;

    /// True when every layer stays what it is.
    fn is_lossless(&self) -> bool;

    /// Adds to the plan what goes. Changes nothing.
    fn plan(&self, stack: &Stack, plan: &mut Plan, cancel: &Cancel) -> Result<()>;

    /// Carries out a plan of its own, made just now; the stack is held alone.
    fn apply(
        &self,
        plan: &Plan,
        freed: &mut Freed,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<()>;
}

/// All strategies, the lossless ones first.
pub static STRATEGIES: &[&dyn Strategy] = &[&Unchanged, &Zero, &Content, &Superseded, &Unneeded];

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
