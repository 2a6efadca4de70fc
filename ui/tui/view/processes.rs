//! The running processes.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::action::Act;
use super::super::live::Live;
use super::super::model::{Focus, Model};
use super::super::probe::Dumpable;
use super::super::processes::ProcessRow;
use super::super::text::{age, cut, fit, size, tally};
use super::{filter_note, lines, pane};
use crate::format::plain;
use crate::tui::popup::Mark;

/// Inside a pane as narrow as this, some columns are left out.
const NARROW: usize = 50;
/// Inside one as wide as this, there are more.
const WIDE: usize = 76;

pub(super) fn draw(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    if area.is_empty() {
        return;
    }
    let focused = model.focus == Focus::Processes;
    let typing = model.filtering && focused;
    let mut note = filter_note(&model.filter, typing);
    let (why, mut filter) = (dumpable(model), String::new());
    if !typing && !note.is_empty() && !why.is_empty() {
        // Below is room for one of them.
        filter = format!(", filter: {}", plain(model.filter.value()));
        note.clear();
    }
    if note.is_empty() && !model.marks.is_empty() && focused {
        let label = |act| model.keys.label(act);
        let (dump, check, watch) = (label(Act::Dump), label(Act::Check), label(Act::Watch));
        note = format!("{dump} {check} {watch}: all marked  Esc none");
    }
    if note.is_empty() {
        let width = usize::from(area.width).saturating_sub(6);
        note = cut(&why, width);
    }
    let marked = match model.marks.len() {
        0 => String::new(),
        n => format!(", {n} marked"),
    };
    let title = format!(
        "Processes {}{}{marked}{filter}",
        model.processes.len(),
        model.order.title()
    );
    let inside = pane(frame, area, model.theme, focused, &title, &note);
    let width = usize::from(inside.width);
    let columns = columns(width);
    let pids = digits(model);
    let mut head = String::from(" ");
    for column in columns {
        head.push_str(&padded(column.head(), column.width(pids)));
    }
    head.push_str("  COMMAND");
    let head = fit(&head, width);
    let mut shown = vec![Line::styled(head, model.theme.dim())];
    let room = usize::from(inside.height).saturating_sub(1);
    let from = model.process_cursor.offset;
    for (n, row) in model.processes.iter().enumerate().skip(from).take(room) {
        let selected = n == model.process_cursor.at;
        shown.push(line(model, row, selected, (columns, pids), width));
    }
    if model.processes.is_empty() {
        let text = if model.filter.value().is_empty() {
            "  no process can be seen"
        } else {
            "  no process has this text"
        };
        shown.push(Line::styled(text, model.theme.dim()));
    }
    lines(frame, inside, shown);
}

/// What is in the way of a dump of the selected process.
fn dumpable(model: &Model) -> String {
    let probe = model
        .process()
        .and_then(|row| model.probes.get(&row.pid.as_raw()));
    match probe.and_then(|probe| probe.dump.as_ref()) {
        Some(Dumpable::No(why)) => format!("no dump: {why}"),
        Some(Dumpable::Option(which)) => format!("a dump needs an option: {which}"),
        Some(Dumpable::Yes) | None => String::new(),
    }
}

/// Something that is told of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Pid,
    Memory,
    Threads,
    Descriptors,
    /// Bytes written since its last layer, or since it is tracked.
    Dirty,
    /// New dirty pages a second.
    New,
    /// All pages that it writes in a second, new or not.
    All,
    Layers,
    /// Of its last layer.
    Age,
    /// Whether it is tracked.
    Tracked,
    /// Whether it can be dumped, in a sign.
    Sign,
    /// The same in a word.
    Word,
}

/// What there is room for in a pane as wide as this: the most important stay.
fn columns(width: usize) -> &'static [Column] {
    use Column::*;
    if width < NARROW {
        &[Pid, Dirty, New, Tracked, Sign]
    } else if width < WIDE {
        &[Pid, Memory, Dirty, New, All, Age, Tracked, Sign]
    } else {
        &[
            Pid,
            Memory,
            Threads,
            Descriptors,
            Dirty,
            New,
            All,
            Layers,
            Age,
            Tracked,
            Word,
        ]
    }
}

/// Columns of the longest pid.
fn digits(model: &Model) -> usize {
    let longest = model.processes.iter().map(|row| row.pid.as_raw()).max();
    longest.unwrap_or(0).to_string().len().max(5)
}

