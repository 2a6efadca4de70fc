//! Layers and how they hang together: the catalog of all layers under a directory, a stack (a
//! layer with its ancestors), which layer owns each page, and whether a stack can be restored.
//!
//! Everything here works on images only: no process, no privilege, any architecture. Nothing is
//! ever computed page by page; all sets are ascending lists of ranges (see [`Ranges`]).

mod adopt;
mod catalog;
mod census;
mod check;
mod descent;
mod hold;
mod holes;
mod layer;
#[cfg(test)]
pub(crate) mod model;
mod names;
mod owner;
mod ranges;
mod resolved;
mod stack;
mod superseded;
mod verify;

#[cfg(test)]
mod tests;

pub use adopt::{Adopted, adopt};
pub use catalog::Catalog;
pub use census::{Census, Counted};
pub use check::{Report, check, check_dir, check_memory};
pub use hold::Held;
pub(crate) use hold::folders;
pub(crate) use holes::{holes, lost};
pub use layer::{Extent, Layer, State};
pub(crate) use names::mappings;
pub use names::named;
pub use owner::{Missing, Owned, Ownership, Why};
pub use ranges::Ranges;
pub use resolved::Resolved;
pub(crate) use stack::pagemap;
pub use stack::{Level, MAX_DEPTH, Stack};
pub use superseded::{Affected, superseded};
pub use verify::{Depth, Finding, Verified, verify};
