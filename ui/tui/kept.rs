//! Where one was, kept from run to run in `$XDG_STATE_HOME/icecore/screen.json`.
//!
//! What happened is kept beside it (see `history`). It holds places and choices only: no text that was searched or filtered for, nothing out of memory
//! or of command lines. A file that is damaged, or of another version, counts as none; it is written
//! anew at the end. Source: the XDG base directory specification (`XDG_STATE_HOME`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use icecore::Pid;
use icecore::task::Tree;
use serde::{Deserialize, Serialize};

use super::coloring::Coloring;
use super::history::History;
use super::map::Zoom;
use super::model::{Focus, Model};
use super::popup::Mark;
use super::processes::Order;
use super::undo::{self, Back};

/// What is written today; other versions are not read.
const VERSION: u32 = 2;
/// A file that is larger is not ours.
const LARGEST: u64 = 1 << 20;
/// Directories in which layers are looked for.
const LOOKED: usize = 500;
/// Rules that are offered again.
const OFFERS: usize = 64;

/// Where one was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    version: u32,
    /// The images root.
    root: PathBuf,
    /// The pane with the keyboard.
    focus: Focus,
    /// It has the whole screen. (Files of before say nothing about it.)
    #[serde(default)]
    enlarged: bool,
    /// How processes are sorted.
    order: Order,
    /// Pids whose children are folded away, with their start times.
    folded: BTreeMap<i32, u64>,
    /// What the colours of the map tell.
    coloring: Coloring,
    /// How much of a layer the map shows.
    zoom: Zoom,
    /// The selected layer.
    layer: Option<PathBuf>,
    /// The selected process, with its start time.
    process: Option<(i32, u64)>,
    /// The ways back of trees that were rolled back.
    undo: Vec<Back>,
    /// Rules that were followed.
    rules: Vec<Offer>,
}

/// A rule that was followed: offered for the tree that it was made for, never followed unasked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Offer {
    /// The root of the tree.
    pid: i32,
    /// Its start time.
    start_time: u64,
    /// The rule, as it is typed.
    pub(super) rule: String,
    /// The freeze budget, in milliseconds.
    pub(super) budget: String,
}

impl Kept {
    /// Where `model` is.
    fn of(model: &Model) -> Self {
        let start = |pid: &i32| {
            let tree = model.running(Pid::from_raw(*pid))?;
            Some((*pid, tree.start_time))
        };
        let process = model.process();
        Self {
            version: VERSION,
            root: model.root.clone(),
            focus: model.focus,
            enlarged: model.enlarged,
            order: model.order,
            folded: model.folded.iter().filter_map(start).collect(),
            coloring: model.coloring,
            zoom: model.zoom,
            layer: model.layer().map(|layer| layer.dir.clone()),
            process: process.map(|row| (row.pid.as_raw(), row.start_time)),
            undo: undo::kept(model),
            rules: offers(model),
        }
    }

    /// Goes back there. What belongs to another images root stays behind.
    pub(super) fn apply(mut self, model: &mut Model) {
        model.focus = self.focus;
        model.enlarged = self.enlarged;
        model.order = self.order;
        model.coloring = self.coloring;
        model.zoom = self.zoom;
        if self.root == model.root {
            model.select_layer.clone_from(&self.layer);
            model.undo = std::mem::take(&mut self.undo);
        }
        model.kept = self;
    }
}

/// The rules that are followed, and those that were, of trees that still run.
fn offers(model: &Model) -> Vec<Offer> {
    let followed = model.follows.iter().map(|(pid, follow)| {
        let earlier = offer(model, Pid::from_raw(*pid));
        let earlier = |of: fn(&Offer) -> &String| earlier.map(of).cloned().unwrap_or_default();
        let rule = follow.auto.as_ref().map(|auto| auto.rule().to_string());
        let budget = follow.budget.map(|b| (b.as_secs_f64() * 1e3).to_string());
        Offer {
            pid: *pid,
            start_time: follow.start_time,
            rule: rule.unwrap_or_else(|| earlier(|offer| &offer.rule)),
            budget: budget.unwrap_or_else(|| earlier(|offer| &offer.budget)),
        }
    });
    let earlier = model.kept.rules.iter().filter(|kept| {
        let same = offer(model, Pid::from_raw(kept.pid)) == Some(*kept);
        same && !model.follows.contains_key(&kept.pid)
    });
    followed.chain(earlier.cloned()).take(OFFERS).collect()
}

