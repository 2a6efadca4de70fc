//! Making a layer run again: what to do as a plan, then doing it. Only the order of things lives
//! here; what each thing is, `memory`, `files` and `state` know.
//!
//! ```text
//!   plan      chain, pids, files, kernel: obstacles before anything is created
//!   open      every open file description, once, here
//!   fork      the tree with its pids, sessions and groups
//!   build     in each process: address space, pages, descriptors, threads, state
//!   let go    registers and signal masks; all run
//! ```

mod heirs;
mod plan;
mod process;
mod rights;
mod run;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

pub use plan::{Plan, plan};
pub use run::run;

use crate::error::Obstacle;
use crate::files::Allow;
use crate::units::Pid;

/// A wish for a restored tree.
#[derive(Clone, Debug)]
pub struct Options {
    /// The layer.
    pub images_dir: PathBuf,
    /// Init becomes the parent of the root, not this process.
    pub detach: bool,
    /// Write the root's pid to this file.
    pub pidfile: Option<PathBuf>,
    /// Track memory from the first instruction on, so that the next dump can be incremental.
    pub track: bool,
    /// What is done on request only.
    pub allow: Allow,
    /// The tree gets its ids in a pid namespace that is made for it: whoever has them here is not in the way.
    pub apart: bool,
    /// Restore even where the CPU lacks instruction sets that the layer's CPU had.
    pub any_cpu: bool,
    /// The program that serves as keeper: ourselves.
    pub keeper: PathBuf,
}

/// A restored tree, in figures.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its root.
    pub root: Pid,
    /// Processes, zombies included.
    pub tasks: usize,
    /// Threads.
    pub threads: usize,
    /// Pages filled in.
    pub pages: u64,
    /// How long it took.
    pub elapsed: Duration,
    /// The group that had the terminal which ours stands for, and wants it back.
    pub foreground: Option<Pid>,
    /// What is not as it was.
    pub warnings: Vec<Obstacle>,
}
