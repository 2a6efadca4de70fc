//! `icecore verify [LAYER|DIR]`: whether every byte of a stack is still what was written.

use std::path::PathBuf;
use std::process::ExitCode;

use icecore::chain::{self, Depth, Verified};
use icecore::{Cancel, Kind, Result};
use serde_json::json;

use super::line;
use super::schema::versioned;
use crate::format;

/// Options of `verify`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A layer (verified with its ancestors), or a directory of layers
    #[arg(default_value = ".", value_parser = crate::home::place)]
    dir: PathBuf,
    /// Check the structure only: small images, sizes, holes
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Read and compare every byte (this is the default)
    #[arg(long)]
    full: bool,
    /// Print the findings as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `verify`; the exit code is 4 when something is wrong.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let depth = if args.quick {
        Depth::Quick
    } else {
        Depth::Full
    };
    let found = chain::verify(&args.dir, depth, &(), &Cancel::default())?;
    if args.json {
        let mut value = versioned(&found)?;
        value["sound"] = json!(found.is_sound());
        line(&value.to_string())?;
    } else {
        line(&as_text(&found))?;
    }
    Ok(if found.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Kind::Corrupt.exit_code())
    })
}

/// The findings and the verdict, in lines.
pub(crate) fn as_text(found: &Verified) -> String {
    let mut text = String::new();
    let mut hints: Vec<&str> = Vec::new();
    for finding in &found.findings {
        // Errors of the structure name their layer themselves.
        let layer = finding.layer.display().to_string();
        if finding.what.contains(&layer) {
            text.push_str(&format!("{}\n", format::plain(&finding.what)));
        } else {
            text.push_str(&format!("{layer}: {}\n", format::plain(&finding.what)));
        }
        if !hints.contains(&finding.hint.as_str()) {
            hints.push(&finding.hint);
        }
    }
    for hint in hints {
        text.push_str(&format!("  try: {}\n", format::plain(hint)));
    }
    for dir in &found.consumed {
        text.push_str(&format!(
            "{}: consumed by dedup, not restorable\n",
            dir.display()
        ));
    }
    for dir in &found.without_digests {
        text.push_str(&format!(
            "{}: no digests, only its structure was checked (icecore adopt makes them)\n",
            dir.display()
        ));
    }
    let layers = format::count(found.layers.len() as u64, "layer");
    let looked = match found.depth {
        Depth::Quick => "structure checked".to_owned(),
        Depth::Full => format!(
            "{} in {} compared",
            format::bytes(found.bytes),
            format::count(found.files, "file")
        ),
    };
    let verdict = match found.findings.len() {
        0 => "sound".to_owned(),
        n => format!("{} found", format::count(n as u64, "problem")),
    };
    text.push_str(&format!("{layers}: {looked}, {verdict}"));
    text
}
