//! For screen readers: one line that says in a whole sentence what was selected and what happened.
//!
//! What a screen reader should not repeat all the time (memory, rates, ages) is told when one comes to a
//! row, and not again when it changes there.

use icecore::chain::State;

use super::action::{ACTIONS, Act};
use super::logbook;
use super::map::{Map, Run};
use super::model::{Focus, Model};
use super::palette;
use super::popup::{About, Mark, Popup};
use super::processes::ProcessRow;
use super::stacks::{LayerRow, StackRow};
use super::text::{age, cut};
use super::view::explain;
use crate::format::{self, plain};

/// Columns of a command line that are said.
const COMMAND: usize = 48;

/// What is said, and what has been.
#[derive(Clone, Debug, Default)]
pub(crate) struct Voice {
    /// The line.
    pub(crate) said: String,
    /// The page of the map that one is at: there are no pixels.
    pub(crate) page: u64,
    title: String,
    row: String,
    popup: Option<(String, String)>,
    logged: Option<(u64, String)>,
    banner: String,
}

/// The rows of a view.
pub(crate) struct Told<'a> {
    /// What it shows.
    pub(crate) title: String,
    /// How many rows there are.
    pub(crate) count: usize,
    /// The selected one.
    pub(crate) at: usize,
    /// What does not change by itself of a row.
    pub(crate) row: Box<dyn Fn(usize) -> String + 'a>,
}

/// Says what is new. Called after each change.
pub(super) fn listen(model: &mut Model) {
    let Some(before) = model.voice.clone() else {
        return;
    };
    let told = told(model);
    let title = told
        .as_ref()
        .map_or(String::new(), |told| told.title.clone());
    let row = match &told {
        Some(told) if told.count > 0 => (told.row)(told.at),
        _ => empty(model),
    };
    let count = told.as_ref().map_or(0, |told| told.count);
    let at = told.as_ref().map_or(0, |told| told.at);
    drop(told);
    let popup = model.popup.as_ref().map(|popup| said(popup, model.scroll));
    let last = model.log.back();
    let logged = last.map(|(second, mark, text)| (*second, format!("{}{text}", word(*mark))));
    let banner = model.guide.as_ref().map_or(String::new(), |g| g.banner());
    let mut said = Vec::new();
    match &popup {
        Some((about, detail)) => {
            let known = before.popup.as_ref().is_some_and(|(was, _)| was == about);
            if !known {
                said.push(ended(about));
            }
            // Of what went wrong all is said at first.
            let all = !known && matches!(model.popup, Some(Popup::Failure(_)));
            if before.popup != popup && !all {
                said.push(detail.clone());
            }
        }
        None => {
            if let Some((_, text)) = logged.as_ref().filter(|_| before.logged != logged) {
                said.push(ended(text));
            }
            if before.banner != banner {
                said.push(banner.clone());
            }
            if model.filtering {
                let filter = plain(model.filter_here().value());
                said = vec![format!("Filter: {filter}")];
            } else if before.popup.is_some() || before.row != row || before.title != title {
                if before.title != title && !title.is_empty() {
                    said.push(format!("{title}, {}.", format::count(count as u64, "row")));
                }
                said.push(match full(model) {
                    Some(full) => format!("{full}; {} of {count}.", at + 1),
                    None => row.clone(),
                });
            }
        }
    }
    let Some(voice) = &mut model.voice else {
        return;
    };
    if !said.is_empty() {
        voice.said = said.join(" ");
    }
    (voice.title, voice.row, voice.banner) = (title, row, banner);
    (voice.popup, voice.logged) = (popup, logged);
}

/// A sentence with its end.
fn ended(text: &str) -> String {
    let end = if text.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{text}{end}")
}

/// A mark in a word.
pub(crate) fn word(mark: Mark) -> &'static str {
    match mark {
        Mark::Plain => "",
        Mark::Good => "Good: ",
        Mark::Warn => "Warning: ",
        Mark::Bad => "Problem: ",
        Mark::Hint => "Hint: ",
    }
}

