//! What each message does to the model, and what is to be done outside. Pure: no clock, no file, no
//! process.

mod dedup;
mod dialog;
mod inquiry;
mod jobs;
mod leave;
mod marks;
mod travel;
mod watch;

use std::collections::BTreeSet;

use crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use icecore::Pid;
use icecore::task::Tree;
use tui_input::Input;
use tui_input::backend::crossterm::EventHandler as _;

use super::action::{self, Act};
use super::board::Job;
use super::export::{self, Export};
use super::follow::Terms;
use super::help::Help;
use super::inquiry::{Inquiry, Sought};
use super::kept;
use super::logbook;
use super::message::{Displaced, Edit, Effect, Failure, Manner, Msg, Survey, Wish};
use super::model::{Focus, Model};
use super::palette::{self, Palette};
use super::popup::{About, Mark, Popup};
use super::processes::{self, Order};
use super::reader::{Look, Reader};
use super::stacks::{LayerRow, StackRow};
use super::undo;
use super::view;
use super::voice;
use jobs::{apply, cancel, done, progress, selected_end};
pub(super) use travel::{nearest_layer, travel};

/// A process that is to be selected may be missing from the list so often.
const MISSED: u8 = 3;

/// Takes a message in.
pub(crate) fn update(model: &mut Model, msg: Msg) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut surveyed = false;
    match msg {
        Msg::Key(key) if key.kind == KeyEventKind::Release => {}
        Msg::Key(key) => press(model, key, &mut effects),
        Msg::Mouse(event) => super::mouse::mouse(model, event, &mut effects),
        Msg::Resize(columns, rows) => {
            model.size = (columns, rows);
            effects.push(Effect::Redraw);
        }
        Msg::Processes(survey) => {
            // What is still read of the layers depends on where live processes stand.
            let stood = |model: &Model| -> BTreeSet<Option<String>> {
                model.tracked.values().cloned().collect()
            };
            let before = stood(model);
            survey_taken(model, survey);
            if stood(model) != before {
                effects.push(Effect::Scan);
            }
            surveyed = true;
        }
        Msg::Stacks(result) => {
            let before = dedup::layers(model);
            listed(model, result);
            if dedup::layers(model) != before {
                dedup::again(model, &mut effects);
            }
        }
        Msg::Map(dir, result) => {
            let stale = result
                .as_ref()
                .is_ok_and(|map| map.coloring != model.coloring);
            if model.mapped.as_ref() == Some(&dir) && !stale {
                let under = page_under_cursor(model);
                (model.map, model.map_failure) = match result {
                    Ok(map) => (Some(map), None),
                    Err(failure) => (None, Some(failure)),
                };
                // The cursor stays on its page, so that one can go through the layers.
                let map = model.map.as_ref();
                let page = match under {
                    Some(Look::Page { id, addr, .. }) => map.and_then(|m| m.page_at(id, addr)),
                    _ => None,
                };
                model.fold_at(page.unwrap_or_else(|| model.page()));
            }
        }
        Msg::Owned(uses) => model.owned = uses,
        Msg::Surplus(dir, news) => dedup::news(model, &dir, news),
        Msg::Probed(probes) => {
            model.probes = probes;
            if model.order == Order::Descriptors {
                model.list_processes();
            }
        }
        Msg::Counted(pid, Ok(count)) => watch::counted(model, pid, count, &mut effects),
        Msg::Counted(pid, Err(failure)) => {
            if model.watched == Some(pid) && model.popup.is_none() {
                dialog::open(model, Popup::Failure(failure.clone()));
                model.watched = None;
            }
            model.live.entry(pid.as_raw()).or_default().failure = Some(failure);
        }
        Msg::Answered(asked, result) => inquiry::answered(model, &asked, result),
        Msg::Looked(look, result) => looked(model, &look, result),
        Msg::Planned(id, result) => {
            let unwanted = model.board.job(id).is_some_and(|job| job.cancelled);
            model.board.drop_silently(id);
            if !unwanted {
                let popup = match result {
                    Ok(preview) => Popup::Preview(watch::measured(model, preview)),
                    Err(failure) => Popup::Failure(failure),
                };
                dialog::open(model, popup);
            }
        }
        Msg::Job(id, event) => progress(model, id, &event),
        Msg::Done(id, result) => done(model, id, result, &mut effects),
        Msg::Saved(Ok(names)) => model.note(Mark::Good, format!("written: {}", names.join(", "))),
        Msg::Saved(Err(failure)) => {
            model.note(Mark::Bad, failure.text.clone());
            dialog::open(model, Popup::Failure(failure));
        }
        Msg::Settled => {
            model.stopping = false;
            effects.push(Effect::Stop);
        }
        Msg::Signal(signal) => {
            model.facts.signal = Some(signal);
            model.quit = true;
        }
        Msg::Quit => model.quit = true,
    }
    let now = model.clock;
    model.toasts.retain(|(until, ..)| *until > now);
    model.settle();
    if surveyed {
        let asked = model.asked();
        if !asked.seen.is_empty() {
            effects.push(Effect::Probe(asked));
        }
    }
    follow(model, &mut effects);
    dedup::follow(model, &mut effects);
    leave::follow(model);
    voice::listen(model);
    effects
}

