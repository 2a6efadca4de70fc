//! The demo by itself: one line for each step, with its figures; fails when anything is off.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use icecore::chain::Stack;
use icecore::image::PagemapId;
use icecore::restore;
use icecore::track::Watch;
use icecore::{Cancel, Error, Kind, Result, dedup, dump};

use super::Demo;
use crate::cli::schema::SCHEMA;
use crate::cli::{line, ourselves};
use crate::format;

/// Layers made; the last one ends the tree.
const LAYERS: u64 = 4;

/// Runs all steps.
///
/// # Errors
/// When a step fails, a self-check is wrong, or a restored tree does not go on where its layer was.
pub(super) fn run(demo: &Demo) -> Result<()> {
    let tree = icecore::task::members(demo.root)?;
    let threads: usize = tree.iter().map(|p| p.threads.len()).sum();
    say(
        demo,
        "tree",
        &format!(
            "process {}, {} tasks, {threads} threads",
            demo.root,
            tree.len()
        ),
    )?;
    watch(demo)?;
    let mut ticks = Vec::new();
    for number in 1..=LAYERS {
        let tick = last_ok(demo)?;
        demo.wait_for("a new line", |d| {
            d.last_line().is_some_and(|l| l.tick >= tick + 5)
        })?;
        ticks.push(layer(demo, number)?);
    }
    demo.wait_for("its end by the last dump", |d| !super::exists(d.root))?;
    owners(demo)?;
    for number in [2, LAYERS, 1] {
        thaw(demo, number, ticks[number as usize - 1])?;
    }
    free(demo)?;
    thaw(demo, LAYERS, ticks[LAYERS as usize - 1])?;
    refused(demo)?;
    let lines = demo.lines();
    say(
        demo,
        "done",
        &format!("{} self-checks, none wrong", lines.len()),
    )
}

fn say(demo: &Demo, step: &str, text: &str) -> Result<()> {
    if demo.json {
        let told = serde_json::json!({ "schema": SCHEMA, "step": step, "text": text });
        return line(&told.to_string());
    }
    line(&format!("{step:<9} {text}"))
}

/// The newest tick, when no line was ever wrong.
fn last_ok(demo: &Demo) -> Result<u64> {
    let lines = demo.lines();
    if let Some(wrong) = lines.iter().find(|l| !l.ok) {
        return Err(Error::new(
            Kind::Differs,
            format!("The demo's self-check is wrong at tick {}", wrong.tick),
        ));
    }
    Ok(lines.last().map_or(0, |l| l.tick))
}

fn watch(demo: &Demo) -> Result<()> {
    let watch = match Watch::start(demo.root, &ourselves()?) {
        Ok(watch) => watch,
        Err(e) if e.kind() == Kind::Unsupported => return say(demo, "watch", &e.one_line()),
        Err(e) => return Err(e),
    };
    let first = watch.sample()?;
    let began = Instant::now();
    let tick = last_ok(demo)?;
    demo.wait_for("new lines", |d| {
        d.last_line().is_some_and(|l| l.tick >= tick + 10)
    })?;
    let sample = watch.sample()?;
    let new = sample.dirty_pages.saturating_sub(first.dirty_pages);
    say(
        demo,
        "watch",
        &format!(
            "{:.0} new dirty pages/s of {} in memory [{}]",
            new as f64 / began.elapsed().max(Duration::from_millis(1)).as_secs_f64(),
            sample.resident_pages,
            sample.tracker
        ),
    )
}

fn dir(demo: &Demo, number: u64) -> PathBuf {
    demo.images().join(number.to_string())
}

/// Makes a layer; returns the tick that it froze at.
fn layer(demo: &Demo, number: u64) -> Result<u64> {
    let options = dump::Options {
        root: demo.root,
        images_dir: dir(demo, number),
        prev_images_dir: (number > 1).then(|| PathBuf::from(format!("../{}", number - 1))),
        after: if number == LAYERS {
            dump::After::Kill
        } else {
            dump::After::Run
        },
        track: number < LAYERS,
        auto_dedup: false,
        allow: icecore::files::Allow::default(),
        label: None,
        keeper: ourselves()?,
    };
    let before = last_ok(demo)?;
    let plan = dump::plan(&options)?;
    let outcome = dump::run(&plan, &(), &Cancel::default())?;
    say(
        demo,
        &format!("layer {number}"),
        &format!(
            "{} stored, {} in parent, {}, frozen {}, total {} [{}]",
            format::count(outcome.pages_stored, "page"),
            outcome.pages_in_parent,
            format::bytes(outcome.bytes),
            format::duration(outcome.freeze),
            format::duration(outcome.total),
            outcome.tracker
        ),
    )?;
    Ok(before)
}

