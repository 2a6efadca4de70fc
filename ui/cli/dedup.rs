//! `icecore dedup -D DIR`: give back pages that the layers below DIR store for nothing.
//!
//! The option is CRIU's. Unlike CRIU, it shows first what it would do and what that costs, and asks.

use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;

use humansize::{BINARY, format_size};
use icecore::dedup::{self, Freed, Plan};
use icecore::{Cancel, Error, Kind, Result};
use serde_json::json;

/// Free what the layers below a layer store for nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The layer for whose benefit the layers below are punched.
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".")]
    pub images_dir: PathBuf,
    /// How to find such pages.
    #[arg(long, value_name = "NAME", default_value = "superseded")]
    pub strategy: String,
    /// Show what would be freed and what it costs; change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask, although layers stop being restorable.
    #[arg(short, long)]
    pub yes: bool,
    /// Print the plan and the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Plans, shows, asks, applies.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let plan = dedup::plan(&args.images_dir, dedup::strategy(&args.strategy)?)?;
    if !args.json {
        show(&mut out, &plan).map_err(output)?;
    }
    let refused = !plan.is_possible();
    if refused || args.dry_run {
        if args.json {
            print(&mut out, &json!({ "plan": plan }))?;
        }
        if refused {
            let what = format!(
                "The layers below {} cannot be deduplicated",
                plan.dir.display()
            );
            return Err(Error::refused(what, plan.obstacles));
        }
        return Ok(());
    }
    if plan.lost_layers().next().is_some() && !args.yes {
        confirm(&mut out, &plan)?;
    }
    let freed = dedup::apply(&plan, &(), &Cancel::default())?;
    if args.json {
        return print(&mut out, &json!({ "plan": plan, "freed": freed }));
    }
    done(&mut out, &freed).map_err(output)
}

/// The plan, for people.
fn show(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    if plan.is_empty() {
        return writeln!(out, "Nothing to free below {}", plan.dir.display());
    }
    writeln!(out, "Below {} ({}):", plan.dir.display(), plan.strategy)?;
    for cut in &plan.cuts {
        writeln!(
            out,
            "  {:>10}  {} of {} in {} ranges",
            format_size(cut.bytes, BINARY),
            cut.file().display(),
            cut.pagemap.file_name(),
            cut.ranges.len(),
        )?;
    }
    let total = format_size(plan.bytes, BINARY);
    writeln!(out, "  {total:>10}  in all, {} pages", plan.pages)?;
    for victim in plan.lost_layers() {
        writeln!(
            out,
            "  layer {} will NOT BE RESTORABLE any more",
            victim.dir.display()
        )?;
    }
    Ok(())
}

/// Asks at the terminal; without one this needs `--yes`.
fn confirm(out: &mut impl Write, plan: &Plan) -> Result<()> {
    let lost: Vec<&str> = plan
        .lost_layers()
        .map(|victim| victim.name.as_str())
        .collect();
    let lost = lost.join(", ");
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Error::new(
            Kind::Usage,
            format!("Dedup makes layers unrestorable ({lost}), and there is no terminal to ask at"),
        )
        .hint("Add --yes to do it, or --dry-run to see the plan only"));
    }
    write!(out, "Free the pages and give up layers {lost}? Type yes: ").map_err(output)?;
    out.flush().map_err(output)?;
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .map_err(|e| Error::io("Cannot read the answer", e))?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Error::new(Kind::Cancelled, "Nothing was changed"))
}

/// The result, for people.
fn done(out: &mut impl Write, freed: &Freed) -> io::Result<()> {
    for layer in &freed.layers {
        let bytes = format_size(layer.bytes, BINARY);
        writeln!(out, "  {bytes:>10}  freed in {}", layer.dir.display())?;
    }
    let bytes = format_size(freed.bytes, BINARY);
    writeln!(
        out,
        "Freed {bytes} ({} pages), as measured on the disk",
        freed.pages
    )
}

fn print(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    writeln!(out, "{value:#}").map_err(output)
}

fn output(error: io::Error) -> Error {
    Error::io("Cannot write the output", error)
}
