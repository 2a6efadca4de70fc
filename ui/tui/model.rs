//! Everything the screen shows. Views read it; only `update` changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use icecore::Pid;
use icecore::task::Tree;
use serde::{Deserialize, Serialize};
use tui_input::Input;

use super::board::Board;
use super::coloring::Coloring;
use super::follow::Follow;
use super::guide::{Facts, Guide};
use super::history::{History, Said};
use super::inquiry::Answer;
use super::kept::Kept;
use super::keymap::Keymap;
use super::live::Live;
use super::logbook;
use super::map::{Folded, Map, Zoom};
use super::message::Failure;
use super::owned::Uses;
use super::panel::Panels;
use super::popup::{Mark, Popup};
use super::probe::{Asked, Probe, Who};
use super::processes::{self, Order, ProcessRow};
use super::reader::Look;
use super::spots::Spots;
use super::stacks::{self, LayerRow, StackRow};
use super::surplus::Surplus;
use super::text::wrap;
use super::theme::Theme;
use super::undo::Back;
use super::view::{self, Areas, BESIDE_BANNER};
use super::voice::Voice;
use super::way::Way;

/// Lines of the log that are kept.
const LOG: usize = 200;

/// How long a toast shows.
const TOAST: Duration = Duration::from_secs(6);
/// Toasts at the same time.
const TOASTS: usize = 3;

/// The pane with the keyboard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Focus {
    /// Running processes.
    #[default]
    Processes,
    /// Layers.
    Stacks,
    /// The ownership map.
    Map,
    /// The jobs and the log, over the whole screen.
    Jobs,
    /// What the selected tree writes, and what a dump of it would be, over the whole screen.
    Watch,
    /// What the stack of a layer stores for nothing, over the whole screen.
    Dedup,
}

/// Where one is in a list, and which part of it is shown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    /// The selected row.
    pub(crate) at: usize,
    /// The first row shown.
    pub(crate) offset: usize,
}

