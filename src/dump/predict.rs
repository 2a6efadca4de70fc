//! What a dump made now would hold and how long it would freeze its target: learned from the figures
//! of earlier layers, written down beside what it really was. Pure: whoever asks brings the counts.
//!
//! A freeze is taken for a line: a fixed part (threads, registers, descriptors) and a part for each
//! page that is copied or compared. The line is that of Theil and Sen (the median of all slopes), so
//! that one dump on a busy machine does not spoil it.

use std::time::Duration;

use crate::chain::{Extent, Layer};
use crate::image::Sidecar;
use crate::track::Sample;
use crate::units::PAGE_SIZE;

/// How a dump finds the pages that it stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// All pages, whether or not there is a layer below.
    Full,
    /// The pages that the tracker saw written.
    Tracked,
    /// The pages that differ from those of the layer below, each of which is read.
    Compared,
}

impl Mode {
    /// All of them, the quickest first.
    pub const ALL: [Self; 3] = [Self::Tracked, Self::Compared, Self::Full];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Tracked => "tracked",
            Self::Compared => "compared",
        }
    }

    /// The mode of a dump with this tracker, as layers name it.
    pub fn of(tracker: &str) -> Self {
        match tracker {
            "full" => Self::Full,
            "content" => Self::Compared,
            _ => Self::Tracked,
        }
    }
}

/// An earlier dump, in figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// How its pages were found.
    pub mode: Mode,
    /// Pages that it stored.
    pub stored: u64,
    /// Pages that it left to the layer below.
    pub in_parent: u64,
    /// How long its target was stopped.
    pub freeze: Duration,
}

impl Past {
    /// What the sidecar of a layer tells; nothing of one that several became.
    pub fn of(sidecar: &Sidecar) -> Option<Self> {
        if sidecar.squashed.is_some() {
            return None;
        }
        Some(Self {
            mode: Mode::of(sidecar.tracker.as_deref()?),
            stored: sidecar.pages_stored?,
            in_parent: sidecar.pages_in_parent.unwrap_or(0),
            freeze: Duration::from_nanos(sidecar.freeze_ns?),
        })
    }

    /// What a layer of the catalog tells.
    pub fn of_layer(layer: &Layer) -> Option<Self> {
        let mode = match (layer.extent, layer.tracker.as_deref()) {
            (Extent::Full, _) => Mode::Full,
            (Extent::Incremental, tracker) => Mode::of(tracker?),
        };
        (!layer.is_squashed()).then_some(Self {
            mode,
            stored: layer.pages_stored,
            in_parent: layer.pages_in_parent,
            freeze: Duration::from_nanos(layer.freeze_ns?),
        })
    }

    /// Pages that went through our hands while the target was stopped.
    fn handled(&self) -> u64 {
        match self.mode {
            Mode::Compared => self.stored + self.in_parent,
            Mode::Full | Mode::Tracked => self.stored,
        }
    }
}

/// What is known of a tree that is about to be dumped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Private pages in memory.
    pub resident: u64,
    /// Of those, the ones written since the layer below was made; `None` when nothing tracks them.
    pub dirty: Option<u64>,
    /// Of the dirty ones, those in mappings that no tracker covers: they are stored in any case.
    pub not_tracked: u64,
    /// Pages of shared memory, which are always compared.
    pub shared: u64,
    /// There is a layer below.
    pub has_parent: bool,
}

impl Present {
    /// What was counted of a tree that has a layer below, or not.
    pub fn of(sample: &Sample, has_parent: bool) -> Self {
        Self {
            resident: sample.resident_pages,
            dirty: sample.is_tracked().then_some(sample.dirty_pages),
            not_tracked: if sample.is_tracked() {
                sample.not_tracked
            } else {
                0
            },
            shared: sample.shared_pages,
            has_parent,
        }
    }
}

