//! The processes pane: the running trees as rows, folded and filtered.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::UNIX_EPOCH;

use icecore::Pid;
use icecore::task::Tree;
use serde::{Deserialize, Serialize};

use super::fuzzy::Fuzzy;
use super::live::Live;
use super::model::Model;
use super::probe::Probe;
use crate::format;

/// What comes first among the children of a process, and among the trees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// The lowest pid.
    #[default]
    Pid,
    /// The most resident memory, with all that is below.
    Memory,
    /// The most threads.
    Threads,
    /// By the alphabet.
    Name,
    /// The most new dirty pages a second, with all that is below.
    DirtyRate,
    /// The most open descriptors, with all that is below.
    Descriptors,
    /// The latest layer.
    LastLayer,
}

impl Order {
    /// The next one.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Pid => Self::Memory,
            Self::Memory => Self::Threads,
            Self::Threads => Self::Name,
            Self::Name => Self::DirtyRate,
            Self::DirtyRate => Self::Descriptors,
            Self::Descriptors => Self::LastLayer,
            Self::LastLayer => Self::Pid,
        }
    }

    /// What the title of the pane says; nothing about the usual one.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Pid => "",
            Self::Memory => " by memory",
            Self::Threads => " by threads",
            Self::Name => " by name",
            Self::DirtyRate => " by dirty rate",
            Self::Descriptors => " by descriptors",
            Self::LastLayer => " by last layer",
        }
    }

    fn sort(self, trees: &mut [&Tree], ranks: &Ranks) {
        let rank = |tree: &Tree| ranks.get(&tree.pid.as_raw()).copied().unwrap_or(0);
        let ranked =
            |tree: &Tree| -> Vec<u64> { tree.walk().map(|(_, tree)| rank(tree)).collect() };
        match self {
            Self::Pid => {}
            // Equals stay in the order of their pids.
            Self::Memory => trees.sort_by_cached_key(|tree| Reverse(tree.total_rss())),
            Self::Threads => trees.sort_by_key(|tree| Reverse(tree.threads)),
            Self::Name => trees.sort_by_cached_key(|tree| short(&tree.cmdline).to_lowercase()),
            Self::DirtyRate | Self::Descriptors => {
                trees.sort_by_cached_key(|tree| Reverse(ranked(tree).iter().sum::<u64>()));
            }
            Self::LastLayer => {
                trees.sort_by_cached_key(|tree| Reverse(ranked(tree).into_iter().max()));
            }
        }
    }
}

/// By pid, what is sorted by where the trees themselves do not tell it; the highest comes first.
pub(crate) type Ranks = BTreeMap<i32, u64>;

/// The ranks for the order of `model`.
pub(crate) fn ranks(model: &Model) -> Ranks {
    match model.order {
        Order::Pid | Order::Memory | Order::Threads | Order::Name => Ranks::new(),
        Order::DirtyRate => {
            // One that is counted comes before those that are not, though it writes nothing new.
            let rate = |live: &Live| live.rate().map_or(1, |rate| rate + 2);
            let all = model.live.iter();
            all.map(|(pid, live)| (*pid, rate(live))).collect()
        }
        Order::Descriptors => {
            let open = |probe: &Probe| probe.descriptors.map(|n| n as u64);
            let all = model.probes.iter();
            all.filter_map(|(pid, probe)| Some((*pid, open(probe)?)))
                .collect()
        }
        Order::LastLayer => {
            let mut ranks = Ranks::new();
            for layer in model.layers() {
                let root = layer.root.and_then(|root| i32::try_from(root).ok());
                let same = |tree: &&Tree| layer.comm.as_deref() == Some(tree.comm.as_str());
                let tree = root.and_then(|pid| model.running(Pid::from_raw(pid)));
                let made = layer
                    .created
                    .and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                if let (Some(tree), Some(made)) = (tree.filter(same), made) {
                    let latest = ranks.entry(tree.pid.as_raw()).or_default();
                    *latest = made.as_secs().max(*latest);
                }
            }
            ranks
        }
    }
}

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
pub(crate) fn rows(
    trees: &[Tree],
    folded: &BTreeSet<i32>,
    filter: &str,
    order: Order,
    ranks: &Ranks,
) -> Vec<ProcessRow> {
    let filter = Filter::of(trees, filter);
    let wanted = Wanted {
        filter: &filter,
        folded,
        order,
        ranks,
    };
    let mut rows = Vec::new();
    let mut trees: Vec<&Tree> = trees.iter().collect();
    order.sort(&mut trees, ranks);
    for tree in trees {
        add(tree, &wanted, String::new(), "", &mut rows);
    }
    rows
}