/// The rows of the view with the keyboard, where it is a list.
pub(crate) fn told(model: &Model) -> Option<Told<'_>> {
    match model.focus {
        Focus::Processes => Some(Told {
            title: format!("Processes{}", model.order.title()),
            count: model.processes.len(),
            at: model.process_cursor.at,
            row: Box::new(|n| {
                model
                    .processes
                    .get(n)
                    .map_or(String::new(), |row| process(model, row))
            }),
        }),
        Focus::Stacks => Some(Told {
            title: format!("Stacks in {}", plain(&model.root.to_string_lossy())),
            count: model.stacks.len(),
            at: model.stack_cursor.at,
            row: Box::new(|n| {
                model
                    .stacks
                    .get(n)
                    .map_or(String::new(), |row| stack(model, row))
            }),
        }),
        Focus::Map => {
            let map = model.map.as_deref();
            let Some(map) = map.filter(|map| !map.runs.is_empty()) else {
                return Some(Told {
                    title: "Map".into(),
                    count: 0,
                    at: 0,
                    row: Box::new(|_| String::new()),
                });
            };
            let tip = map.levels.first().map_or("", String::as_str);
            let row = |n: usize| {
                map.runs
                    .get(n)
                    .map_or(String::new(), |run| of_run(map, run))
            };
            Some(Told {
                title: format!("Map: {} {tip}", map.coloring.title()),
                count: map.runs.len(),
                at: run_at(map, model.page()),
                row: Box::new(row),
            })
        }
        _ => None,
    }
}

/// What is said where there is no row.
pub(crate) fn empty(model: &Model) -> String {
    let failure = match model.focus {
        Focus::Stacks => model.stacks_failure.as_ref(),
        Focus::Map => model.map_failure.as_ref(),
        _ => None,
    };
    match (failure, model.focus) {
        (Some(failure), _) => {
            let hint = failure.hint.as_ref().map(|hint| format!(" Hint: {hint}."));
            format!(
                "Problem: {}{}",
                ended(&failure.text),
                hint.unwrap_or_default()
            )
        }
        (None, Focus::Processes) => "No process is shown.".into(),
        (None, Focus::Stacks) => format!(
            "No layer is shown. {} dumps the selected process into one.",
            model.keys.label(Act::Dump)
        ),
        (None, Focus::Map) if model.mapped.is_some() => "The map is being computed.".into(),
        (None, Focus::Map) => "No layer is selected.".into(),
        (None, Focus::Jobs) if model.in_log => {
            let all = logbook::entries(model);
            let at = logbook::at(model, all.len());
            all.get(at).map_or("The log is empty.".into(), |entry| {
                let (when, mark) = (&entry.when, word(entry.mark));
                let run = if entry.earlier { ", earlier run" } else { "" };
                let text = ended(entry.text);
                format!(
                    "{mark}{text} {when}{run}; log, {} of {}.",
                    at + 1,
                    all.len()
                )
            })
        }
        (None, Focus::Jobs) => {
            let (running, ended) = (model.board.jobs.len(), model.board.ended.len());
            let selected = model.board.jobs.get(model.job_cursor.at);
            let selected =
                selected.map_or(String::new(), |job| format!(" Selected: {}.", job.title));
            format!("Jobs: {running} running, {ended} ended.{selected}")
        }
        (None, Focus::Watch) => match model.target() {
            Some((pid, comm)) => format!("Watching process {pid}, {}.", plain(&comm)),
            None => "No process is selected.".into(),
        },
        (None, Focus::Dedup) => dedup(model),
    }
}