impl Cursor {
    /// Keeps the cursor in a list of `len` rows and in the `height` rows shown of it.
    pub(crate) fn clamp(&mut self, len: usize, height: usize) {
        self.at = self.at.min(len.saturating_sub(1));
        let height = height.max(1);
        // Some rows around the cursor stay visible, where there are any.
        let around = (height / 4).min(3);
        self.offset = self
            .offset
            .min(self.at.saturating_sub(around))
            .max((self.at + 1 + around).saturating_sub(height))
            .min(len.saturating_sub(height));
    }
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Model {
    /// How things look.
    pub(crate) theme: Theme,
    /// What keys do.
    pub(crate) keys: Keymap,
    /// Columns and rows.
    pub(crate) size: (u16, u16),
    /// The images root.
    pub(crate) root: PathBuf,
    /// The pane with the keyboard.
    pub(crate) focus: Focus,
    /// It has the whole screen, whichever it is.
    pub(crate) enlarged: bool,
    /// Running processes.
    pub(crate) trees: Vec<Tree>,
    /// Pids that are tracked, with the layer (identity) since which they are.
    pub(crate) tracked: BTreeMap<i32, Option<String>>,
    /// What else is known of those that were seen.
    pub(crate) probes: BTreeMap<i32, Probe>,
    /// Processes as rows.
    pub(crate) processes: Vec<ProcessRow>,
    /// The selected one.
    pub(crate) process_cursor: Cursor,
    /// Pids whose children are folded away.
    pub(crate) folded: BTreeSet<i32>,
    /// Marked processes, with their start times.
    pub(crate) marks: BTreeMap<i32, u64>,
    /// The boxes of the watch view.
    pub(crate) panels: Panels,
    /// How processes are sorted.
    pub(crate) order: Order,
    /// Text that shown processes have.
    pub(crate) filter: Input,
    /// Keys go into the filter.
    pub(crate) filtering: bool,
    /// All layers as rows.
    pub(crate) catalog: Vec<StackRow>,
    /// Those that are shown.
    pub(crate) stacks: Vec<StackRow>,
    /// Text that shown layers have.
    pub(crate) stack_filter: Input,
    /// The selected one.
    pub(crate) stack_cursor: Cursor,
    /// Why there are none.
    pub(crate) stacks_failure: Option<Failure>,
    /// How much of each layer is still read.
    pub(crate) owned: Uses,
    /// The map of the selected layer (or of the one before, until it is computed).
    pub(crate) map: Option<Arc<Map>>,
    /// The same on the grid of the pane.
    pub(crate) pixels: Folded,
    /// Columns and pixel rows of that grid.
    pub(crate) grid: (u16, u16),
    /// What the colours of the map tell.
    pub(crate) coloring: Coloring,
    /// How much of the layer the map shows.
    pub(crate) zoom: Zoom,
    /// The selected pixel.
    pub(crate) pixel: usize,
    /// Why there is no map.
    pub(crate) map_failure: Option<Failure>,
    /// The directory whose map is shown or being computed.
    pub(crate) mapped: Option<PathBuf>,
    /// Counts of tracked trees, by the pid of the root.
    pub(crate) live: BTreeMap<i32, Live>,
    /// Rules that are followed, by the pid of the root.
    pub(crate) follows: BTreeMap<i32, Follow>,
    /// The tree whose counts are shown.
    pub(crate) watched: Option<Pid>,
    /// The ways back of trees that were rolled back, the latest last.
    pub(crate) undo: Vec<Back>,
    /// The jobs.
    pub(crate) board: Board,
    /// The selected one: those that have not ended come first.
    pub(crate) job_cursor: Cursor,
    /// What happened in earlier runs.
    pub(crate) past: History,
    /// Lines of the log of earlier runs with this images root, the latest last.
    pub(crate) earlier: Vec<Said>,
    /// The keyboard is in the log rather than in the jobs.
    pub(crate) in_log: bool,
    /// How many lines after the selected one there are in the log.
    pub(crate) log_back: usize,
    /// Text that shown lines of the log have.
    pub(crate) log_filter: Input,
    /// The pane to go back to from a view over the whole screen.
    pub(crate) back: Focus,
    /// How long the terminal UI has been running, at the latest message.
    pub(crate) clock: Duration,
    /// What has just ended: until when it shows, and how it ended.
    pub(crate) toasts: VecDeque<(Duration, Mark, String)>,
    /// How one came down to the selected layer.
    pub(crate) way: Way,
    /// What the stack of a layer stores for nothing, while that is looked at.
    pub(crate) surplus: Option<Surplus>,
    /// The layer that others are compared with.
    pub(crate) marked: Option<PathBuf>,
    /// What is being read for the reader.
    pub(crate) looking: Option<Look>,
    /// What lies over the screen.
    pub(crate) popup: Option<Popup>,
    /// The first line of a dialog that is shown.
    pub(crate) scroll: usize,
    /// Where that was opened from: Esc leads back.
    pub(crate) trail: Vec<Answer>,
    /// What happened, latest last, with the second of the day.
    pub(crate) log: VecDeque<(u64, Mark, String)>,
    /// The time.
    pub(crate) now: SystemTime,
    /// Counted for tours.
    pub(crate) facts: Facts,
    /// What whoever started the terminal UI has to say.
    pub(crate) status: Option<String>,
    /// The tour.
    pub(crate) guide: Option<Guide>,
    /// The process to select as soon as it is listed; until then keys mean this one.
    pub(crate) select: Option<Pid>,
    /// How often it was not listed.
    pub(crate) missed: u8,
    /// The layer to select as soon as it is listed.
    pub(crate) select_layer: Option<PathBuf>,
    /// The program is to stop, as soon as no target is held.
    pub(crate) stopping: bool,
    /// What was kept from the last run, as far as it is still needed.
    pub(crate) kept: Kept,
    /// What screen readers are told, where there is one.
    pub(crate) voice: Option<Voice>,
    /// What a click means, as the views noted it when they drew.
    pub(crate) spots: Spots,
    /// Leave as soon as no job runs any more.
    pub(crate) leaving: bool,
    /// Leave.
    pub(crate) quit: bool,
}

impl Model {
    /// An empty screen.
    pub(crate) fn new(root: PathBuf, theme: Theme, size: (u16, u16)) -> Self {
        Self {
            theme,
            keys: Keymap::default(),
            size,
            root,
            focus: Focus::Processes,
            enlarged: false,
            trees: Vec::new(),
            tracked: BTreeMap::new(),
            probes: BTreeMap::new(),
            processes: Vec::new(),
            process_cursor: Cursor::default(),
            folded: BTreeSet::new(),
            marks: BTreeMap::new(),
            panels: Panels::default(),
            order: Order::default(),
            filter: Input::default(),
            filtering: false,
            catalog: Vec::new(),
            stacks: Vec::new(),
            stack_filter: Input::default(),
            stack_cursor: Cursor::default(),
            stacks_failure: None,
            owned: Uses::new(),
            map: None,
            pixels: Folded::default(),
            grid: (0, 0),
            coloring: Coloring::default(),
            zoom: Zoom::default(),
            pixel: 0,
            map_failure: None,
            mapped: None,
            live: BTreeMap::new(),
            follows: BTreeMap::new(),
            watched: None,
            undo: Vec::new(),
            board: Board::default(),
            job_cursor: Cursor::default(),
            past: History::default(),
            earlier: Vec::new(),
            in_log: false,
            log_back: 0,
            log_filter: Input::default(),
            back: Focus::Processes,
            clock: Duration::ZERO,
            toasts: VecDeque::new(),
            way: Way::default(),
            surplus: None,
            marked: None,
            looking: None,
            popup: None,
            scroll: 0,
            trail: Vec::new(),
            log: VecDeque::new(),
            now: SystemTime::UNIX_EPOCH,
            facts: Facts::default(),
            status: None,
            guide: None,
            select: None,
            missed: 0,
            select_layer: None,
            stopping: false,
            kept: Kept::default(),
            voice: None,
            spots: Spots::default(),
            leaving: false,
            quit: false,
        }
    }

