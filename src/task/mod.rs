//! The target: a process tree, how it is found, stopped, and let go.

mod freeze;
mod tree;

pub use freeze::Frozen;
pub use tree::{Life, Process, members, process};