/// Asks for the map of the selected layer, when it is another one than before.
fn follow(model: &mut Model, effects: &mut Vec<Effect>) {
    let wanted = model.layer().map(|layer| layer.dir.clone());
    if wanted.is_some() && wanted != model.mapped {
        model.mapped.clone_from(&wanted);
        effects.extend(wanted.map(|dir| Effect::LoadMap(dir, model.coloring)));
    }
    if model.catalog.is_empty() && model.map.take().is_some() {
        model.mapped = None;
        model.fold();
    }
}

fn survey_taken(model: &mut Model, survey: Survey) {
    model.trees = survey.trees;
    model.tracked = survey.tracked;
    model.now = survey.now;
    model.status = survey.status.as_deref().map(crate::format::plain);
    kept::refind(model);
    model.list_processes();
    model.missed = if model.select.is_some() {
        model.missed + 1
    } else {
        0
    };
    if model.missed > MISSED {
        model.select = None;
    }
    let gone: Vec<i32> = model
        .live
        .keys()
        .copied()
        .filter(|pid| model.running(Pid::from_raw(*pid)).is_none())
        .collect();
    for pid in gone {
        model.live.remove(&pid);
    }
    watch::forget(model);
    marks::forget(model);
}

fn listed(model: &mut Model, result: Result<Vec<StackRow>, Failure>) {
    match result {
        Ok(rows) => {
            let stored = |m: &Model| {
                m.layer()
                    .map(|l| (l.dir.clone(), l.state, l.bytes, l.stored))
            };
            let before = stored(model);
            model.catalog = rows;
            model.stacks_failure = None;
            let wanted = model.select_layer.clone();
            let wanted = wanted.filter(|dir| model.layers().any(|layer| layer.dir == *dir));
            if wanted.is_some() {
                model.select_layer = None;
                // What was just made is shown.
                model.stack_filter.reset();
            }
            model.list_stacks(wanted.as_deref());
            // The same directory may hold another layer now.
            if stored(model) != before {
                model.mapped = None;
            }
        }
        Err(failure) => {
            model.catalog.clear();
            model.stacks.clear();
            model.stacks_failure = Some(failure);
        }
    }
}

