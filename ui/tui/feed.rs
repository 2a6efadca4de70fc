//! The threads that bring messages: keys, signals, processes, image directories, maps, counters.
//!
//! Each ends when the channel or the stop flag says so. Requests for the same kind of thing replace
//! each other: only the latest is answered.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossterm::event::{self, Event as Input};
use icecore::task::{self, Roster};
use icecore::track::{self, Watch};
use icecore::{Error, Pid, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Status;
use super::coloring::{self, Coloring};
use super::gate::Gate;
use super::message::{Count, Failure, Msg, Part, Survey};
use super::owned;
use super::probe::{self, Asked};
use super::scan;

/// How often the processes are listed.
const SURVEY: Duration = Duration::from_millis(1000);
/// How often dirty pages are counted.
const COUNT: Duration = Duration::from_millis(700);
/// How often it is looked for trees that somebody else began to track, while there are none.
const LOOK: Duration = Duration::from_secs(2);
/// How often the stop flag is looked at while there is no key.
const KEYS: Duration = Duration::from_secs(1);
/// Trees counted at the same time.
const COUNTED: usize = 12;
/// Mappings reported of each.
const TOP: usize = 16;

/// Leaves the terminal UI when a thread panics: it would go on without a part of itself.
struct Alarm(Sender<Msg>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            let _closed = self.0.send(Msg::Quit);
        }
    }
}

/// Starts a thread; a panic in it ends the terminal UI.
pub(crate) fn spawn(
    name: &str,
    messages: &Sender<Msg>,
    work: impl FnOnce(Sender<Msg>) + Send + 'static,
) -> Result<JoinHandle<()>> {
    let messages = messages.clone();
    thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let _alarm = Alarm(messages.clone());
            work(messages);
        })
        .map_err(|e| Error::io(format!("Cannot start the {name} thread"), e))
}

/// Of what computes for seconds: the next frame comes first, also where there are few processors.
fn stand_back() {
    if let Err(e) = icecore::sys::sched::stand_back() {
        tracing::debug!("cannot make a thread nicer: {e}");
    }
}

/// What is to become of the tracking of a tree.
#[derive(Clone, Copy, Debug)]
enum Tracking {
    Begin(Pid),
    End(Pid),
}

/// The way to the threads that answer requests.
#[derive(Debug)]
pub(crate) struct Feed {
    scans: Sender<()>,
    surveys: Sender<()>,
    maps: Sender<(PathBuf, Coloring)>,
    counts: Sender<Tracking>,
    probes: Sender<Asked>,
    stop: Arc<AtomicBool>,
    signals: signal_hook::iterator::Handle,
}

impl Feed {
    /// Starts all threads.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub(crate) fn start(
        root: PathBuf,
        keeper: PathBuf,
        status: Option<Status>,
        gate: Gate,
        messages: &Sender<Msg>,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        spawn("keys", messages, move |messages| keys(&flag, &messages))?;
        let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT])
            .map_err(|e| Error::io("Cannot listen to signals", e))?;
        let handle = signals.handle();
        spawn("signals", messages, move |messages| {
            for signal in &mut signals {
                if messages.send(Msg::Signal(signal)).is_err() {
                    break;
                }
            }
        })?;
        let flag = Arc::clone(&stop);
        let (surveys, requests) = channel();
        spawn("processes", messages, move |messages| {
            survey(&flag, status.as_ref(), &requests, &messages);
        })?;
        let (catalogs, listed) = channel();
        spawn("owned", messages, move |messages| {
            stand_back();
            owned::answer(&listed, &messages);
        })?;
        let (scans, requests) = channel();
        let ring = scans.clone();
        spawn("stacks", messages, move |messages| {
            scan::follow(&root, &ring, &requests, &catalogs, &messages);
        })?;
        let (maps, requests) = channel();
        spawn("map", messages, move |messages| {
            stand_back();
            answer_maps(&requests, &messages);
        })?;
        let (probes, requests) = channel();
        let (program, held) = (keeper.clone(), gate.clone());
        spawn("probe", messages, move |messages| {
            probe::answer(&program, &held, &requests, &messages);
        })?;
        let (counts, requests) = channel();
        spawn("counter", messages, move |messages| {
            Counter::new(keeper, gate).run(&requests, &messages);
        })?;
        Ok(Self {
            scans,
            surveys,
            maps,
            counts,
            probes,
            stop,
            signals: handle,
        })
    }

    /// Reads the images root again.
    pub(crate) fn scan(&self) {
        let _gone = self.scans.send(());
    }

    /// Lists the processes again.
    pub(crate) fn survey(&self) {
        let _gone = self.surveys.send(());
    }

    /// Computes the map of a layer.
    pub(crate) fn map(&self, dir: PathBuf, coloring: Coloring) {
        let _gone = self.maps.send((dir, coloring));
    }

    /// Finds out more about the processes that are seen.
    pub(crate) fn probe(&self, asked: Asked) {
        let _gone = self.probes.send(asked);
    }

    /// Tracks a tree.
    pub(crate) fn attach(&self, root: Pid) {
        let _gone = self.counts.send(Tracking::Begin(root));
    }

    /// Tracks it no more.
    pub(crate) fn detach(&self, root: Pid) {
        let _gone = self.counts.send(Tracking::End(root));
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.signals.close();
    }
}

fn keys(stop: &AtomicBool, messages: &Sender<Msg>) {
    while !stop.load(Ordering::Relaxed) {
        let msg = match event::poll(KEYS) {
            Ok(false) => continue,
            Ok(true) => match event::read() {
                Ok(Input::Key(key)) => Msg::Key(key),
                Ok(Input::Mouse(event)) => Msg::Mouse(event),
                Ok(Input::Resize(columns, rows)) => Msg::Resize(columns, rows),
                Ok(_) => continue,
                Err(_) => Msg::Quit,
            },
            Err(_) => Msg::Quit,
        };
        let last = matches!(msg, Msg::Quit);
        if messages.send(msg).is_err() || last {
            break;
        }
    }
}

