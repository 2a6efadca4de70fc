//! A layer runs again; the tree that has its pids ends first, when the user says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use icecore::task::{self, Frozen};
use icecore::{Cancel, Error, Event, Kind, Obstacle, PAGE_SIZE, Pid, Reporter, Result, restore};
use nix::sys::wait::{WaitPidFlag, waitpid};

use super::{Jobs, first_line, obstacles, shown};
use crate::cli::restore as restore_line;
use crate::format;
use crate::tui::message::{Displaced, Made, Report, Wish};
use crate::tui::popup::{Mark, Preview};

/// How long a killed tree may take to be gone.
const GONE: Duration = Duration::from_secs(5);

impl Jobs {
    fn restore_options(&self, dir: &Path) -> restore::Options {
        restore::Options {
            images_dir: dir.to_path_buf(),
            detach: true,
            pidfile: None,
            track: true,
            any_cpu: false,
            allow: icecore::files::Allow::default(),
            keeper: self.keeper.clone(),
        }
    }

    /// The plan of a restore; children of ours that ended are no obstacle.
    fn restore_plan(&self, dir: &Path) -> Result<restore::Plan> {
        let plan = restore::plan(&self.restore_options(dir))?;
        if plan.obstacles.iter().all(|o| o.kind != Kind::Busy) {
            return Ok(plan);
        }
        reap(plan.ids());
        restore::plan(&self.restore_options(dir))
    }

    pub(super) fn plan_restore(
        &self,
        dir: &Path,
        displaced: Option<&Displaced>,
    ) -> Result<Preview> {
        let plan = self.restore_plan(dir)?;
        let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
        let mut preview = Preview::new(format!(
            "Restore {} — nothing has been started yet",
            format::plain(&name)
        ));
        preview.line(
            Mark::Plain,
            format!(
                "process {} with {} and {}, {} from {}",
                plan.root,
                format::count(plan.tasks as u64, "task"),
                format::count(plan.threads as u64, "thread"),
                format::bytes(plan.pages * PAGE_SIZE),
                format::count(plan.layers as u64, "layer")
            ),
        );
        // The pids are taken by the very tree that is to be rolled back: it makes room.
        let (taken, others): (Vec<_>, Vec<_>) = plan
            .obstacles
            .iter()
            .cloned()
            .partition(|obstacle| obstacle.kind == Kind::Busy);
        let ids: BTreeSet<i32> = plan.ids().map(Pid::as_raw).collect();
        let running = displaced.and_then(|d| running_tree(d.root, d.start_time));
        let ourselves = Pid::this().as_raw();
        let covered = running.as_ref().is_some_and(|(_, threads)| {
            !threads.contains(&ourselves)
                && ids
                    .iter()
                    .filter(|id| is_taken(**id))
                    .all(|id| threads.contains(id))
        });
        let makes_room = displaced.filter(|_| covered && !taken.is_empty());
        let left = if makes_room.is_some() {
            others
        } else {
            plan.obstacles.clone()
        };
        obstacles(&mut preview, &left, &plan.warnings);
        if left.is_empty() {
            let layers = format::count(plan.layers as u64, "layer");
            preview.line(Mark::Good, format!("its pages are all there, in {layers}"));
            match (makes_room, running) {
                (Some(tree), Some((tasks, _))) => {
                    self.offer_displacing(&mut preview, dir, tree, tasks);
                }
                _ => {
                    let wish = Wish::Restore {
                        dir: dir.to_path_buf(),
                        displaced: None,
                    };
                    preview.offer("Restore", wish, true);
                }
            }
        }
        Ok(preview)
    }

    /// The ways to restore over a running tree: with a layer of its present state, or without.
    fn offer_displacing(&self, preview: &mut Preview, dir: &Path, tree: &Displaced, tasks: usize) {
        let root = tree.root;
        preview.line(
            Mark::Warn,
            format!(
                "process {root} runs: it and everything below it ({}) ends first",
                format::count(tasks as u64, "task")
            ),
        );
        let wish = |keep| Wish::Restore {
            dir: dir.to_path_buf(),
            displaced: Some(Displaced {
                keep,
                ..tree.clone()
            }),
        };
        match self.plan_keep(root).and_then(|plan| plan.check()) {
            Ok(()) => {
                preview.line(
                    Mark::Good,
                    "its present state can be kept as a layer: u takes you back",
                );
                preview.offer("Keep and restore", wish(true), false);
            }
            Err(error) => {
                preview.line(
                    Mark::Warn,
                    format!("its present state cannot be kept: {}", error.one_line()),
                );
                for obstacle in error.obstacles() {
                    preview.line(Mark::Warn, format::plain(&obstacle.what));
                }
            }
        }
        preview.line(
            Mark::Warn,
            "killed without a layer, what it did since its last one is lost",
        );
        preview.offer("Kill and restore", wish(false), false);
    }

