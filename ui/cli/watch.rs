//! `icecore watch PID`: how many pages a running tree writes and what a dump made now would be, one
//! line a second; with `--rule` it makes the dumps.

mod auto;

use std::cmp::Reverse;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use icecore::chain::Catalog;
use icecore::dump::{Prediction, Present, Rule, predictions};
use icecore::task::{self, Life};
use icecore::track::{self, MappingSample, Pace, Sample, Watch, WorkingSet};
use icecore::{Error, Kind, PAGE_SIZE, Pid, Result};
use serde_json::json;

use super::dump::prediction;
use super::ourselves;
use super::output::output;
use super::schema::SCHEMA;
use super::snap::Next;
use crate::{format, home};
use auto::Following;

/// Options of `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Root of the process tree, or the stack of one that runs
    #[arg(value_name = "PID|NAME", required_unless_present = "tree")]
    target: Option<String>,
    /// Root of the process tree, as CRIU writes it
    #[arg(short, long, value_name = "PID", conflicts_with = "target")]
    tree: Option<i32>,
    /// Dump when the rule says so: "every 10 min", "when dirty > 200 MiB", "when idle", or several
    /// with commas between them
    #[arg(long, value_name = "RULE")]
    rule: Option<Rule>,
    /// Make no dump that is expected to stop the tree for longer, and tell of one that did
    #[arg(long, value_name = "MS", requires = "rule")]
    freeze_budget: Option<f64>,
    /// Where the stacks are [default: the store, see README]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Stop after this many lines, or dumps
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Seconds between two looks
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    interval: f64,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints a line for each sample, or each dump, until the tree ends.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let store = args.store.clone().unwrap_or_else(home::store);
    let (root, name) = match (args.tree, args.target.as_deref()) {
        (Some(pid), _) => (Pid::from_raw(pid), None),
        (None, target) => target_of(&store, target.unwrap_or_default())?,
    };
    let interval = Duration::try_from_secs_f64(args.interval).unwrap_or(Duration::from_secs(1));
    let Some(rule) = &args.rule else {
        watch(args, root, &store, name.as_deref(), interval)?;
        return Ok(ExitCode::SUCCESS);
    };
    let budget = args.freeze_budget.map(|ms| {
        let budget = Duration::try_from_secs_f64(ms / 1000.0);
        budget.map_err(|e| Error::new(Kind::Usage, format!("{ms} ms is no time")).because(e))
    });
    auto::run(&Following {
        root,
        rule: rule.clone(),
        budget: budget.transpose()?,
        store,
        name,
        interval,
        count: args.count,
        json: args.json,
    })
}

/// The process that `text` means: its pid, or the stack whose process it is.
fn target_of(store: &Path, text: &str) -> Result<(Pid, Option<String>)> {
    if let Ok(pid) = text.parse() {
        return Ok((Pid::from_raw(pid), None));
    }
    let none = |what: String| {
        Error::new(Kind::NotFound, what)
            .hint("give the pid of its root instead; icecore ps lists the running process trees")
    };
    let dir = super::snap::named(store, text)?;
    if !dir.is_dir() {
        return Err(none(format!(
            "There is no stack {text:?} in {}",
            store.display()
        )));
    }
    let catalog = Catalog::scan(&dir)?;
    let runs = |pid: i32| {
        let process = task::process(Pid::from_raw(pid)).ok()?;
        (!matches!(process.life, Life::Zombie(_))).then_some(process)
    };
    let tracked = track::list()?.into_iter().find_map(|record| {
        let layer = record.layer.as_deref()?;
        let here = |l: &icecore::chain::Layer| {
            l.id.as_deref() == Some(layer)
                && i64::from(record.pid) == i64::from(l.root.unwrap_or(0))
        };
        let ours = catalog.layers().iter().any(here);
        runs(record.pid).filter(|p| ours && p.start_time == record.start_time)
    });
    let newest = || {
        let mut layers: Vec<_> = catalog.layers().iter().filter(|l| !l.own_pids).collect();
        layers.sort_by_key(|layer| Reverse(layer.created_unix_ns));
        layers.into_iter().find_map(|layer| {
            let process = runs(i32::try_from(layer.root?).ok()?)?;
            (layer.comm.as_deref() == Some(&process.comm)).then_some(process)
        })
    };
    let process = tracked.or_else(newest);
    let process = process.ok_or_else(|| none(format!("No process of stack {text:?} runs")))?;
    Ok((process.pid, Some(text.to_owned())))
}

