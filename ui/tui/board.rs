//! The jobs: which run, which wait for another one on the same stack or process, and what became of
//! those before. Pure.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use icecore::Pid;
use serde::{Deserialize, Serialize};

use super::message::{Edit, Wish};

/// Finished jobs that are kept.
const KEPT: usize = 100;

/// What a job does to whom: two of them at once would only get into each other's way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The root of the tree.
    pub(crate) root: Option<Pid>,
    /// The directory of the stack.
    pub(crate) stack: Option<PathBuf>,
}

impl Subject {
    /// That of a wish.
    pub(crate) fn of(wish: &Wish) -> Self {
        let above = |dir: &Path| dir.parent().map(Path::to_path_buf);
        match wish {
            Wish::Dump { root, parent, .. } => Self {
                root: Some(*root),
                stack: parent.as_deref().and_then(above),
            },
            Wish::Each(_) => Self::default(),
            Wish::Restore { dir, displaced, .. } => Self {
                root: displaced.as_ref().map(|tree| tree.root),
                stack: above(dir),
            },
            Wish::Dedup { dir, .. }
            | Wish::Edit(
                Edit::Drop(dir)
                | Edit::Flatten(dir)
                | Edit::Label { dir, .. }
                | Edit::Pin { dir, .. }
                | Edit::Squash { to: dir, .. },
            ) => Self {
                root: None,
                stack: above(dir),
            },
        }
    }

    fn meets(&self, other: &Self) -> bool {
        (self.root.is_some() && self.root == other.root)
            || (self.stack.is_some() && self.stack == other.stack)
    }
}

/// What a job is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Finding out what would be done; it changes nothing.
    Plans,
    /// Waiting for an earlier job.
    Waits(Box<Wish>),
    /// Doing it.
    Runs,
}

/// A job that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Its number.
    pub(crate) id: u64,
    /// What it is.
    pub(crate) title: String,
    /// Whether it has begun.
    pub(crate) stage: Stage,
    /// What it is doing.
    pub(crate) phase: &'static str,
    /// Finished units and all units of the phase; 0 when unknown.
    pub(crate) progress: (u64, u64),
    /// When the phase began, and the latest progress.
    pub(crate) phase_at: (Duration, Duration),
    /// When it began.
    pub(crate) began: Duration,
    /// It was asked to stop.
    pub(crate) cancelled: bool,
    /// The tree whose rule wanted it.
    pub(crate) by_rule: Option<Pid>,
    subject: Subject,
}

impl Job {
    /// Units of the phase a second.
    pub(crate) fn rate(&self) -> Option<f64> {
        let seconds = self
            .phase_at
            .1
            .saturating_sub(self.phase_at.0)
            .as_secs_f64();
        (seconds >= 0.2 && self.progress.0 > 0).then(|| self.progress.0 as f64 / seconds)
    }

    /// How long the phase will go on.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let left = self
            .progress
            .1
            .checked_sub(self.progress.0)
            .filter(|_| self.progress.1 > 0)?;
        Duration::try_from_secs_f64(left as f64 / self.rate()?).ok()
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// It did what it was to do.
    Done,
    /// It was asked to stop, and did.
    Cancelled,
    /// It could not.
    Failed,
}

/// A job that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Its number.
    pub(crate) id: u64,
    /// What it was.
    pub(crate) title: String,
    /// How it ended.
    pub(crate) end: End,
    /// What it said.
    pub(crate) text: String,
    /// How long it took.
    pub(crate) took: Duration,
    /// When it ended.
    pub(crate) at: Duration,
    /// It ended in an earlier run: then, in seconds since the epoch.
    pub(crate) earlier: Option<u64>,
}

/// All jobs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    /// Those that have not ended, in the order in which they were wished for.
    pub(crate) jobs: Vec<Job>,
    /// Those that have, the latest first.
    pub(crate) ended: VecDeque<Ended>,
    last: u64,
}

impl Board {
    fn add(&mut self, title: String, stage: Stage, subject: Subject, at: Duration) -> u64 {
        self.last += 1;
        self.jobs.push(Job {
            id: self.last,
            title,
            phase: match stage {
                Stage::Plans => "plan",
                Stage::Waits(_) => "waits",
                Stage::Runs => "start",
            },
            stage,
            progress: (0, 0),
            phase_at: (at, at),
            began: at,
            cancelled: false,
            by_rule: None,
            subject,
        });
        self.last
    }

    /// Begins to plan.
    pub(crate) fn plan(&mut self, wish: &Wish, at: Duration) -> u64 {
        self.add(wish.title(), Stage::Plans, Subject::of(wish), at)
    }

    /// Begins a job, or lets it wait for an earlier one; its number, and whether it begins.
    pub(crate) fn start(&mut self, wish: &Wish, at: Duration) -> (u64, bool) {
        let subject = Subject::of(wish);
        let free = self.jobs.iter().all(|job| !job.hinders(&subject));
        let stage = if free {
            Stage::Runs
        } else {
            Stage::Waits(Box::new(wish.clone()))
        };
        (self.add(wish.title(), stage, subject, at), free)
    }

