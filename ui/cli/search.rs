//! `icecore search LAYER PATTERN`: where something is in the memory of a layer.

use std::path::PathBuf;
use std::process::ExitCode;

use icecore::inspect::{self, Found, Pattern, Place, View};
use icecore::{Error, Kind, Result};
use serde_json::json;

use super::line;
use super::schema::SCHEMA;
use crate::format;

/// Exit code when nothing is found, as for anything that is not there.
const NOT_FOUND: u8 = 3;
/// How much of a match a line shows.
const SHOWN: usize = 80;

/// Options of `search`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// Text to look for
    #[arg(required_unless_present_any = ["bytes", "regex"], conflicts_with_all = ["bytes", "regex"])]
    pattern: Option<String>,
    /// Bytes to look for, in hexadecimal
    #[arg(long, value_name = "HEX", conflicts_with = "regex")]
    bytes: Option<String>,
    /// Regular expression over bytes to look for
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// Stop after this many matches
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints a line for each match.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let pattern = match (&args.pattern, &args.bytes, &args.regex) {
        (_, Some(hex), _) => Pattern::bytes(&bytes(hex)?)?,
        (_, _, Some(regex)) => Pattern::regex(regex)?,
        (text, None, None) => Pattern::text(text.as_deref().unwrap_or_default())?,
    };
    let view = View::open(&args.layer)?;
    let mut count = 0;
    inspect::search(&view, &pattern, &mut |found| {
        line(&if args.json {
            as_json(&found)
        } else {
            as_text(&found)
        })?;
        count += 1;
        Ok(args.count.is_none_or(|most| count < most))
    })?;
    Ok(if count == 0 {
        ExitCode::from(NOT_FOUND)
    } else {
        ExitCode::SUCCESS
    })
}

/// The bytes that hexadecimal digits stand for.
pub(crate) fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits: String = hex.chars().filter(|c| !c.is_whitespace()).collect();
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(pair).collect();
    bytes.filter(|bytes| !bytes.is_empty()).ok_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("{hex:?} is no list of hexadecimal bytes"),
        )
        .hint("Give two digits a byte: --bytes 'de ad be ef'")
    })
}

/// One line about a match.
pub(crate) fn as_text(found: &Found) -> String {
    let place = match found.place {
        Place::Task(pid) => pid.to_string(),
        Place::Segment(shmid) => format!("segment {shmid}"),
    };
    let shown = &found.bytes[..found.bytes.len().min(SHOWN)];
    let dots = if shown.len() < found.bytes.len() {
        "..."
    } else {
        ""
    };
    let mapping = format::plain(&found.mapping);
    format!(
        "{place} {:x} {mapping} \"{}\"{dots}",
        found.addr,
        shown.escape_ascii()
    )
}

fn as_json(found: &Found) -> String {
    let hex: String = found
        .bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (pid, segment) = match found.place {
        Place::Task(pid) => (Some(pid), None),
        Place::Segment(shmid) => (None, Some(shmid)),
    };
    json!({
        "schema": SCHEMA,
        "pid": pid,
        "segment": segment,
        "addr": format!("{:x}", found.addr),
        "mapping": found.mapping,
        "bytes": hex,
    })
    .to_string()
}