/// How long a freeze will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// Most likely.
    pub expected: Duration,
    /// As short as earlier ones were beside what was expected of them.
    pub low: Duration,
    /// As long as that.
    pub high: Duration,
    /// From how many earlier dumps that was learned.
    pub learned_from: usize,
    /// None of them was made of this tree in this way: it may be far off.
    pub borrowed: bool,
}

/// A dump made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// How its pages would be found.
    pub mode: Mode,
    /// Pages that it would store.
    pub pages: u64,
    /// It may be fewer: what is compared is known to differ only afterwards.
    pub at_most: bool,
    /// How long the target would be stopped; `None` before the first dump.
    pub freeze: Option<Freeze>,
    /// Pages that would be copied or compared.
    handled: u64,
}

impl Prediction {
    /// Bytes of the pages.
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Asks other dumps (of other trees on this machine) where nothing was known of this tree.
    pub fn learn_from(&mut self, others: &[Past]) {
        if self.freeze.is_none() {
            let freeze = Line::learn(self.mode, others).map(|line| line.at(self.handled));
            self.freeze = freeze.map(|freeze| Freeze {
                borrowed: true,
                ..freeze
            });
        }
    }

    /// Is it expected to stop the target longer than `budget`? What is not known is not.
    pub fn exceeds(&self, budget: Duration) -> bool {
        self.freeze.is_some_and(|freeze| freeze.expected > budget)
    }
}

/// Predicts a dump in this mode; `None` where there is no such mode now (nothing is tracked, no layer
/// below).
pub fn predict(mode: Mode, present: &Present, past: &[Past]) -> Option<Prediction> {
    if mode != Mode::Full && !present.has_parent {
        return None;
    }
    let all = present.resident + present.shared;
    // That shared memory is compared is in the fixed part of dumps that did it.
    let known = past.iter().any(|past| past.mode == Mode::Tracked);
    let compared = if known { 0 } else { present.shared };
    let (pages, handled, at_most) = match mode {
        Mode::Full => (all, all, false),
        Mode::Tracked => (present.dirty?, present.dirty? + compared, false),
        Mode::Compared => match present.dirty {
            Some(dirty) => ((dirty + present.shared).min(all), all, true),
            None => (all, all, true),
        },
    };
    let freeze = Line::learn(mode, past).map(|line| line.at(handled));
    Some(Prediction {
        mode,
        pages,
        at_most,
        freeze,
        handled,
    })
}

/// All modes that there are now, the quickest first: the first one is what a dump would do.
pub fn predictions(present: &Present, past: &[Past]) -> Vec<Prediction> {
    let mut all: Vec<Prediction> = Mode::ALL
        .into_iter()
        .filter_map(|mode| predict(mode, present, past))
        .collect();
    // With a tracker that vouches, nothing is compared.
    if all.iter().any(|p| p.mode == Mode::Tracked) {
        all.retain(|p| p.mode != Mode::Compared);
    }
    all
}

/// Earlier dumps that count: machines and programs change.
const REMEMBERED: usize = 16;

/// What a dump takes before its first page, where a single one is all that is known.
const FIXED_NS: f64 = 2e6;

/// Nanoseconds by pages.
#[derive(Debug)]
struct Line {
    fixed: f64,
    per_page: f64,
    /// The highest and lowest share of what was expected that really came.
    spread: (f64, f64),
    learned_from: usize,
    borrowed: bool,
}

