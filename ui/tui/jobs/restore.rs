//! A layer runs again; the tree that has its pids ends first, when the user says so.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use icecore::files::Allow;
use icecore::task::{self, Frozen};
use icecore::{Cancel, Error, Event, Kind, Obstacle, Pid, Reporter, Result, restore};
use nix::sys::wait::{WaitPidFlag, waitpid};

use super::checklist::{Checklist, Otherwise, Replaced, Room};
use super::{Jobs, first_line, shown};
use crate::cli::restore as restore_line;
use crate::error;
use crate::tui::message::{Displaced, Made, Manner, Report};
use crate::tui::popup::Preview;

/// How long a killed tree may take to be gone.
const GONE: Duration = Duration::from_secs(5);

impl Jobs {
    fn restore_options(&self, dir: &Path, manner: Manner) -> restore::Options {
        restore::Options {
            images_dir: dir.to_path_buf(),
            detach: true,
            pidfile: None,
            track: true,
            any_cpu: false,
            apart: manner.apart,
            allow: Allow {
                with_files: manner.with_files,
                tcp_established: manner.connected,
                tcp_close: manner.closed,
                ..Allow::default()
            },
            keeper: self.keeper.clone(),
        }
    }

    /// The plan of a restore; children of ours that ended are no obstacle.
    fn restore_plan(&self, dir: &Path, manner: Manner) -> Result<restore::Plan> {
        let plan = restore::plan(&self.restore_options(dir, manner))?;
        if plan.obstacles.iter().all(|o| o.kind != Kind::Busy) {
            return Ok(plan);
        }
        reap(plan.ids());
        restore::plan(&self.restore_options(dir, manner))
    }

    pub(super) fn plan_restore(
        &self,
        dir: &Path,
        displaced: Option<&Displaced>,
        manner: Manner,
    ) -> Result<Preview> {
        let plan = self.restore_plan(dir, manner)?;
        // The pids are taken by the very tree that is to be rolled back: it makes room.
        let (taken, others): (Vec<_>, Vec<_>) = plan
            .obstacles
            .iter()
            .cloned()
            .partition(|obstacle| obstacle.kind == Kind::Busy);
        let ids: BTreeSet<i32> = plan.ids().map(Pid::as_raw).collect();
        let ourselves = Pid::this().as_raw();
        let room = displaced
            .filter(|_| !manner.apart && !taken.is_empty())
            .and_then(|d| Some((d.root, running_tree(d.root, d.start_time)?)))
            .filter(|(_, (_, threads))| {
                let mut taken = ids.iter().filter(|id| is_taken(**id));
                !threads.contains(&ourselves) && taken.all(|id| threads.contains(id))
            })
            .map(|(root, (tasks, _))| Room {
                tasks,
                lost: self.lost(root, manner),
            });
        let replaced = plan.put_back.iter().map(|file| Replaced {
            path: file.path.to_string_lossy().into_owned(),
            bytes: file.bytes,
            now: file.now,
        });
        let checklist = Checklist {
            dir: dir.to_path_buf(),
            manner,
            root: plan.root,
            tasks: plan.tasks,
            threads: plan.threads,
            ids: ids.len(),
            pages: plan.pages,
            layers: plan.layers,
            obstacles: match room {
                Some(_) => others,
                None => plan.obstacles.clone(),
            },
            warnings: plan.warnings.clone(),
            replaced: replaced.collect(),
            displaced: displaced.cloned(),
            room,
            options: self.options(dir, manner, &plan),
        };
        Ok(checklist.preview())
    }

    /// What can be had otherwise, as far as it makes a difference for this layer.
    fn options(&self, dir: &Path, manner: Manner, plan: &restore::Plan) -> Vec<Otherwise> {
        let mut options = Vec::new();
        if !plan.ids().any(|id| id.as_raw() == 1) {
            options.push(Otherwise::Apart);
        }
        let with_files = Manner {
            with_files: true,
            ..manner
        };
        let files = match manner.with_files {
            true => plan.put_back.len(),
            false => restore::plan(&self.restore_options(dir, with_files))
                .map_or(0, |plan| plan.put_back.len()),
        };
        if files > 0 || manner.with_files {
            options.push(Otherwise::Files(files));
        }
        if manner.connected || manner.closed || self.has_connections(dir, manner, plan) {
            options.extend([Otherwise::Connected, Otherwise::Closed]);
        }
        options
    }

    /// The layer has connections: something is in the way unless they are allowed.
    fn has_connections(&self, dir: &Path, manner: Manner, plan: &restore::Plan) -> bool {
        let closed = Manner {
            closed: true,
            ..manner
        };
        let other = restore::plan(&self.restore_options(dir, closed));
        !plan.obstacles.is_empty()
            && other.is_ok_and(|other| other.obstacles.len() < plan.obstacles.len())
    }

    /// Why the present state of a running tree cannot be kept.
    fn lost(&self, root: Pid, manner: Manner) -> Option<Vec<String>> {
        let error = self
            .plan_keep(root, manner)
            .and_then(|plan| plan.check())
            .err()?;
        let why = format!("its present state cannot be kept: {}", error.one_line());
        let obstacles = error.obstacles().iter().map(|o| o.what.clone());
        Some(std::iter::once(why).chain(obstacles).collect())
    }

    pub(super) fn restore(
        &self,
        dir: &Path,
        displaced: Option<&Displaced>,
        manner: Manner,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Report> {
        let mut kept = None;
        if let Some(tree) = displaced {
            reporter.report(Event::Phase("end the running tree"));
            // Whatever else is in the way must be found before anything is lost.
            let plan = self.restore_plan(dir, manner)?;
            let others: Vec<Obstacle> = plan
                .obstacles
                .into_iter()
                .filter(|obstacle| obstacle.kind != Kind::Busy)
                .collect();
            if !others.is_empty() {
                let what = format!("Layer {} cannot be restored", dir.display());
                return Err(Error::refused(what, others));
            }
            kept = self.end_tree(tree, dir, manner, reporter, cancel)?;
        }
        let back = |error: Error| match &kept {
            Some(kept) => error.hint(format!(
                "what ran before is safe: restore layer {}",
                self.inside(&kept.to_string_lossy())
            )),
            None => error,
        };
        let plan = self.restore_plan(dir, manner).map_err(back)?;
        let outcome = restore::run(&plan, reporter, cancel).map_err(back)?;
        let line = restore_line::as_text(&outcome);
        Ok(Report {
            text: first_line(&line),
            warnings: error::gathered(&[&plan.warnings[..], &outcome.warnings].concat())
                .iter()
                .map(shown)
                .collect(),
            result: Made::Tree {
                root: outcome.root,
                start_time: task::process(outcome.root).ok().map(|p| p.start_time),
                kept,
            },
        })
    }

    /// Ends a tree and waits until its pids are free; returns the layer that was kept of it.
    fn end_tree(
        &self,
        tree: &Displaced,
        dir: &Path,
        manner: Manner,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Option<PathBuf>> {
        let Some((_, threads)) = running_tree(tree.root, tree.start_time) else {
            return Ok(None);
        };
        let kept = if tree.keep {
            let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
            let label = format!("before going back to {name}");
            Some(self.keep(tree.root, manner, label, reporter, cancel)?)
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
