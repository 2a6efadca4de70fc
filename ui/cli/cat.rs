//! `icecore cat LAYER PID RANGE`: memory of a process as of a layer.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use icecore::inspect::{self, View};
use icecore::{Error, Kind, Result};
use serde_json::{Value, json};

use super::schema::versioned;
use crate::format;

/// Options of `cat`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// Process in it
    pid: u32,
    /// What to read: START-END or START+LENGTH in hexadecimal, an address inside a mapping, or the
    /// name of a mapping, e.g. [heap] or libc.so.6; without it, the mappings are listed
    range: Option<String>,
    /// Write into this file; a terminal is shown hexadecimal numbers instead
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the mappings as JSON; of a range, what was written into the file
    #[arg(long)]
    pub(crate) json: bool,
}

/// Parts without bytes, for JSON.
pub(super) fn absences(parts: &[inspect::Part]) -> Vec<Value> {
    let told = |part: &inspect::Part| json!({ "range": part.range, "why": part.source.absence() });
    parts.iter().map(told).collect()
}

/// Writes the bytes, and says on stderr which of them are not in the layer.
pub(crate) fn run(args: &Args) -> Result<()> {
    let view = View::open(&args.layer)?;
    let space = view.space(args.pid)?;
    let Some(range) = &args.range else {
        return list(args, &space);
    };
    if args.json && args.output.is_none() {
        let what = "The bytes of a range are no JSON";
        return Err(Error::new(Kind::Usage, what).hint("add --output FILE"));
    }
    let range = space.range(range)?;
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(File::create(path).map_err(|e| Error::path("create", path, e))?),
        None if io::stdout().is_terminal() => {
            Box::new(format::HexDump::new(io::stdout(), range.start))
        }
        None => Box::new(io::stdout().lock()),
    };
    let catted = inspect::cat(&space, range, &mut out)?;
    out.flush()
        .map_err(|e| Error::io("Cannot write the memory", e))?;
    if args.json {
        let told = json!({
            "file": args.output,
            "range": range,
            "bytes": catted.bytes,
            "absent": absences(&catted.absent),
        });
        return super::line(&versioned(&told)?.to_string());
    }
    for part in catted.absent {
        let why = part.source.absence().unwrap_or_default();
        super::note(&format!("{}: {why}; written as zeros", part.range));
    }
    Ok(())
}

fn list(args: &Args, space: &inspect::Space<'_>) -> Result<()> {
    let mut told = Vec::new();
    for mapping in space.mappings() {
        let mut own = 0;
        for part in space.parts(mapping.range) {
            if matches!(
                part.source,
                inspect::Source::Stored(_) | inspect::Source::Segment(..)
            ) {
                own += part.range.pages();
            }
        }
        if args.json {
            told.push(json!({ "mapping": mapping, "pages_held": own }));
            continue;
        }
        super::line(&format!(
            "{:x}-{:x} {} {:>7} of {:>7} pages  {}",
            mapping.range.start,
            mapping.range.end,
            mapping.permissions(),
            own,
            mapping.range.pages(),
            format::plain(&mapping.name),
        ))?;
    }
    if args.json {
        super::line(&versioned(&json!({ "mappings": told }))?.to_string())?;
    }
    Ok(())
}