    /// The selected process.
    pub(crate) fn process(&self) -> Option<&ProcessRow> {
        self.processes.get(self.process_cursor.at)
    }

    /// What a dump is about: the selected process, with its name. A process that was just restored
    /// counts as selected before it is listed.
    pub(crate) fn target(&self) -> Option<(Pid, String)> {
        let listed = || self.process().map(|row| (row.pid, row.comm.clone()));
        match self.select {
            Some(pid) => {
                let comm = self.running(pid).map(|tree| tree.comm.clone());
                Some((pid, comm.unwrap_or_else(|| "process".into())))
            }
            None => listed(),
        }
    }

    /// The keyboard is in the watch view, and that has boxes to go through.
    pub(crate) fn has_panels(&self) -> bool {
        let counted = |pid: Pid| self.live.get(&pid.as_raw())?.last.as_ref();
        let counted = self.target().and_then(|(pid, _)| counted(pid));
        self.focus == Focus::Watch && self.voice.is_none() && counted.is_some()
    }

    /// The selected layer.
    pub(crate) fn layer(&self) -> Option<&LayerRow> {
        self.stacks.get(self.stack_cursor.at)?.layer()
    }

    /// All layers, in the order of the rows: of each stack the newest first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &LayerRow> {
        self.catalog.iter().filter_map(StackRow::layer)
    }

    /// The layers that would be compared: the marked one, or the one below, and the selected one.
    pub(crate) fn compared(&self) -> Option<(PathBuf, PathBuf)> {
        let to = self.layer()?;
        let marked = self.marked.as_ref().filter(|dir| **dir != to.dir);
        let from = marked.or(to.parent.as_ref())?;
        Some((from.clone(), to.dir.clone()))
    }

