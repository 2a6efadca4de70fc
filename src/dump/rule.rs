//! When a dump is made by itself: a rule in few words, and the judgement whether now is the time. Pure:
//! the caller brings counts and the clock.
//!
//! ```text
//!   rule    = clause { ("," | "or") clause }
//!   clause  = "every" TIME | "when" "dirty" ">" SIZE | "when" "idle" [ "for" TIME ]
//!   TIME    = [NUMBER] ("s" | "min" | "h")          SIZE = NUMBER ("KiB" | "MiB" | "GiB" | "pages" | "%")
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Kind};
use crate::units::PAGE_SIZE;

/// How long a tree does nothing before it counts as idle, unless the rule says so.
const IDLE: Duration = Duration::from_secs(5);
/// The share of one CPU that doing nothing may take.
const IDLE_SHARE: f64 = 0.01;
/// The first pause after a dump that failed or was too long; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(300);

/// Something that makes a dump due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// So much time has passed since the last one.
    Every(Duration),
    /// So many pages were written since the last one.
    DirtyPages(u64),
    /// So many bytes were written since the last one.
    DirtyBytes(u64),
    /// So much of the private memory was written since the last one, in percent.
    DirtyShare(u8),
    /// The tree has done nothing for so long, and has written something since the last one.
    Idle(Duration),
}

/// When dumps are made: when any of the clauses says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Vec<Clause>);

/// What is known at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// On a clock that never goes back.
    pub at: Duration,
    /// Pages written since the last layer.
    pub dirty: u64,
    /// Private pages in memory.
    pub resident: u64,
    /// CPU time that the tree has used so far.
    pub cpu: Duration,
}

impl Rule {
    /// Its clauses.
    pub fn clauses(&self) -> &[Clause] {
        &self.0
    }
}

impl FromStr for Rule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |what: String| {
            Error::new(Kind::Usage, what).hint(
                "a rule is like: every 10 min, when dirty > 200 MiB, when idle for 30 s (joined by a comma or \"or\")",
            )
        };
        let spaced = text.replace(',', " , ").replace('>', " > ");
        let words = split_units(&spaced);
        let clauses: Vec<&[String]> = words
            .split(|word| matches!(word.as_str(), "," | "or"))
            .collect();
        let mut rule = Vec::new();
        for clause in clauses {
            let words: Vec<&str> = clause.iter().map(String::as_str).collect();
            rule.push(parse(&words).map_err(wrong)?);
        }
        Ok(Self(rule))
    }
}

/// Words, with a number and its unit apart: `10min` is `10 min`.
fn split_units(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in text.split_whitespace() {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = word.split_at(digits);
        words.extend(
            [number, unit]
                .iter()
                .filter(|w| !w.is_empty())
                .map(|w| w.to_ascii_lowercase()),
        );
    }
    words
}

fn parse(words: &[&str]) -> Result<Clause, String> {
    match words {
        [] => Err("A clause of the rule is empty".into()),
        ["every", time @ ..] => Ok(Clause::Every(span(time)?)),
        ["when", "idle"] => Ok(Clause::Idle(IDLE)),
        ["when", "idle", "for", time @ ..] => Ok(Clause::Idle(span(time)?)),
        ["when", "dirty", ">", size @ ..] => amount(size),
        ["when", "dirty", ..] => {
            Err("How much is dirty? It is missing: when dirty > 200 MiB".into())
        }
        ["when", what, ..] => Err(format!(
            "{what:?} is nothing to wait for: it is idle or dirty"
        )),
        ["when"] => Err("When? It is missing: when idle, when dirty > 200 MiB".into()),
        [word, ..] => Err(format!(
            "{word:?} begins no clause of a rule: every or when do"
        )),
    }
}

fn number(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("0 is too little in a rule".into()),
        Ok(number) => Ok(number),
        Err(_) => Err(format!("{text:?} is no whole number")),
    }
}

fn span(words: &[&str]) -> Result<Duration, String> {
    let (count, unit) = match words {
        [] => return Err("How long? It is missing: every 10 min".into()),
        [unit] if unit.parse::<u64>().is_err() => (1, *unit),
        [count] => return Err(format!("{count} what? A unit is missing: s, min or h")),
        [count, unit] => (number(count)?, *unit),
        [_, _, word, ..] => return Err(format!("{word:?} is too much in a time")),
    };
    let seconds: u64 = match unit {
        "s" | "sec" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hour" | "hours" => 3600,
        _ => return Err(format!("{unit:?} is no unit of time: s, min or h are")),
    };
    let seconds = count.checked_mul(seconds).filter(|s| *s <= 366 * 86400);
    let seconds = seconds.ok_or_else(|| format!("{count} {unit} is longer than a year"))?;
    Ok(Duration::from_secs(seconds))
}

