//! The one table of actions: keys, footer and help all come from here.

use crossterm::event::{KeyCode, KeyEvent};

use super::model::{Focus, Model};
use super::undo;
use super::view;

/// Something that a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Make a layer of the selected process tree.
    Dump,
    /// Let the selected layer run again.
    Restore,
    /// Back to what ran before the last restore.
    Undo,
    /// Free what the selected layer overrides below it.
    Dedup,
    /// Count the dirty pages of the selected tree, or stop showing them.
    Watch,
    /// What the selected tree holds, and whether it can be dumped.
    Check,
    /// Read all about the selected layer.
    Inspect,
    /// Compare every byte of the selected layer's stack with what was written.
    Verify,
    /// Call the selected layer something.
    Label,
    /// Keep the selected layer from dedup and pruning, or not any more.
    Pin,
    /// Let the selected layer go.
    Drop,
    /// Make one layer of those from the marked to the selected one.
    Squash,
    /// Give the selected layer all its pages.
    Flatten,
    /// To the layer below the selected one.
    Older,
    /// To the newest layer above the selected one.
    Newer,
    /// Mark the selected layer, to compare others with it.
    Mark,
    /// What differs between the marked layer (or the one below) and the selected one.
    Compare,
    /// Search the memory of the selected layer.
    Search,
    /// Choose an action by its name.
    Palette,
    /// Let the colours of the map tell something else.
    Colors,
    /// Show less of the layer on the map, in more detail.
    Closer,
    /// Show more of it.
    Farther,
    /// What is shown as files.
    Export,
    /// Filter the processes.
    Filter,
    /// Sort the processes by something else.
    Sort,
    /// What is selected to the terminal's clipboard.
    Copy,
    /// The pane with the keyboard over the whole screen, or back.
    Enlarge,
    /// The next pane.
    Next,
    /// The pane before.
    Previous,
    /// Go on from what is selected.
    Enter,
    /// Up, down, left, right.
    Up,
    /// See above.
    Down,
    /// See above.
    Left,
    /// See above.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// Ask a job to stop.
    Cancel,
    /// The jobs and the log over the whole screen, or back.
    Jobs,
    /// What the selected tree writes, over the whole screen, or back.
    WatchView,
    /// When the selected tree is dumped by itself.
    Rule,
    /// How long such a dump may freeze it.
    Budget,
    /// Read everything again.
    Refresh,
    /// Show the keys.
    Help,
    /// Leave.
    Quit,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Action {
    /// What it does.
    pub(crate) act: Act,
    /// Its keys, the best known first.
    pub(crate) keys: &'static [KeyCode],
    /// The views that it is for, the first before all; none: it works everywhere.
    pub(crate) at: &'static [Focus],
    /// In the help where there is little room; empty when it goes without saying there.
    pub(crate) brief: &'static str,
    /// In the help; empty when the action before says it.
    pub(crate) help: &'static str,
    /// Why it makes no sense now, if it does not.
    pub(crate) missing: fn(&Model) -> Option<&'static str>,
}

fn nothing(_: &Model) -> Option<&'static str> {
    None
}

fn a_process(model: &Model) -> Option<&'static str> {
    model.target().is_none().then_some("no process is selected")
}

fn a_layer(model: &Model) -> Option<&'static str> {
    model.layer().is_none().then_some("no layer is selected")
}

fn unmatched(model: &Model) -> Option<&'static str> {
    let alone = model.compared().is_none();
    alone.then_some("nothing is below this layer, and no other one is marked")
}

fn sideways(model: &Model) -> Option<&'static str> {
    (model.focus == Focus::Stacks).then_some("layers are not folded")
}

fn enlargeable(model: &Model) -> Option<&'static str> {
    let alone = if model.has_panels() {
        view::is_watch_small(model.areas().of(Focus::Watch))
    } else {
        model.voice.is_some()
            || view::place_of(model.focus) == Some(view::Place::Whole)
            || view::is_small(model.size, model.guide.is_some())
    };
    alone.then_some("it has the whole screen already")
}

