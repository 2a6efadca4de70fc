//! `icecore stacks [DIR]`: the layers under a directory as a graph, newest on top, like commits.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::SystemTime;

use humansize::{BINARY, format_size};

use icecore::chain::{Catalog, Extent, Layer, State};
use icecore::{Kind, Obstacle, Result};

use super::output::output;
use super::schema::versioned;
use crate::{format, rights};

/// List the stacks under a directory, with their layers and branches.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to look, directories below included.
    #[arg(value_name = "DIR", default_value = ".", value_parser = crate::home::place)]
    pub dir: PathBuf,
    /// Print the catalog as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints the catalog.
pub(crate) fn run(args: &Args) -> Result<()> {
    let catalog = Catalog::scan(&args.dir)?;
    let mut out = io::stdout().lock();
    let written = if args.json {
        let all = versioned(&catalog)?;
        writeln!(out, "{all:#}")
    } else {
        show(&mut out, &catalog, &args.dir)
    };
    written.map_err(output)
}

fn show(out: &mut impl Write, catalog: &Catalog, dir: &std::path::Path) -> io::Result<()> {
    if catalog.layers().is_empty() {
        writeln!(out, "No layers under {}", dir.display())?;
    }
    for root in catalog.roots() {
        let lines = graph(catalog, root);
        let width = lines.iter().map(Line::width).max().unwrap_or(0);
        let Some(bottom) = catalog.layers().get(root) else {
            continue;
        };
        let place = bottom.dir.parent().unwrap_or(&bottom.dir).display();
        let layers = lines.iter().filter(|line| line.layer.is_some()).count();
        let layers = format::count(layers as u64, "layer");
        writeln!(out, "{place}  {}  {layers}", who(bottom))?;
        for line in lines {
            let Some(layer) = line.layer.and_then(|layer| catalog.layers().get(layer)) else {
                writeln!(out, "  {}", line.graph)?;
                continue;
            };
            let pad = width - line.width();
            writeln!(
                out,
                "  {} {}{:pad$}  {}",
                line.graph,
                line.name,
                "",
                describe(layer)
            )?;
        }
        writeln!(out)?;
    }
    for unreadable in catalog.unreadable() {
        writeln!(out, "{unreadable}")?;
    }
    let denied = |unreadable: &Obstacle| unreadable.kind == Kind::Permission;
    if catalog.unreadable().iter().any(denied)
        && let Some(command) = rights::as_root()
    {
        writeln!(out, "as root: {command}")?;
    }
    Ok(())
}

/// One line of the graph: a layer, or a fork.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) graph: String,
    name: String,
    pub(crate) layer: Option<usize>,
}

impl Line {
    fn width(&self) -> usize {
        self.graph.chars().count() + 1 + self.name.chars().count()
    }
}

enum Todo {
    Tree(usize, String),
    Layer(usize, String),
    Fork(String),
}

/// The layers above `root` and `root` itself, newest first; each branch beside the main line has a
/// column of its own.
pub(crate) fn graph(catalog: &Catalog, root: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut todo = vec![Todo::Tree(root, String::new())];
    while let Some(next) = todo.pop() {
        match next {
            Todo::Tree(layer, column) => {
                todo.push(Todo::Layer(layer, column.clone()));
                if let [main, branches @ ..] = catalog.children(layer) {
                    for branch in branches {
                        todo.push(Todo::Fork(column.clone()));
                        todo.push(Todo::Tree(*branch, format!("{column}│ ")));
                    }
                    todo.push(Todo::Tree(*main, column));
                }
            }
            Todo::Layer(index, column) => {
                let Some(layer) = catalog.layers().get(index) else {
                    continue;
                };
                let graph = format!("{column}{}", mark(layer.state));
                lines.push(Line {
                    graph,
                    name: layer.name.clone(),
                    layer: Some(index),
                });
            }
            Todo::Fork(column) => {
                let graph = format!("{column}├─╯");
                lines.push(Line {
                    graph,
                    name: String::new(),
                    layer: None,
                });
            }
        }
    }
    lines
}

fn mark(state: State) -> char {
    match state {
        State::Complete => '●',
        State::PreDump => '○',
        State::Consumed => '◌',
        State::Partial => '…',
        State::Orphan | State::Damaged => '✗',
    }
}

fn who(layer: &Layer) -> String {
    match (&layer.comm, layer.root) {
        (Some(comm), Some(pid)) => format!("{comm} {pid}"),
        _ => "memory only".to_owned(),
    }
}

fn describe(layer: &Layer) -> String {
    let extent = match layer.extent {
        Extent::Full => "full",
        Extent::Incremental => "incremental",
    };
    let mut text = format!(
        "{:>10}  {extent:11}  {}, {} pages here, {} in parent",
        format_size(layer.disk_bytes, BINARY),
        format::count(layer.tasks as u64, "task"),
        layer.pages_stored,
        layer.pages_in_parent,
    );
    if let Some(age) = layer
        .created()
        .and_then(|at| SystemTime::now().duration_since(at).ok())
    {
        text += &format!("  {} ago", short(age.as_secs()));
    }
    if let Some(label) = &layer.label {
        text += &format!("  “{label}”");
    }
    if layer.state != State::Complete {
        text += &format!(
            "  {}: {}",
            layer.state.as_str(),
            layer.reason.as_deref().unwrap_or("?")
        );
    }
    text
}

/// A duration in its largest unit.
fn short(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}