/// Everything about the selected row.
fn full(model: &Model) -> Option<String> {
    match model.focus {
        Focus::Processes => {
            let row = model.process()?;
            let mut said = process(model, row);
            said.push_str(&format!(
                ", {}, {}",
                format::bytes(row.rss),
                format::count(row.threads, "thread")
            ));
            let live = model.live.get(&row.pid.as_raw());
            if let Some(count) = live.and_then(|live| live.last.as_ref()) {
                said.push_str(&format!(", {}", format::count(count.dirty, "dirty page")));
            }
            Some(said)
        }
        Focus::Stacks => {
            let layer = model.layer()?;
            let mut said = layer_row(model, layer);
            let since = layer
                .created
                .and_then(|at| model.now.duration_since(at).ok());
            if let Some(since) = since {
                said.push_str(&format!(", {} ago", age(since.as_secs())));
            }
            said.push_str(&format!(", {}", format::bytes(layer.bytes)));
            Some(said)
        }
        Focus::Map => {
            let map = model.map.as_deref()?;
            let run = map.runs.get(run_at(map, model.page()))?;
            let said = of_run(map, run);
            Some(match map.mapping_at(run.space, run.addr) {
                Some((range, "")) => format!("{said}, in {range}"),
                Some((_, name)) => format!("{said}, in {}", plain(name)),
                None => said,
            })
        }
        _ => None,
    }
}

/// The strategy that is looked at.
fn dedup(model: &Model) -> String {
    let surplus = model.surplus.as_ref();
    let Some((surplus, choice)) = surplus.and_then(|s| Some((s, s.options.get(s.at)?))) else {
        return "Dedup: no layer is selected.".into();
    };
    let layer = plain(
        &surplus
            .dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
    );
    let chosen = if choice.is_chosen() { ", chosen" } else { "" };
    let price = match &choice.found {
        None => "is being found out".into(),
        Some(Err(failure)) => failure.text.clone(),
        Some(Ok(found)) => match (found.plan.obstacles.first(), found.lost.as_slice()) {
            (Some(obstacle), _) => plain(&obstacle.what),
            (None, lost) => {
                let frees = format!("frees {}", format::bytes(found.plan.bytes));
                match lost {
                    [] => format!("{frees}, no layer is lost"),
                    _ => {
                        let stood_on = model.stood_on(&found.plan);
                        let stood_on: String = stood_on
                            .map(|(pid, layer)| format!("; process {pid} stands on {layer}"))
                            .collect();
                        let lost = lost.join(", ");
                        format!("{frees}; not restorable any more: {lost}{stood_on}")
                    }
                }
            }
        },
    };
    let (at, of) = (surplus.at + 1, surplus.options.len());
    let name = choice.name;
    format!("Dedup of {layer}: {name}{chosen}, {price}; {at} of {of}.")
}

fn process(model: &Model, row: &ProcessRow) -> String {
    let level = row.branch.chars().count() / 2;
    // A command line can be longer than anybody listens to.
    let mut said = format!("{}, process {}", cut(&row.text, COMMAND), row.pid);
    if level > 0 {
        said.push_str(&format!(", level {}", level + 1));
    }
    if model.tracked.contains_key(&row.pid.as_raw()) {
        said.push_str(", tracked");
    }
    if model.marks.contains_key(&row.pid.as_raw()) {
        said.push_str(", marked");
    }
    if row.folded > 0 {
        said.push_str(&format!(", folded with {} below", row.folded));
    }
    said
}

fn stack(model: &Model, row: &StackRow) -> String {
    match row {
        StackRow::Head(text) => format!("Stack {text}"),
        StackRow::Fork(_) => "A branch begins below.".into(),
        StackRow::Layer(layer) => layer_row(model, layer),
    }
}