/// All actions.
pub(crate) const ACTIONS: &[Action] = &[
    Action {
        act: Act::Dump,
        keys: &[KeyCode::Char('d')],
        at: &[Focus::Processes, Focus::Watch, Focus::Stacks],
        brief: "dump the selected tree",
        help: "make a layer of the selected process tree; shows the plan first",
        missing: a_process,
    },
    Action {
        act: Act::Restore,
        keys: &[KeyCode::Char('r')],
        at: &[Focus::Stacks, Focus::Map],
        brief: "restore the selected layer",
        help: "let the selected layer run again; shows the preflight first",
        missing: a_layer,
    },
    Action {
        act: Act::Undo,
        keys: &[KeyCode::Char('u')],
        at: &[],
        brief: "undo the last restore",
        help: "back to what ran before the selected tree was rolled back, where a layer of it was kept; shows \
               the preflight first",
        missing: |model| {
            let none = undo::layer(model).is_none();
            none.then_some("nothing that runs was rolled back")
        },
    },
    Action {
        act: Act::Dedup,
        keys: &[KeyCode::Char('D')],
        at: &[Focus::Stacks, Focus::Map, Focus::Dedup],
        brief: "what is stored for nothing",
        help: "what the stack stores for nothing, by strategy, layer and range (again or Esc: back); Space \
               chooses strategies, Enter shows what they would do",
        missing: a_layer,
    },
    Action {
        act: Act::Watch,
        keys: &[KeyCode::Char('w')],
        at: &[Focus::Processes, Focus::Watch],
        brief: "count its dirty pages",
        help: "count the dirty pages of the selected tree, live (again: hide)",
        missing: a_process,
    },
    Action {
        act: Act::Check,
        keys: &[KeyCode::Char('p')],
        at: &[Focus::Processes, Focus::Watch],
        brief: "can it be dumped, why not",
        help: "all that the selected tree holds, and whether it can be dumped: yes, with an option, no",
        missing: a_process,
    },
    Action {
        act: Act::Inspect,
        keys: &[KeyCode::Char('i')],
        at: &[Focus::Stacks, Focus::Map],
        brief: "read all about the layer",
        help: "read all about the selected layer, in tabs: from its figures to its images and digests",
        missing: a_layer,
    },
    Action {
        act: Act::Older,
        keys: &[KeyCode::Char('[')],
        at: &[Focus::Stacks, Focus::Map, Focus::Dedup],
        brief: "layer below",
        help: "to the layer below; on the map the cursor stays on its page",
        missing: a_layer,
    },
    Action {
        act: Act::Newer,
        keys: &[KeyCode::Char(']')],
        at: &[Focus::Stacks, Focus::Map, Focus::Dedup],
        brief: "layer above",
        help: "back to the layer above, by the way one came",
        missing: a_layer,
    },
    Action {
        act: Act::Mark,
        keys: &[KeyCode::Char('m'), KeyCode::Char(' ')],
        at: &[Focus::Processes, Focus::Stacks, Focus::Dedup],
        brief: "mark, for several at once",
        help: "mark the selected layer, to compare others with it, or processes, to dump, check and count \
               their trees together (again: no mark)",
        missing: |model| match model.focus {
            Focus::Processes => a_process(model),
            _ => a_layer(model),
        },
    },
    Action {
        act: Act::Compare,
        keys: &[KeyCode::Char('c')],
        at: &[Focus::Stacks, Focus::Map],
        brief: "compare with the marked one",
        help: "what differs between the marked layer (or the one below) and the selected one: mappings, Enter: \
               pages, bytes side by side",
        missing: |model| a_layer(model).or_else(|| unmatched(model)),
    },
    Action {
        act: Act::Search,
        keys: &[KeyCode::Char('s')],
        at: &[Focus::Stacks, Focus::Map],
        brief: "search its memory",
        help: "search text, bytes or a regular expression in the memory of the selected layer and those below, with the layers that \
               have it; Enter shows the bytes",
        missing: a_layer,
    },
    Action {
        act: Act::Verify,
        keys: &[KeyCode::Char('v')],
        at: &[Focus::Stacks, Focus::Map],
        brief: "compare with its digests",
        help: "compare every byte of the selected layer and those below with what was written",
        missing: a_layer,
    },
    Action {
        act: Act::Label,
        keys: &[KeyCode::Char('L')],
        at: &[Focus::Stacks],
        brief: "call the layer something",
        help: "call the selected layer something",
        missing: a_layer,
    },
    Action {
        act: Act::Pin,
        keys: &[KeyCode::Char('P')],
        at: &[Focus::Stacks],
        brief: "keep it from dedup, or not",
        help: "keep the selected layer from dedup and pruning (again: not any more)",
        missing: a_layer,
    },
    Action {
        act: Act::Drop,
        keys: &[KeyCode::Char('X')],
        at: &[Focus::Stacks],
        brief: "let the layer go",
        help: "let the selected layer go; those above take over what they need of it",
        missing: a_layer,
    },
    Action {
        act: Act::Squash,
        keys: &[KeyCode::Char('S')],
        at: &[Focus::Stacks],
        brief: "squash from the marked one",
        help: "make one layer of those from the marked to the selected one",
        missing: |model| {
            let unmarked = model.marked.is_none().then_some("no other layer is marked");
            a_layer(model).or(unmarked)
        },
    },
    Action {
        act: Act::Flatten,
        keys: &[KeyCode::Char('F')],
        at: &[Focus::Stacks],
        brief: "make it stand alone",
        help: "give the selected layer all its pages, so that it needs none below",
        missing: a_layer,
    },
    Action {
        act: Act::Cancel,
        keys: &[KeyCode::Char('x')],
        at: &[],
        brief: "stop a job",
        help: "ask a job to stop: the selected one, or else the latest; it leaves nothing half-made",
        missing: |model| model.board.jobs.is_empty().then_some("no job runs"),
    },
    Action {
        act: Act::WatchView,
        keys: &[KeyCode::Char('W')],
        at: &[Focus::Processes, Focus::Watch],
        brief: "watch what it writes",
        help: "what the selected tree writes: chart, mappings, working set, what a dump made now would \
               be (again or Esc: back); w there begins and ends tracking",
        missing: a_process,
    },
    Action {
        act: Act::Rule,
        keys: &[KeyCode::Char('A')],
        at: &[Focus::Watch, Focus::Processes],
        brief: "dump it by a rule",
        help: "a rule by which the selected tree is dumped while this is open: every 10 min, when dirty > \
               200 MiB, when idle",
        missing: a_process,
    },
    Action {
        act: Act::Budget,
        keys: &[KeyCode::Char('B')],
        at: &[Focus::Watch, Focus::Processes],
        brief: "longest freeze by rule",
        help: "the longest freeze that a dump by rule may take",
        missing: a_process,
    },
    Action {
        act: Act::Jobs,
        keys: &[KeyCode::Char('J')],
        at: &[],
        brief: "jobs and log",
        help: "the jobs, what became of those before, and the log (again or Esc: back)",
        missing: nothing,
    },
    Action {
        act: Act::Next,
        keys: &[KeyCode::Tab],
        at: &[],
        brief: "next pane, or box",
        help: "next pane: processes, stacks, map; in the watch view the next box",
        missing: nothing,
    },
    Action {
        act: Act::Previous,
        keys: &[KeyCode::BackTab],
        at: &[],
        brief: "",
        help: "the pane before",
        missing: nothing,
    },
    Action {
        act: Act::Enlarge,
        keys: &[KeyCode::Char('z')],
        at: &[],
        brief: "whole screen, or back",
        help: "this pane over the whole screen, with all its columns (again or Esc: back)",
        missing: enlargeable,
    },
    Action {
        act: Act::Palette,
        keys: &[KeyCode::Char(':')],
        at: &[],
        brief: "all of this by name",
        help: "all of this by name: type some letters of it",
        missing: nothing,
    },
    Action {
        act: Act::Filter,
        keys: &[KeyCode::Char('/')],
        at: &[Focus::Processes, Focus::Stacks, Focus::Jobs],
        brief: "filter by a text",
        help: "show only processes, layers, or lines of the log with this text, roughly (Esc: all)",
        missing: nothing,
    },
    Action {
        act: Act::Sort,
        keys: &[KeyCode::Char('o')],
        at: &[Focus::Processes],
        brief: "sort by something else",
        help: "sort the processes by memory, threads, name, dirty rate, descriptors, last layer, pid in turn",
        missing: nothing,
    },
    Action {
        act: Act::Copy,
        keys: &[KeyCode::Char('y')],
        at: &[],
        brief: "copy what is selected",
        help: "copy what is selected: pid, directory of the layer, address; a text that is read, whole",
        missing: nothing,
    },
    Action {
        act: Act::Export,
        keys: &[KeyCode::Char('E')],
        at: &[],
        brief: "write it to files",
        help: "what is shown as files in the working directory: a table as CSV and JSON, map and chart as SVG",
        missing: nothing,
    },
    Action {
        act: Act::Enter,
        keys: &[KeyCode::Enter],
        at: &[],
        brief: "go on from what is selected",
        help: "from a process to its layers, from a layer to its map, there to the bytes",
        missing: nothing,
    },
    Action {
        act: Act::Up,
        keys: &[KeyCode::Up, KeyCode::Char('k')],
        at: &[],
        brief: "move; left, right: fold",
        help: "move; left and right fold and unfold the process tree",
        missing: nothing,
    },
    Action {
        act: Act::Down,
        keys: &[KeyCode::Down, KeyCode::Char('j')],
        at: &[],
        brief: "",
        help: "",
        missing: nothing,
    },
    Action {
        act: Act::Left,
        keys: &[KeyCode::Left, KeyCode::Char('h')],
        at: &[],
        brief: "",
        help: "",
        missing: sideways,
    },
    Action {
        act: Act::Right,
        keys: &[KeyCode::Right, KeyCode::Char('l')],
        at: &[],
        brief: "",
        help: "",
        missing: sideways,
    },
    Action {
        act: Act::PageUp,
        keys: &[KeyCode::PageUp],
        at: &[],
        brief: "",
        help: "",
        missing: nothing,
    },
    Action {
        act: Act::PageDown,
        keys: &[KeyCode::PageDown],
        at: &[],
        brief: "",
        help: "",
        missing: nothing,
    },
    Action {
        act: Act::Home,
        keys: &[KeyCode::Home, KeyCode::Char('g')],
        at: &[],
        brief: "",
        help: "",
        missing: nothing,
    },
    Action {
        act: Act::End,
        keys: &[KeyCode::End, KeyCode::Char('G')],
        at: &[],
        brief: "",
        help: "",
        missing: nothing,
    },
    Action {
        act: Act::Colors,
        keys: &[KeyCode::Char('C')],
        at: &[Focus::Map],
        brief: "colours tell something else",
        help: "colours of the map: owner, changed since the layer below, twice there, zero, bits a byte",
        missing: a_layer,
    },
    Action {
        act: Act::Closer,
        keys: &[KeyCode::Char('+'), KeyCode::Char('=')],
        at: &[Focus::Map],
        brief: "zoom in",
        help: "zoom into the map around its cursor: tree, process, mapping, page",
        missing: a_layer,
    },
    Action {
        act: Act::Farther,
        keys: &[KeyCode::Char('-')],
        at: &[Focus::Map],
        brief: "zoom out",
        help: "zoom out",
        missing: a_layer,
    },
    Action {
        act: Act::Refresh,
        keys: &[KeyCode::Char('R')],
        at: &[],
        brief: "read everything again",
        help: "read the images directory again (it is followed by itself)",
        missing: nothing,
    },
    Action {
        act: Act::Help,
        keys: &[KeyCode::Char('?'), KeyCode::F(1)],
        at: &[],
        brief: "these keys",
        help: "these keys",
        missing: nothing,
    },
    Action {
        act: Act::Quit,
        keys: &[KeyCode::Char('q')],
        at: &[],
        brief: "leave",
        help: "leave; processes and layers stay as they are. Rules end with it and running jobs need not: it asks",
        missing: nothing,
    },
];

/// The action of a key.
pub(crate) fn of_key(key: KeyEvent, model: &Model) -> Option<Act> {
    let action = ACTIONS.get(model.keys.row_of(key)?)?;
    Some(action.act)
}

/// Why an action makes no sense now, if it does not.
pub(crate) fn missing(act: Act, model: &Model) -> Option<&'static str> {
    let action = ACTIONS.iter().find(|action| action.act == act)?;
    (action.missing)(model)
}