fn survey(
    stop: &AtomicBool,
    status: Option<&Status>,
    requests: &Receiver<()>,
    messages: &Sender<Msg>,
) {
    let mut roster = Roster::default();
    while !stop.load(Ordering::Relaxed) {
        let survey = Survey {
            trees: roster.trees().unwrap_or_default(),
            tracked: track::list()
                .unwrap_or_default()
                .into_iter()
                .map(|record| (record.pid, record.layer))
                .collect(),
            now: SystemTime::now(),
            status: status.map(|status| (status.0)()),
        };
        if messages.send(Msg::Processes(survey)).is_err() {
            break;
        }
        let _asked_or_time_is_up = requests.recv_timeout(SURVEY);
    }
}

fn answer_maps(requests: &Receiver<(PathBuf, Coloring)>, messages: &Sender<Msg>) {
    while let Ok(mut wanted) = requests.recv() {
        while let Ok(newer) = requests.try_recv() {
            wanted = newer;
        }
        let (dir, coloring) = wanted;
        let map = coloring::load(&dir, coloring);
        let map = map.map(Arc::new).map_err(|e| Failure::from(&e));
        if messages.send(Msg::Map(dir, map)).is_err() {
            return;
        }
    }
}

/// Counts the dirty pages of all tracked trees.
struct Counter {
    keeper: PathBuf,
    gate: Gate,
    started: Instant,
    /// By the pid of the root, with the layer since which the watch counts.
    watches: BTreeMap<i32, (Watch, Option<String>)>,
}

impl Counter {
    fn new(keeper: PathBuf, gate: Gate) -> Self {
        Self {
            keeper,
            gate,
            started: Instant::now(),
            watches: BTreeMap::new(),
        }
    }

    fn run(&mut self, requests: &Receiver<Tracking>, messages: &Sender<Msg>) {
        loop {
            let wait = if self.watches.is_empty() { LOOK } else { COUNT };
            match requests.recv_timeout(wait) {
                Ok(Tracking::End(root)) => {
                    self.watches.remove(&root.as_raw());
                    // Who is gone, or was not tracked, is not tracked.
                    for member in task::members(root).unwrap_or_default() {
                        let _not_tracked = track::forget(member.pid);
                    }
                }
                Ok(Tracking::Begin(root)) => {
                    if let Err(e) = self.watch(root, None)
                        && messages.send(Msg::Counted(root, Err((&e).into()))).is_err()
                    {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.join();
            for (root, result) in self.count() {
                if messages.send(Msg::Counted(root, result)).is_err() {
                    return;
                }
            }
        }
    }

    fn watch(&mut self, root: Pid, since: Option<String>) -> Result<()> {
        // It freezes the tree for a moment.
        let _inside = self.gate.enter();
        let watch = Watch::start(root, &self.keeper)?;
        self.watches.insert(root.as_raw(), (watch, since));
        Ok(())
    }

    /// Joins every tree that is tracked, or tracked anew since a dump.
    fn join(&mut self) {
        let records = track::list().unwrap_or_default();
        let tracked: BTreeMap<i32, Option<String>> =
            records.into_iter().map(|r| (r.pid, r.layer)).collect();
        self.watches.retain(|pid, _| tracked.contains_key(pid));
        for (pid, since) in &tracked {
            let known = self.watches.get(pid).map(|(_, since)| since);
            if known == Some(since) || (known.is_none() && self.watches.len() >= COUNTED) {
                continue;
            }
            let root = Pid::from_raw(*pid);
            // Only the root of each tracked tree; the watch includes what is below.
            let inner = task::process(root)
                .is_ok_and(|process| tracked.contains_key(&process.ppid.as_raw()));
            if !inner {
                // A tree that ends at this moment is not tracked next time.
                let _ended = self.watch(root, since.clone());
            }
        }
    }

    fn count(&mut self) -> Vec<(Pid, std::result::Result<Count, Failure>)> {
        let at = self.started.elapsed();
        let mut counts = Vec::new();
        let mut ended = Vec::new();
        for (pid, (watch, since)) in &self.watches {
            let Ok(sample) = watch.sample() else {
                ended.push(*pid);
                continue;
            };
            let mut top: Vec<Part> = sample
                .per_mapping
                .iter()
                .filter(|mapping| mapping.dirty > 0)
                .map(|mapping| {
                    let name = if mapping.name.is_empty() {
                        format!("{:x}", mapping.range.start)
                    } else {
                        crate::format::plain(mapping.name.rsplit('/').next().unwrap_or_default())
                    };
                    let name = format!("{} {name}", mapping.pid);
                    Part {
                        name,
                        dirty: mapping.dirty,
                        resident: mapping.resident,
                        tracked: mapping.tracked,
                    }
                })
                .collect();
            top.sort_by_key(|part| std::cmp::Reverse(part.dirty));
            top.truncate(TOP);
            let count = Count {
                at,
                dirty: sample.dirty_pages,
                resident: sample.resident_pages,
                tracker: sample.tracker,
                since: sample.since_layer.or_else(|| since.clone()),
                not_tracked: sample.not_tracked,
                shared: sample.shared_pages,
                cpu: sample.cpu,
                armed: watch
                    .armed()
                    .and_then(|at| at.checked_duration_since(self.started)),
                top,
            };
            counts.push((Pid::from_raw(*pid), Ok(count)));
        }
        for pid in ended {
            self.watches.remove(&pid);
        }
        counts
    }
}
