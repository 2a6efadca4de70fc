//! The stacks pane: the layers under the images root as rows, newest on top, like a commit graph.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use icecore::chain::{Catalog, Extent, Layer, State};
use icecore::dump::Past;

use super::fuzzy::Fuzzy;
use crate::cli::stacks as graph;
use crate::format;

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StackRow {
    /// The name of a stack.
    Head(String),
    /// A layer.
    Layer(Box<LayerRow>),
    /// Where a branch leaves.
    Fork(String),
}

impl StackRow {
    /// The layer, if it is one.
    pub(crate) fn layer(&self) -> Option<&LayerRow> {
        match self {
            Self::Layer(layer) => Some(layer),
            Self::Head(_) | Self::Fork(_) => None,
        }
    }
}

/// A layer as a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LayerRow {
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// The lines in front of it.
    pub(crate) graph: String,
    /// Its name.
    pub(crate) name: String,
    /// What the user called it.
    pub(crate) label: Option<String>,
    /// Kept from dedup and pruning.
    pub(crate) pinned: bool,
    /// Identity.
    pub(crate) id: Option<String>,
    /// Root process.
    pub(crate) root: Option<u32>,
    /// Its name.
    pub(crate) comm: Option<String>,
    /// Directory of the layer below, if that is here too.
    pub(crate) parent: Option<PathBuf>,
    /// Has a parent.
    pub(crate) incremental: bool,
    /// Made of several.
    pub(crate) squashed: bool,
    /// How long its tree stood still, in nanoseconds.
    pub(crate) freeze: Option<u64>,
    /// Pages stored here.
    pub(crate) stored: u64,
    /// Pages left to the parent.
    pub(crate) in_parent: u64,
    /// On the disk.
    pub(crate) bytes: u64,
    /// Processes.
    pub(crate) tasks: usize,
    /// Whether it can be used.
    pub(crate) state: State,
    /// Why not.
    pub(crate) reason: Option<String>,
    /// When it was made.
    pub(crate) created: Option<SystemTime>,
    /// What its dump was, beside what it was expected to be.
    pub(crate) figures: Figures,
}

impl LayerRow {
    /// How it was made, in at most four letters.
    pub(crate) fn kind(&self) -> &'static str {
        match (self.state, self.incremental) {
            (State::PreDump, _) => "pre",
            (_, _) if self.id.is_none() => "criu",
            (_, _) if self.squashed => "sqsh",
            (_, true) => "inc",
            (_, false) => "full",
        }
    }
}

#[cfg(test)]
impl LayerRow {
    /// A layer of which nothing is known but where it is.
    pub(crate) fn blank(dir: PathBuf) -> Self {
        Self {
            name: dir
                .file_name()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            dir,
            graph: "●".into(),
            label: None,
            pinned: false,
            id: None,
            root: None,
            comm: None,
            parent: None,
            incremental: false,
            squashed: false,
            freeze: None,
            stored: 0,
            in_parent: 0,
            bytes: 0,
            tasks: 1,
            state: State::Complete,
            reason: None,
            created: None,
            figures: Figures::default(),
        }
    }
}

/// A dump in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// What it was.
    pub(crate) past: Option<Past>,
    /// Pages that were expected.
    pub(crate) pages: Option<u64>,
    /// The freeze that was expected.
    pub(crate) freeze: Option<Duration>,
}

/// The rows of a catalog.
pub(crate) fn rows(catalog: &Catalog, root: &Path) -> Vec<StackRow> {
    let mut rows = Vec::new();
    for bottom in catalog.roots() {
        let Some(layer) = catalog.layers().get(bottom) else {
            continue;
        };
        rows.push(StackRow::Head(head(layer, root)));
        for line in graph::graph(catalog, bottom) {
            match line.layer.and_then(|n| Some((n, catalog.layers().get(n)?))) {
                Some((n, layer)) => {
                    let parent = catalog.parent(n).and_then(|n| catalog.layers().get(n));
                    let row = LayerRow {
                        parent: parent.map(|layer| layer.dir.clone()),
                        ..row(layer, line.graph)
                    };
                    rows.push(StackRow::Layer(Box::new(row)));
                }
                None => rows.push(StackRow::Fork(line.graph)),
            }
        }
    }
    rows
}

/// The layers that have the letters of the filter in their name, their label or the name of their stack.
pub(crate) fn filtered(rows: &[StackRow], filter: &str) -> Vec<StackRow> {
    if filter.is_empty() {
        return rows.to_vec();
    }
    let mut fuzzy = Fuzzy::new(filter);
    let mut shown = Vec::new();
    let mut place = "";
    let mut head = None;
    for row in rows {
        match row {
            StackRow::Head(text) => (place, head) = (text, Some(row)),
            StackRow::Fork(_) => {}
            StackRow::Layer(layer) => {
                let label = layer.label.as_deref().unwrap_or_default();
                let text = format!("{place} {} {label}", layer.name);
                if fuzzy.score(&text).is_some() {
                    shown.extend(head.take().cloned());
                    shown.push(row.clone());
                }
            }
        }
    }
    shown
}

fn head(bottom: &Layer, root: &Path) -> String {
    let place = bottom.dir.parent().unwrap_or(&bottom.dir);
    let place = place.strip_prefix(root).unwrap_or(place);
    let place = match place.to_string_lossy() {
        p if p.is_empty() => ".".to_owned(),
        p => format::plain(&p),
    };
    match (&bottom.comm, bottom.root) {
        (Some(comm), Some(pid)) => format!("{place}  {} {pid}", format::plain(comm)),
        _ => place,
    }
}

fn row(layer: &Layer, graph: String) -> LayerRow {
    LayerRow {
        dir: layer.dir.clone(),
        graph,
        name: format::plain(&layer.name),
        label: layer.label.as_deref().map(format::plain),
        pinned: layer.pinned,
        id: layer.id.clone(),
        root: layer.root.filter(|_| !layer.own_pids),
        comm: layer.comm.clone(),
        parent: None,
        incremental: layer.extent == Extent::Incremental,
        squashed: layer.is_squashed(),
        freeze: layer.freeze_ns,
        stored: layer.pages_stored,
        in_parent: layer.pages_in_parent,
        bytes: layer.disk_bytes,
        tasks: layer.tasks,
        state: layer.state,
        reason: layer.reason.as_deref().map(format::plain),
        created: layer.created(),
        figures: Figures {
            past: Past::of_layer(layer),
            pages: layer.predicted_pages,
            freeze: layer.predicted_freeze_ns.map(Duration::from_nanos),
        },
    }
}