/// What was followed of the tree `pid`, when it is still that one.
pub(super) fn offer(model: &Model, pid: Pid) -> Option<&Offer> {
    let start_time = model.running(pid)?.start_time;
    let mut offers = model.kept.rules.iter();
    offers.find(|offer| offer.pid == pid.as_raw() && offer.start_time == start_time)
}

/// The user does not want the rule any more.
pub(super) fn withdraw(model: &mut Model, pid: Pid) {
    model.kept.rules.retain(|offer| offer.pid != pid.as_raw());
}

/// Folds what was folded and selects what was selected, as soon as the processes are known; another
/// process may have the pid by now.
pub(super) fn refind(model: &mut Model) {
    if let Some((pid, start_time)) = model.kept.process.take() {
        let pid = Pid::from_raw(pid);
        let same = |tree: &Tree| tree.start_time == start_time;
        if model.select.is_none() && model.running(pid).is_some_and(same) {
            model.select = Some(pid);
        }
    }
    for (pid, start_time) in std::mem::take(&mut model.kept.folded) {
        let tree = model.running(Pid::from_raw(pid));
        if tree.is_some_and(|tree| tree.start_time == start_time) {
            model.folded.insert(pid);
        }
    }
}

/// The file.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

impl Place {
    /// That of this user; none without a home.
    pub(crate) fn of_environment() -> Option<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self::of(variable("XDG_STATE_HOME"), variable("HOME"))
    }

    /// That of a user with these directories.
    pub(super) fn of(state: Option<OsString>, home: Option<OsString>) -> Option<Self> {
        // A relative path is to be ignored.
        let state = state.map(PathBuf::from).filter(|dir| dir.is_absolute());
        let home = || Some(PathBuf::from(home?).join(".local/state"));
        let dir = state.or_else(home).filter(|dir| dir.is_absolute())?;
        Some(Self(dir.join("icecore/screen.json")))
    }

    /// What happened in earlier runs; with it, what there is to say about a file that says nothing.
    pub(super) fn read_history(&self) -> (History, Option<String>) {
        let path = self.history();
        match contents(&path).and_then(|text| text.map(|text| History::read(&text)).transpose()) {
            Ok(read) => (read.unwrap_or_default(), None),
            Err(why) => (History::default(), Some(unread(&path, &why))),
        }
    }

    /// Keeps what happened, for the next run.
    ///
    /// # Errors
    /// When it cannot be written; nobody needs to know more than that.
    pub(super) fn write_history(&self, model: &Model) -> std::io::Result<()> {
        replace(&self.history(), &serde_json::to_vec(&History::of(model))?)
    }

    fn history(&self) -> PathBuf {
        self.0.with_file_name("history.json")
    }

    /// What is kept there; with it, what there is to say about a file that says nothing.
    pub(super) fn read(&self) -> (Option<Kept>, Option<String>) {
        let useless = |why: &str| (None, Some(unread(&self.0, why)));
        let text = match contents(&self.0) {
            Ok(Some(text)) => text,
            Ok(None) => return (None, None),
            Err(why) => return useless(&why),
        };
        match serde_json::from_slice::<Kept>(&text) {
            Ok(kept) if kept.version == VERSION => (Some(kept), None),
            Ok(kept) => useless(&format!("it is of version {}", kept.version)),
            Err(e) => useless(&e.to_string()),
        }
    }

    /// Keeps where `model` is. The file is complete or as before.
    ///
    /// # Errors
    /// When it cannot be written; nobody needs to know more than that.
    pub(super) fn write(&self, model: &Model) -> std::io::Result<()> {
        replace(&self.0, &serde_json::to_vec_pretty(&Kept::of(model))?)
    }
}

/// What there is to say about a file that says nothing.
fn unread(path: &Path, why: &str) -> String {
    format!("{} is not read: {why}; it is made anew", path.display())
}

/// What a file of ours holds; none when there is none, or why it is of no use.
fn contents(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => return Err("it is no file".into()),
        Ok(meta) if meta.len() > LARGEST => return Err("it is too large".into()),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
        Ok(_) => {}
    }
    fs::read(path).map(Some).map_err(|e| e.to_string())
}

