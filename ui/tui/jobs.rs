//! What the engine does for the terminal UI, in a thread: plans become previews, wishes are carried
//! out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use icecore::chain::{Catalog, Layer, State};
use icecore::dump::{self, After};
use icecore::task::{self, Frozen};
use icecore::{
    Cancel, Error, Event, Kind, Obstacle, PAGE_SIZE, Pid, Result, dedup, restore, track,
};
use nix::sys::wait::{WaitPidFlag, waitpid};

use super::message::{Made, Msg, Report, Wish};
use super::popup::{Mark, Preview};
use crate::cli::{dump as dump_line, restore as restore_line};
use crate::format;

/// How long a killed tree may take to be gone.
const GONE: Duration = Duration::from_secs(5);

/// What jobs need to know.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    /// The images root.
    pub(crate) root: PathBuf,
    /// Our own executable, which serves as keeper.
    pub(crate) keeper: PathBuf,
}

impl Jobs {
    /// Finds out what `wish` would do.
    pub(crate) fn plan(&self, wish: &Wish, messages: &Sender<Msg>) {
        let mut preview = match wish {
            Wish::Dump { .. } => self.plan_dump(wish),
            Wish::Restore { dir, kill } => self.plan_restore(dir, *kill),
            Wish::Dedup { dir, .. } => plan_dedup(dir),
        };
        for (_, text) in preview.iter_mut().flat_map(|preview| &mut preview.lines) {
            *text = self.inside(text);
        }
        let _closed = messages.send(Msg::Planned(preview.map_err(|e| (&e).into())));
    }

    /// Does it.
    pub(crate) fn apply(&self, wish: &Wish, cancel: &Cancel, messages: &Sender<Msg>) {
        let events = messages.clone();
        let reporter = move |event: Event| {
            let _closed = events.send(Msg::Job(event));
        };
        let report = match wish {
            Wish::Dump { .. } => self.dump(wish, &reporter, cancel),
            Wish::Restore { dir, kill } => self.restore(dir, *kill, &reporter, cancel),
            Wish::Dedup { dir, lost } => dedup(dir, lost, &reporter, cancel),
        };
        let _closed = messages.send(Msg::Done(report.map_err(|e| (&e).into())));
    }

