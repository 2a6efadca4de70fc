//! `icecore dedup -D DIR`: give back pages that the layers of a stack store for nothing.
//!
//! Option and default are CRIU's. Unlike CRIU, it shows first what it would do and what that costs,
//! and asks; and it knows strategies that cost no layer anything.

use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::path::PathBuf;

use humansize::{BINARY, format_size};
use icecore::dedup::{self, Freed, Plan};
use icecore::{Cancel, Error, Kind, Result};
use serde_json::json;

use super::output::output;
use super::schema::SCHEMA;
use crate::format;
use crate::standing::Standing;

/// Free what the layers of a stack store for nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The layer whose stack is deduplicated.
    #[arg(short = 'D', long, value_name = "DIR", default_value = ".", value_parser = crate::home::place)]
    pub images_dir: PathBuf,
    /// What to free, one after the other: unchanged, zero, content (no layer loses anything), or
    /// superseded (as criu does: the layers below stop being restorable).
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["superseded"])]
    pub strategy: Vec<String>,
    /// With superseded: only what no restorable layer needs.
    #[arg(long)]
    pub keep_restorable: bool,
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

/// Plans, shows, asks, applies; strategy by strategy.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut steps = Vec::new();
    for name in &args.strategy {
        let name = match name.as_str() {
            "superseded" if args.keep_restorable => "unneeded",
            name => name,
        };
        let (plan, freed) = step(args, name, &mut out)?;
        steps.push(json!({ "plan": plan, "freed": freed }));
        if !plan.is_possible() {
            if args.json {
                print(&mut out, &json!({ "schema": SCHEMA, "steps": steps }))?;
            }
            let dir = plan.dir.display();
            let what = format!("The stack of {dir} cannot be deduplicated ({name})");
            return Err(Error::refused(what, plan.obstacles));
        }
    }
    if args.json {
        print(&mut out, &json!({ "schema": SCHEMA, "steps": steps }))?;
    }
    Ok(())
}

/// One strategy; what was freed, unless it was not to be.
fn step(args: &Args, name: &str, out: &mut impl Write) -> Result<(Plan, Option<Freed>)> {
    let plan = dedup::plan(&args.images_dir, dedup::strategy(name)?)?;
    if !args.json {
        show(out, &plan).map_err(output)?;
    }
    if !plan.is_possible() || args.dry_run {
        return Ok((plan, None));
    }
    if plan.lost_layers().next().is_some() && !args.yes {
        confirm(out, &plan)?;
    }
    let freed = dedup::apply(&plan, &(), &Cancel::default())?;
    if !args.json && !plan.is_empty() {
        done(out, plan.strategy, &freed).map_err(output)?;
    }
    Ok((plan, Some(freed)))
}

/// The plan, for people.
fn show(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    if plan.is_empty() {
        return writeln!(
            out,
            "{}: nothing to free in the stack of {}",
            plan.strategy,
            plan.dir.display()
        );
    }
    writeln!(
        out,
        "{}, in the stack of {}:",
        plan.strategy,
        plan.dir.display()
    )?;
    for cut in &plan.cuts {
        writeln!(
            out,
            "  {:>10}  {} of {} in {} ranges",
            format_size(cut.bytes, BINARY),
            cut.file().display(),
            cut.pagemap.file_name(),
            cut.ranges.len(),
        )?;
        for part in &cut.mappings {
            let bytes = format_size(part.bytes, BINARY);
            writeln!(
                out,
                "              {bytes:>10}  {}",
                format::plain(&part.mapping)
            )?;
        }
    }
    let total = format_size(plan.bytes, BINARY);
    writeln!(
        out,
        "  {total:>10}  in all, {}",
        format::count(plan.pages, "page")
    )?;
    for victim in plan.lost_layers() {
        writeln!(
            out,
            "  layer {} will NOT BE RESTORABLE any more",
            victim.dir.display()
        )?;
    }
    for text in Standing::now().warnings(plan) {
        writeln!(out, "  {text}")?;
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
fn done(out: &mut impl Write, strategy: &str, freed: &Freed) -> io::Result<()> {
    let shared = strategy == "content";
    for layer in &freed.layers {
        let dir = layer.dir.display();
        if shared {
            // Whose blocks went is not known: the free space of the file system tells only how many.
            let pages = format::count(layer.pages, "page");
            writeln!(out, "  {pages:>10}  share their blocks in {dir}")?;
        } else {
            let bytes = format_size(layer.bytes, BINARY);
            writeln!(out, "  {bytes:>10}  freed in {dir}")?;
        }
    }
    let bytes = format_size(freed.bytes, BINARY);
    let pages = format::count(freed.pages, "page");
    if !shared {
        return writeln!(out, "Freed {bytes} ({pages}), as measured on the disk");
    }
    writeln!(
        out,
        "Freed {bytes} ({pages} shared), as measured by the free space of the file system"
    )?;
    if freed.pages > 0 && freed.bytes == 0 {
        writeln!(
            out,
            "btrfs gives blocks back only where no page of a whole extent is in use any more"
        )?;
    }
    Ok(())
}

fn print(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    writeln!(out, "{value:#}").map_err(output)
}
