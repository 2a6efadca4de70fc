//! Memory of a task: its mappings, its private pages, its shared segments.

pub mod aio;
pub mod huge;
pub mod inherit;
pub mod keys;
pub mod mappings;
pub mod pages;
pub mod policy;
pub mod pump;
pub mod segments;
pub mod space;
pub mod sysv;
pub mod vmas;

pub use mappings::{Backing, Mapping};
