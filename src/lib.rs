//! The checkpoint engine behind `icecore`: freeze a running process tree in layers, look into the
//! layers, thaw any of them. The files are CRIU's (`img_version` 2).
//!
//! ```text
//!    live process                                                    new process
//!         │                                                               ▲
//!    task (freeze) ─► inject ─► state + files (dump half) ─► image ─► store
//!         │                                                   │           │
//!         └─► track (which pages) ─► memory ──────────────────┘           │
//!                                                             ▼           │
//!                         chain: layers, owner of each page ─► restore::plan ─► restore::run
//! ```
//!
//! Imports run one way: `units, error, event` ◄ `sys` ◄ `arch, kernel` ◄ `task` ◄ `inject`, and
//! `store` ◄ `image` ◄ `chain` ◄ `dedup, edit, inspect`; both ◄ `track, memory, files, state` ◄ `dump,
//! restore` ◄ the front end. `tests/it/architecture.rs` holds the `use` lines against this.

pub mod arch;
pub mod chain;
pub mod dedup;
pub mod dump;
pub mod edit;
pub mod error;
pub mod event;
pub mod files;
pub mod image;
pub mod inject;
pub mod inspect;
pub mod kernel;
pub mod memory;
pub mod restore;
pub mod state;
pub mod store;
pub mod sys;
pub mod task;
pub mod track;
pub mod units;

pub use error::{Error, Kind, Obstacle, Result, TargetState};
pub use event::{Cancel, Event, Reporter};
pub use units::{PAGE_SIZE, PageRange, Pid, Vaddr};
