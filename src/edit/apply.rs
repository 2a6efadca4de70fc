//! Carrying out a plan: lock, plan again, rewrite, remove, measure.

use serde::Serialize;

use super::plan::Plan;
use super::rebase;
use crate::error::{Error, Kind, Result};
use crate::event::{Cancel, Event, Reporter};
use crate::store::{self, Lock};

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Layers that were written anew.
    pub rewritten: usize,
    /// Layers that are gone.
    pub removed: usize,
    /// Bytes of pages that were written.
    pub bytes_written: u64,
}

/// Carries out `plan`. Refused when it has obstacles, or when the layers changed since it was made.
/// May be cut off at any instant and repeated.
pub fn apply(plan: &Plan, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Applied> {
    refuse(plan)?;
    let _lock = Lock::alone(&plan.folders)?;
    let now = plan.request.plan_held()?;
    refuse(&now)?;
    if now.folders != plan.folders
        || now.removals.len() != plan.removals.len()
        || now
            .removals
            .iter()
            .zip(&plan.removals)
            .any(|(a, b)| a.dir != b.dir)
        || now.rewrites != plan.rewrites
    {
        return Err(
            Error::new(Kind::Busy, "The layers changed since this was planned")
                .hint("Plan it again"),
        );
    }
    let mut applied = Applied::default();
    let total = (now.rewrites.len() + now.removals.len()) as u64;
    let progress = |applied: &Applied| {
        let done = (applied.rewritten + applied.removed) as u64;
        reporter.report(Event::Progress { done, total });
    };
    reporter.report(Event::Phase("rewrite"));
    for rewrite in &now.rewrites {
        cancel.check()?;
        applied.bytes_written += rebase::rewrite(rewrite, cancel)?;
        applied.rewritten += 1;
        progress(&applied);
    }
    reporter.report(Event::Phase("remove"));
    for removal in &now.removals {
        cancel.check()?;
        store::remove(&removal.dir)?;
        applied.removed += 1;
        progress(&applied);
    }
    Ok(applied)
}

fn refuse(plan: &Plan) -> Result<()> {
    if plan.is_possible() {
        return Ok(());
    }
    let what = format!("Cannot {} these layers", plan.operation);
    Err(Error::refused(what, plan.obstacles.clone()))
}