/// Which rows, and in which order.
struct Wanted<'a> {
    filter: &'a Filter,
    folded: &'a BTreeSet<i32>,
    order: Order,
    ranks: &'a Ranks,
}

fn add(tree: &Tree, wanted: &Wanted<'_>, branch: String, indent: &str, rows: &mut Vec<ProcessRow>) {
    let Wanted { filter, folded, .. } = *wanted;
    if !filter.takes(tree) {
        return;
    }
    let fold = matches!(filter, Filter::All) && folded.contains(&tree.pid.as_raw());
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
    let mut shown: Vec<&Tree> = tree
        .children
        .iter()
        .filter(|child| filter.takes(child))
        .collect();
    wanted.order.sort(&mut shown, wanted.ranks);
    for (n, child) in shown.iter().enumerate() {
        let (knee, bar) = if n + 1 == shown.len() {
            ("└ ", "  ")
        } else {
            ("├ ", "│ ")
        };
        let branch = format!("{indent}{knee}");
        let indent = format!("{indent}{bar}");
        add(child, wanted, branch, &indent, rows);
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

/// Which processes are shown.
enum Filter {
    /// All.
    All,
    /// These, and their ancestors.
    Some(BTreeSet<i32>),
}

impl Filter {
    /// Those that have `text` as it is or, when none has, its letters in this order.
    fn of(trees: &[Tree], text: &str) -> Self {
        if text.is_empty() {
            return Self::All;
        }
        let all = || trees.iter().flat_map(Tree::walk).map(|(_, tree)| tree);
        let pids = |has: &mut dyn FnMut(&Tree) -> bool| -> BTreeSet<i32> {
            let found = all().filter(|tree| has(tree));
            found.map(|tree| tree.pid.as_raw()).collect()
        };
        let lower = text.to_lowercase();
        let exact = pids(&mut |tree| {
            tree.cmdline.to_lowercase().contains(&lower) || tree.pid.to_string().contains(&lower)
        });
        if !exact.is_empty() {
            return Self::Some(exact);
        }
        let mut fuzzy = Fuzzy::new(text);
        Self::Some(pids(&mut |tree| {
            fuzzy.score(short(&tree.cmdline)).is_some()
        }))
    }

    /// Whether it is the process or one below it.
    fn takes(&self, tree: &Tree) -> bool {
        match self {
            Self::All => true,
            Self::Some(pids) => tree
                .walk()
                .any(|(_, tree)| pids.contains(&tree.pid.as_raw())),
        }
    }
}

/// The row that has a filter best.
pub(super) fn best(rows: &[ProcessRow], filter: &str) -> Option<usize> {
    let lower = filter.to_lowercase();
    let exact = |row: &ProcessRow| !lower.is_empty() && row.text.to_lowercase().contains(&lower);
    let mut fuzzy = Fuzzy::new(filter);
    let first = rows.iter().position(exact);
    first.or_else(|| {
        let scores = rows.iter().enumerate();
        let scores = scores.filter_map(|(n, row)| Some((fuzzy.score(&row.text)?, n)));
        let best = scores.max_by_key(|(score, n)| (*score, Reverse(*n)));
        best.filter(|_| !filter.is_empty()).map(|(_, n)| n)
    })
}