/// Takes a key in.
pub(super) fn press(model: &mut Model, key: KeyEvent, effects: &mut Vec<Effect>) {
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL);
    if interrupt && key.code == KeyCode::Char('c') {
        model.quit = true;
        return;
    }
    if interrupt && key.code == KeyCode::Char('z') {
        if !std::mem::replace(&mut model.stopping, true) {
            if !model.board.jobs.is_empty() {
                let text = "stops as soon as the dumps and restores that run have ended";
                model.note(Mark::Plain, text);
            }
            effects.push(Effect::Settle);
        }
        return;
    }
    if dialog::press(model, key, effects) {
        return;
    }
    if model.filtering {
        return filter(model, key);
    }
    if key.code == KeyCode::Esc && view::place_of(model.focus) == Some(view::Place::Whole) {
        // First the filter goes, or the size of a box, then the view.
        if model.has_panels() && model.panels.alone {
            model.panels.alone = false;
        } else if model.log_filter.value().is_empty() {
            model.focus = model.back;
        }
        model.log_filter.reset();
        return;
    }
    if key.code == KeyCode::Esc && model.focus == Focus::Processes && !model.marks.is_empty() {
        model.marks.clear();
        return;
    }
    if key.code == KeyCode::Esc && !model.filter_here().value().is_empty() {
        model.filter_here().reset();
        relist(model);
        return;
    }
    if key.code == KeyCode::Esc && model.enlarged {
        model.enlarged = false;
        return;
    }
    if let Some(act) = action::of_key(key, model) {
        attempt(model, act, effects);
    }
}

/// Does it, or says why not.
pub(super) fn attempt(model: &mut Model, act: Act, effects: &mut Vec<Effect>) {
    match action::missing(act, model) {
        None => perform(model, act, effects),
        // Nobody wonders why a cursor does not move.
        Some(_) if matches!(act, Act::Left | Act::Right) => {}
        Some(why) => model.note(Mark::Hint, format!("{}: {why}", palette::title(act))),
    }
}

/// Opens a view over the whole screen, or goes back.
fn over(model: &mut Model, view: Focus) {
    if model.focus == view {
        model.focus = model.back;
        return;
    }
    if view::place_of(model.focus) != Some(view::Place::Whole) {
        model.back = model.focus;
    }
    model.focus = view;
    model.in_log = false;
    model.log_back = 0;
}

/// Gives a text to the clipboard, and says so.
fn copy(model: &mut Model, text: String, shown: &str, effects: &mut Vec<Effect>) {
    model.note(Mark::Plain, format!("copied {shown}"));
    effects.push(Effect::Copy(text));
}

/// Has something read for the reader.
pub(super) fn look(model: &mut Model, wanted: Look, effects: &mut Vec<Effect>) {
    model.looking = Some(wanted.clone());
    effects.push(Effect::Look(wanted));
}

/// Shows what was read, unless the user has gone elsewhere meanwhile.
fn looked(model: &mut Model, look: &Look, result: Result<Box<Reader>, Failure>) {
    if model.looking.as_ref() != Some(look) {
        return;
    }
    model.looking = None;
    let mut reader = match result {
        Ok(reader) => reader,
        Err(failure) => {
            if let Some(Popup::Answer(before)) = model.popup.take() {
                model.trail.push(*before);
            }
            dialog::open(model, Popup::Failure(failure));
            return;
        }
    };
    let popup = model.popup.take();
    match popup {
        Some(Popup::Answer(before)) => model.trail.push(*before),
        // The same tab of the same kind of thing, so that one can leaf through.
        Some(Popup::Reader(mut old)) => {
            reader.succeed(&mut old);
            if let (Some(from), Some(to)) = (&old.layer, &reader.layer) {
                model.went(from, to);
            }
        }
        None | Some(Popup::Ask { .. }) => {}
        other => {
            model.popup = other;
            return;
        }
    }
    // Who reads knows the layers only, not the way that was taken through them.
    let above = reader.layer.as_ref().and_then(|dir| model.above(dir));
    if let Some(above) = above {
        reader.through[1] = look.of_layer(above);
    }
    model.popup = Some(Popup::Reader(reader));
}

/// Writes what is shown, if there is something.
fn save(model: &mut Model, files: Vec<Export>, effects: &mut Vec<Effect>) {
    if files.is_empty() {
        model.note(Mark::Plain, "there is nothing to write here");
    } else {
        effects.push(Effect::Save(files));
    }
}

