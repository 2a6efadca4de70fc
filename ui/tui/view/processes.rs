//! The running processes.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr as _;

use super::super::action::Act;
use super::super::model::{Focus, Model};
use super::super::probe::Dumpable;
use super::super::processes::ProcessRow;
use super::super::text::{age, cut, fit, size, tally};
use super::{filter_note, lines, pane};
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
    let mut note = filter_note(&model.filter, model.filtering && focused);
    if note.is_empty() && !model.marks.is_empty() && focused {
        let label = |act| model.keys.label(act);
        let (dump, check, watch) = (label(Act::Dump), label(Act::Check), label(Act::Watch));
        note = format!("{dump} {check} {watch}: all marked  Esc none");
    }
    if note.is_empty() {
        let width = usize::from(area.width).saturating_sub(6);
        note = cut(&dumpable(model), width);
    }
    let marked = match model.marks.len() {
        0 => String::new(),
        n => format!(", {n} marked"),
    };
    let title = format!(
        "Processes {}{}{marked}",
        model.processes.len(),
        model.order.title()
    );
    let inside = pane(frame, area, model.theme, focused, &title, &note);
    let width = usize::from(inside.width);
    let head = if width < NARROW {
        "    PID   RSS DIRTY   COMMAND"
    } else if width >= WIDE {
        "     PID   RSS  THR   FD  DIRTY PG/S LAY  AGE DUMP   COMMAND"
    } else {
        "     PID   RSS  DIRTY PG/S LAY   COMMAND"
    };
    let head = fit(head, width);
    let mut shown = vec![Line::styled(head, model.theme.dim())];
    let room = usize::from(inside.height).saturating_sub(1);
    let from = model.process_cursor.offset;
    for (n, row) in model.processes.iter().enumerate().skip(from).take(room) {
        shown.push(line(model, row, n == model.process_cursor.at, width));
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

fn line(model: &Model, row: &ProcessRow, selected: bool, width: usize) -> Line<'static> {
    let focused = model.focus == Focus::Processes;
    let live = model.live.get(&row.pid.as_raw());
    let tracked = model.tracked.contains_key(&row.pid.as_raw());
    let dirty = live
        .and_then(|live| live.last.as_ref())
        .map(|count| count.dirty * 4096);
    let (dirty, rate) = match dirty {
        Some(bytes) => {
            let rate = live.and_then(super::super::live::Live::rate);
            (size(bytes), rate.map_or_else(String::new, tally))
        }
        None if tracked => ("·".into(), String::new()),
        None => ("-".into(), String::new()),
    };
    let layers = model.layers_of(row.pid, &row.comm);
    let newest = layers
        .first()
        .and_then(|layer| model.now.duration_since(layer.created?).ok())
        .map_or_else(String::new, |since| age(since.as_secs()));
    let layers = match layers.len() {
        0 => String::new(),
        n => n.to_string(),
    };
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
    let left = if width < NARROW {
        format!("{mark}{:>6} {:>5} {dirty:>5} ", row.pid, size(row.rss))
    } else if width >= WIDE {
        let (pid, rss, threads) = (row.pid, size(row.rss), tally(row.threads));
        let probe = model.probes.get(&row.pid.as_raw());
        let open = probe.and_then(|probe| probe.descriptors);
        let open = open.map_or_else(String::new, |n| tally(n as u64));
        let dump = probe.and_then(|probe| probe.dump.as_ref());
        let dump = dump.map_or("", Dumpable::word);
        format!(
            "{mark}{pid:>7} {rss:>5} {threads:>4} {open:>4} {dirty:>6} {rate:>4} {layers:>3} {newest:>4} {dump:<4} "
        )
    } else {
        let (pid, rss) = (row.pid, size(row.rss));
        format!("{mark}{pid:>7} {rss:>5} {dirty:>6} {rate:>4} {layers:>3} ")
    };
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