/// Writes a file of ours, which is complete or as before.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(text))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _not_there = fs::remove_file(&new);
    }
    written
}

/// The images root when nobody names one: the working directory where it has layers, or else the one of
/// the last run. With it, what to say about that.
pub(super) fn root(kept: Option<&Kept>) -> (PathBuf, Option<String>) {
    let here = PathBuf::from(".");
    match kept {
        Some(kept) if kept.root.is_dir() && !has_layers(&here) => {
            let same = fs::canonicalize(&here).is_ok_and(|here| here == kept.root);
            let root = crate::format::plain(&kept.root.to_string_lossy());
            let said = format!("{root} is shown, as last time: --root . shows what is here");
            (kept.root.clone(), (!same).then_some(said))
        }
        _ => (here, None),
    }
}

/// Whether there are layers, here or one directory further down.
fn has_layers(dir: &Path) -> bool {
    let below = |dir: &Path| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).take(LOOKED)
    };
    let is_layer = |dir: &PathBuf| dir.join("inventory.img").exists();
    below(dir).any(|dir| is_layer(&dir) || below(&dir).any(|dir| is_layer(&dir)))
}

impl Model {
    /// Starts where one was.
    pub(super) fn resume(&mut self, kept: Option<Kept>, said: Option<String>) {
        if let Some(kept) = kept {
            kept.apply(self);
        }
        if let Some(said) = said {
            self.note(Mark::Warn, crate::format::plain(&said));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::theme::Theme;

    fn model() -> Model {
        let theme = Theme::of_environment(|_| String::new());
        Model::new("/img".into(), theme, (80, 24))
    }

    fn place(dir: &Path) -> Place {
        Place::of(Some(dir.as_os_str().to_owned()), None).unwrap()
    }

    #[test]
    fn where_one_was_is_where_one_starts() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        assert_eq!(place.read(), (None, None), "the first time");
        let mut before = model();
        before.focus = Focus::Map;
        before.enlarged = true;
        before.order = Order::Memory;
        before.coloring = Coloring::Entropy;
        before.zoom = Zoom::Mapping;
        place.write(&before).unwrap();
        let mut after = model();
        after.resume(place.read().0, None);
        let seen = |m: &Model| (m.focus, m.enlarged, m.order, m.coloring, m.zoom);
        assert_eq!(seen(&before), seen(&after));
        assert!(after.log.is_empty());
        place.write(&after).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("icecore")).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_newer_file_is_one_line_of_the_log_and_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        place.write(&model()).unwrap();
        let whole = fs::read_to_string(&place.0).unwrap();
        let newer = whole.replace("\"version\": 2", "\"version\": 3");
        let unknown = whole.replace("\"focus\": \"processes\"", "\"focus\": \"\\u001b[2J\"");
        assert!(newer != whole && unknown != whole);
        for text in [
            &whole[..whole.len() / 2],
            "",
            "\u{0}\u{1}",
            "[]",
            &newer,
            &unknown,
        ] {
            fs::write(&place.0, text).unwrap();
            let mut model = model();
            let (kept, said) = place.read();
            model.resume(kept, said);
            assert_eq!(
                (model.log.len(), model.focus),
                (1, Focus::Processes),
                "{text}"
            );
            let (_, mark, said) = &model.log[0];
            assert_eq!(*mark, Mark::Warn);
            assert!(
                !said.contains('\u{1b}') && said.contains("screen.json"),
                "{said}"
            );
            place.write(&model).unwrap();
            assert!(place.read().0.is_some());
        }
    }

    #[test]
    fn the_file_is_where_the_specification_wants_it() {
        let of = |state: &str, home: &str| {
            let some = |text: &str| (!text.is_empty()).then(|| OsString::from(text));
            Place::of(some(state), some(home)).map(|place| place.0)
        };
        assert_eq!(of("/s", "/h"), Some("/s/icecore/screen.json".into()));
        let usual = Some("/h/.local/state/icecore/screen.json".into());
        assert_eq!(of("", "/h"), usual);
        assert_eq!(of("relative", "/h"), usual);
        assert_eq!(of("", ""), None);
    }
}
