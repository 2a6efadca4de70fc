//! What the parts of the terminal UI say to each other: messages go into `update`, effects come out.
//!
//! Everything from the engine arrives here already prepared for display, so that neither `update`
//! nor the views touch files or processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crossterm::event::{KeyEvent, MouseEvent};
use icecore::dedup::Plan;
use icecore::task::Tree;
use icecore::{Error, Event, Kind, Pid, TargetState};

use super::coloring::Coloring;
use super::export::Export;
use super::inquiry::{Answer, Inquiry};
use super::map::Map;
use super::owned::Uses;
use super::popup::Preview;
use super::probe::{Asked, Probe};
use super::reader::{Look, Reader};
use super::stacks::StackRow;
use super::surplus::News;
use crate::{format, rights};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Msg {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse was moved or clicked.
    Mouse(MouseEvent),
    /// The terminal has a new size (columns, rows).
    Resize(u16, u16),
    /// The processes were listed.
    Processes(Survey),
    /// The images root was read.
    Stacks(Result<Vec<StackRow>, Failure>),
    /// It was counted how much of the layers is still read.
    Owned(Uses),
    /// The ownership map of the layer in this directory was computed.
    Map(PathBuf, Result<Arc<Map>, Failure>),
    /// More is known of what the stack of the layer in this directory stores for nothing.
    Surplus(PathBuf, News),
    /// More is known of the processes that are seen, by pid.
    Probed(BTreeMap<i32, Probe>),
    /// The dirty pages of a tree were counted.
    Counted(Pid, Result<Count, Failure>),
    /// What was to be looked at is ready to be read.
    Looked(Look, Result<Box<Reader>, Failure>),
    /// What was asked is answered.
    Answered(Inquiry, Result<Box<Answer>, Failure>),
    /// A plan is ready to be shown.
    Planned(u64, Result<Preview, Failure>),
    /// A running job tells something.
    Job(u64, Event),
    /// A running job ended.
    Done(u64, Result<Report, Failure>),
    /// Files were written; their names.
    Saved(Result<Vec<String>, Failure>),
    /// No target is held, and none will be: the program may stop.
    Settled,
    /// Leave: a signal came.
    Signal(i32),
    /// Leave: a part of the program is gone.
    Quit,
}

/// Something to be done outside of `update`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Read the images root again.
    Scan,
    /// List the processes again.
    Survey,
    /// Compute the map of a layer in these colours.
    LoadMap(PathBuf, Coloring),
    /// Find out what the stack of a layer stores for nothing, or stop that.
    Surplus(Option<PathBuf>),
    /// Track a tree, so that its dirty pages can be counted.
    Attach(Pid),
    /// Track it no more.
    Detach(Pid),
    /// Find out more about the processes that are seen.
    Probe(Asked),
    /// Write files into the working directory.
    Save(Vec<Export>),
    /// Wait until no target is held.
    Settle,
    /// Give the terminal back and stop, until somebody brings the program back.
    Stop,
    /// Draw everything again.
    Redraw,
    /// Give a text to the terminal's clipboard.
    Copy(String),
    /// Read something for the reader.
    Look(Look),
    /// Find the answer to something, or to nothing any more.
    Inquire(Option<Inquiry>),
    /// Find out what a wish would do, as the job with this number.
    Plan(u64, Wish),
    /// Do it.
    Apply(u64, Wish),
    /// Ask a running job to stop.
    CancelJob(u64),
}

/// What the user wants to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A new layer.
    Dump {
        /// Root of the tree.
        root: Pid,
        /// Its name, for the directory of its first layer.
        comm: String,
        /// Start time of the root that the preview was about; a process that has the pid later is
        /// another one.
        start_time: Option<u64>,
        /// The layer below; found when the dump is planned.
        parent: Option<PathBuf>,
        /// Do what is done on request only, too: the preview names it.
        allowing: bool,
        /// Kill it afterwards.
        kill: bool,
        /// A rule wants it, with the longest freeze that it allows: everything is found out then.
        rule: Option<Option<Duration>>,
    },
    /// Several dumps, each a job of its own.
    Each(Vec<Self>),
    /// A layer runs again.
    Restore {
        /// The layer.
        dir: PathBuf,
        /// The running tree that has its pids.
        displaced: Option<Displaced>,
        /// How.
        manner: Manner,
    },
    /// Free what the stack of a layer stores for nothing.
    Dedup {
        /// The layer.
        dir: PathBuf,
        /// How, one after the other, as it was shown.
        plans: Vec<Arc<Plan>>,
    },
    /// A stack changes.
    Edit(Edit),
}

/// A change of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    /// A layer goes; those above take over what they need of it.
    Drop(PathBuf),
    /// A layer and those above it up to another one become one.
    Squash {
        /// The lowest.
        from: PathBuf,
        /// The uppermost, which stays.
        to: PathBuf,
    },
    /// A layer gets all its pages itself.
    Flatten(PathBuf),
    /// A layer gets a name.
    Label {
        /// The layer.
        dir: PathBuf,
        /// The name.
        text: String,
    },
    /// A layer is kept from dedup and pruning, or not any more.
    Pin {
        /// The layer.
        dir: PathBuf,
        /// Kept.
        pinned: bool,
    },
}