fn layer_row(model: &Model, layer: &LayerRow) -> String {
    let mut said = format!("Layer {}", layer.name);
    let mut add = |text: &str| {
        said.push_str(", ");
        said.push_str(text);
    };
    if let Some(label) = &layer.label {
        add(&format!("called {label}"));
    }
    let name =
        |dir: &std::path::Path| plain(&dir.file_name().unwrap_or_default().to_string_lossy());
    match &layer.parent {
        Some(parent) => add(&format!("on {}", name(parent))),
        None if layer.incremental => add("on a layer from elsewhere"),
        None => add("full"),
    }
    if layer.squashed {
        add("squashed");
    }
    add(&format!("{} stored", format::count(layer.stored, "page")));
    if layer.in_parent > 0 {
        add(&format!("{} in the parent", layer.in_parent));
    }
    if layer.state != State::Complete {
        add(layer.state.as_str());
    }
    if let Some(reason) = &layer.reason {
        add(reason);
    }
    if layer.pinned {
        add("pinned");
    }
    if model.marked.as_ref() == Some(&layer.dir) {
        add("marked");
    }
    if model.standing_on(layer).is_some() {
        add("the running process goes on from here");
    }
    said
}

/// The run that has a page.
fn run_at(map: &Map, page: u64) -> usize {
    let after = map.runs.partition_point(|run| run.first <= page);
    after.saturating_sub(1)
}

fn of_run(map: &Map, run: &Run) -> String {
    let space = map.spaces.get(run.space).map_or("", String::as_str);
    let pages = format::count(run.pages, "page");
    format!("{:x}, {pages}, {}, {space}", run.addr, owner(map, run))
}

fn owner(map: &Map, run: &Run) -> String {
    use super::coloring::Coloring;
    use super::map::Owner;
    let name = map.name(run.owner);
    match (run.owner, map.coloring) {
        (Owner::Layer(_), Coloring::Owner) => format!("of layer {name}"),
        _ => name.to_owned(),
    }
}

/// Goes from run to run of the map.
pub(super) fn travel(model: &mut Model, act: Act) {
    let Some(map) = model.map.clone() else { return };
    let (at, last) = (run_at(&map, model.page()), map.runs.len().saturating_sub(1));
    let to = match act {
        Act::Up | Act::Left => at.saturating_sub(1),
        Act::Down | Act::Right => at + 1,
        Act::PageUp => at.saturating_sub(10),
        Act::PageDown => at + 10,
        Act::Home => 0,
        Act::End => last,
        _ => at,
    };
    if let Some(run) = map.runs.get(to.min(last)) {
        model.fold_at(run.first);
    }
}

/// What is in the way, with their number, and so of what is worth a look: the first thing to be said of a
/// dialog.
fn problems(lines: &[(Mark, String)]) -> String {
    let mut said = String::new();
    for (mark, one) in [(Mark::Bad, "problem"), (Mark::Warn, "warning")] {
        let number = lines.iter().filter(|(m, _)| *m == mark).count();
        if number == 0 {
            continue;
        }
        said.push_str(&format!(" {}.", format::count(number as u64, one)));
        for (n, (_, text)) in lines.iter().enumerate().filter(|(_, (m, _))| *m == mark) {
            said.push_str(&format!(" {}{}", word(mark), ended(text)));
            // What to do about it comes with it.
            if let Some((Mark::Hint, hint)) = lines.get(n + 1) {
                said.push_str(&format!(" {}{}", word(Mark::Hint), ended(hint)));
            }
        }
    }
    said
}

/// The line of a dialog that one has come to.
fn line(lines: &[(Mark, String)], at: usize) -> String {
    let at = at.min(lines.len().saturating_sub(1));
    let line = lines.get(at);
    let line = line.map_or(String::new(), |(mark, text)| {
        format!("{}{}", word(*mark), ended(text))
    });
    format!("Line {} of {}: {line}", at + 1, lines.len())
}