    /// Paths below the images root without it.
    fn inside(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.root.display()), "")
    }

    /// The options of a dump, with a directory that is free.
    fn dump_options(&self, wish: &Wish) -> Result<dump::Options> {
        let Wish::Dump {
            root,
            comm,
            parent,
            kill,
        } = wish
        else {
            return Err(Error::new(Kind::Usage, "Not a dump"));
        };
        let stack = match parent.as_deref().and_then(Path::parent) {
            Some(stack) => stack.to_path_buf(),
            None => self.root.join(stack_name(comm, *root)),
        };
        let link = parent
            .as_deref()
            .and_then(Path::file_name)
            .map(|name| Path::new("..").join(name));
        Ok(dump::Options {
            root: *root,
            images_dir: next_free(&stack),
            prev_images_dir: link,
            after: if *kill { After::Kill } else { After::Run },
            track: true,
            auto_dedup: false,
            label: None,
            keeper: self.keeper.clone(),
        })
    }

    /// The wish with everything filled in as it is now: what the screen knows may be a second old.
    fn resolve(&self, wish: &Wish) -> Result<Wish> {
        let Wish::Dump { root, kill, .. } = wish else {
            return Ok(wish.clone());
        };
        let process = task::process(*root)?;
        let since = track::of_process(&process)
            .ok()
            .flatten()
            .and_then(|(record, _)| record.layer);
        let catalog = Catalog::scan(&self.root)?;
        let layers = catalog.layers();
        Ok(Wish::Dump {
            root: *root,
            parent: parent_of(layers, *root, &process.comm, since.as_deref()),
            comm: process.comm,
            kill: *kill,
        })
    }

    fn plan_dump(&self, wish: &Wish) -> Result<Preview> {
        let wish = &self.resolve(wish)?;
        let options = self.dump_options(wish)?;
        let plan = dump::plan(&options)?;
        let Wish::Dump {
            root, comm, parent, ..
        } = wish
        else {
            return Err(Error::new(Kind::Usage, "Not a dump"));
        };
        let mut preview = Preview::new(format!(
            "Dump {} {root} — nothing has been done yet",
            format::plain(comm)
        ));
        preview.line(
            Mark::Plain,
            format!(
                "into {}",
                format::plain(&self.inside(&options.images_dir.to_string_lossy()))
            ),
        );
        preview.line(
            Mark::Plain,
            format!(
                "{}, {}, {} in memory",
                format::count(plan.tasks as u64, "task"),
                format::count(plan.threads as u64, "thread"),
                format::bytes(plan.resident_pages * PAGE_SIZE)
            ),
        );
        let name = parent.as_deref().and_then(Path::file_name);
        match (name, plan.dirty_pages) {
            (Some(name), Some(dirty)) => preview.line(
                Mark::Good,
                format!(
                    "incremental on layer {}: about {} changed ({})",
                    format::plain(&name.to_string_lossy()),
                    format::count(dirty, "page"),
                    format::bytes(dirty * PAGE_SIZE)
                ),
            ),
            (Some(name), None) => preview.line(
                Mark::Good,
                format!("on layer {}", format::plain(&name.to_string_lossy())),
            ),
            (None, _) => preview.line(Mark::Plain, "a full layer, the first of a stack"),
        }
        preview.line(
            Mark::Plain,
            format!(
                "unchanged pages: {} ({})",
                plan.tracker, plan.tracker_reason
            ),
        );
        obstacles(&mut preview, &plan.obstacles, &plan.warnings);
        if plan.obstacles.is_empty() {
            preview.line(Mark::Plain, "The processes stop for a moment and go on.");
            preview.offer("Dump", wish.clone(), true);
            let mut killing = wish.clone();
            if let Wish::Dump { kill, .. } = &mut killing {
                *kill = true;
            }
            preview.offer("Dump and kill", killing, false);
        }
        Ok(preview)
    }

    fn dump(
        &self,
        wish: &Wish,
        reporter: &dyn icecore::Reporter,
        cancel: &Cancel,
    ) -> Result<Report> {
        let plan = dump::plan(&self.dump_options(wish)?)?;
        let outcome = dump::run(&plan, reporter, cancel)?;
        let line = dump_line::as_text(&outcome);
        Ok(Report {
            text: first_line(&self.inside(&line)),
            warnings: outcome.warnings.iter().map(shown).collect(),
            result: Made::Layer(fs::canonicalize(&outcome.dir).unwrap_or(outcome.dir)),
        })
    }

    fn restore_options(&self, dir: &Path) -> restore::Options {
        restore::Options {
            images_dir: dir.to_path_buf(),
            detach: true,
            pidfile: None,
            track: true,
            any_cpu: false,
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

    fn plan_restore(&self, dir: &Path, kill: Option<(Pid, u64)>) -> Result<Preview> {
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
        let running = kill.and_then(|(root, start)| running_tree(root, start));
        let ourselves = Pid::this().as_raw();
        let covered = running.as_ref().is_some_and(|(_, threads)| {
            !threads.contains(&ourselves)
                && ids
                    .iter()
                    .filter(|id| is_taken(**id))
                    .all(|id| threads.contains(id))
        });
        let mut wish = Wish::Restore {
            dir: dir.to_path_buf(),
            kill: None,
        };
        let obstacles_left = if taken.is_empty() {
            plan.obstacles.clone()
        } else if let (true, Some((tasks, _)), Some((root, start))) = (covered, &running, kill) {
            preview.line(
                Mark::Warn,
                format!(
                    "process {root} runs: it and everything below it ({}) is KILLED first; what it \
                     did since its last layer is lost",
                    format::count(*tasks as u64, "task")
                ),
            );
            wish = Wish::Restore {
                dir: dir.to_path_buf(),
                kill: Some((root, start)),
            };
            others
        } else {
            plan.obstacles.clone()
        };
        obstacles(&mut preview, &obstacles_left, &plan.warnings);
        if obstacles_left.is_empty() {
            let kills = matches!(wish, Wish::Restore { kill: Some(_), .. });
            preview.line(
                Mark::Good,
                format!(
                    "all {} are there",
                    format::count(plan.layers as u64, "layer")
                ),
            );
            let label = if kills { "Kill and restore" } else { "Restore" };
            preview.offer(label, wish, !kills);
        }
        Ok(preview)
    }

    fn restore(
        &self,
        dir: &Path,
        kill: Option<(Pid, u64)>,
        reporter: &dyn icecore::Reporter,
        cancel: &Cancel,
    ) -> Result<Report> {
        if let Some((root, start)) = kill {
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
            end_tree(root, start)?;
        }
        let plan = self.restore_plan(dir)?;
        let outcome = restore::run(&plan, reporter, cancel)?;
        let line = restore_line::as_text(&outcome);
        Ok(Report {
            text: first_line(&line),
            warnings: plan
                .warnings
                .iter()
                .chain(&outcome.warnings)
                .map(shown)
                .collect(),
            result: Made::Tree(outcome.root),
        })
    }
}

/// The layer that a dump of a process goes on top of: the one that tracking continues, or else the
/// newest of the same process, with which it is compared.
fn parent_of(layers: &[Layer], root: Pid, comm: &str, since: Option<&str>) -> Option<PathBuf> {
    let usable = |layer: &&Layer| layer.state == State::Complete;
    let continued = since.and_then(|id| {
        let same = |layer: &&Layer| layer.id.as_deref() == Some(id);
        layers.iter().filter(usable).find(same)
    });
    let pid = u32::try_from(root.as_raw()).ok();
    let newest = || {
        layers
            .iter()
            .filter(usable)
            .filter(|layer| layer.root == pid && layer.comm.as_deref() == Some(comm))
            .max_by_key(|layer| layer.created_unix_ns)
    };
    continued.or_else(newest).map(|layer| layer.dir.clone())
}

fn plan_dedup(dir: &Path) -> Result<Preview> {
    let plan = dedup::plan(dir, dedup::strategy("superseded")?)?;
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    let mut preview = Preview::new(format!(
        "Dedup below {} — nothing has been freed yet",
        format::plain(&name)
    ));
    if plan.is_empty() {
        preview.line(Mark::Plain, "There is nothing to free.");
    } else {
        preview.line(
            Mark::Plain,
            format!(
                "{} ({}) that this layer overrides would be freed:",
                format::count(plan.pages, "page"),
                format::bytes(plan.bytes)
            ),
        );
    }
    for cut in &plan.cuts {
        let file = cut.file();
        let owner = cut.dir.file_name().unwrap_or_default().to_string_lossy();
        preview.line(
            Mark::Plain,
            format!(
                "{:>10}  layer {} {}",
                format::bytes(cut.bytes),
                format::plain(&owner),
                file.file_name().unwrap_or_default().to_string_lossy()
            ),
        );
    }
    let lost: Vec<String> = plan
        .lost_layers()
        .map(|victim| format::plain(&victim.name))
        .collect();
    if !lost.is_empty() {
        preview.line(
            Mark::Bad,
            format!(
                "can NOT be restored any more afterwards: {}",
                lost.join(", ")
            ),
        );
    }
    obstacles(&mut preview, &plan.obstacles, &plan.warnings);
    if plan.is_possible() && !plan.is_empty() {
        let wish = Wish::Dedup {
            dir: dir.to_path_buf(),
            lost: plan.lost_layers().map(|v| v.dir.clone()).collect(),
        };
        let label = format!("Free {}", format::bytes(plan.bytes));
        preview.offer(label, wish, lost.is_empty());
    }
    Ok(preview)
}

fn dedup(
    dir: &Path,
    lost: &[PathBuf],
    reporter: &dyn icecore::Reporter,
    cancel: &Cancel,
) -> Result<Report> {
    let plan = dedup::plan(dir, dedup::strategy("superseded")?)?;
    if let Some(other) = plan
        .lost_layers()
        .find(|victim| !lost.contains(&victim.dir))
    {
        return Err(Error::new(
            Kind::TargetGone,
            format!(
                "The stack changed since the preview: layer {} would be lost too",
                other.name
            ),
        )
        .hint("look at the preview again"));
    }
    let freed = dedup::apply(&plan, reporter, cancel)?;
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy();
    Ok(Report {
        text: format!(
            "dedup {}: {} freed ({})",
            format::plain(&name),
            format::bytes(freed.bytes),
            format::count(freed.pages, "page")
        ),
        warnings: plan.warnings.iter().map(shown).collect(),
        result: Made::Room,
    })
}

fn obstacles(preview: &mut Preview, obstacles: &[Obstacle], warnings: &[Obstacle]) {
    for (mark, list) in [(Mark::Bad, obstacles), (Mark::Warn, warnings)] {
        for obstacle in list {
            preview.line(mark, format::plain(&obstacle.what));
            preview.line(Mark::Hint, format::plain(&obstacle.hint));
        }
    }
}

fn shown(obstacle: &Obstacle) -> String {
    format::plain(&obstacle.to_string())
}

fn first_line(text: &str) -> String {
    format::plain(text.lines().next().unwrap_or_default())
}

/// The directory of a new stack: the name of the program may have any bytes, a directory may not.
fn stack_name(comm: &str, root: Pid) -> String {
    let safe: String = comm
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("{}-{root}", safe.trim_start_matches('.'))
}

/// The next number in `stack` that no entry has.
fn next_free(stack: &Path) -> PathBuf {
    let highest = fs::read_dir(stack)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.trim_end_matches(".partial").parse::<u64>().ok()
        })
        .max();
    stack.join((highest.unwrap_or(0) + 1).to_string())
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

/// Kills a tree and waits until its pids are free.
fn end_tree(root: Pid, start_time: u64) -> Result<()> {
    let Some((_, threads)) = running_tree(root, start_time) else {
        return Ok(());
    };
    Frozen::freeze(root)?.kill()?;
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