/// At the right end of `width` columns.
fn padded(text: &str, width: usize) -> String {
    let blanks = width.saturating_sub(text.width());
    " ".repeat(blanks) + text
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Self::Pid => "PID",
            Self::Memory => "RSS",
            Self::Threads => "THR",
            Self::Descriptors => "FD",
            Self::Dirty => "DIRTY",
            Self::New => "NEW/S",
            Self::All => "ALL/S",
            Self::Layers => "LAY",
            Self::Age => "AGE",
            Self::Tracked => "T",
            Self::Sign => "D",
            Self::Word => "DUMP",
        }
    }

    /// With the blank before it; the two signs stand together.
    fn width(self, digits: usize) -> usize {
        match self {
            Self::Pid => digits,
            Self::Sign => 1,
            Self::Tracked => 2,
            Self::Layers => 4,
            Self::Threads | Self::Descriptors | Self::Age | Self::Word => 5,
            Self::Memory | Self::Dirty | Self::New | Self::All => 6,
        }
    }

    fn of(self, model: &Model, row: &ProcessRow) -> String {
        let pid = row.pid.as_raw();
        let live = model.live.get(&pid).filter(|live| live.last.is_some());
        let tracked = model.tracked.contains_key(&pid);
        let probe = model.probes.get(&pid);
        let dump = probe.and_then(|probe| probe.dump.as_ref());
        let ascii = model.theme.ascii;
        match self {
            Self::Pid => row.pid.to_string(),
            Self::Memory => size(row.rss),
            Self::Threads => tally(row.threads),
            Self::Descriptors => {
                let open = probe.and_then(|probe| probe.descriptors);
                open.map_or_else(String::new, |n| tally(n as u64))
            }
            Self::Dirty => match live.and_then(|live| live.last.as_ref()) {
                Some(count) => size(count.dirty * 4096),
                None if tracked => "·".into(),
                None => "-".into(),
            },
            Self::New => {
                let rate = live.and_then(Live::rate);
                rate.map_or_else(String::new, tally)
            }
            Self::All => live.map_or_else(String::new, Live::all_in_short),
            Self::Layers => match model.layers_of(row.pid, &row.comm).len() {
                0 => String::new(),
                n => n.to_string(),
            },
            Self::Age => {
                let since = model.since_layer(row.pid, &row.comm);
                since.map_or_else(String::new, |since| age(since.as_secs()))
            }
            Self::Tracked if tracked => "◆".into(),
            Self::Tracked => String::new(),
            Self::Sign => match dump {
                Some(Dumpable::Yes) => if ascii { "+" } else { "✓" }.into(),
                Some(Dumpable::Option(_)) => "o".into(),
                Some(Dumpable::No(_)) => if ascii { "-" } else { "✗" }.into(),
                None => String::new(),
            },
            Self::Word => dump.map_or("", Dumpable::word).into(),
        }
    }
}

fn line(
    model: &Model,
    row: &ProcessRow,
    selected: bool,
    (columns, pids): (&[Column], usize),
    width: usize,
) -> Line<'static> {
    let focused = model.focus == Focus::Processes;
    let tracked = model.tracked.contains_key(&row.pid.as_raw());
    let fold = match (row.folded, row.parent) {
        (0, false) => " ",
        (0, true) => "▾",
        _ => "▸",
    };
    // A mark is seen beside the cursor, too.
    let marked = model.marks.contains_key(&row.pid.as_raw());
    let mark = match (selected, marked) {
        (true, false) => ">",
        (true, true) => "»",
        (false, true) => "*",
        (false, false) => " ",
    };
    let more = match row.folded {
        0 => String::new(),
        n => format!(" (+{n})"),
    };
    let mut left = String::from(mark);
    for column in columns {
        left.push_str(&padded(&column.of(model, row), column.width(pids)));
    }
    left.push(' ');
    let room = width.saturating_sub(left.width());
    let branch = tail(&row.branch, room / 3);
    let command = fit(&format!("{branch}{fold} {}{more}", row.text), room);
    let style = if selected {
        model.theme.selected(focused)
    } else if tracked {
        model.theme.good()
    } else if row.state == 'Z' {
        model.theme.dim()
    } else {
        ratatui::style::Style::new()
    };
    Line::from(vec![
        Span::styled(cut(&left, width), style),
        Span::styled(command, style),
    ])
}

/// The end of the lines in front of a process that is deep in its tree.
fn tail(branch: &str, room: usize) -> String {
    let length = branch.chars().count();
    if length <= room {
        return branch.to_owned();
    }
    let kept = branch.chars().skip(length - room.saturating_sub(1));
    std::iter::once('…').chain(kept).collect()
}

/// The sign of a mark.
pub(super) fn sign(mark: Mark) -> &'static str {
    match mark {
        Mark::Plain => " ",
        Mark::Good => "✓",
        Mark::Warn => "!",
        Mark::Bad => "✗",
        Mark::Hint => "→",
    }
}
