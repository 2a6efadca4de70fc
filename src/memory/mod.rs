//! Memory of a task: its mappings, its private pages, its shared segments.

pub mod mappings;
pub mod space;

pub use mappings::{Backing, Mapping};
