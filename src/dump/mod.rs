//! Making a layer: what to do as a plan, then doing it. Only the order of things lives here; what
//! each thing is, `task`, `memory`, `files` and `state` know.
//!
//! ```text
//!   plan     tree, descriptors, mappings, parent: obstacles before anything is touched
//!   freeze   seize and stop every thread
//!   infect   registers, signals, timers, credentials, … of each thread; cure
//!   files    what the descriptors and mappings lead to
//!   pages    the pages that changed
//!   arm      write-protect for the next layer
//!   thaw     (or kill, after the layer is durable)
//!   write    the small images, the inventory last; sync; rename
//! ```

mod check;
mod plan;
mod predict;
mod process;
mod rule;
mod run;
mod sidecar;

use std::path::PathBuf;
use std::time::Duration;

pub use check::{Line, Report, Verdict, check};
pub use plan::{Parent, Plan, plan};
pub use predict::{Freeze, Mode, Past, Prediction, Present, predict, predictions};
pub use rule::{Auto, Clause, Moment, Rule};
pub use run::run;
pub use sidecar::{boot_id, hex};

use crate::error::Obstacle;
use crate::files::Allow;
use crate::units::Pid;

/// What becomes of the target after the dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// It is killed, once the layer is durable (CRIU's default).
    #[default]
    Kill,
    /// It goes on.
    Run,
    /// It stays stopped.
    Stop,
}

/// A wish for a layer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Root of the process tree.
    pub root: Pid,
    /// Where the layer goes: an absent or empty directory.
    pub images_dir: PathBuf,
    /// The parent layer, relative to `images_dir` as in CRIU.
    pub prev_images_dir: Option<PathBuf>,
    /// What becomes of the target.
    pub after: After,
    /// Track memory from here on, so that the next layer can be incremental.
    pub track: bool,
    /// Punch superseded pages out of the ancestors afterwards.
    pub auto_dedup: bool,
    /// What is done on request only.
    pub allow: Allow,
    /// What the user calls the layer.
    pub label: Option<String>,
    /// The program that serves as keeper: ourselves.
    pub keeper: PathBuf,
}

/// A finished layer, in figures.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its directory.
    pub dir: PathBuf,
    /// Its identity, in hexadecimal digits.
    pub layer_id: String,
    /// Processes in it, zombies included.
    pub tasks: usize,
    /// Threads in it.
    pub threads: usize,
    /// Pages that it holds.
    pub pages_stored: u64,
    /// Pages that it leaves to its parent.
    pub pages_in_parent: u64,
    /// Bytes of its pages.
    pub bytes: u64,
    /// How long the target was stopped.
    pub freeze: Duration,
    /// What it was expected to be.
    pub predicted: Option<Prediction>,
    /// How long everything took.
    pub total: Duration,
    /// How unchanged pages were found.
    pub tracker: &'static str,
    /// TCP connections that the keeper holds until the layer is restored.
    pub connections_held: usize,
    /// Files whose contents are in the layer.
    pub files_saved: usize,
    /// What will not be as it was after a restore.
    pub warnings: Vec<Obstacle>,
}
