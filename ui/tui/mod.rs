//! The terminal UI: processes on the left, stacks on the right, the ownership map below.
//!
//! ```text
//!   threads (keys, signals, processes, stacks, maps, counters, jobs)
//!        │ Msg, one channel
//!        ▼
//!   update(&mut Model, Msg) ──► Vec<Effect> ──► threads
//!        │
//!        ▼
//!   view::draw(&Model)      at most once for all messages that wait
//! ```
//!
//! `update` is pure and the views only read: both are tested without a terminal. Text of others
//! (process names, paths, labels) is defused by `format::plain` when it becomes a row.

pub(crate) mod action;
mod board;
mod color;
mod coloring;
mod export;
mod feed;
mod follow;
mod fuzzy;
mod gate;
mod guide;
mod help;
mod history;
mod inquiry;
mod jobs;
mod kept;
pub(crate) mod keymap;
mod live;
mod logbook;
mod look;
mod map;
mod message;
mod model;
mod mouse;
mod news;
mod owned;
mod palette;
mod panel;
mod popup;
mod probe;
mod processes;
mod reader;
mod save;
mod scan;
mod spots;
mod stacks;
mod surplus;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod theme;
mod undo;
mod update;
mod view;
mod voice;
mod way;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use icecore::{Cancel, Error, Kind, Pid, Result};

use crate::config::Config;
use action::Act;
pub(crate) use guide::{Facts, Guide, Step};
use popup::Mark;

use feed::Feed;
use gate::Gate;
use jobs::{Jobs, Planner};
use kept::Place;
use message::{Effect, Msg};
use model::Model;
use terminal::Screen;
use update::update;
use voice::Voice;

/// The screen is drawn at most this often.
const FRAME: Duration = Duration::from_millis(16);

/// How to start.
#[derive(Debug)]
pub(crate) struct Options {
    /// How it looks, and what keys do.
    pub(crate) config: Config,
    /// The images root; without it, the one of the last run or the working directory.
    pub(crate) root: Option<PathBuf>,
    /// The process to select at the start.
    pub(crate) select: Option<Pid>,
    /// A tour.
    pub(crate) guide: Option<Guide>,
    /// Asked once a second; shown at the top.
    pub(crate) status: Option<Status>,
    /// Where what one was at is kept.
    pub(crate) place: Option<Place>,
}

impl Options {
    /// As configured.
    pub(crate) fn of(config: Config) -> Self {
        Self {
            root: config.root.clone(),
            place: config.state.then(Place::of_environment).flatten(),
            config,
            select: None,
            guide: None,
            status: None,
        }
    }
}

/// Something that has a line to say.
pub(crate) struct Status(pub(crate) Box<dyn Fn() -> String + Send>);

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Status")
    }
}

/// Runs until the user leaves; returns what was done meanwhile.
///
/// # Errors
/// When there is no terminal, or no images root.
pub(crate) fn run(options: Options) -> Result<Facts> {
    if !stdin().is_terminal() || !stdout().is_terminal() {
        return Err(Error::new(Kind::Usage, "The terminal UI needs a terminal")
            .hint("icecore --help lists the commands that work without one"));
    }
    let (kept, damage) = options.place.as_ref().map(Place::read).unwrap_or_default();
    let (root, said) = match options.root {
        Some(root) => (root, None),
        None => kept::root(kept.as_ref()),
    };
    let root = fs::canonicalize(&root)
        .map_err(|e| Error::path("open", &root, e).hint("create it: mkdir -p DIR"))?;
    let jobs = Jobs {
        root: root.clone(),
        keeper: crate::cli::ourselves()?,
        pin: match options.config.keys.of(Act::Pin) {
            [] => String::new(),
            _ => options.config.keys.label(Act::Pin),
        },
    };
    let (messages, inbox) = channel();
    let speaks = options.config.screen_reader;
    // A screen reader's own keys and clicks are not for us.
    let mut screen = Screen::take(options.config.mouse && !speaks)?;
    let mut model = Model::new(root.clone(), options.config.theme, screen.size());
    model.keys = options.config.keys;
    model.select = options.select;
    model.guide = options.guide;
    model.now = SystemTime::now();
    model.voice = speaks.then(Voice::default);
    model.resume(kept, damage.or(said));
    if let Some(place) = &options.place {
        let (past, damage) = place.read_history();
        past.apply(&mut model);
        model.resume(None, damage);
    }
    for unread in &options.config.unread {
        let text = crate::format::plain(unread);
        model.toast(Mark::Warn, text.clone());
        model.note(Mark::Warn, text);
    }
    let gate = Gate::default();
    let keeper = jobs.keeper.clone();
    let feed = Feed::start(root, keeper, options.status, gate.clone(), &messages)?;
    let mut runner = Runner {
        feed,
        jobs,
        messages,
        gate,
        planner: Planner::default(),
        asked: Cancel::default(),
        jobs_running: BTreeMap::new(),
    };
    let result = turn(&mut model, &mut screen, &inbox, &mut runner);
    drop(screen);
    runner.finish();
    // What became of the last jobs is told by the next run.
    for end in inbox.try_iter().filter(|msg| matches!(msg, Msg::Done(..))) {
        let _nothing_follows = update(&mut model, end);
    }
    if let Some(place) = options.place {
        let kept = place.write(&model);
        if let Err(e) = kept.and(place.write_history(&model)) {
            tracing::info!("where one was is not kept: {e}");
        }
    }
    result.map(|()| model.facts)
}

