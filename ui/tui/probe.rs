//! What the process list tells beside what every survey brings: descriptors, and whether a dump would
//! work. Only for the rows that are seen, in a thread, the verdicts remembered.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use icecore::dump::{self, After, Options, Verdict};
use icecore::files::Allow;
use icecore::{Error, Kind, Obstacle, Pid, Result};
use nix::unistd::{AccessFlags, access};

use super::gate::Gate;
use super::message::Msg;
use crate::format;

/// Verdicts found in one round: the rows fill one after the other, and the machine stays quiet.
const ROUND: usize = 4;
/// How long a verdict is believed.
const FRESH: Duration = Duration::from_secs(300);
/// How long one is believed that somebody else's doing may end (a debugger's, another dump's).
const PASSING: Duration = Duration::from_secs(5);
/// How many times as long as it takes to find a verdict it is believed at least: what is large and never
/// rests (all processes of a machine) shall not keep a processor busy.
const EFFORT: u32 = 100;
/// Verdicts remembered.
const KEPT: usize = 512;

/// What was found of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Open descriptors, where we may count them.
    pub(crate) descriptors: Option<usize>,
    /// Whether it can be dumped.
    pub(crate) dump: Option<Dumpable>,
}

/// Whether a tree can be dumped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dumpable {
    /// As it is.
    Yes,
    /// With an option, that this names.
    Option(String),
    /// Not at all: why.
    No(String),
}

impl Dumpable {
    /// In a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::Option(_) => "opt",
            Self::No(_) => "no",
        }
    }

    /// Which option, or why not.
    pub(crate) fn why(&self) -> Option<&str> {
        match self {
            Self::Yes => None,
            Self::Option(why) | Self::No(why) => Some(why),
        }
    }
}

/// A process: a pid is nobody's for ever.
pub(crate) type Who = (Pid, u64);

/// Of which processes something is to be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// All of it.
    pub(crate) seen: Vec<Who>,
    /// How many descriptors they have open, which costs next to nothing.
    pub(crate) count: Vec<Who>,
}

/// Answers requests for the rows that are seen, the latest one. Who is inside of `gate` may hold a target.
pub(super) fn answer(
    keeper: &Path,
    gate: &Gate,
    requests: &Receiver<Asked>,
    messages: &Sender<Msg>,
) {
    let mut known: BTreeMap<Who, (Instant, Dumpable)> = BTreeMap::new();
    while let Ok(mut asked) = requests.recv() {
        while let Ok(newer) = requests.try_recv() {
            asked = newer;
        }
        known.retain(|_, (until, _)| Instant::now() < *until);
        if known.len() > KEPT {
            known.clear();
        }
        let unknown: Vec<Who> = asked
            .seen
            .iter()
            .filter(|who| !known.contains_key(who))
            .copied()
            .collect();
        for who in unknown.into_iter().take(ROUND) {
            let ours = gate.is_held();
            let started = Instant::now();
            let (lasting, dump) = judge(who.0, keeper);
            // Whoever stops the target for a moment may be we ourselves: that is no verdict.
            if lasting == FRESH || !(ours || gate.is_held()) {
                let until = Instant::now() + believed(lasting, started.elapsed());
                known.insert(who, (until, dump));
            }
        }
        let rows = asked.seen.iter().chain(&asked.count);
        let found = rows.map(|who| {
            let probe = Probe {
                descriptors: descriptors(who.0),
                dump: known.get(who).map(|(_, dump)| dump.clone()),
            };
            (who.0.as_raw(), probe)
        });
        if messages.send(Msg::Probed(found.collect())).is_err() {
            return;
        }
    }
}

/// How many descriptors a process has open.
fn descriptors(pid: Pid) -> Option<usize> {
    let path = format!("/proc/{pid}/fd");
    // Whom we may not ask is not told by the size.
    access(path.as_str(), AccessFlags::R_OK).ok()?;
    // Since Linux 6.2 the directory says how many it has; before, it has the size 0.
    match fs::metadata(&path).ok()?.len() {
        0 => Some(fs::read_dir(&path).ok()?.count()),
        n => usize::try_from(n).ok(),
    }
}