    pub(super) fn restore(
        &self,
        dir: &Path,
        displaced: Option<&Displaced>,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Report> {
        let mut kept = None;
        if let Some(tree) = displaced {
            reporter.report(Event::Phase("end the running tree"));
            // Whatever else is in the way must be found before anything is lost.
            let plan = self.restore_plan(dir)?;
            let others: Vec<Obstacle> = plan
                .obstacles
                .into_iter()
                .filter(|obstacle| obstacle.kind != Kind::Busy)
                .collect();
            if !others.is_empty() {
                let what = format!("Layer {} cannot be restored", dir.display());
                return Err(Error::refused(what, others));
            }
            kept = self.end_tree(tree, dir, reporter, cancel)?;
        }
        let back = |error: Error| match &kept {
            Some(kept) => error.hint(format!(
                "what ran before is safe: restore layer {}",
                self.inside(&kept.to_string_lossy())
            )),
            None => error,
        };
        let plan = self.restore_plan(dir).map_err(back)?;
        let outcome = restore::run(&plan, reporter, cancel).map_err(back)?;
        let line = restore_line::as_text(&outcome);
        Ok(Report {
            text: first_line(&line),
            warnings: plan
                .warnings
                .iter()
                .chain(&outcome.warnings)
                .map(shown)
                .collect(),
            result: Made::Tree(outcome.root, kept),
        })
    }

    /// Ends a tree and waits until its pids are free; returns the layer that was kept of it.
    fn end_tree(
        &self,
        tree: &Displaced,
        dir: &Path,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Option<PathBuf>> {
        let Some((_, threads)) = running_tree(tree.root, tree.start_time) else {
            return Ok(None);
        };
        let kept = if tree.keep {
            let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
            let label = format!("before going back to {name}");
            Some(self.keep(tree.root, label, reporter, cancel)?)
        } else {
            Frozen::freeze(tree.root)?.kill()?;
            None
        };
        wait_gone(tree.root, &threads)?;
        Ok(kept)
    }
}

fn is_taken(id: i32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

/// Number of processes and all thread ids of the tree, if it is still the same one.
fn running_tree(root: Pid, start_time: u64) -> Option<(usize, BTreeSet<i32>)> {
    let members = task::members(root).ok()?;
    if members.first()?.start_time != start_time {
        return None;
    }
    let threads = members
        .iter()
        .flat_map(|process| process.threads.iter().map(|tid| tid.as_raw()))
        .collect();
    Some((members.len(), threads))
}

/// Waits until the pids of a tree that was killed are free.
fn wait_gone(root: Pid, threads: &BTreeSet<i32>) -> Result<()> {
    let since = Instant::now();
    // Whoever started the tree has to take note of its end; until then its pid stays taken.
    let (_clock, tick) = channel::<()>();
    while threads.iter().any(|id| is_taken(*id)) {
        // When it was us who started it, or adopted what it left, we are the one.
        reap(threads.iter().copied().map(Pid::from_raw));
        if since.elapsed() > GONE {
            return Err(Error::new(
                Kind::Busy,
                format!("Process {root} was killed, but its parent has not waited for it"),
            )
            .hint("end or continue the parent (icecore ps shows it), then restore again"));
        }
        let _time_is_up = tick.recv_timeout(Duration::from_millis(5));
    }
    Ok(())
}

/// Takes note of the end of those processes that are children of ours. Never waits for just any
/// child: that would take the stops of traced threads away from the engine.
fn reap(ids: impl IntoIterator<Item = Pid>) {
    for id in ids {
        let _not_ours = waitpid(id, Some(WaitPidFlag::WNOHANG));
    }
}
