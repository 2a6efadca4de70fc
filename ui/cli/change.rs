//! What all commands that change stacks have in common: show the plan, ask, apply, say what was done.

use std::io::{self, BufRead as _, IsTerminal as _, Write};

use icecore::edit::{self, Applied, Plan};
use icecore::{Cancel, Error, Kind, Result};
use serde_json::json;

use super::output::output;
use super::schema::versioned;
use crate::format;

/// Options of commands that plan first.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Show what would be done; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, although layers go
    #[arg(short, long)]
    yes: bool,
    /// Print the plan and the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Shows, asks, applies.
pub(crate) fn carry_out(plan: Plan, options: &Options) -> Result<()> {
    let mut out = io::stdout().lock();
    if !options.json {
        show(&mut out, &plan).map_err(output)?;
    }
    if !plan.is_possible() || options.dry_run {
        if options.json {
            print(&mut out, &versioned(&json!({ "plan": plan }))?)?;
        }
        if !plan.is_possible() {
            let what = format!("Cannot {} these layers", plan.operation);
            return Err(Error::refused(what, plan.obstacles));
        }
        return Ok(());
    }
    if !plan.removals.is_empty() && !options.yes {
        confirm(&mut out, &plan)?;
    }
    let applied = edit::apply(&plan, &(), &Cancel::default())?;
    if options.json {
        let all = json!({ "plan": plan, "applied": applied });
        return print(&mut out, &versioned(&all)?);
    }
    if plan.is_empty() {
        return Ok(());
    }
    done(&mut out, &applied).map_err(output)
}

fn show(out: &mut impl Write, plan: &Plan) -> io::Result<()> {
    for warning in &plan.warnings {
        writeln!(out, "warning: {}", warning.what)?;
    }
    if plan.is_empty() && plan.is_possible() {
        return writeln!(out, "Nothing to do");
    }
    for rewrite in &plan.rewrites {
        let place = rewrite.into.as_ref().unwrap_or(&rewrite.dir).display();
        let parent = rewrite
            .parent
            .as_ref()
            .map_or("stands alone".to_owned(), |parent| {
                format!("on {}", parent.display())
            });
        let pages = format::count(rewrite.pages, "page");
        let bytes = format::bytes(rewrite.bytes);
        writeln!(
            out,
            "  {place}: {parent}, takes over {pages} (writes {bytes})"
        )?;
    }
    for removal in &plan.removals {
        let label = removal
            .label
            .as_ref()
            .map(|l| format!("  “{}”", format::plain(l)));
        let dir = removal.dir.display();
        let bytes = format::bytes(removal.bytes);
        writeln!(out, "  {dir} GOES ({bytes}){}", label.unwrap_or_default())?;
    }
    Ok(())
}

fn confirm(out: &mut impl Write, plan: &Plan) -> Result<()> {
    let names: Vec<&str> = plan
        .removals
        .iter()
        .map(|gone| gone.name.as_str())
        .collect();
    let (count, names) = (format::count(names.len() as u64, "layer"), names.join(", "));
    ask(
        out,
        &format!("{count} would go ({names})"),
        &format!("Give up {count} ({names})?"),
    )
}

/// Asks for a `yes`; `otherwise` says what would happen.
pub(crate) fn ask(out: &mut impl Write, otherwise: &str, question: &str) -> Result<()> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        let what = format!("{otherwise}, and there is no terminal to ask at");
        return Err(Error::new(Kind::Usage, what)
            .hint("Add --yes to do it, or --dry-run to see the plan only"));
    }
    write!(out, "{question} Type yes: ").map_err(output)?;
    out.flush().map_err(output)?;
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    read.map_err(|e| Error::io("Cannot read the answer", e))?;
    if answer.trim() == "yes" {
        return Ok(());
    }
    Err(Error::new(Kind::Cancelled, "Nothing was changed"))
}

fn done(out: &mut impl Write, applied: &Applied) -> io::Result<()> {
    writeln!(
        out,
        "{} removed, {} written anew ({} of pages)",
        format::count(applied.removed as u64, "layer"),
        applied.rewritten,
        format::bytes(applied.bytes_written),
    )
}

fn print(out: &mut impl Write, value: &serde_json::Value) -> Result<()> {
    writeln!(out, "{value:#}").map_err(output)
}
