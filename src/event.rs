//! What a running job tells, and how it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::{Error, Kind, Result};

/// A step of a job, for people and progress bars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The job entered a new phase, e.g. `freeze`, `pages`, `files`, `write`.
    Phase(&'static str),
    /// `done` of `total` units of the present phase (bytes or pages; the phase says which).
    Progress {
        /// Finished units.
        done: u64,
        /// All units; 0 when unknown.
        total: u64,
    },
    /// All tasks are stopped.
    Frozen {
        /// Number of threads stopped.
        threads: usize,
    },
    /// All tasks run again.
    Thawed {
        /// How long they were stopped.
        stopped: Duration,
    },
    /// Something the user should know, in one line.
    Warning(String),
}

/// Receives events. It must never block: a slow terminal may not lengthen a freeze.
pub trait Reporter: Send + Sync {
    /// Takes one event.
    fn report(&self, event: Event);
}

/// Throws events away.
impl Reporter for () {
    fn report(&self, _: Event) {}
}

/// Calls a function.
impl<F: Fn(Event) + Send + Sync> Reporter for F {
    fn report(&self, event: Event) {
        self(event);
    }
}

/// A request to stop, asked for by the engine between batches.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the job to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Fails with [`Kind::Cancelled`] once [`Cancel::cancel`] was called.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            Err(Error::new(Kind::Cancelled, "Cancelled"))
        } else {
            Ok(())
        }
    }
}