/// Who owns the memory of the tree as of the newest layer.
fn owners(demo: &Demo) -> Result<()> {
    let stack = Stack::open(dir(demo, LAYERS))?;
    let mut pages = vec![0; stack.depth()];
    for id in stack.tip().images().pagemaps()? {
        if matches!(id, PagemapId::Task(_) | PagemapId::Shared(_)) {
            for run in stack.ownership(id)?.runs() {
                pages[run.layer] += run.range.pages();
            }
        }
    }
    let text: Vec<String> = stack
        .levels()
        .iter()
        .zip(&pages)
        .map(|(level, pages)| format!("layer {} owns {pages}", level.name()))
        .collect();
    say(
        demo,
        "owners",
        &format!("as of layer {LAYERS}: {}", text.join(", ")),
    )
}

/// Restores a layer and looks whether the tree goes on from where it was.
fn thaw(demo: &Demo, number: u64, frozen_at: u64) -> Result<()> {
    let before = demo.lines().len();
    let wish = options(demo, number)?;
    // Whoever ended just now is not gone before it was waited for.
    demo.wait_for("free pids", |_| {
        restore::plan(&wish).is_ok_and(|plan| plan.ids().all(|id| !super::exists(id)))
    })?;
    let plan = restore::plan(&wish)?;
    let outcome = restore::run(&plan, &(), &Cancel::default())?;
    demo.wait_for("new lines", |d| d.lines().len() >= before + 5)?;
    last_ok(demo)?;
    let first = demo.lines().get(before).map_or(0, |l| l.tick);
    if !(frozen_at..=frozen_at + 10).contains(&first) {
        return Err(Error::new(
            Kind::Differs,
            format!("Layer {number} was made at tick {frozen_at}, but went on with {first}"),
        ));
    }
    say(
        demo,
        &format!("restore {number}"),
        &format!(
            "{} filled in {}; goes on with tick {first}, self-check ok",
            format::count(outcome.pages, "page"),
            format::duration(outcome.elapsed)
        ),
    )?;
    demo.end_tree()
}

fn options(demo: &Demo, number: u64) -> Result<restore::Options> {
    Ok(restore::Options {
        images_dir: dir(demo, number),
        detach: true,
        pidfile: None,
        track: true,
        apart: false,
        any_cpu: false,
        allow: icecore::files::Allow::default(),
        keeper: ourselves()?,
    })
}

fn free(demo: &Demo) -> Result<()> {
    let plan = dedup::plan(dir(demo, LAYERS), dedup::strategy("superseded")?)?;
    let lost: Vec<String> = plan
        .lost_layers()
        .map(|victim| victim.name.clone())
        .collect();
    let freed = dedup::apply(&plan, &(), &Cancel::default())?;
    say(
        demo,
        "dedup",
        &format!(
            "{} superseded, {} freed; no longer restorable: {}",
            format::count(plan.pages, "page"),
            format::bytes(freed.bytes),
            if lost.is_empty() {
                "none".to_owned()
            } else {
                lost.join(", ")
            }
        ),
    )
}

/// A layer that dedup consumed must say so instead of coming back broken.
fn refused(demo: &Demo) -> Result<()> {
    let plan = restore::plan(&options(demo, 1)?)?;
    match plan.check() {
        Err(e) => say(
            demo,
            "refused",
            &format!("restore 1: {}", first_obstacle(&e)),
        ),
        Ok(()) => Err(Error::new(
            Kind::Differs,
            "Layer 1 lost pages, yet would be restored",
        )),
    }
}

fn first_obstacle(error: &Error) -> String {
    error
        .obstacles()
        .first()
        .map_or_else(|| error.one_line(), |o| o.what.clone())
}