    /// The row of the layer in `dir`.
    pub(crate) fn layer_row(&self, dir: &Path) -> Option<usize> {
        let at = |row: &StackRow| row.layer().is_some_and(|layer| layer.dir == dir);
        self.stacks.iter().position(at)
    }

    /// The layers made of a process, newest first.
    pub(crate) fn layers_of(&self, pid: Pid, comm: &str) -> Vec<&LayerRow> {
        let mut layers: Vec<&LayerRow> = self
            .layers()
            .filter(|l| l.root.and_then(|root| i32::try_from(root).ok()) == Some(pid.as_raw()))
            .filter(|l| l.comm.as_deref() == Some(comm))
            .collect();
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.created));
        layers
    }

    /// How old the newest layer of a process is.
    pub(crate) fn since_layer(&self, pid: Pid, comm: &str) -> Option<Duration> {
        let newest = self.layers_of(pid, comm).first()?.created?;
        self.now.duration_since(newest).ok()
    }

    /// The process `pid`, if it runs.
    pub(crate) fn running(&self, pid: Pid) -> Option<&Tree> {
        self.trees.iter().find_map(|tree| tree.find(pid))
    }

    /// Where everything is on the screen.
    pub(crate) fn areas(&self) -> Areas {
        let columns = usize::from(self.size.0).saturating_sub(BESIDE_BANNER);
        let rows = self.guide.as_ref().map_or(0, |guide| {
            // As many as its text needs.
            wrap(&guide.banner(), columns).len()
        });
        view::areas(self.size, rows, self.focus, self.enlarged)
    }

    /// The processes of which more is to be found out: those that are seen, and those whose descriptors are
    /// to be counted, since the list is sorted by that.
    pub(crate) fn asked(&self) -> Asked {
        let seen = self.seen();
        let all = self.trees.iter().flat_map(Tree::walk);
        let count = if self.order == Order::Descriptors && !seen.is_empty() {
            all.map(|(_, tree)| (tree.pid, tree.start_time)).collect()
        } else {
            Vec::new()
        };
        Asked { seen, count }
    }

    /// The processes that are seen.
    fn seen(&self) -> Vec<Who> {
        let areas = self.areas();
        let room = usize::from(areas.of(Focus::Processes).height.saturating_sub(3));
        let rows = self.processes.iter().skip(self.process_cursor.offset);
        rows.take(room)
            .map(|row| (row.pid, row.start_time))
            .collect()
    }

    /// Adds a line to the log.
    pub(crate) fn note(&mut self, mark: Mark, text: impl Into<String>) {
        let since = self.now.duration_since(SystemTime::UNIX_EPOCH);
        let second = since.unwrap_or(Duration::ZERO).as_secs() % 86400;
        let text = text.into();
        // Who reads an earlier line goes on reading that.
        let reads = self.log_back > 0 && logbook::matches(self, &text);
        self.log_back += usize::from(reads);
        self.log.push_back((second, mark, text));
        while self.log.len() > LOG {
            self.log.pop_front();
        }
    }

    /// Shows something for a while.
    pub(crate) fn toast(&mut self, mark: Mark, text: impl Into<String>) {
        self.toasts
            .push_back((self.clock + TOAST, mark, text.into()));
        while self.toasts.len() > TOASTS {
            self.toasts.pop_front();
        }
    }

    /// Lists the processes anew; the cursor stays on its process.
    pub(crate) fn list_processes(&mut self) {
        let was = self.process().map(|row| row.pid);
        let ranks = processes::ranks(self);
        let (folded, filter) = (&self.folded, self.filter.value());
        self.processes = processes::rows(&self.trees, folded, filter, self.order, &ranks);
        let wanted = self.select.or(was);
        if let Some(at) = wanted.and_then(|pid| self.processes.iter().position(|r| r.pid == pid)) {
            self.process_cursor.at = at;
            if self.select == wanted {
                self.select = None;
            }
        }
    }

    /// Lists the layers anew; the cursor stays on its layer, or goes to `wanted`.
    pub(crate) fn list_stacks(&mut self, wanted: Option<&Path>) {
        let was = self.layer().map(|layer| layer.dir.clone());
        self.stacks = stacks::filtered(&self.catalog, self.stack_filter.value());
        let wanted = wanted.and_then(|dir| self.layer_row(dir));
        let again = || was.and_then(|dir| self.layer_row(&dir));
        let first = || self.stacks.iter().position(|row| row.layer().is_some());
        self.stack_cursor.at = wanted.or_else(again).or_else(first).unwrap_or(0);
    }

    /// The filter of the pane with the keyboard.
    pub(crate) fn filter_here(&mut self) -> &mut Input {
        match self.focus {
            Focus::Stacks => &mut self.stack_filter,
            Focus::Jobs => &mut self.log_filter,
            Focus::Processes | Focus::Map | Focus::Watch | Focus::Dedup => &mut self.filter,
        }
    }

    /// Brings everything in line that follows from something else. Called after each change.
    pub(crate) fn settle(&mut self) {
        let areas = self.areas();
        let rows = |height: u16| usize::from(height.saturating_sub(3));
        self.process_cursor.clamp(
            self.processes.len(),
            rows(areas.of(Focus::Processes).height),
        );
        self.stack_cursor
            .clamp(self.stacks.len(), rows(areas.of(Focus::Stacks).height));
        let jobs = self.board.jobs.len() + self.board.ended.len();
        let shown = rows(areas.of(Focus::Jobs).height * 3 / 5);
        self.job_cursor.clamp(jobs, shown);
        if self.log_back > 0 {
            let last = logbook::entries(self).len().saturating_sub(1);
            self.log_back = self.log_back.min(last);
        }
        let grid = view::grid(areas.of(Focus::Map), self.theme);
        let pixels = usize::from(grid.0) * usize::from(grid.1);
        let changed = self.grid != grid;
        self.grid = grid;
        if changed || self.pixels.pages_per_pixel == 0 {
            self.fold();
        }
        self.pixel = self
            .pixel
            .min(self.pixels.pixels.len().min(pixels).saturating_sub(1));
        self.facts.map_visited |= self.focus == Focus::Map && self.map.is_some();
        self.facts.layers = self.layers().count();
        self.facts.layer_depth = self.depth();
        if let Some(guide) = &mut self.guide {
            guide.advance(&self.facts);
        }
    }

    /// The page under the cursor of the map.
    pub(crate) fn page(&self) -> u64 {
        if let Some(voice) = &self.voice {
            return voice.page;
        }
        let pixel = u64::try_from(self.pixel).unwrap_or(0);
        self.pixels.first + pixel * self.pixels.pages_per_pixel.max(1)
    }

    /// Folds the map anew; the cursor stays on its page.
    pub(crate) fn fold(&mut self) {
        self.fold_at(self.page());
    }

    /// Folds the map anew, with the cursor on a page.
    pub(crate) fn fold_at(&mut self, page: u64) {
        let pixels = u64::from(self.grid.0) * u64::from(self.grid.1);
        self.pixels = match &self.map {
            Some(map) => {
                let page = page.min(map.total.saturating_sub(1));
                map.fold_part(map.window(self.zoom, page, pixels), pixels)
            }
            None => Folded::default(),
        };
        if let Some(voice) = &mut self.voice {
            voice.page = page;
        }
        let pixel = page.saturating_sub(self.pixels.first) / self.pixels.pages_per_pixel.max(1);
        self.pixel = usize::try_from(pixel).unwrap_or(0);
    }

    /// How many layers of its stack are above the selected one.
    fn depth(&self) -> usize {
        self.stacks
            .iter()
            .take(self.stack_cursor.at)
            .rev()
            .take_while(|row| !matches!(row, StackRow::Head(_)))
            .filter(|row| row.layer().is_some())
            .count()
    }
}