fn amount(words: &[&str]) -> Result<Clause, String> {
    let (count, unit) = match words {
        [] => return Err("How much? It is missing: when dirty > 200 MiB".into()),
        [count] => {
            let count = number(count)?;
            return Err(format!(
                "{count} what? A unit is missing: KiB, MiB, GiB, pages or %"
            ));
        }
        [count, unit] => (number(count)?, *unit),
        [_, _, word, ..] => return Err(format!("{word:?} is too much in a size")),
    };
    let shift = match unit {
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "page" | "pages" => return Ok(Clause::DirtyPages(count)),
        "%" => {
            let share = u8::try_from(count).ok().filter(|share| *share < 100);
            let share = share.ok_or("More than all of the memory is never dirty")?;
            return Ok(Clause::DirtyShare(share));
        }
        _ => {
            return Err(format!(
                "{unit:?} is no unit of memory: KiB, MiB, GiB, pages and % are"
            ));
        }
    };
    let bytes = count.checked_mul(1 << shift);
    bytes
        .map(Clause::DirtyBytes)
        .ok_or_else(|| format!("{count} {unit} is more than there is"))
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, clause) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{clause}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(time) => write!(f, "every {}", Span(*time)),
            Self::DirtyPages(pages) => write!(f, "when dirty > {pages} pages"),
            Self::DirtyShare(share) => write!(f, "when dirty > {share} %"),
            Self::Idle(time) => write!(f, "when idle for {}", Span(*time)),
            Self::DirtyBytes(bytes) => {
                let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
                let whole = units.iter().find(|(shift, _)| bytes % (1 << shift) == 0);
                let (shift, unit) = whole.unwrap_or(&(10, "KiB"));
                write!(f, "when dirty > {} {unit}", bytes >> shift)
            }
        }
    }
}

struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            s if s % 3600 == 0 => write!(f, "{} h", s / 3600),
            s if s % 60 == 0 => write!(f, "{} min", s / 60),
            s => write!(f, "{s} s"),
        }
    }
}

/// A rule at work on one tree.
#[derive(Clone, Debug)]
pub struct Auto {
    rule: Rule,
    /// The last dump, or when the rule began to be followed.
    last: Duration,
    /// Where the present stretch of idleness began: when, and the CPU time then.
    rest: Option<(Duration, Duration)>,
    failures: u32,
    not_before: Duration,
}

impl Auto {
    /// Follows `rule` from `now` on.
    pub fn new(rule: Rule, now: Duration) -> Self {
        Self {
            rule,
            last: now,
            rest: None,
            failures: 0,
            not_before: now,
        }
    }

    /// What it follows.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The clause that wants a dump now.
    pub fn due(&mut self, now: &Moment) -> Option<Clause> {
        let idle = self.idle(now);
        if now.at < self.not_before {
            return None;
        }
        let share = |share: u8| u128::from(now.resident) * u128::from(share);
        self.rule.0.iter().copied().find(|clause| match clause {
            Clause::Every(time) => now.at.saturating_sub(self.last) >= *time,
            Clause::DirtyPages(pages) => now.dirty > *pages,
            Clause::DirtyBytes(bytes) => now.dirty.saturating_mul(PAGE_SIZE) > *bytes,
            Clause::DirtyShare(percent) => u128::from(now.dirty) * 100 > share(*percent),
            Clause::Idle(time) => now.dirty > 0 && idle >= *time,
        })
    }

    /// For how long the tree has done nothing.
    fn idle(&mut self, now: &Moment) -> Duration {
        let (since, cpu) = *self.rest.get_or_insert((now.at, now.cpu));
        let time = now.at.saturating_sub(since);
        let used = now.cpu.saturating_sub(cpu);
        // One tick of the clock says nothing about a short stretch.
        let allowed = Duration::from_millis(10).max(time.mul_f64(IDLE_SHARE));
        if used > allowed || now.cpu < cpu {
            self.rest = Some((now.at, now.cpu));
            return Duration::ZERO;
        }
        time
    }

    /// A dump was made.
    pub fn made(&mut self, at: Duration) {
        self.last = at;
        self.failures = 0;
        self.not_before = at;
        // A dump works in the tree, too.
        self.rest = None;
    }

    /// None was made (it failed, or would have frozen the tree for too long): how long to wait now.
    pub fn failed(&mut self, at: Duration) -> Duration {
        let pause = PAUSE
            .saturating_mul(2u32.saturating_pow(self.failures))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        self.not_before = at + pause;
        pause
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse()
            .unwrap_or_else(|e: Error| panic!("{text}: {e}"))
    }

    fn at(seconds: u64) -> Moment {
        Moment {
            at: Duration::from_secs(seconds),
            resident: 1000,
            ..Moment::default()
        }
    }

    #[test]
    fn rules_read_as_people_write_them() {
        for (text, means) in [
            ("every 10 min", "every 10 min"),
            ("EVERY 90s", "every 90 s"),
            ("every hour", "every 1 h"),
            ("when dirty > 200 MiB", "when dirty > 200 MiB"),
            (
                "when dirty>2048kib or when idle",
                "when dirty > 2 MiB, when idle for 5 s",
            ),
            (
                "when dirty > 7 pages,every 1 min",
                "when dirty > 7 pages, every 1 min",
            ),
            ("when dirty > 10%", "when dirty > 10 %"),
            ("when idle for 60 s", "when idle for 1 min"),
        ] {
            assert_eq!(rule(text).to_string(), means);
        }
    }