impl Line {
    /// `past` is in the order in which it was made.
    fn learn(mode: Mode, past: &[Past]) -> Option<Self> {
        let compares = |past: &Past| past.mode == Mode::Compared;
        let same: Vec<&Past> = past
            .iter()
            .filter(|p| compares(p) == (mode == Mode::Compared))
            .collect();
        let borrowed = same.is_empty();
        let known = if borrowed {
            past.iter().collect()
        } else {
            same
        };
        let points: Vec<(f64, f64)> = known
            .iter()
            .rev()
            .take(REMEMBERED)
            .map(|p| (p.handled() as f64, p.freeze.as_nanos() as f64))
            .collect();
        let mut slopes: Vec<f64> = Vec::new();
        for (at, (x, y)) in points.iter().enumerate() {
            for (other_x, other_y) in points.iter().skip(at + 1) {
                if (other_x - x).abs() >= 1.0 {
                    slopes.push((other_y - y) / (other_x - x));
                }
            }
        }
        let per_page = match median(&mut slopes) {
            Some(slope) => slope.max(0.0),
            // All dumps so far were of one size.
            None => {
                let mut each: Vec<f64> = points
                    .iter()
                    .map(|(x, y)| (y - FIXED_NS).max(y / 2.0) / x.max(1.0))
                    .collect();
                median(&mut each)?
            }
        };
        let mut rest: Vec<f64> = points.iter().map(|(x, y)| y - per_page * x).collect();
        let (mut fixed, mut per_page) = (median(&mut rest)?, per_page);
        if fixed < 0.0 {
            // Large dumps took more a page than small ones: nothing is known of a fixed part.
            let mut each: Vec<f64> = points.iter().map(|(x, y)| y / x.max(1.0)).collect();
            (fixed, per_page) = (0.0, median(&mut each)?);
        }
        let mut line = Self {
            fixed,
            per_page,
            spread: (1.0, 1.0),
            learned_from: points.len(),
            borrowed,
        };
        for (x, y) in &points {
            let share = y / line.value(*x).max(1.0);
            line.spread = (line.spread.0.min(share), line.spread.1.max(share));
        }
        Some(line)
    }

    fn value(&self, pages: f64) -> f64 {
        self.fixed + self.per_page * pages
    }

