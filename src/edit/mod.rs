//! Changing stacks: drop, squash, prune and flatten layers; branches, labels and pins.
//!
//! One rule carries all of them. A layer may get another parent among its ancestors, or none: pages
//! that it keeps in-parent stay so where their owner is that ancestor or lies below it, and are
//! stored in the layer itself otherwise. It then gives the same memory as before, to the last byte,
//! and covers the same pages, so nothing changes for the layers above it. Dropping layers means to
//! give every layer that stands on one of them its nearest ancestor that stays as parent, and then
//! to remove them, the uppermost first.
//!
//! Each step is one step of `store`; after each of them every layer that is still there reads as it
//! did. So an operation may be cut off at any instant, and repeated. Identities stay: whatever was
//! known of a layer by its id (a tracker that was armed for it) is still true, because its memory is
//! the same; what names a removed layer finds no such layer, and compares.

mod apply;
mod branch;
mod family;
mod flatten;
mod label;
mod plan;
mod prune;
mod rebase;
mod remove;
#[cfg(test)]
mod tests;

pub use apply::{Applied, apply};
pub use branch::branch;
pub use flatten::flatten;
pub use label::{label, pin};
pub use plan::{Moved, Plan, Removal, Rewrite};
pub use prune::{Keep, prune};
pub use remove::{drop_layers, squash};