    /// The job with this number.
    pub(crate) fn job(&mut self, id: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }

    /// The job that the waiting one waits for.
    pub(crate) fn blocker(&self, waiting: &Job) -> Option<&Job> {
        let before = self.jobs.iter().take_while(|job| job.id != waiting.id);
        before.filter(|job| job.hinders(&waiting.subject)).last()
    }

    /// Takes a job off the board without a word: its plan is there, or it did nothing.
    pub(crate) fn drop_silently(&mut self, id: u64) {
        self.jobs.retain(|job| job.id != id);
    }

    /// Takes a job off the board and remembers how it ended.
    pub(crate) fn end(&mut self, id: u64, end: End, text: &str, at: Duration) -> Option<Job> {
        let index = self.jobs.iter().position(|job| job.id == id)?;
        let job = self.jobs.remove(index);
        self.ended.push_front(Ended {
            id,
            title: job.title.clone(),
            end,
            text: text.to_owned(),
            took: at.saturating_sub(job.began),
            at,
            earlier: None,
        });
        self.ended.truncate(KEPT);
        Some(job)
    }

    /// Lets those begin that waited for what has ended.
    pub(crate) fn next(&mut self, at: Duration) -> Vec<(u64, Wish)> {
        let mut begun = Vec::new();
        for index in 0..self.jobs.len() {
            let (before, rest) = self.jobs.split_at_mut(index);
            let Some(job) = rest.first_mut() else { break };
            let Stage::Waits(wish) = &job.stage else {
                continue;
            };
            if before.iter().any(|other| other.hinders(&job.subject)) {
                continue;
            }
            begun.push((job.id, (**wish).clone()));
            job.stage = Stage::Runs;
            job.phase = "start";
            job.began = at;
            job.phase_at = (at, at);
        }
        begun
    }
}

impl Job {
    /// Nobody else may work on that while this job does, or waits to do so.
    fn hinders(&self, subject: &Subject) -> bool {
        self.stage != Stage::Plans && self.subject.meets(subject)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flatten(stack: &str, layer: &str) -> Wish {
        Wish::Edit(Edit::Flatten(Path::new("/img").join(stack).join(layer)))
    }

    const AT: Duration = Duration::from_secs(7);

    #[test]
    fn jobs_on_one_stack_wait_for_each_other_and_others_do_not() {
        let mut board = Board::default();
        let (first, runs) = board.start(&flatten("a", "1"), AT);
        assert!(runs);
        let (second, runs) = board.start(&flatten("a", "2"), AT);
        assert!(!runs);
        assert_eq!(board.blocker(&board.jobs[1]).map(|job| job.id), Some(first));
        let (third, runs) = board.start(&flatten("b", "1"), AT);
        assert!(runs && third > second);
        assert!(board.next(AT).is_empty());
        board.end(first, End::Done, "done", AT);
        assert_eq!(board.next(AT), [(second, flatten("a", "2"))]);
        assert!(board.next(AT).is_empty(), "only once");
        assert_eq!(board.ended[0].id, first);
    }

    #[test]
    fn rate_and_remaining_time_are_of_the_phase() {
        let mut board = Board::default();
        let (id, _) = board.start(&flatten("a", "1"), AT);
        let job = board.job(id).unwrap();
        assert_eq!(job.remaining(), None);
        job.progress = (200, 1000);
        job.phase_at.1 = AT + Duration::from_secs(2);
        assert_eq!(job.rate(), Some(100.0));
        assert_eq!(job.remaining(), Some(Duration::from_secs(8)));
    }

    proptest! {
        #[test]
        fn never_do_two_jobs_work_on_one_stack_and_every_one_has_its_turn(
            script in prop::collection::vec((0..4u8, 0..6usize), 1..60),
        ) {
            let mut board = Board::default();
            let mut wished = 0;
            let alone = |board: &Board| {
                let running: Vec<&Job> =
                    board.jobs.iter().filter(|job| job.stage == Stage::Runs).collect();
                running.iter().all(|a| running.iter().all(|b| a.id == b.id || !a.hinders(&b.subject)))
            };
            for (stack, what) in script {
                if what > 2 {
                    board.start(&flatten(&stack.to_string(), "1"), AT);
                    wished += 1;
                } else if let Some(job) = board.jobs.get(what) {
                    board.end(job.id, End::Cancelled, "", AT);
                    board.next(AT);
                }
                prop_assert!(alone(&board));
            }
            while let Some(id) = board.jobs.iter().find(|j| j.stage == Stage::Runs).map(|j| j.id) {
                board.end(id, End::Done, "", AT);
                board.next(AT);
                prop_assert!(alone(&board));
            }
            prop_assert!(board.jobs.is_empty());
            prop_assert_eq!(board.ended.len(), wished.min(KEPT));
        }
    }
}