    fn at(&self, pages: u64) -> Freeze {
        let expected = self.value(pages as f64);
        let time = |ns: f64| Duration::from_nanos(ns.round() as u64);
        Freeze {
            expected: time(expected),
            low: time(expected * self.spread.0),
            high: time(expected * self.spread.1),
            learned_from: self.learned_from,
            borrowed: self.borrowed,
        }
    }
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(*values.get(values.len() / 2 - 1)?, upper))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn past(mode: Mode, stored: u64, in_parent: u64, freeze_us: u64) -> Past {
        Past {
            mode,
            stored,
            in_parent,
            freeze: Duration::from_micros(freeze_us),
        }
    }

    const TRACKED: Present = Present {
        resident: 100_000,
        dirty: Some(3_000),
        not_tracked: 0,
        shared: 0,
        has_parent: true,
    };

    #[test]
    fn before_the_first_dump_only_its_size_is_known() {
        let present = Present {
            resident: 500,
            shared: 20,
            ..Present::default()
        };
        let all = predictions(&present, &[]);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!((all[0].mode, all[0].pages), (Mode::Full, 520));
        assert_eq!(all[0].freeze, None);
        assert!(!all[0].exceeds(Duration::ZERO));
    }

    #[test]
    fn a_full_dump_teaches_what_an_incremental_one_takes() {
        let past = [past(Mode::Full, 100_000, 0, 202_000)];
        let all = predictions(&TRACKED, &past);
        assert_eq!(all[0].mode, Mode::Tracked);
        let freeze = all[0].freeze.unwrap();
        assert_eq!(freeze.expected.as_millis(), 8, "2 ms and 2 µs a page");
        assert_eq!(all[1].freeze.unwrap().expected.as_millis(), 202);
        assert!(all[0].exceeds(Duration::from_millis(7)));
        assert!(!all[0].exceeds(Duration::from_millis(9)));
    }

    #[test]
    fn one_dump_on_a_busy_machine_spoils_nothing() {
        let mut history: Vec<Past> = (1..12u64)
            .map(|n| past(Mode::Tracked, n * 1000, 0, 3000 + n * 1000))
            .collect();
        history[5].freeze = Duration::from_secs(9);
        let freeze = predict(Mode::Tracked, &TRACKED, &history).unwrap();
        let freeze = freeze.freeze.unwrap();
        assert!(freeze.expected.abs_diff(Duration::from_millis(6)) < Duration::from_millis(1));
        assert!(freeze.high > Duration::from_secs(1), "{freeze:?}");
    }

    #[test]
    fn a_slow_full_dump_does_not_make_small_ones_slow() {
        let past: Vec<Past> = [
            (52_900, 707),
            (11_000, 43),
            (10_300, 50),
            (12_100, 69),
            (12_000, 66),
        ]
        .into_iter()
        .map(|(pages, ms)| past(Mode::Tracked, pages, 0, ms * 1000))
        .collect();
        let present = Present {
            dirty: Some(10_000),
            ..TRACKED
        };
        let freeze = predict(Mode::Tracked, &present, &past).unwrap().freeze;
        let ms = freeze.unwrap().expected.as_millis();
        assert!((40..70).contains(&ms), "{ms}");
    }

    #[test]
    fn shared_memory_counts_before_the_first_dump_that_compares_it() {
        let mut past = vec![past(Mode::Full, 100_000, 0, 102_000)];
        let present = Present {
            resident: 1000,
            dirty: Some(10),
            shared: 99_000,
            has_parent: true,
            ..Present::default()
        };
        let expected = |past: &[Past]| {
            let prediction = predict(Mode::Tracked, &present, past).unwrap();
            assert_eq!(prediction.pages, 10);
            prediction.freeze.unwrap().expected.as_micros()
        };
        assert!((90_000..110_000).contains(&expected(&past)));
        past.extend([self::past(Mode::Tracked, 10, 99_990, 50_000); 3]);
        assert!((45_000..55_000).contains(&expected(&past)));
    }

    #[test]
    fn what_nothing_tracks_is_compared_and_may_be_everything() {
        let present = Present {
            dirty: None,
            ..TRACKED
        };
        let all = predictions(&present, &[past(Mode::Full, 1000, 0, 4000)]);
        assert_eq!(all[0].mode, Mode::Compared);
        assert!(all[0].at_most && all[0].freeze.unwrap().borrowed);
        assert_eq!(all[0].pages, 100_000);
    }

    fn anything() -> impl Strategy<Value = Past> {
        let mode = prop::sample::select(Mode::ALL.to_vec());
        (mode, 0..1u64 << 32, 0..1u64 << 32, 0..1u64 << 36)
            .prop_map(|(mode, stored, in_parent, us)| past(mode, stored, in_parent, us))
    }

    proptest! {
        #[test]
        fn dumps_on_a_line_are_predicted_exactly(
            fixed in 0..10_000u64,
            per_page in 0..50u64,
            sizes in prop::collection::btree_set(1..100_000u64, 2..20),
            dirty in 0..100_000u64,
        ) {
            let history: Vec<Past> = sizes
                .iter()
                .map(|pages| past(Mode::Tracked, *pages, 7, fixed + per_page * pages))
                .collect();
            let present = Present { dirty: Some(dirty), ..TRACKED };
            let freeze = predict(Mode::Tracked, &present, &history).unwrap().freeze.unwrap();
            let exact = Duration::from_micros(fixed + per_page * dirty);
            prop_assert!(freeze.expected.abs_diff(exact) < Duration::from_micros(2), "{freeze:?}");
        }

        #[test]
        fn more_pages_never_take_less_and_ranges_hold_what_is_expected(
            history in prop::collection::vec(anything(), 1..30),
            dirty in 0..1u64 << 30,
            more in 0..1u64 << 30,
        ) {
            let of = |dirty| {
                let present = Present { dirty: Some(dirty), ..TRACKED };
                predict(Mode::Tracked, &present, &history).unwrap().freeze.unwrap()
            };
            let (less, more) = (of(dirty), of(dirty + more));
            prop_assert!(less.expected <= more.expected);
            prop_assert!(less.low <= less.expected && less.expected <= less.high);
        }
    }
}