/// Stretches of time that the working set is told for.
const WINDOWS: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(10),
    Duration::from_secs(60),
];
/// The rate is taken over so long.
const RATE: Duration = Duration::from_secs(3);

fn watch(
    args: &Args,
    root: Pid,
    store: &Path,
    name: Option<&str>,
    interval: Duration,
) -> Result<()> {
    let started = Instant::now();
    let watch = Watch::start(root, &ourselves()?)?;
    // Nothing is ever sent: it is a clock.
    let (_clock, tick) = channel::<()>();
    let mut pace = Pace::default();
    if let Some(armed) = watch.armed() {
        pace.armed(armed.saturating_duration_since(started));
    }
    let mut ran: Option<(Duration, Duration)> = None;
    let mut next: Option<(Option<String>, Next)> = None;
    let mut shown = 0;
    loop {
        let sample = watch.sample()?;
        let now = started.elapsed();
        pace.take(now, sample.dirty_pages, sample.since_layer.as_deref());
        let busy = ran.map(|(at, cpu)| {
            let ran = sample.cpu.saturating_sub(cpu).as_secs_f64();
            ran / now.saturating_sub(at).as_secs_f64().max(f64::EPSILON)
        });
        ran = Some((now, sample.cpu));
        // A dump by another command has armed it anew: there is more to learn from.
        if next
            .as_ref()
            .is_none_or(|(since, _)| *since != sample.since_layer)
        {
            next = Some((sample.since_layer.clone(), Next::find(store, root, name)?));
        }
        let expected = next.as_ref().map(|(_, next)| expected(&sample, next));
        let expected = expected.unwrap_or_default();
        let text = if args.json {
            as_json(&sample, &pace, busy, &expected)
        } else {
            as_text(&sample, &pace, busy, &expected)
        };
        writeln!(io::stdout(), "{text}").map_err(output)?;
        shown += 1;
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(());
        }
        let _time_is_up = tick.recv_timeout(interval);
    }
}

/// What a dump made now would be, the way it would be made first.
fn expected(sample: &Sample, next: &Next) -> Vec<Prediction> {
    let mut present = Present::of(sample, next.has_parent());
    if sample.since_layer.is_none() {
        // The tracker was armed for no layer: it proves nothing about the one below.
        present.dirty = None;
    }
    let past = if next.own { next.past.as_slice() } else { &[] };
    let mut all = predictions(&present, past);
    for prediction in &mut all {
        prediction.learn_from(&next.past);
    }
    all
}

/// How fast it writes: pages that were not written before, and all of them, as 0 of the former is not idle.
fn speed(pace: &Pace, busy: Option<f64>) -> String {
    let Some(rate) = pace.rate(RATE) else {
        return String::new();
    };
    let all = match pace.working_set(WINDOWS[0]) {
        Some(set) if !set.at_least => format!("{} in all", set.pages),
        Some(set) if set.pages > 0 => format!("at least {} in all", set.pages),
        Some(_) => "those written again unknown before the next dump".into(),
        None => "in all not known yet".into(),
    };
    let busy = busy.map_or_else(String::new, |busy| format!(", {:.0}% CPU", busy * 100.0));
    format!(", {rate:.0} new pages/s ({all}{busy})")
}

