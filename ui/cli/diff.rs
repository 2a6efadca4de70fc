//! `icecore diff A B`: what became of a tree from one layer to another.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use icecore::inspect::{self, Change, Diff, Mapping, Pages, Space, TaskDiff, View};
use icecore::{Error, Kind, PAGE_SIZE, PageRange, Result, Vaddr};

use super::output::output;
use super::schema::versioned;
use crate::format;

/// Options of `diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the first layer
    #[arg(value_parser = crate::home::place)]
    from: PathBuf,
    /// Directory of the second layer
    #[arg(value_parser = crate::home::place)]
    to: PathBuf,
    /// Show the page at this address in both layers instead
    #[arg(long, value_name = "ADDR", value_parser = address)]
    hex: Option<Vaddr>,
    /// With --hex: the process (default: the first in which the address is mapped)
    #[arg(long, value_name = "PID", requires = "hex")]
    pid: Option<u32>,
    /// Print the differences as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn address(text: &str) -> std::result::Result<Vaddr, String> {
    Vaddr::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16)
        .map_err(|_not_hex| "an address is a hexadecimal number".to_owned())
}

/// Prints the differences; the exit code tells whether there are any.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (from, to) = (View::open(&args.from)?, View::open(&args.to)?);
    let mut out = io::stdout().lock();
    if let Some(addr) = args.hex {
        return hex(&mut out, args, &from, &to, addr);
    }
    let diff = inspect::diff(&from, &to, &mut |_| {})?;
    let written = if args.json {
        let all = versioned(&diff)?;
        writeln!(out, "{all:#}")
    } else {
        show(&mut out, &diff)
    };
    written.map_err(output)?;
    Ok(outcome(diff.tasks.is_empty() && diff.segments.is_empty()))
}

fn outcome(same: bool) -> ExitCode {
    if same {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Kind::Differs.exit_code())
    }
}

fn show(out: &mut impl Write, diff: &Diff) -> io::Result<()> {
    for task in &diff.tasks {
        writeln!(
            out,
            "process {} {}{}",
            task.pid,
            format::plain(&task.comm),
            word(task.change)
        )?;
        show_task(out, task)?;
    }
    for segment in &diff.segments {
        writeln!(
            out,
            "shared segment {}{}",
            segment.shmid,
            word(segment.change)
        )?;
        segment
            .pages
            .iter()
            .try_for_each(|pages| show_pages(out, pages))?;
    }
    Ok(())
}

/// The differences in lines; empty when there are none.
pub(crate) fn text(diff: &Diff) -> String {
    let mut out = Vec::new();
    // Writing to a Vec cannot fail.
    let _written = show(&mut out, diff);
    String::from_utf8_lossy(&out).into_owned()
}

fn word(change: Change) -> &'static str {
    match change {
        Change::Appeared => ": new",
        Change::Gone => ": gone",
        Change::Replaced => ": another one",
        Change::Changed => "",
    }
}

fn sign(change: Change) -> char {
    match change {
        Change::Appeared => '+',
        Change::Gone => '-',
        Change::Replaced => '!',
        Change::Changed => '~',
    }
}

fn show_task(out: &mut impl Write, task: &TaskDiff) -> io::Result<()> {
    let list = |tids: &[u32]| {
        tids.iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    for (what, tids) in [
        ("new", &task.threads_appeared),
        ("gone", &task.threads_gone),
        ("moved on", &task.threads_moved),
    ] {
        if !tids.is_empty() {
            writeln!(out, "  threads {what}: {}", list(tids))?;
        }
    }
    for fd in &task.descriptors {
        let text = |d: &Option<String>| d.as_deref().map(format::plain).unwrap_or_default();
        let (from, to) = (text(&fd.from), text(&fd.to));
        let arrow = if from.is_empty() || to.is_empty() {
            ""
        } else {
            " -> "
        };
        writeln!(out, "  {} fd {}: {from}{arrow}{to}", sign(fd.change), fd.fd)?;
    }
    for mapping in &task.mappings {
        let text =
            |m: &Mapping| format!("{} {} {}", m.range, m.permissions(), format::plain(&m.name));
        let (from, to) = (
            mapping.from.as_ref().map(text),
            mapping.to.as_ref().map(text),
        );
        let arrow = if from.is_some() && to.is_some() {
            " -> "
        } else {
            ""
        };
        let (from, to) = (from.unwrap_or_default(), to.unwrap_or_default());
        writeln!(
            out,
            "  {} mapping {}{arrow}{}",
            sign(mapping.change),
            from.trim(),
            to.trim()
        )?;
    }
    task.pages
        .iter()
        .try_for_each(|pages| show_pages(out, pages))
}

fn show_pages(out: &mut impl Write, pages: &Pages) -> io::Result<()> {
    let mut words = Vec::new();
    if !pages.changed.is_empty() {
        let count = format::count(pages.changed.pages(), "page");
        words.push(format!(
            "{count} changed ({} differ)",
            format::count(pages.bytes, "byte")
        ));
    }
    for (what, set) in [("new", &pages.appeared), ("gone", &pages.gone)] {
        if !set.is_empty() {
            words.push(format!("{} {what}", format::count(set.pages(), "page")));
        }
    }
    let first = [&pages.changed, &pages.appeared, &pages.gone];
    let first = first
        .iter()
        .filter_map(|set| set.iter().next())
        .map(|range| range.start)
        .min();
    writeln!(
        out,
        "  {} {}: {}, first at {:x}",
        pages.mapping,
        format::plain(&pages.name),
        words.join(", "),
        first.unwrap_or_default(),
    )
}

/// The page at `addr` in both layers: equal lines once, others above each other.
fn hex(out: &mut impl Write, args: &Args, from: &View, to: &View, addr: Vaddr) -> Result<ExitCode> {
    let pid = match args.pid {
        Some(pid) => pid,
        None => mapper(to, addr)?.or(mapper(from, addr)?).ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                format!("Nothing is mapped at {addr:x} in either layer"),
            )
        })?,
    };
    let start = addr - addr % PAGE_SIZE;
    let (a, b) = (
        page(&from.space(pid)?, start)?,
        page(&to.space(pid)?, start)?,
    );
    let mut here = start;
    for (x, y) in a.chunks(16).zip(b.chunks(16)) {
        let (x_line, y_line) = (format::hex_line(here, x), format::hex_line(here, y));
        let written = if x == y {
            writeln!(out, "  {x_line}")
        } else {
            writeln!(out, "- {x_line}\n+ {y_line}")
        };
        written.map_err(output)?;
        here += 16;
    }
    Ok(outcome(a == b))
}

/// The first process that has something mapped at `addr`.
fn mapper(view: &View, addr: Vaddr) -> Result<Option<u32>> {
    for task in view.tasks().iter().filter(|task| task.alive) {
        if view.space(task.pid)?.mapping_at(addr).is_some() {
            return Ok(Some(task.pid));
        }
    }
    Ok(None)
}

/// The bytes of a page; a remark on stderr where no layer holds them.
fn page(space: &Space<'_>, start: Vaddr) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let catted = inspect::cat(space, PageRange::of_pages(start, 1), &mut bytes)?;
    for part in catted.absent {
        super::note(&format!(
            "{}: {}",
            part.range,
            part.source.absence().unwrap_or_default()
        ));
    }
    Ok(bytes)
}
