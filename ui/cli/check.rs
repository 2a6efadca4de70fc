//! `icecore check -t PID`: what a tree holds, and whether it can be dumped; nothing is stopped.

use std::path::PathBuf;
use std::process::ExitCode;

use icecore::dump::{self, After, Options, Report, Verdict};
use icecore::files::Allow;
use icecore::{Pid, Result};
use serde_json::json;

use super::allow::DumpAllow;
use super::schema::versioned;
use super::{line, ourselves};
use crate::format;

/// Options of `check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Root of the process tree
    #[arg(short, long, value_name = "PID")]
    tree: i32,
    /// Judge a dump that lets the tree go on
    #[arg(short = 'R', long)]
    leave_running: bool,
    #[command(flatten)]
    allow: DumpAllow,
    /// Each thing on a line of its own
    #[arg(long)]
    all: bool,
    /// Print the lines as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the table; the exit code is the one that the dump would end with.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let options = Options {
        root: Pid::from_raw(args.tree),
        images_dir: PathBuf::new(),
        prev_images_dir: None,
        after: if args.leave_running {
            After::Run
        } else {
            After::Kill
        },
        track: false,
        auto_dedup: false,
        allow: Allow::from(&args.allow),
        label: None,
        keeper: ourselves()?,
    };
    let report = dump::check(&options, args.all)?;
    let refused = report.plan.check().err();
    if args.json {
        let warnings = report.plan.warnings.iter().map(ToString::to_string);
        let warnings: Vec<String> = warnings.collect();
        let told =
            json!({ "dumpable": refused.is_none(), "lines": report.lines, "warnings": warnings });
        line(&format!("{:#}", versioned(&told)?))?;
    } else {
        line(&as_text(&report, args.tree))?;
    }
    Ok(refused.map_or(ExitCode::SUCCESS, |e| ExitCode::from(e.kind().exit_code())))
}

/// The table.
pub(crate) fn as_text(report: &Report, pid: i32) -> String {
    let mut text = String::new();
    for line in &report.lines {
        let verdict = match line.verdict {
            Verdict::No => "no",
            Verdict::WithOption => "with option",
            Verdict::Supported => "supported",
        };
        let what = format::plain(&line.what);
        text.push_str(&format!("{verdict:<11} {:>6}  {what}\n", line.count));
        if let Some(hint) = &line.hint {
            text.push_str(&format!("{:20}try: {}\n", "", format::plain(hint)));
        }
    }
    for warning in &report.plan.warnings {
        text.push_str(&format!(
            "warning: {}\n",
            format::plain(&warning.to_string())
        ));
    }
    let worst = report.lines.iter().map(|line| line.verdict).min();
    text.push_str(&match worst {
        Some(Verdict::No) => format!("process {pid} cannot be dumped"),
        Some(Verdict::WithOption) => format!("process {pid} can be dumped with the options named"),
        _ => format!("process {pid} can be dumped"),
    });
    text
}
