//! A new layer: where it goes, on top of which one, and what the user sees before and after.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use icecore::chain::Catalog;
use icecore::dump::{self, After, Past, Prediction};
use icecore::files::Allow;
use icecore::{Cancel, Error, Kind, Obstacle, PAGE_SIZE, Pid, Reporter, Result, task, track};

use super::{Jobs, first_line, obstacles, shown};
use crate::cli::dump as dump_line;
use crate::cli::watch::freeze;
use crate::error;
use crate::format;
use crate::home::{next_free, parent_of, past, stack_name};
use crate::tui::message::{Made, Manner, Report, Wish};
use crate::tui::popup::{Mark, Preview};

/// What a dump does to its target.
pub(super) const GO_ON: &str = "The processes stop for a moment and go on.";

impl Jobs {
    /// The options of a dump, with a directory that is free.
    fn dump_options(&self, wish: &Wish) -> Result<dump::Options> {
        let Wish::Dump {
            root,
            comm,
            parent,
            kill,
            allowing,
            ..
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
            allow: match allowing {
                true => Allow::default().everything(),
                false => Allow::default(),
            },
            label: None,
            keeper: self.keeper.clone(),
        })
    }

    /// The wish with everything filled in as it is now: what the screen knows may be a second old.
    fn resolve(&self, root: Pid, kill: bool) -> Result<(Wish, Vec<Past>)> {
        let process = task::process(root)?;
        let since = track::of_process(&process)
            .ok()
            .flatten()
            .and_then(|(record, _)| record.layer);
        let catalog = Catalog::scan(&self.root)?;
        let parent = parent_of(catalog.layers(), root, &process.comm, since.as_deref());
        let (past, _) = past(&catalog, parent.as_deref());
        let wish = Wish::Dump {
            root,
            start_time: Some(process.start_time),
            parent,
            comm: process.comm,
            kill,
            allowing: false,
            rule: None,
        };
        Ok((wish, past))
    }

    /// What a last layer of a tree would be, before it ends: see [`Jobs::keep`]. Its connections are saved when
    /// those of the layer to be restored are spoken of.
    pub(super) fn plan_keep(&self, root: Pid, manner: Manner) -> Result<dump::Plan> {
        let mut options = self.dump_options(&self.resolve(root, true)?.0)?;
        options.allow.tcp_established = manner.connected || manner.closed;
        dump::plan(&options)
    }

    /// Makes a last layer of a tree, durable before the tree is killed.
    pub(super) fn keep(
        &self,
        root: Pid,
        manner: Manner,
        label: String,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<PathBuf> {
        let mut plan = self.plan_keep(root, manner)?;
        plan.options.label = Some(label);
        let outcome = dump::run(&plan, reporter, cancel)?;
        Ok(fs::canonicalize(&outcome.dir).unwrap_or(outcome.dir))
    }

    pub(super) fn plan_dump(&self, wish: &Wish) -> Result<Preview> {
        let Wish::Dump { root, kill, .. } = wish else {
            return Err(Error::new(Kind::Usage, "Not a dump"));
        };
        let (wish, past) = &self.resolve(*root, *kill)?;
        let options = self.dump_options(wish)?;
        let mut plan = dump::plan(&options)?;
        if let Some(prediction) = &mut plan.prediction {
            prediction.learn_from(past);
        }
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
        if let Some(prediction) = &plan.prediction {
            preview.line(Mark::Plain, format!("expected: {}", expected(prediction)));
            preview.freezes.push((*root, *prediction));
        }
        obstacles(&mut preview, &plan.obstacles, &plan.warnings);
        if plan.obstacles.is_empty() {
            preview.line(Mark::Plain, GO_ON);
            preview.offer("Dump", wish.clone(), true);
            let mut killing = wish.clone();
            if let Wish::Dump { kill, .. } = &mut killing {
                *kill = true;
            }
            preview.offer("Dump and kill", killing, false);
        } else if let Some(allowing) = self.allowing(wish)? {
            preview.line(
                Mark::Plain,
                "All of that is done on request: it can be dumped so.",
            );
            preview.offer("Dump it so", allowing, false);
        }
        Ok(preview)
    }

    /// The same wish with everything allowed that is done on request only, if that is all it lacks.
    fn allowing(&self, wish: &Wish) -> Result<Option<Wish>> {
        let mut wish = wish.clone();
        if let Wish::Dump { allowing, .. } = &mut wish {
            *allowing = true;
        }
        let plan = dump::plan(&self.dump_options(&wish)?)?;
        Ok(plan.obstacles.is_empty().then_some(wish))
    }

    pub(super) fn dump(
        &self,
        wish: &Wish,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Report> {
        if let Wish::Dump {
            root,
            start_time: Some(start_time),
            ..
        } = wish
            && task::process(*root)?.start_time != *start_time
        {
            let text = format!("Process {root} is not the one of the preview any more");
            return Err(Error::new(Kind::TargetGone, text).hint("choose the process again"));
        }
        let found;
        let (mut wish, mut past, mut budget) = (wish, &Vec::new(), None);
        if let Wish::Dump {
            root,
            rule: Some(allowed),
            ..
        } = wish
        {
            found = self.resolve(*root, false)?;
            (wish, past, budget) = (&found.0, &found.1, *allowed);
        }
        let mut plan = dump::plan(&self.dump_options(wish)?)?;
        if let Some(prediction) = &mut plan.prediction {
            prediction.learn_from(past);
        }
        if let Some(budget) = budget {
            within(&plan, budget)?;
        }
        let mut outcome = dump::run(&plan, reporter, cancel)?;
        if let Some(budget) = budget.filter(|budget| outcome.freeze > *budget) {
            let took = format::duration(outcome.freeze);
            outcome.warnings.push(Obstacle::new(
                Kind::FreezeBudget,
                format!(
                    "It was frozen for {took}, the budget is {}",
                    format::duration(budget)
                ),
                "the next prediction knows of it",
            ));
        }
        let line = dump_line::as_text(&outcome);
        Ok(Report {
            text: first_line(&self.inside(&line)),
            warnings: error::gathered(&outcome.warnings)
                .iter()
                .map(shown)
                .collect(),
            result: Made::Layer(fs::canonicalize(&outcome.dir).unwrap_or(outcome.dir)),
        })
    }
}

/// Holds a dump back that would take longer than allowed; said in few words, for a rule says it often.
fn within(plan: &dump::Plan, budget: Duration) -> Result<()> {
    let freeze = plan.prediction.and_then(|prediction| prediction.freeze);
    plan.within(budget).map_err(|error| match freeze {
        Some(freeze) if error.kind() == Kind::FreezeBudget => {
            let text = format!(
                "held back: would freeze for ~{}, budget {}",
                format::duration(freeze.expected),
                format::duration(budget)
            );
            Error::new(Kind::FreezeBudget, text)
        }
        _ => error,
    })
}

/// `at most 120 pages (480 KiB), frozen 3.1 ms (2.0 ms to 4.0 ms)`.
pub(crate) fn expected(p: &Prediction) -> String {
    let freeze = freeze(p);
    format!(
        "{}{} ({}), {freeze}",
        if p.at_most { "at most " } else { "" },
        format::count(p.pages, "page"),
        format::bytes(p.bytes()),
    )
}