fn turn(
    model: &mut Model,
    screen: &mut Screen,
    inbox: &Receiver<Msg>,
    runner: &mut Runner,
) -> Result<()> {
    let started = Instant::now();
    let mut frames = Frames::of_environment();
    let mut drawn = Instant::now();
    frames.draw(screen, model)?;
    while !model.quit {
        let Ok(first) = inbox.recv() else { break };
        model.clock = started.elapsed();
        let mut seen = news::is_news(model, &first);
        runner.run(update(model, first), screen)?;
        // Everything that waits, and what comes until the next frame is due.
        loop {
            let wait = FRAME.saturating_sub(drawn.elapsed());
            let Ok(next) = inbox.recv_timeout(wait) else {
                break;
            };
            seen |= news::is_news(model, &next);
            runner.run(update(model, next), screen)?;
            if model.quit || drawn.elapsed() > FRAME * 4 {
                break;
            }
        }
        if seen {
            frames.draw(screen, model)?;
            drawn = Instant::now();
        }
    }
    Ok(())
}

/// How long each frame took, for the benchmark: in microseconds, a line each, in the file that
/// `ICECORE_FRAMES` names.
struct Frames(Option<(PathBuf, String)>);

impl Frames {
    fn of_environment() -> Self {
        let path = std::env::var_os("ICECORE_FRAMES");
        Self(path.map(|path| (path.into(), String::new())))
    }

    fn draw(&mut self, screen: &mut Screen, model: &Model) -> Result<()> {
        let started = Instant::now();
        screen.draw(model)?;
        if let Some((_, lines)) = &mut self.0 {
            lines.push_str(&format!("{}\n", started.elapsed().as_micros()));
        }
        Ok(())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        if let Some((path, lines)) = &self.0 {
            // Who measures sees that it is not there.
            let _unwritable = fs::write(path, lines);
        }
    }
}

/// Carries out effects.
struct Runner {
    feed: Feed,
    jobs: Jobs,
    messages: Sender<Msg>,
    gate: Gate,
    planner: Planner,
    /// Stops the search for the latest answer.
    asked: Cancel,
    /// By their numbers.
    jobs_running: BTreeMap<u64, (Cancel, JoinHandle<()>)>,
}

impl Runner {
    /// Waits for the jobs that still run: half a restore would be no process at all.
    fn finish(&mut self) {
        let jobs = std::mem::take(&mut self.jobs_running);
        if jobs.values().any(|(_, job)| !job.is_finished()) {
            let _closed = writeln!(stdout(), "icecore finishes the running jobs first …");
        }
        for (_, job) in jobs.into_values() {
            // Its panic has been reported by the hook.
            let _panicked = job.join();
        }
    }

    fn run(&mut self, effects: Vec<Effect>, screen: &mut Screen) -> Result<()> {
        for effect in effects {
            match effect {
                Effect::Scan => self.feed.scan(),
                Effect::Survey => self.feed.survey(),
                Effect::LoadMap(dir, coloring) => self.feed.map(dir, coloring),
                Effect::Surplus(dir) => self.planner.turn_to(dir, &self.messages)?,
                Effect::Attach(root) => self.feed.attach(root),
                Effect::Probe(rows) => self.feed.probe(rows),
                Effect::Detach(root) => self.feed.detach(root),
                Effect::Redraw => screen.resized(),
                Effect::Copy(text) => terminal::copy(&text)?,
                Effect::Save(files) => {
                    feed::spawn("save", &self.messages, move |messages| {
                        let _closed = messages.send(Msg::Saved(save::save(&files)));
                    })?;
                }
                Effect::Settle => {
                    let gate = self.gate.clone();
                    feed::spawn("settle", &self.messages, move |messages| {
                        gate.close();
                        let _closed = messages.send(Msg::Settled);
                    })?;
                }
                Effect::Stop => {
                    let stopped = screen.stop();
                    self.gate.open();
                    stopped?;
                    let (columns, rows) = screen.size();
                    let _open = self.messages.send(Msg::Resize(columns, rows));
                }
                Effect::CancelJob(id) => {
                    if let Some((cancel, _)) = self.jobs_running.get(&id) {
                        cancel.cancel();
                    }
                }
                Effect::Look(look) => {
                    feed::spawn("look", &self.messages, move |messages| {
                        let read = look::look(&look).map(Box::new).map_err(|e| (&e).into());
                        let _closed = messages.send(Msg::Looked(look, read));
                    })?;
                }
                Effect::Inquire(inquiry) => {
                    let cancel = Cancel::default();
                    std::mem::replace(&mut self.asked, cancel.clone()).cancel();
                    if let Some(inquiry) = inquiry {
                        feed::spawn("inquiry", &self.messages, move |messages| {
                            let answer = inquiry.answer(&cancel).map(Box::new);
                            let answer = answer.map_err(|e| (&e).into());
                            let _closed = messages.send(Msg::Answered(inquiry, answer));
                        })?;
                    }
                }
                Effect::Plan(id, wish) => {
                    let (jobs, gate) = (self.jobs.clone(), self.gate.clone());
                    feed::spawn("plan", &self.messages, move |messages| {
                        let _inside = wish.touches_targets().then(|| gate.enter());
                        jobs.plan(id, &wish, &messages);
                    })?;
                }
                Effect::Apply(id, wish) => {
                    self.jobs_running.retain(|_, (_, job)| !job.is_finished());
                    let cancel = Cancel::default();
                    let (jobs, asked) = (self.jobs.clone(), cancel.clone());
                    let gate = self.gate.clone();
                    let planner = self.planner.clone();
                    let job = feed::spawn("job", &self.messages, move |messages| {
                        // Who changes layers needs them alone.
                        let _free = wish.changes_layers().then(|| planner.stop());
                        let _inside = wish.touches_targets().then(|| gate.enter());
                        jobs.apply(id, &wish, &asked, &messages);
                    })?;
                    self.jobs_running.insert(id, (cancel, job));
                }
            }
        }
        Ok(())
    }
}