/// What a popup is about, and where one is in it.
fn said(popup: &Popup, scroll: usize) -> (String, String) {
    match popup {
        Popup::Preview(preview) => {
            let buttons = preview.buttons.len();
            let chosen = preview.buttons.get(preview.focus);
            let chosen = chosen.map_or("", |button| button.label.as_str());
            let options = preview.options.iter().enumerate().map(|(n, option)| {
                let on = if option.on { "on" } else { "off" };
                format!("{} {}: {on}. ", n + 1, option.label)
            });
            (
                format!("{}.{}", preview.title, problems(&preview.lines)),
                format!(
                    "Button {chosen}, {} of {buttons}. {}{}",
                    preview.focus + 1,
                    options.collect::<String>(),
                    line(&preview.lines, scroll),
                ),
            )
        }
        Popup::Failure(failure) => {
            let lines = explain(failure);
            let problems = problems(&lines);
            (
                format!("That did not work.{problems}"),
                line(&lines, scroll),
            )
        }
        Popup::Reader(reader) => {
            let Some(tab) = reader.tabs.get(reader.at) else {
                return (reader.title.clone(), String::new());
            };
            let tabs = match reader.tabs.len() {
                1 => String::new(),
                n => format!("Tab {}, {} of {n}. ", tab.name, reader.at + 1),
            };
            let line = tab.lines.get(reader.scroll).map_or("", |line| line.trim());
            let lines = if tab.read {
                format!("Line {} of {}: {line}", reader.scroll + 1, tab.lines.len())
            } else {
                "It is being read.".into()
            };
            (reader.title.clone(), format!("{tabs}{}", undrawn(&lines)))
        }
        Popup::Answer(answer) => (answer.title.clone(), undrawn(&answer.spoken())),
        Popup::Help(help) => {
            let lines = help.lines();
            let line = lines.get(help.scroll).map_or("", |line| line.trim());
            let (at, of) = (help.scroll + 1, lines.len());
            let typed = plain(help.input.value());
            let typed = match typed.is_empty() {
                true => String::new(),
                false => format!(" Filter: {typed}."),
            };
            ("Keys".into(), format!("Line {at} of {of}: {line}.{typed}"))
        }
        Popup::Palette(palette) => {
            let found = palette.found();
            let action = found.get(palette.at).and_then(|row| ACTIONS.get(*row));
            let typed = plain(palette.input.value());
            let action = action.map_or("no action".into(), |action| {
                format!("{}: {}", palette::title(action.act), action.help)
            });
            let (at, of) = (palette.at + 1, found.len());
            (
                "What to do".into(),
                format!("{action}; {at} of {of}. Typed: {typed}"),
            )
        }
        Popup::Ask { about, text, .. } => {
            let about = match about {
                About::Search(sought) => format!("Search in the layer, {}", sought.name()),
                About::Label => "What to call the layer".into(),
            };
            (about, format!("Typed: {}", plain(text.value())))
        }
        Popup::Order { terms, text, .. } => {
            use super::follow::Terms;
            let about = match terms {
                Terms::Rule => "When to dump the process by itself",
                Terms::Budget => "How many milliseconds a dump by rule may freeze the process",
            };
            (about.into(), format!("Typed: {}", plain(text.value())))
        }
    }
}

/// A line without what is drawn rather than written: frames, bars, dots of charts.
pub(crate) fn undrawn(line: &str) -> String {
    let mut out = String::new();
    let mut gap = 0;
    for c in line.chars() {
        let word = match c {
            '\u{2713}' => "Good:",
            '\u{2717}' => "Problem:",
            '\u{2192}' => "Hint:",
            '\u{2190}'..='\u{21ff}' | '\u{2500}'..='\u{25ff}' | '\u{2800}'..='\u{28ff}' => " ",
            _ => "",
        };
        if word == " " || c == ' ' {
            gap += 1;
            continue;
        }
        if gap > 0 && !out.is_empty() {
            // Columns stay apart.
            out.push_str(if gap > 1 { "  " } else { " " });
        }
        gap = 0;
        if word.is_empty() {
            out.push(c);
        } else {
            out.push_str(word);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_goes_and_what_is_written_stays() {
        assert_eq!(undrawn("│ ✓ 3 pages ███░░ 20% │"), "Good: 3 pages  20%");
        assert_eq!(undrawn("┌── Jobs ──┐"), "Jobs");
        assert_eq!(undrawn("└────┘"), "");
        assert_eq!(undrawn("漢字  é"), "漢字  é");
    }
}
