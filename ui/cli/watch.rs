//! `icecore watch -t PID`: how many pages a running tree writes, one line a second.

use std::cmp::Reverse;
use std::io::{self, Write as _};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use icecore::track::{MappingSample, Sample, Watch};
use icecore::{Error, PAGE_SIZE, Pid, Result};
use serde_json::json;

use super::ourselves;
use super::schema::SCHEMA;
use crate::format;

/// Options of `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Root of the process tree
    #[arg(short, long, value_name = "PID")]
    tree: i32,
    /// Stop after this many lines
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// Seconds between two lines
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    interval: f64,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints a line for each sample, until the tree ends.
pub(crate) fn run(args: &Args) -> Result<()> {
    let watch = Watch::start(Pid::from_raw(args.tree), &ourselves()?)?;
    // Nothing is ever sent: it is a clock.
    let (_clock, tick) = channel::<()>();
    let interval = Duration::try_from_secs_f64(args.interval).unwrap_or(Duration::from_secs(1));
    let mut before: Option<(Instant, u64)> = None;
    let mut shown = 0;
    loop {
        let sample = watch.sample()?;
        let now = Instant::now();
        let rate = before.map(|(at, dirty)| {
            let seconds = now.duration_since(at).as_secs_f64().max(0.001);
            // Fewer than before: a dump armed tracking again.
            let new = sample.dirty_pages.checked_sub(dirty);
            new.unwrap_or(sample.dirty_pages) as f64 / seconds
        });
        before = Some((now, sample.dirty_pages));
        let text = if args.json {
            as_json(&sample, rate)
        } else {
            as_text(&sample, rate)
        };
        match writeln!(io::stdout(), "{text}") {
            Ok(()) => {}
            // Nobody reads any more: `icecore watch … | head`.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(Error::io("Cannot write to stdout", e)),
        }
        shown += 1;
        if args.count.is_some_and(|count| shown >= count) {
            return Ok(());
        }
        let _time_is_up = tick.recv_timeout(interval);
    }
}

fn as_text(sample: &Sample, rate: Option<f64>) -> String {
    let rate = rate.map_or_else(String::new, |rate| format!(", {rate:.0} new pages/s"));
    format!(
        "{} dirty ({}) of {} in memory{rate}{} [{}]",
        format::count(sample.dirty_pages, "page"),
        format::bytes(sample.dirty_pages * PAGE_SIZE),
        sample.resident_pages,
        most(&sample.per_mapping),
        sample.tracker
    )
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

fn as_json(sample: &Sample, rate: Option<f64>) -> String {
    json!({
        "schema": SCHEMA,
        "dirty_pages": sample.dirty_pages,
        "resident_pages": sample.resident_pages,
        "new_pages_per_second": rate,
        "tracker": sample.tracker,
        "since_layer": sample.since_layer,
        "mappings": sample.per_mapping.iter().map(|m| json!({
            "pid": m.pid.as_raw(),
            "start": m.range.start,
            "end": m.range.end,
            "name": m.name,
            "dirty_pages": m.dirty,
            "resident_pages": m.resident,
        })).collect::<Vec<_>>(),
    })
    .to_string()
}
