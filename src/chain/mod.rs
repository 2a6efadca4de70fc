//! Layers and how they hang together: the catalog of all layers under a directory, a stack (a
//! layer with its ancestors), which layer owns each page, and whether a stack can be restored.
//!
//! Everything here works on images only: no process, no privilege, any architecture. Nothing is
//! ever computed page by page; all sets are ascending lists of ranges (see [`Ranges`]).

#[cfg(test)]
mod model;
mod owner;
mod ranges;
mod superseded;

pub use owner::{Descent, Missing, Owned, Ownership, Why};
pub use ranges::Ranges;
pub use superseded::{Affected, superseded};