fn as_text(sample: &Sample, pace: &Pace, busy: Option<f64>, expected: &[Prediction]) -> String {
    let rate = speed(pace, busy);
    let not_tracked = match sample.not_tracked {
        0 => String::new(),
        n => format!(", {n} of them not tracked"),
    };
    format!(
        "{} dirty ({}{not_tracked}) of {} in memory{rate}{}{} [{}]",
        format::count(sample.dirty_pages, "page"),
        format::bytes(sample.dirty_pages * PAGE_SIZE),
        sample.resident_pages,
        most(&sample.per_mapping),
        expected.first().map_or_else(String::new, in_words),
        sample.tracker
    )
}

/// `frozen 3.1 ms (2.0 ms to 4.0 ms)`.
pub(crate) fn freeze(p: &Prediction) -> String {
    match p.freeze {
        None => "freeze unknown before the first dump".into(),
        Some(f) if f.borrowed => format!("frozen about {}", format::duration(f.expected)),
        Some(f) => format!(
            "frozen {} ({} to {})",
            format::duration(f.expected),
            format::duration(f.low),
            format::duration(f.high)
        ),
    }
}

/// `; a dump now: tracked, 1.2 MiB, frozen 3.1 ms (2.0 ms to 4.0 ms)`.
fn in_words(p: &Prediction) -> String {
    let freeze = freeze(p);
    let at_most = if p.at_most { "at most " } else { "" };
    let (mode, bytes) = (p.mode.as_str(), format::bytes(p.bytes()));
    format!("; a dump now: {mode}, {at_most}{bytes}, {freeze}")
}

/// How many mappings a line names.
const NAMED: usize = 3;

/// Where most of the written pages are.
fn most(mappings: &[MappingSample]) -> String {
    let mut written: Vec<&MappingSample> = mappings.iter().filter(|m| m.dirty > 0).collect();
    written.sort_by_key(|m| Reverse(m.dirty));
    let named: Vec<String> = written
        .iter()
        .take(NAMED)
        .map(|m| match m.name.as_str() {
            "" => format!("{} at {:#x}", m.dirty, m.range.start),
            name => format!("{} in {name}", m.dirty),
        })
        .collect();
    if named.is_empty() {
        String::new()
    } else {
        format!(": {}", named.join(", "))
    }
}

fn as_json(sample: &Sample, pace: &Pace, busy: Option<f64>, expected: &[Prediction]) -> String {
    let sets = WINDOWS
        .iter()
        .filter_map(|window| pace.working_set(*window));
    let set = |set: WorkingSet| {
        json!({
            "seconds": set.window.as_secs(),
            "pages": set.pages,
            "at_least": set.at_least,
        })
    };
    json!({
        "schema": SCHEMA,
        "dirty_pages": sample.dirty_pages,
        "not_tracked_pages": sample.not_tracked,
        "resident_pages": sample.resident_pages,
        "shared_pages": sample.shared_pages,
        "new_pages_per_second": pace.rate(RATE),
        "working_set": sets.map(set).collect::<Vec<_>>(),
        "cpus_busy": busy,
        "tracker": sample.tracker,
        "since_layer": sample.since_layer,
        "predictions": expected.iter().map(prediction).collect::<Vec<_>>(),
        "mappings": sample.per_mapping.iter().map(|m| json!({
            "pid": m.pid.as_raw(),
            "start": m.range.start,
            "end": m.range.end,
            "name": m.name,
            "dirty_pages": m.dirty,
            "resident_pages": m.resident,
            "tracked": m.tracked,
        })).collect::<Vec<_>>(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_new_pages_are_not_said_to_be_no_writes() {
        let mut pace = Pace::default();
        let counted = |pace: &mut Pace| {
            for at in 1..5 {
                pace.take(Duration::from_secs(at), 1000, None);
            }
        };
        counted(&mut pace);
        let said = speed(&pace, Some(0.5));
        assert_eq!(
            said,
            ", 0 new pages/s (those written again unknown before the next dump, 50% CPU)"
        );
        pace.armed(Duration::ZERO);
        counted(&mut pace);
        assert_eq!(speed(&pace, None), ", 0 new pages/s (1000 in all)");
    }
}
