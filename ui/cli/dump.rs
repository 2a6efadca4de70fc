//! `icecore dump`: CRIU's dump, one line about what it did.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use icecore::dump::{self, After, Options, Outcome, Plan, Prediction};
use icecore::files::Allow;
use icecore::{Cancel, PAGE_SIZE, Pid, Result};
use serde_json::{Value, json};

use super::allow::DumpAllow;
use super::schema::SCHEMA;
use super::{Log, line, ourselves};
use crate::error;
use crate::format;

/// Options of `dump`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Root of the process tree
    #[arg(short, long, value_name = "PID")]
    tree: i32,
    /// Where the layer goes: an absent or empty directory
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    images_dir: PathBuf,
    /// Let the tree go on (without it, the tree is killed)
    #[arg(short = 'R', long)]
    leave_running: bool,
    /// Leave the tree stopped
    #[arg(short = 's', long, conflicts_with = "leave_running")]
    leave_stopped: bool,
    /// Track memory from here on, for an incremental next layer
    #[arg(long)]
    track_mem: bool,
    /// The parent layer, relative to the images directory
    #[arg(long, value_name = "DIR")]
    prev_images_dir: Option<PathBuf>,
    /// Free what the new layer overrides in its ancestors
    #[arg(long)]
    auto_dedup: bool,
    #[command(flatten)]
    allow: DumpAllow,
    /// What to call the layer
    #[arg(long)]
    label: Option<String>,
    /// Show what would be done, and what is in the way, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Print figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) log: Log,
}

/// Runs `dump`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let options = Options {
        root: Pid::from_raw(args.tree),
        images_dir: args.images_dir.clone(),
        prev_images_dir: args.prev_images_dir.clone(),
        after: match (args.leave_running, args.leave_stopped) {
            (true, _) => After::Run,
            (_, true) => After::Stop,
            _ => After::Kill,
        },
        track: args.track_mem,
        auto_dedup: args.auto_dedup,
        allow: Allow::from(&args.allow),
        label: args.label.clone(),
        keeper: ourselves()?,
    };
    let plan = dump::plan(&options)?;
    if args.dry_run {
        plan.check()?;
        return line(&if args.json {
            plan_as_value(&plan).to_string()
        } else {
            plan_as_text(&plan)
        });
    }
    let outcome = dump::run(&plan, &(), &Cancel::default())?;
    line(&if args.json {
        as_json(&outcome)
    } else {
        as_text(&outcome)
    })
}

/// What would be done.
fn plan_as_text(plan: &Plan) -> String {
    let mut text = format!(
        "would dump {} in {}: {} in memory, {} ({})",
        format::count(plan.tasks as u64, "task"),
        plan.options.images_dir.display(),
        format::bytes(plan.resident_pages * PAGE_SIZE),
        plan.tracker,
        plan.tracker_reason
    );
    for warning in error::gathered(&plan.warnings) {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

/// The same as an object.
fn plan_as_value(plan: &Plan) -> Value {
    json!({
        "schema": SCHEMA,
        "dry_run": true,
        "layer": plan.options.images_dir,
        "parent": plan.parent.as_ref().map(|parent| &parent.dir),
        "tasks": plan.tasks,
        "threads": plan.threads,
        "resident_pages": plan.resident_pages,
        "dirty_pages": plan.dirty_pages,
        "tracker": plan.tracker,
        "tracker_reason": plan.tracker_reason,
        "predicted": plan.prediction.as_ref().map(prediction),
        "warnings": plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// One line about a finished layer: what it is beside what was expected comes first, for lines get cut.
pub(crate) fn as_text(o: &Outcome) -> String {
    let freeze = o.predicted.and_then(|p| p.freeze);
    let mut text = format!(
        "{}: {}{}, {}, frozen {}{}, {} in parent, total {} [{}]",
        o.dir.display(),
        format::count(o.pages_stored, "page"),
        o.predicted.map_or_else(String::new, |p| {
            let at_most = if p.at_most { "at most " } else { "" };
            format!(" ({at_most}{} expected)", p.pages)
        }),
        format::bytes(o.bytes),
        format::duration(o.freeze),
        freeze.map_or_else(String::new, |f| beside(o.freeze, f.expected)),
        o.pages_in_parent,
        format::duration(o.total),
        o.tracker,
    );
    if o.connections_held > 0 {
        text.push_str(&format!(
            "\n{} held until this layer is restored (to end them: icecore keeper --let-go)",
            format::count(o.connections_held as u64, "connection"),
        ));
    }
    if o.files_saved > 0 {
        text.push_str(&format!(
            "\n{} copied into the layer (restore --with-files puts them back)",
            format::count(o.files_saved as u64, "file"),
        ));
    }
    for warning in error::gathered(&o.warnings) {
        text.push_str(&format!("\nwarning: {warning}"));
    }
    text
}

/// ` (5.4 expected)`, beside a time in the same unit.
fn beside(took: Duration, expected: Duration) -> String {
    let (took, expected) = (format::duration(took), format::duration(expected));
    let unit = |text: &str| text.rsplit(' ').next().map(str::to_owned);
    let number = match unit(&took) == unit(&expected) {
        true => expected.split(' ').next().unwrap_or_default(),
        false => &expected,
    };
    format!(" ({number} expected)")
}

pub(crate) fn as_json(o: &Outcome) -> String {
    as_value(o).to_string()
}

/// The same as an object.
pub(crate) fn as_value(o: &Outcome) -> Value {
    json!({
        "schema": SCHEMA,
        "layer": o.dir,
        "id": o.layer_id,
        "tasks": o.tasks,
        "threads": o.threads,
        "pages_stored": o.pages_stored,
        "pages_in_parent": o.pages_in_parent,
        "bytes": o.bytes,
        "freeze_us": micros(o.freeze),
        "total_us": micros(o.total),
        "tracker": o.tracker,
        "connections_held": o.connections_held,
        "files_saved": o.files_saved,
        "predicted": o.predicted.as_ref().map(prediction),
        "warnings": o.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}

/// What a dump made now is expected to be.
pub(crate) fn prediction(p: &Prediction) -> Value {
    json!({
        "mode": p.mode,
        "pages": p.pages,
        "bytes": p.bytes(),
        "at_most": p.at_most,
        "freeze": p.freeze.map(|f| json!({
            "expected_us": micros(f.expected),
            "low_us": micros(f.low),
            "high_us": micros(f.high),
            "learned_from": f.learned_from,
            "borrowed": f.borrowed,
        })),
    })
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_expected_has_the_unit_of_what_it_is_beside_or_its_own() {
        let ms = Duration::from_millis;
        assert_eq!(beside(ms(6), ms(5)), " (5.0 expected)");
        assert_eq!(beside(ms(1600), ms(900)), " (900.0 ms expected)");
    }
}
