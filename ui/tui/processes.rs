//! The processes pane: the running trees as rows, folded and filtered.

use std::collections::BTreeSet;

use icecore::Pid;
use icecore::task::Tree;

use crate::format;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProcessRow {
    /// Its pid.
    pub(crate) pid: Pid,
    /// Start time: with the pid, its identity.
    pub(crate) start_time: u64,
    /// Its name, as it is.
    pub(crate) comm: String,
    /// The lines in front of it.
    pub(crate) branch: String,
    /// Its command line, safe to show.
    pub(crate) text: String,
    /// Resident bytes.
    pub(crate) rss: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// State letter.
    pub(crate) state: char,
    /// Processes below it that are folded away.
    pub(crate) folded: usize,
    /// Has children.
    pub(crate) parent: bool,
}

/// The rows of `trees`: without what hangs below a pid in `folded`; with a `filter`, only processes
/// whose command line or pid has it, and their ancestors.
pub(crate) fn rows(trees: &[Tree], folded: &BTreeSet<i32>, filter: &str) -> Vec<ProcessRow> {
    let mut rows = Vec::new();
    let filter = filter.to_lowercase();
    for tree in trees {
        add(tree, &filter, folded, String::new(), "", &mut rows);
    }
    rows
}

fn add(
    tree: &Tree,
    filter: &str,
    folded: &BTreeSet<i32>,
    branch: String,
    indent: &str,
    rows: &mut Vec<ProcessRow>,
) {
    if !matches(tree, filter) {
        return;
    }
    let fold = filter.is_empty() && folded.contains(&tree.pid.as_raw());
    rows.push(ProcessRow {
        pid: tree.pid,
        start_time: tree.start_time,
        comm: tree.comm.clone(),
        branch,
        text: format::plain(short(&tree.cmdline)),
        rss: tree.rss,
        threads: tree.threads,
        state: tree.state,
        folded: if fold { tree.len() - 1 } else { 0 },
        parent: !tree.children.is_empty(),
    });
    if fold {
        return;
    }
    let shown: Vec<&Tree> = tree
        .children
        .iter()
        .filter(|child| matches(child, filter))
        .collect();
    for (n, child) in shown.iter().enumerate() {
        let (knee, bar) = if n + 1 == shown.len() {
            ("└ ", "  ")
        } else {
            ("├ ", "│ ")
        };
        let branch = format!("{indent}{knee}");
        let indent = format!("{indent}{bar}");
        add(child, filter, folded, branch, &indent, rows);
    }
}

/// A command line without the directory of the program: there is little room.
fn short(cmdline: &str) -> &str {
    let program = cmdline.split(' ').next().unwrap_or_default();
    let name = program.rfind('/').map_or(0, |slash| slash + 1);
    match cmdline.get(name..) {
        Some(rest) if program.starts_with('/') && !rest.is_empty() => rest,
        _ => cmdline,
    }
}

/// Whether the process or one below it has the filter.
fn matches(tree: &Tree, filter: &str) -> bool {
    filter.is_empty()
        || tree.walk().any(|(_, tree)| {
            tree.cmdline.to_lowercase().contains(filter) || tree.pid.to_string().contains(filter)
        })
}
