//! The live dirty-page counter of one tree: what was counted, how fast it grows.

use std::collections::VecDeque;
use std::time::Duration;

use icecore::dump::Prediction;
use icecore::track::{Pace, WorkingSet};

use super::message::{Count, Failure};
use super::text::tally;

/// What all writes are counted in.
const SECOND: Duration = Duration::from_secs(1);
/// Samples kept for the curve.
const KEPT: usize = 240;
/// Counts that are farther apart tell no rate: the tree was not tracked meanwhile.
const GAP: Duration = Duration::from_secs(6);

/// Counts of one tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live {
    /// The latest count.
    pub(crate) last: Option<Count>,
    /// New dirty pages per second, oldest first.
    pub(crate) rates: VecDeque<u64>,
    /// The same with the time of each.
    pub(crate) points: VecDeque<(Duration, f64)>,
    /// When the tracker was armed anew, with the identity of the layer that it was armed for.
    pub(crate) armed: VecDeque<(Duration, Option<String>)>,
    /// From when to when nothing was counted.
    pub(crate) gaps: VecDeque<(Duration, Duration)>,
    /// How much it writes, and again and again.
    pub(crate) pace: Pace,
    /// CPUs that it keeps busy.
    pub(crate) busy: Option<f64>,
    /// What a dump made now would be, the quickest way first.
    pub(crate) expected: Vec<Prediction>,
    /// Why nothing was counted.
    pub(crate) failure: Option<Failure>,
}

impl Live {
    /// Takes a count in.
    pub(crate) fn take(&mut self, count: Count) {
        self.failure = None;
        if let Some(armed) = count.armed.filter(|_| self.last.is_none()) {
            self.pace.armed(armed);
        }
        self.pace
            .take(count.at, count.dirty, count.since.as_deref());
        if let Some(last) = &self.last {
            let seconds = count.at.saturating_sub(last.at).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            let ran = count.cpu.saturating_sub(last.cpu);
            self.busy = Some(ran.as_secs_f64() / seconds);
            // Fewer than before: tracking was armed again, and everything counted is new.
            let new = match count.dirty.checked_sub(last.dirty) {
                Some(new) if count.since == last.since => new,
                _ => count.dirty,
            };
            if count.since != last.since {
                self.armed.push_back((count.at, count.since.clone()));
            }
            if count.at.saturating_sub(last.at) > GAP {
                self.gaps.push_back((last.at, count.at));
                self.last = Some(count);
                self.forget();
                return;
            }
            self.rates.push_back((new as f64 / seconds).round() as u64);
            self.points.push_back((count.at, new as f64 / seconds));
        }
        self.last = Some(count);
        self.forget();
    }

    /// Keeps as much as a curve has room for.
    fn forget(&mut self) {
        fn cut<T>(all: &mut VecDeque<T>) {
            all.drain(..all.len().saturating_sub(KEPT));
        }
        cut(&mut self.rates);
        cut(&mut self.points);
        cut(&mut self.armed);
        cut(&mut self.gaps);
    }

    /// New dirty pages per second, over the last few counts.
    pub(crate) fn rate(&self) -> Option<u64> {
        let recent: Vec<u64> = self.rates.iter().rev().take(3).copied().collect();
        let n = u64::try_from(recent.len()).ok().filter(|n| *n > 0)?;
        Some(recent.iter().sum::<u64>() / n)
    }

    /// Distinct pages that it writes in a second, new or written again; nothing where nothing is known of
    /// the latter. It is seen in the time after the tracker was armed only: arming it anew would tell more
    /// and cost the tree a fault for every page.
    pub(crate) fn all(&self) -> Option<WorkingSet> {
        let set = self.pace.working_set(SECOND)?;
        (set.pages > 0 || !set.at_least).then_some(set)
    }

    /// The same in at most five columns.
    pub(crate) fn all_in_short(&self) -> String {
        self.all().map_or_else(
            || "?".into(),
            |set| {
                let sign = if set.at_least { "≥" } else { "" };
                format!("{sign}{}", tally(set.pages))
            },
        )
    }

    /// What there is to know beside the rate of new pages: 0 of them is not idle.
    pub(crate) fn besides(&self) -> String {
        let all = match self.all() {
            Some(_) => format!("{}/s in all", self.all_in_short()),
            None => "in all: unknown".into(),
        };
        match self.busy {
            Some(busy) => format!("{all}, {:.0}% CPU", busy * 100.0),
            None => all,
        }
    }

    /// The highest rate kept.
    pub(crate) fn peak(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(at: u64, dirty: u64, since: &str) -> Count {
        Count {
            at: Duration::from_secs(at),
            dirty,
            since: Some(since.into()),
            ..Count::default()
        }
    }

    #[test]
    fn the_rate_counts_new_pages_also_across_a_dump() {
        let mut live = Live::default();
        live.take(count(0, 100, "1"));
        live.take(count(2, 300, "1"));
        live.take(count(3, 40, "2"));
        assert_eq!(Vec::from(live.rates.clone()), [100, 40]);
        assert_eq!(live.rate(), Some(70));
        assert_eq!(
            Vec::from(live.armed),
            [(Duration::from_secs(3), Some("2".to_owned()))]
        );
    }

    #[test]
    fn a_time_in_which_nothing_was_counted_is_a_gap_and_no_rate() {
        let mut live = Live::default();
        for (at, dirty) in [(0, 100), (1, 300), (40, 301), (41, 401)] {
            live.take(count(at, dirty, "1"));
        }
        assert_eq!(Vec::from(live.rates), [200, 100]);
        let gap = (Duration::from_secs(1), Duration::from_secs(40));
        assert_eq!(Vec::from(live.gaps), [gap]);
    }

    #[test]
    fn a_tree_that_writes_the_same_pages_again_does_not_look_idle() {
        let again = |armed: Option<u64>| {
            let mut live = Live::default();
            for at in 1..6 {
                live.take(Count {
                    armed: armed.map(Duration::from_secs),
                    cpu: Duration::from_millis(500 * at),
                    since: None,
                    ..count(at, 1000, "")
                });
            }
            assert_eq!(live.rate(), Some(0));
            live.besides()
        };
        assert_eq!(again(Some(0)), "1.0k/s in all, 50% CPU");
        assert_eq!(again(None), "in all: unknown, 50% CPU", "not nothing");
    }
}
