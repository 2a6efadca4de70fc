//! Looking into layers: the memory of a task as of a layer, what it contains, how two layers differ,
//! a core file for debuggers.
//!
//! Everything here works on images only: no process, no privilege. Bytes are read through the whole
//! stack; what a layer does not hold (files, the kernel's pages, pages freed by dedup) is named and
//! never made up.

mod cat;
mod corefile;
mod corenotes;
mod descriptors;
mod diff;
mod pages;
mod search;
mod space;
#[cfg(test)]
mod tests;
mod view;

pub use cat::{Catted, cat};
pub use corefile::{Exported, core_file};
pub use diff::{Change, DescriptorDiff, Diff, MappingDiff, SegmentDiff, TaskDiff, diff};
pub use pages::Pages;
pub use search::{Found, Pattern, Place, search};
pub use space::{Backing, Mapping, Part, Source, Space};
pub use view::{Task, View};
