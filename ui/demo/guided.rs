//! The demo on the screen: the terminal UI on the demo's tree, with a tour through all it can do.

use std::fs;
use std::path::Path;

use icecore::{Error, Kind, Result};

use super::{Demo, target};
use crate::cli::line;
use crate::config::{Config, settings::Settings};
use crate::tui::keymap::Keymap;
use crate::tui::{self, Facts, Guide, Status, Step};

/// Runs the tour until the user leaves.
///
/// # Errors
/// When the self-check of the tree was ever wrong.
pub(super) fn run(demo: &Demo, settings: Settings) -> Result<()> {
    let images = demo.images();
    fs::create_dir_all(&images).map_err(|e| Error::path("create", &images, e))?;
    let lines = demo.dir.join(target::LINES);
    // The tour speaks of the keys that everybody has.
    let config = Config {
        keys: Keymap::default(),
        ..Config::load(settings)?
    };
    let facts = tui::run(tui::Options {
        config,
        root: Some(images),
        // The next demo is another one.
        place: None,
        select: Some(demo.root),
        guide: Some(tour()),
        status: Some(Status(Box::new(move || status(&lines)))),
    })?;
    let lines = demo.lines();
    if let Some(wrong) = lines.iter().find(|line| !line.ok) {
        return Err(Error::new(
            Kind::Differs,
            format!("The demo's self-check is wrong at tick {}", wrong.tick),
        ));
    }
    line(&format!(
        "{} layers, {} restores, {} self-checks, none wrong. The demo's files are removed.",
        facts.dumps + facts.safeties,
        facts.restores,
        lines.len()
    ))
}

/// What the tree says about itself.
fn status(lines: &Path) -> String {
    let text = fs::read_to_string(lines).unwrap_or_default();
    match text.lines().rev().find_map(super::parse) {
        Some(line) if line.ok => format!("tree's self-check: tick {}, all right", line.tick),
        Some(line) => format!("tree's self-check: tick {}, WRONG", line.tick),
        None => "tree's self-check: nothing yet".into(),
    }
}

fn step(text: &str, done: fn(&Facts) -> bool) -> Step {
    Step {
        text: text.into(),
        done,
    }
}

fn tour() -> Guide {
    Guide {
        steps: vec![
            step(
                "A small process tree was started for you; it checks itself ten times a second. \
                 Press w: icecore counts the pages it writes while it runs.",
                |facts| facts.counted,
            ),
            step(
                "Press d: the plan of a dump. Enter makes the first layer; the tree stops for some \
                 milliseconds and goes on.",
                |facts| facts.dumps >= 1,
            ),
            step(
                "Press d and Enter two more times: these layers hold only the pages written since \
                 the one before (STORED and PARENT on the right).",
                |facts| facts.dumps >= 3,
            ),
            step(
                "Press Tab until the map below has the keyboard: each cell is a page, its colour \
                 and letter the layer that owns it. The arrows move.",
                |facts| facts.map_visited,
            ),
            step(
                "Roll back: go to the stacks (Tab), choose layer 1 or 2, press r, choose Keep and \
                 restore. Watch the tick at the top jump back; u would undo it.",
                |facts| facts.restores >= 1,
            ),
            step(
                "It runs from there. Press d and Enter: the new layer is a branch beside the others.",
                |facts| facts.branches >= 1,
            ),
            step(
                "Press D: what the stack stores for nothing, by strategy, with the price of each, where in \
                 the layers it is, and what is in the way: the other branch needs some of it.",
                |facts| facts.dedup_seen,
            ),
        ],
        at: 0,
    }
}