/// What the cursor on the map stands on.
fn page_under_cursor(model: &Model) -> Option<Look> {
    let map = model.map.as_ref()?;
    let size = model.pixels.pages_per_pixel.max(1);
    let first = model.page();
    let (run, _) = map.within(first, size).next()?;
    Some(Look::Page {
        dir: model.mapped.clone()?,
        id: *map.ids.get(run.space)?,
        addr: run.addr + first.saturating_sub(run.first) * 4096,
        marked: 0..0,
    })
}

fn filter(model: &mut Model, key: KeyEvent) {
    match key.code {
        KeyCode::Enter | KeyCode::Tab => model.filtering = false,
        KeyCode::Esc => {
            model.filtering = false;
            model.filter_here().reset();
        }
        _ => drop(model.filter_here().handle_event(&event::Event::Key(key))),
    }
    relist(model);
    if model.focus != Focus::Processes {
        return;
    }
    // The process that has the text best itself, not one of its ancestors.
    if let Some(at) = processes::best(&model.processes, model.filter.value()) {
        model.process_cursor.at = at;
    }
}

/// Lists what the filter of the pane with the keyboard is about.
fn relist(model: &mut Model) {
    match model.focus {
        Focus::Stacks => model.list_stacks(None),
        Focus::Processes | Focus::Map | Focus::Watch => model.list_processes(),
        Focus::Jobs | Focus::Dedup => {}
    }
}

