//! `icecore core LAYER PID`: a process of a layer as a core file.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use icecore::inspect::{self, View};
use icecore::{Error, Kind, Result};

use serde_json::json;

use super::cat::absences;
use super::output::output;
use super::schema::versioned;

/// Options of `core`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// Process in it
    pid: u32,
    /// Write into this file rather than to stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print what was written as JSON
    #[arg(long, requires = "output")]
    pub(crate) json: bool,
}

/// Writes the core file.
pub(crate) fn run(args: &Args) -> Result<()> {
    let stdout = io::stdout();
    let out = match &args.output {
        Some(path) => File::create(path).map_err(|e| Error::path("create", path, e))?,
        None if stdout.is_terminal() => {
            return Err(
                Error::new(Kind::Usage, "A core file is nothing for a terminal").hint(format!(
                    "icecore core {} {} > core",
                    args.layer.display(),
                    args.pid
                )),
            );
        }
        None => {
            let stdout = stdout.as_fd().try_clone_to_owned();
            stdout.map_err(output)?.into()
        }
    };
    let exported = inspect::core_file(&View::open(&args.layer)?, args.pid, out)?;
    if args.json {
        let lost = absences(&exported.lost);
        let told = json!({
            "file": args.output,
            "bytes": exported.bytes,
            "threads": exported.threads,
            "segments": exported.segments,
            "lost": lost,
        });
        return super::line(&versioned(&told)?.to_string());
    }
    for part in exported.lost {
        super::note(&format!(
            "{}: {}",
            part.range,
            part.source.absence().unwrap_or_default()
        ));
    }
    Ok(())
}
