//! `icecore ps [PID]`: the running processes as trees.

use std::io::{self, Write};

use icecore::task::{self, Tree};
use icecore::{Error, Kind, Pid, Result};

use serde_json::json;

use super::output::output;
use super::schema::versioned;
use crate::format;

/// Options of `ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the tree below this process
    #[arg(value_name = "PID")]
    pid: Option<i32>,
    /// Print the trees as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints the trees.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut trees = task::trees()?;
    if let Some(pid) = args.pid {
        let found = trees
            .iter()
            .find_map(|tree| tree.find(Pid::from_raw(pid)))
            .ok_or_else(|| {
                Error::new(Kind::NotFound, format!("There is no process {pid}"))
                    .hint("icecore ps lists the running process trees")
            })?;
        trees = vec![found.clone()];
    }
    let mut out = io::stdout().lock();
    let written = if args.json {
        let all = versioned(&json!({ "trees": trees }))?;
        writeln!(out, "{all:#}")
    } else {
        show(&mut out, &trees)
    };
    written.map_err(output)
}

fn show(out: &mut impl Write, trees: &[Tree]) -> io::Result<()> {
    writeln!(out, "{:>7}  {:>10} {:>4} S  COMMAND", "PID", "RSS", "THR")?;
    for (branch, tree) in trees.iter().flat_map(branches) {
        writeln!(
            out,
            "{:>7}  {:>10} {:>4} {}  {branch}{}",
            tree.pid,
            format::bytes(tree.rss),
            tree.threads,
            tree.state,
            format::plain(&tree.cmdline),
        )?;
    }
    Ok(())
}

/// All processes of a tree with the lines that show where they hang.
pub(crate) fn branches(root: &Tree) -> Vec<(String, &Tree)> {
    let mut rows = vec![(String::new(), root)];
    below(root, "", &mut rows);
    rows
}

fn below<'a>(tree: &'a Tree, indent: &str, rows: &mut Vec<(String, &'a Tree)>) {
    for (n, child) in tree.children.iter().enumerate() {
        let last = n + 1 == tree.children.len();
        let (knee, bar) = if last {
            ("└ ", "  ")
        } else {
            ("├ ", "│ ")
        };
        rows.push((format!("{indent}{knee}"), child));
        below(child, &format!("{indent}{bar}"), rows);
    }
}
