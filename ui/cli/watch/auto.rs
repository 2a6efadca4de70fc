//! `icecore watch --rule`: dumps by themselves, one after the other, until the tree ends or somebody
//! says stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use icecore::dump::{self, Auto, Clause, Moment, Outcome, Rule};
use icecore::files::Allow;
use icecore::task::{self, Life};
use icecore::track::{Sample, Watch};
use icecore::{Cancel, Error, Kind, Pid, Result};
use serde_json::json;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::dump::{as_text, as_value};
use crate::cli::schema::SCHEMA;
use crate::cli::snap::Next;
use crate::cli::{line, note, ourselves};
use crate::format;

/// What is followed, and how.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) root: Pid,
    pub(super) rule: Rule,
    /// Longest freeze.
    pub(super) budget: Option<Duration>,
    pub(super) store: PathBuf,
    /// The stack.
    pub(super) name: Option<String>,
    pub(super) interval: Duration,
    /// Dumps after which to stop.
    pub(super) count: Option<u64>,
    pub(super) json: bool,
}

/// Follows the rule. The exit code is that of a freeze budget exceeded when any dump was too long, or
/// none was made because it would have been.
pub(super) fn run(following: &Following) -> Result<ExitCode> {
    let cancel = Cancel::default();
    let (told, stop) = channel();
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|e| Error::io("Cannot listen to signals", e))?;
    let handle = signals.handle();
    let asked = cancel.clone();
    let listener = thread::spawn(move || {
        if signals.forever().next().is_some() {
            // A dump under way ends as if it had never begun.
            asked.cancel();
            let _over = told.send(());
        }
    });
    let result = following.follow(&cancel, |time| {
        !matches!(stop.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    });
    handle.close();
    let _panicked = listener.join();
    let exceeded = result?;
    Ok(if exceeded {
        ExitCode::from(Kind::FreezeBudget.exit_code())
    } else {
        ExitCode::SUCCESS
    })
}

impl Following {
    /// True when the budget was exceeded, or would have been. `told_to_stop` waits.
    fn follow(&self, cancel: &Cancel, told_to_stop: impl Fn(Duration) -> bool) -> Result<bool> {
        let process = task::process(self.root)?;
        let watch = Watch::start(self.root, &ourselves()?)?;
        let started = Instant::now();
        let mut auto = Auto::new(self.rule.clone(), started.elapsed());
        let (mut made, mut exceeded) = (0, false);
        note(&format!("follows process {}: {}", self.root, self.rule));
        loop {
            let still = task::process(self.root).is_ok_and(|now| {
                now.start_time == process.start_time && !matches!(now.life, Life::Zombie(_))
            });
            let sample = watch.sample();
            let (true, Ok(sample)) = (still, sample) else {
                note(&format!("process {} has ended", self.root));
                return Ok(exceeded);
            };
            if let Some(clause) = auto.due(&moment(&sample, started)) {
                match self.dump(cancel) {
                    Ok(outcome) => {
                        auto.made(started.elapsed());
                        made += 1;
                        let long = self.budget.is_some_and(|budget| outcome.freeze > budget);
                        exceeded |= long;
                        line(&self.success(clause, &outcome, long))?;
                        if self.count.is_some_and(|count| made >= count) {
                            return Ok(exceeded);
                        }
                    }
                    Err(error) if error.kind() == Kind::Cancelled => return Ok(exceeded),
                    // The tree has ended, or the rule goes on.
                    Err(error) => {
                        exceeded |= error.kind() == Kind::FreezeBudget;
                        let pause = auto.failed(started.elapsed());
                        line(&self.failure(clause, &error, pause))?;
                    }
                }
            }
            if told_to_stop(self.interval) {
                return Ok(exceeded);
            }
        }
    }

    fn dump(&self, cancel: &Cancel) -> Result<Outcome> {
        let next = Next::find(&self.store, self.root, self.name.as_deref())?;
        let plan = next.plan(None, Allow::default())?;
        if let Some(budget) = self.budget {
            plan.within(budget)?;
        }
        dump::run(&plan, &(), cancel)
    }

    fn success(&self, clause: Clause, outcome: &Outcome, long: bool) -> String {
        if self.json {
            let mut value = as_value(outcome);
            value["because"] = clause.to_string().into();
            value["budget_exceeded"] = long.into();
            return value.to_string();
        }
        let budget = match self.budget {
            Some(budget) if long => {
                format!(", longer than the budget of {}", format::duration(budget))
            }
            _ => String::new(),
        };
        let text = as_text(outcome);
        let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let end = if rest.is_empty() { "" } else { "\n" };
        format!("{first} because {clause}{budget}{end}{rest}")
    }

    fn failure(&self, clause: Clause, error: &Error, pause: Duration) -> String {
        if self.json {
            return json!({
                "schema": SCHEMA,
                "layer": null,
                "because": clause.to_string(),
                "error": error.one_line(),
                "code": error.kind().exit_code(),
                "try": error.next_step(),
                "again_in_s": pause.as_secs(),
            })
            .to_string();
        }
        let hint = error.next_step();
        format!(
            "no dump ({clause}): {}; again in {} s at the earliest{}",
            error.one_line(),
            pause.as_secs(),
            hint.map_or_else(String::new, |hint| format!(" (try: {hint})")),
        )
    }
}

/// What the rule is judged by.
fn moment(sample: &Sample, started: Instant) -> Moment {
    Moment {
        at: started.elapsed(),
        dirty: sample.dirty_pages,
        resident: sample.resident_pages,
        cpu: sample.cpu,
    }
}