fn perform(model: &mut Model, act: Act, effects: &mut Vec<Effect>) {
    match act {
        Act::Quit => leave::ask(model),
        Act::Help => {
            let help = Help::of_view(&model.keys, model.focus, model.size);
            model.popup = Some(Popup::Help(Box::new(help)));
        }
        Act::Refresh => effects.push(Effect::Scan),
        Act::Filter => {
            if matches!(model.focus, Focus::Map | Focus::Watch | Focus::Dedup) {
                model.focus = Focus::Processes;
            }
            model.filtering = true;
        }
        Act::Copy => {
            let text = match model.focus {
                Focus::Processes => model.process().map(|row| row.pid.to_string()),
                Focus::Stacks | Focus::Dedup => model
                    .layer()
                    .map(|layer| layer.dir.to_string_lossy().into_owned()),
                Focus::Map => match page_under_cursor(model) {
                    Some(Look::Page { addr, .. }) => Some(format!("{addr:x}")),
                    _ => None,
                },
                Focus::Jobs if model.in_log => logged(model).map(|(_, text)| text),
                Focus::Jobs => selected_end(model).map(|job| job.text.clone()),
                Focus::Watch => model.target().map(|(pid, _)| pid.to_string()),
            };
            if let Some(text) = text {
                let shown = crate::format::plain(&text);
                copy(model, text, &shown, effects);
            }
        }
        Act::Palette => model.popup = Some(Popup::Palette(Palette::default())),
        Act::Export => {
            let files = export::export(model);
            save(model, files, effects);
        }
        Act::Colors => {
            model.coloring = model.coloring.next();
            model.mapped = None;
        }
        Act::Closer | Act::Farther => {
            model.zoom = if act == Act::Closer {
                model.zoom.closer()
            } else {
                model.zoom.farther()
            };
            model.fold();
        }
        Act::Sort => {
            model.order = model.order.next();
            model.list_processes();
        }
        Act::Cancel => {
            let asked = |job: &&Job| !job.cancelled;
            let selected = model.board.jobs.get(model.job_cursor.at);
            if let (Focus::Jobs, Some(id)) = (model.focus, selected.map(|job| job.id)) {
                cancel(model, id, effects);
            } else if let Some(id) = model.board.jobs.iter().rev().find(asked).map(|job| job.id) {
                cancel(model, id, effects);
            }
        }
        Act::Jobs => over(model, Focus::Jobs),
        Act::WatchView => over(model, Focus::Watch),
        Act::Dedup => dedup::open(model, effects),
        Act::Enlarge if model.has_panels() => model.panels.alone = !model.panels.alone,
        Act::Enlarge => model.enlarged = !model.enlarged,
        Act::Next | Act::Previous if model.focus == Focus::Jobs => model.in_log = !model.in_log,
        Act::Next if model.has_panels() => model.panels.at = model.panels.at.next(),
        Act::Previous if model.has_panels() => model.panels.at = model.panels.at.previous(),
        Act::Next => model.focus = view::beside(model.focus, 1),
        Act::Previous => model.focus = view::beside(model.focus, -1),
        Act::Enter => enter(model, effects),
        Act::Check => marks::check(model, effects),
        Act::Inspect => {
            if let Some(layer) = model.layer() {
                let dir = layer.dir.clone();
                let wanted = Look::Layer { dir, tab: 0 };
                look(model, wanted, effects);
            }
        }
        Act::Older | Act::Newer => {
            let Some(layer) = model.layer() else { return };
            let here = layer.dir.clone();
            let to = if act == Act::Older {
                layer.parent.clone()
            } else {
                model.above(&here)
            };
            let row = to.as_deref().and_then(|dir| model.layer_row(dir));
            if let (Some(to), Some(at)) = (to, row) {
                model.went(&here, &to);
                model.stack_cursor.at = at;
                dedup::turn(model, effects);
            }
        }
        Act::Mark if model.focus == Focus::Dedup => dedup::choose(model),
        Act::Mark if model.focus == Focus::Processes => marks::toggle(model),
        Act::Mark => {
            let dir = model.layer().map(|layer| layer.dir.clone());
            model.marked = dir.filter(|dir| model.marked.as_ref() != Some(dir));
        }
        Act::Compare => {
            if let Some((from, to)) = model.compared() {
                inquiry::ask(model, Inquiry::Layers { from, to }, effects);
            }
        }
        Act::Search => {
            model.scroll = 0;
            model.popup = model.layer().map(|layer| Popup::Ask {
                dir: layer.dir.clone(),
                about: About::Search(Sought::default()),
                text: Input::default(),
            });
        }
        Act::Watch if model.focus == Focus::Watch => watch::track(model, effects),
        Act::Watch if marks::count(model, effects) => {}
        Act::Watch => show_counts(model, effects),
        Act::Rule | Act::Budget => {
            model.scroll = 0;
            let follow = |pid: Pid| model.follows.get(&pid.as_raw());
            let offer = |pid: Pid| kept::offer(model, pid);
            model.popup = model.target().map(|(root, _)| {
                let (terms, text) = match act {
                    Act::Rule => {
                        let auto = follow(root).and_then(|f| f.auto.as_ref());
                        let rule = auto.map(|auto| auto.rule().to_string());
                        let rule = rule.or_else(|| Some(offer(root)?.rule.clone()));
                        (Terms::Rule, rule.unwrap_or_default())
                    }
                    _ => {
                        let budget = follow(root).and_then(|f| f.budget);
                        let budget = budget.map(|b| (b.as_secs_f64() * 1000.0).to_string());
                        let budget = budget.or_else(|| Some(offer(root)?.budget.clone()));
                        (Terms::Budget, budget.unwrap_or_default())
                    }
                };
                let text = text.into();
                Popup::Order { root, terms, text }
            });
        }
        Act::Verify => {
            if let Some(layer) = model.layer() {
                let wanted = Look::Verify(layer.dir.clone());
                look(model, wanted, effects);
            }
        }
        Act::Label => {
            model.scroll = 0;
            model.popup = model.layer().map(|layer| Popup::Ask {
                dir: layer.dir.clone(),
                about: About::Label,
                text: layer.label.clone().unwrap_or_default().into(),
            });
        }
        Act::Pin => {
            if let Some(layer) = model.layer() {
                let wish = Wish::Edit(Edit::Pin {
                    dir: layer.dir.clone(),
                    pinned: !layer.pinned,
                });
                apply(model, wish, effects);
            }
        }
        Act::Dump | Act::Restore | Act::Undo | Act::Drop | Act::Squash | Act::Flatten => {
            if let Some(wish) = wish(model, act) {
                plan(model, wish, effects);
            }
        }
        _ => travel(model, act),
    }
}