impl Edit {
    /// What it does, in a word.
    pub(crate) fn verb(&self) -> &'static str {
        match self {
            Self::Drop(_) => "Drop",
            Self::Squash { .. } => "Squash",
            Self::Flatten(_) => "Flatten",
            Self::Label { .. } => "Label",
            Self::Pin { pinned: true, .. } => "Pin",
            Self::Pin { pinned: false, .. } => "Unpin",
        }
    }

    /// What it does, and to what.
    pub(crate) fn title(&self) -> String {
        let verb = self.verb();
        match self {
            Self::Squash { from, to } => format!("{verb} {} to {}", last(from), last(to)),
            Self::Drop(dir)
            | Self::Flatten(dir)
            | Self::Label { dir, .. }
            | Self::Pin { dir, .. } => format!("{verb} {}", last(dir)),
        }
    }
}

/// The last part of a path.
fn last(dir: &Path) -> String {
    let name = dir.file_name().unwrap_or(dir.as_os_str());
    format::plain(&name.to_string_lossy())
}

/// What to try next; where rights are missing, with the command that has them.
fn hint(error: &Error) -> Option<String> {
    let said = error.next_step().map(format::plain);
    match rights::command(error).map(|command| format::plain(&command)) {
        Some(command) => Some(match said {
            Some(said) => format!("{said}: leave, then {command}"),
            None => format!("leave, then {command}"),
        }),
        None => said,
    }
}

/// A running tree that ends to make room for a restored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// Its root.
    pub(crate) root: Pid,
    /// Start time of the root.
    pub(crate) start_time: u64,
    /// Keep a layer of its present state first: the way back.
    pub(crate) keep: bool,
}

/// How a layer is restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// In a pid namespace of its own, beside whoever has its ids.
    pub(crate) apart: bool,
    /// Files that the layer has copies of are put back.
    pub(crate) with_files: bool,
    /// TCP connections go on.
    pub(crate) connected: bool,
    /// TCP connections come back closed.
    pub(crate) closed: bool,
}

impl Wish {
    /// Whether processes are frozen or made.
    pub(crate) fn touches_targets(&self) -> bool {
        matches!(
            self,
            Self::Dump { .. } | Self::Each(_) | Self::Restore { .. }
        )
    }

    /// Whether layers change.
    pub(crate) fn changes_layers(&self) -> bool {
        matches!(self, Self::Dedup { .. } | Self::Edit(_))
    }

    /// What it is called while it runs.
    pub(crate) fn title(&self) -> String {
        match self {
            Self::Edit(edit) => edit.title(),
            Self::Each(wishes) => {
                format!("dump {}", format::count(wishes.len() as u64, "tree"))
            }
            Self::Dump { root, comm, .. } => format!("dump {} {root}", format::plain(comm)),
            Self::Restore { dir, .. } => format!("restore {}", last(dir)),
            Self::Dedup { dir, .. } => format!("dedup {}", last(dir)),
        }
    }
}

/// The processes at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    /// The trees.
    pub(crate) trees: Vec<Tree>,
    /// Tracked processes, with the identity of the layer since which they are.
    pub(crate) tracked: BTreeMap<i32, Option<String>>,
    /// The time.
    pub(crate) now: SystemTime,
    /// What whoever started the terminal UI has to say.
    pub(crate) status: Option<String>,
}

/// Dirty pages at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    /// Since the terminal UI was started.
    pub(crate) at: Duration,
    /// Pages written since tracking was armed.
    pub(crate) dirty: u64,
    /// Private pages in memory.
    pub(crate) resident: u64,
    /// How they were counted.
    pub(crate) tracker: &'static str,
    /// Identity of the layer since which they count.
    pub(crate) since: Option<String>,
    /// Of the dirty ones, those that no tracker covers.
    pub(crate) not_tracked: u64,
    /// Pages of shared memory.
    pub(crate) shared: u64,
    /// CPU time that the tree has used.
    pub(crate) cpu: Duration,
    /// When the tracker was attached for this count, on the same clock.
    pub(crate) armed: Option<Duration>,
    /// The mappings with the most dirty pages.
    pub(crate) top: Vec<Part>,
}

/// What was counted in a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Its process and name.
    pub(crate) name: String,
    /// Pages written.
    pub(crate) dirty: u64,
    /// Pages in memory.
    pub(crate) resident: u64,
    /// The tracker covers it.
    pub(crate) tracked: bool,
}

/// A finished job.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// In one line.
    pub(crate) text: String,
    /// What to know besides.
    pub(crate) warnings: Vec<String>,
    /// What it was.
    pub(crate) result: Made,
}

/// What a job made.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    /// A layer.
    Layer(PathBuf),
    /// A running tree.
    Tree {
        /// Its root.
        root: Pid,
        /// Start time of the root, where it is known.
        start_time: Option<u64>,
        /// The layer that was kept of the tree that it displaced.
        kept: Option<PathBuf>,
    },
    /// Room on the disk.
    Room,
    /// A stack that is another one now.
    Stack,
}

/// An error, ready to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// In one line.
    pub(crate) text: String,
    /// What is in the way, with what to do.
    pub(crate) obstacles: Vec<(String, String)>,
    /// What became of the target, when it was touched.
    pub(crate) target: Option<String>,
    /// The next thing to try.
    pub(crate) hint: Option<String>,
    /// It was asked to stop.
    pub(crate) cancelled: bool,
    /// It was not begun: it would have frozen its target for longer than allowed.
    pub(crate) held: bool,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Self {
            text: format::plain(&error.one_line()),
            obstacles: error
                .obstacles()
                .iter()
                .map(|o| (format::plain(&o.what), format::plain(&o.hint)))
                .collect(),
            target: (error.target_state() != TargetState::Untouched)
                .then(|| error.target_state().to_string()),
            hint: hint(error),
            cancelled: error.kind() == Kind::Cancelled,
            held: error.kind() == Kind::FreezeBudget,
        }
    }
}