    #[test]
    fn a_mistake_in_a_rule_is_named() {
        for (text, what) in [
            ("", "empty"),
            ("every 10 min,", "empty"),
            ("every", "How long"),
            ("every 10", "unit is missing"),
            ("every 10 lightyears", "\"lightyears\" is no unit of time"),
            ("every 0 s", "too little"),
            ("every 99999999 h", "longer than a year"),
            ("often", "\"often\" begins no clause"),
            ("when", "When?"),
            ("when busy", "\"busy\" is nothing to wait for"),
            ("when dirty", "How much"),
            ("when dirty > 5", "unit is missing"),
            ("when dirty > x MiB", "\"x\" is no whole number"),
            ("when dirty > 5 apples", "\"apples\" is no unit of memory"),
            ("when dirty > 100 %", "never dirty"),
            ("every 1 min or or when idle", "empty"),
            ("every 1 min when idle", "too much"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert_eq!(error.kind(), Kind::Usage);
            assert!(error.one_line().contains(what), "{text}: {error}");
            assert!(
                error
                    .next_step()
                    .is_some_and(|hint| hint.contains("every 10 min"))
            );
        }
    }

    #[test]
    fn a_period_begins_anew_with_every_dump() {
        let mut auto = Auto::new(rule("every 10 s"), Duration::from_secs(100));
        assert_eq!(auto.due(&at(109)), None);
        assert!(auto.due(&at(110)).is_some());
        auto.made(Duration::from_secs(113));
        assert_eq!(auto.due(&at(122)), None);
        assert!(auto.due(&at(123)).is_some());
    }

    #[test]
    fn dirty_memory_makes_a_dump_due_only_above_the_limit() {
        let mut auto = Auto::new(
            rule("when dirty > 1 MiB, when dirty > 90 %"),
            Duration::ZERO,
        );
        let with = |dirty| Moment { dirty, ..at(1) };
        assert_eq!(auto.due(&with(256)), None);
        assert_eq!(auto.due(&with(257)), Some(Clause::DirtyBytes(1 << 20)));
        let small = Moment {
            dirty: 10,
            resident: 11,
            ..at(1)
        };
        assert_eq!(auto.due(&small), Some(Clause::DirtyShare(90)));
    }

    #[test]
    fn idle_is_who_uses_no_cpu_and_has_something_to_keep() {
        let mut auto = Auto::new(rule("when idle for 3 s"), Duration::ZERO);
        let moment = |seconds, cpu, dirty| Moment {
            cpu: Duration::from_millis(cpu),
            dirty,
            ..at(seconds)
        };
        assert_eq!(auto.due(&moment(0, 0, 5)), None);
        assert_eq!(auto.due(&moment(2, 900, 5)), None, "it works");
        assert_eq!(auto.due(&moment(4, 900, 5)), None, "not for long enough");
        assert_eq!(auto.due(&moment(5, 910, 0)), None, "nothing is new");
        assert!(auto.due(&moment(6, 910, 5)).is_some());
    }

    #[test]
    fn who_fails_waits_twice_as_long_each_time_but_not_for_ever() {
        let mut auto = Auto::new(rule("when dirty > 1 pages"), Duration::ZERO);
        let due = |auto: &mut Auto, at: Duration| {
            auto.due(&Moment {
                at,
                dirty: 9,
                ..Moment::default()
            })
            .is_some()
        };
        let mut now = Duration::from_secs(1);
        let mut before = Duration::ZERO;
        for _ in 0..40 {
            assert!(due(&mut auto, now));
            let pause = auto.failed(now);
            assert!(pause >= before && pause <= LONGEST);
            assert!(!due(&mut auto, now + pause - Duration::from_millis(1)));
            (now, before) = (now + pause, pause);
        }
        auto.made(now);
        assert!(due(&mut auto, now));
        assert_eq!(auto.failed(now), PAUSE);
    }

    fn clause() -> impl Strategy<Value = Clause> {
        let time = (1..1_000_000u64).prop_map(Duration::from_secs);
        prop_oneof![
            time.clone().prop_map(Clause::Every),
            time.prop_map(Clause::Idle),
            (1..u64::MAX).prop_map(Clause::DirtyPages),
            (1..1u64 << 40).prop_map(|kib| Clause::DirtyBytes(kib << 10)),
            (1..100u8).prop_map(Clause::DirtyShare),
        ]
    }

    proptest! {
        #[test]
        fn what_a_rule_prints_is_the_same_rule(clauses in prop::collection::vec(clause(), 1..5)) {
            let written = Rule(clauses);
            prop_assert_eq!(rule(&written.to_string()), written);
        }

        #[test]
        fn no_text_breaks_the_reader(text in ".{0,40}") {
            drop(text.parse::<Rule>());
        }
    }
}