/// What a key means for what is selected.
fn wish(model: &Model, act: Act) -> Option<Wish> {
    match act {
        Act::Dump if !marks::marked(model).is_empty() => marks::dump(model),
        Act::Dump => {
            let (root, comm) = model.target()?;
            Some(Wish::Dump {
                root,
                comm,
                start_time: None,
                parent: None,
                kill: false,
                allowing: false,
                rule: None,
            })
        }
        Act::Restore => restore(model, model.layer()?),
        Act::Undo => restore(model, undo::layer(model)?),
        Act::Drop => Some(Wish::Edit(Edit::Drop(model.layer()?.dir.clone()))),
        Act::Flatten => Some(Wish::Edit(Edit::Flatten(model.layer()?.dir.clone()))),
        Act::Squash => Some(Wish::Edit(Edit::Squash {
            from: model.marked.clone()?,
            to: model.layer()?.dir.clone(),
        })),
        _ => None,
    }
}

/// What the wish would do is found out, and shown.
fn plan(model: &mut Model, wish: Wish, effects: &mut Vec<Effect>) {
    let id = model.board.plan(&wish, model.clock);
    effects.push(Effect::Plan(id, wish));
}

fn restore(model: &Model, layer: &LayerRow) -> Option<Wish> {
    let root = i32::try_from(layer.root.unwrap_or(0)).ok()?;
    // Another program that has the pid by now is not ours to end.
    let same = |tree: &&Tree| layer.comm.as_deref() == Some(tree.comm.as_str());
    let running = model.running(Pid::from_raw(root)).filter(same);
    Some(Wish::Restore {
        dir: layer.dir.clone(),
        displaced: running.map(|tree| Displaced {
            root: tree.pid,
            start_time: tree.start_time,
            keep: true,
        }),
        manner: Manner::default(),
    })
}

fn show_counts(model: &mut Model, effects: &mut Vec<Effect>) {
    let Some((pid, _)) = model.target() else {
        return;
    };
    if model.watched == Some(pid) {
        model.watched = None;
    } else {
        model.watched = Some(pid);
        effects.push(Effect::Attach(pid));
    }
}

fn enter(model: &mut Model, effects: &mut Vec<Effect>) {
    match model.focus {
        Focus::Watch => {}
        Focus::Dedup => dedup::preview(model, effects),
        Focus::Jobs => {
            let whole = if model.in_log {
                let entry = logged(model);
                entry.map(|(when, text)| (format!("Log, {when}"), text))
            } else {
                selected_end(model).map(|job| (job.title.clone(), job.text.clone()))
            };
            if let Some((title, text)) = whole {
                let columns = usize::from(model.size.0).saturating_sub(4);
                let lines = crate::tui::text::wrap(&text, columns);
                let read = Reader::of_text(&title, lines);
                model.popup = Some(Popup::Reader(Box::new(read)));
            }
        }
        Focus::Processes => {
            if let Some(at) = newest_of_process(model) {
                model.stack_cursor.at = at;
                model.focus = Focus::Stacks;
            }
        }
        Focus::Stacks => model.focus = Focus::Map,
        Focus::Map => {
            if let Some(wanted) = page_under_cursor(model) {
                look(model, wanted, effects);
            }
        }
    }
}

/// The selected line of the log: when it was said, and what.
fn logged(model: &Model) -> Option<(String, String)> {
    let all = logbook::entries(model);
    let entry = all.get(logbook::at(model, all.len()))?;
    Some((entry.when.clone(), entry.text.to_owned()))
}

/// The row of the newest layer of the selected process.
fn newest_of_process(model: &Model) -> Option<usize> {
    let row = model.process()?;
    let newest = model.layers_of(row.pid, &row.comm).first()?.dir.clone();
    model.layer_row(&newest)
}
