//! How fast a tree writes, and how much it writes again and again: made of counts of distinct pages
//! written since the tracker was armed. Pure.
//!
//! The count grows by pages that were not written before, so its growth after arming is the working
//! set of that time; later growth is less than that, and said to be so.

use std::collections::VecDeque;
use std::time::Duration;

/// Counts kept.
const KEPT: usize = 1024;

/// Counts since the tracker was last armed.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    since: Option<String>,
    /// When, and pages written since armed; the oldest first.
    counts: VecDeque<(Duration, u64)>,
    /// The tracker was armed while we watched: the first count is of that moment.
    from_arming: bool,
}

/// Distinct pages written within a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkingSet {
    /// The stretch.
    pub window: Duration,
    /// The pages.
    pub pages: u64,
    /// There may be more: pages written before were written again.
    pub at_least: bool,
}

impl Pace {
    /// The tracker was armed at a time on the clock of the counts, for no layer, and is counted from now on.
    pub fn armed(&mut self, at: Duration) {
        *self = Self {
            since: None,
            counts: VecDeque::from([(at, 0)]),
            from_arming: true,
        };
    }

    /// Takes a count in: at a time on a clock that never goes back, since the layer `since`.
    pub fn take(&mut self, at: Duration, dirty: u64, since: Option<&str>) {
        if let Some((last, before)) = self.counts.back() {
            if at <= *last {
                return;
            }
            if dirty < *before || since != self.since.as_deref() {
                let armed = *last;
                self.counts.clear();
                // Somewhere between the two counts.
                self.counts.push_back((armed, 0));
                self.from_arming = true;
            }
        }
        since.map(str::to_owned).clone_into(&mut self.since);
        self.counts.push_back((at, dirty));
        if self.counts.len() > KEPT {
            self.counts.pop_front();
            self.from_arming = false;
        }
    }

    /// New pages a second over the last `window`, or what there is of it.
    pub fn rate(&self, window: Duration) -> Option<f64> {
        let (now, dirty) = *self.counts.back()?;
        let (then, before) = *self
            .counts
            .iter()
            .find(|(at, _)| now.saturating_sub(*at) <= window && *at < now)?;
        Some((dirty - before) as f64 / now.saturating_sub(then).as_secs_f64())
    }

    /// The distinct pages that the tree writes within `window`: the most that was seen. `None` when it
    /// has not been watched for that long since the tracker was armed.
    pub fn working_set(&self, window: Duration) -> Option<WorkingSet> {
        let mut most: Option<WorkingSet> = None;
        let mut end = 0;
        for (begin, (from, before)) in self.counts.iter().enumerate() {
            while self
                .counts
                .get(end)
                .is_some_and(|(at, _)| at.saturating_sub(*from) < window)
            {
                end += 1;
            }
            let Some((_, after)) = self.counts.get(end) else {
                break;
            };
            let set = WorkingSet {
                window,
                pages: after - before,
                at_least: begin > 0 || !self.from_arming,
            };
            if most.is_none_or(|most| set.pages > most.pages) {
                most = Some(set);
            }
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn paced(counts: &[(u64, u64, &str)]) -> Pace {
        let mut pace = Pace::default();
        for (at, dirty, since) in counts {
            pace.take(Duration::from_secs(*at), *dirty, Some(since));
        }
        pace
    }

    #[test]
    fn the_working_set_is_what_was_written_first_after_arming() {
        let pace = paced(&[(0, 900, "1"), (1, 40, "2"), (2, 50, "2"), (3, 51, "2")]);
        let set = pace.working_set(Duration::from_secs(2)).unwrap();
        assert_eq!((set.pages, set.at_least), (50, false));
        assert_eq!(pace.working_set(Duration::from_secs(9)), None);
        assert_eq!(pace.rate(Duration::from_secs(2)), Some(5.5));
    }

    #[test]
    fn who_comes_later_sees_a_part_of_the_working_set() {
        let pace = paced(&[(0, 900, "1"), (1, 910, "1"), (2, 950, "1")]);
        let set = pace.working_set(Duration::from_secs(1)).unwrap();
        assert_eq!((set.pages, set.at_least), (40, true));
    }

    #[test]
    fn who_arms_the_tracker_knows_what_is_written_again_though_nothing_is_new() {
        let at = Duration::from_millis;
        let mut pace = Pace::default();
        pace.armed(at(100));
        for time in [110, 800, 1500, 2200] {
            pace.take(at(time), 1000, None);
        }
        let set = pace.working_set(at(1000)).unwrap();
        assert_eq!((set.pages, set.at_least), (1000, false));
        assert_eq!(pace.rate(at(1500)), Some(0.0));
    }

    proptest! {
        #[test]
        fn the_working_set_is_the_most_that_any_stretch_of_that_length_saw(
            steps in prop::collection::vec((1..5u64, 0..1000u64), 2..60),
            window in 1..20u64,
        ) {
            let (mut at, mut dirty) = (0, 0);
            let mut pace = Pace::default();
            let mut seen = Vec::new();
            for (time, new) in steps {
                (at, dirty) = (at + time, dirty + new);
                seen.push((at, dirty));
                pace.take(Duration::from_secs(at), dirty, None);
            }
            let naive = seen.iter().enumerate().filter_map(|(begin, (from, before))| {
                let later = seen[begin..].iter().find(|(at, _)| at - from >= window);
                later.map(|(_, after)| after - before)
            });
            let found = pace.working_set(Duration::from_secs(window));
            prop_assert_eq!(found.map(|set| set.pages), naive.max());
            prop_assert!(pace.rate(Duration::from_secs(window)).is_none_or(|rate| rate >= 0.0));
        }
    }
}