/// How long a verdict is believed that `took` so long to be found.
fn believed(lasting: Duration, took: Duration) -> Duration {
    lasting.max((took * EFFORT).min(FRESH))
}

/// The verdict, and how long it is believed.
fn judge(pid: Pid, keeper: &Path) -> (Duration, Dumpable) {
    let lasting = |kind: Option<Kind>| match kind {
        Some(Kind::Busy | Kind::TargetGone) => PASSING,
        _ => FRESH,
    };
    match held(pid, keeper) {
        Ok(report) => {
            let mut kinds = report.plan.obstacles.iter().map(|o| o.kind);
            let busy = kinds.find(|kind| *kind == Kind::Busy);
            (lasting(busy), verdict(&report))
        }
        Err(error) => (lasting(Some(error.kind())), Dumpable::No(refusal(&error))),
    }
}

/// What a tree holds, each with whether it can be dumped.
pub(super) fn held(pid: Pid, keeper: &Path) -> Result<dump::Report> {
    let options = Options {
        root: pid,
        // Nothing is made; an absent directory is in nobody's way.
        images_dir: "/proc/nowhere".into(),
        prev_images_dir: None,
        after: After::Run,
        track: true,
        auto_dedup: false,
        allow: Allow::default(),
        label: None,
        keeper: keeper.to_path_buf(),
    };
    dump::check(&options, false)
}

/// Why nothing can be found out of a tree: of a missing right, which one.
fn refusal(error: &Error) -> String {
    match right(error.next_step().unwrap_or_default()) {
        Some(right) if error.kind() == Kind::Permission => {
            format!("that takes {right}, which we do not have")
        }
        _ => format::plain(&error.one_line()),
    }
}

/// The capability that a hint names.
fn right(hint: &str) -> Option<&str> {
    let words = hint.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    words.into_iter().find(|word| word.starts_with("CAP_"))
}

fn verdict(report: &dump::Report) -> Dumpable {
    // What is worst comes first.
    match report.lines.first() {
        Some(line) if line.verdict == Verdict::No => {
            let what = format::plain(&line.what);
            // Whoever only lacks a right wants to know which.
            let lacks = |o: &Obstacle| o.kind == Kind::Permission && o.what == line.what;
            let lacks = report.plan.obstacles.iter().find(|o| lacks(o));
            let right = lacks.and_then(|o| right(&o.hint));
            Dumpable::No(match right.filter(|right| !what.contains(right)) {
                Some(right) => format!("{what} ({right})"),
                None => what,
            })
        }
        Some(line) if line.verdict == Verdict::WithOption => {
            let hint = line.hint.as_deref().unwrap_or(&line.what);
            Dumpable::Option(format::plain(hint))
        }
        _ => Dumpable::Yes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_to_find_out_is_asked_less_often_but_never_forgotten() {
        let ms = Duration::from_millis;
        assert_eq!(believed(PASSING, ms(1)), PASSING);
        assert_eq!(believed(PASSING, ms(200)), Duration::from_secs(20));
        assert_eq!(believed(PASSING, ms(60_000)), FRESH);
        assert_eq!(believed(FRESH, ms(1)), FRESH);
    }

    #[test]
    fn of_a_missing_right_its_name_is_said() {
        let error = Error::new(Kind::Permission, "Cannot read the mappings of process 7")
            .hint("reading processes of others takes CAP_SYS_PTRACE: run icecore as root");
        assert_eq!(
            refusal(&error),
            "that takes CAP_SYS_PTRACE, which we do not have"
        );
        let error = Error::new(Kind::Permission, "Cannot open /a").hint("ask its owner");
        assert!(refusal(&error).starts_with("Cannot open /a"));
    }
}
