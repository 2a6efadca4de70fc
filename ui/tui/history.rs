//! What happened in earlier runs: jobs with their results, and lines of the log, kept beside
//! `screen.json` in `history.json`.
//!
//! Bounded, the latest last. It is written at the end of a run, and never where no state is kept. What is
//! read is somebody's text: it is defused again. A file that is damaged counts as none.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::board::{End, Ended};
use super::model::Model;
use super::popup::Mark;
use crate::format::plain;

/// What is written today; other versions are not read.
const VERSION: u32 = 1;
/// Jobs that are kept.
const JOBS: usize = 50;
/// Lines of the log that are kept.
const LINES: usize = 200;
const DAY: u64 = 86400;

/// All of it, of all images roots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct History {
    version: u32,
    jobs: Vec<Past>,
    log: Vec<Said>,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Past {
    root: PathBuf,
    title: String,
    end: End,
    text: String,
    took_ms: u64,
    /// Seconds since the epoch.
    at: u64,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Said {
    root: PathBuf,
    /// Seconds since the epoch.
    pub(crate) at: u64,
    /// How it is marked.
    pub(crate) mark: Mark,
    /// What it says.
    pub(crate) text: String,
}

impl History {
    /// Reads what is written; anything else is none of ours.
    ///
    /// # Errors
    /// Why it makes no sense.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let mut read: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if read.version != VERSION {
            return Err(format!("it is of version {}", read.version));
        }
        read.bound();
        for job in &mut read.jobs {
            (job.title, job.text) = (plain(&job.title), plain(&job.text));
        }
        for line in &mut read.log {
            line.text = plain(&line.text);
        }
        Ok(read)
    }

    /// What was known, and what happened in this run.
    pub(super) fn of(model: &Model) -> Self {
        let mut all = model.past.clone();
        all.version = VERSION;
        let now = seconds(model.now);
        let root = || model.root.clone();
        let ended = model.board.ended.iter().rev();
        let ended = ended.filter(|job| job.earlier.is_none()).map(|job| Past {
            root: root(),
            title: plain(&job.title),
            end: job.end,
            text: plain(&job.text),
            took_ms: u64::try_from(job.took.as_millis()).unwrap_or(u64::MAX),
            at: now.saturating_sub(model.clock.saturating_sub(job.at).as_secs()),
        });
        all.jobs.extend(ended);
        let midnight = now - now % DAY;
        let said = model.log.iter().map(|(second, mark, text)| {
            let at = midnight + second;
            Said {
                root: root(),
                // What is later than now was yesterday.
                at: if at > now { at.saturating_sub(DAY) } else { at },
                mark: *mark,
                text: plain(text),
            }
        });
        all.log.extend(said);
        all.bound();
        all
    }

    fn bound(&mut self) {
        self.jobs.drain(..self.jobs.len().saturating_sub(JOBS));
        self.log.drain(..self.log.len().saturating_sub(LINES));
    }

    /// The jobs of an images root, the latest first.
    fn ended(&self, root: &Path) -> impl Iterator<Item = Ended> {
        let jobs = self.jobs.iter().rev().filter(move |job| job.root == root);
        jobs.map(|job| Ended {
            id: 0,
            title: job.title.clone(),
            end: job.end,
            text: job.text.clone(),
            took: Duration::from_millis(job.took_ms),
            at: Duration::ZERO,
            earlier: Some(job.at),
        })
    }

    /// Shows it.
    pub(super) fn apply(self, model: &mut Model) {
        let ended: Vec<Ended> = self.ended(&model.root).collect();
        model.board.ended.extend(ended);
        let said = self.log.iter().filter(|said| said.root == model.root);
        model.earlier = said.cloned().collect();
        model.past = self;
    }
}

/// Seconds since the epoch.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}
