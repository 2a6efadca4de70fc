//! Rules that are followed while the screen is open: what is wanted of each tree, and what came of it.

use std::time::Duration;

use icecore::Result;
use icecore::dump::{Auto, Rule};
use icecore::{Error, Kind};

/// What is followed for one tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Follow {
    /// Start time of the root: another process may get its pid.
    pub(crate) start_time: u64,
    /// The rule, at work.
    pub(crate) auto: Option<Auto>,
    /// The longest freeze that it allows.
    pub(crate) budget: Option<Duration>,
    /// What it did last.
    pub(crate) said: String,
    /// A dump was held back since the last one, and that was said.
    pub(crate) held: bool,
    /// The job that it waits for.
    pub(crate) job: Option<u64>,
}

/// What of it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terms {
    /// The rule.
    Rule,
    /// The budget, in milliseconds.
    Budget,
}

/// Something typed that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// This rule, or none.
    Rule(Option<Rule>),
    /// This budget, or none.
    Budget(Option<Duration>),
}

impl Terms {
    /// Reads what was typed; nothing means none.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) fn read(self, text: &str) -> Result<Order> {
        let text = text.trim();
        match self {
            Self::Rule if text.is_empty() => Ok(Order::Rule(None)),
            Self::Rule => text.parse().map(|rule| Order::Rule(Some(rule))),
            Self::Budget if text.is_empty() => Ok(Order::Budget(None)),
            Self::Budget => {
                let number = text.trim_end_matches("ms").trim_end();
                let budget = number.parse::<f64>().ok();
                let budget = budget
                    .filter(|ms| *ms > 0.0)
                    .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
                budget
                    .map(|budget| Order::Budget(Some(budget)))
                    .ok_or_else(|| {
                        Error::new(
                            Kind::Usage,
                            format!("{text:?} is no number of milliseconds"),
                        )
                        .hint("a budget is like: 50 ms")
                    })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_a_rule_a_budget_or_nothing() {
        let budget = |text: &str| Terms::Budget.read(text).unwrap();
        assert_eq!(
            budget(" 50 ms"),
            Order::Budget(Some(Duration::from_millis(50)))
        );
        assert_eq!(
            budget("0.5"),
            Order::Budget(Some(Duration::from_micros(500)))
        );
        assert_eq!(budget(" "), Order::Budget(None));
        assert!(Terms::Budget.read("-3").is_err() && Terms::Budget.read("soon").is_err());
        assert_eq!(Terms::Rule.read("").unwrap(), Order::Rule(None));
        let rule = Terms::Rule.read("every 5 min").unwrap();
        assert!(matches!(rule, Order::Rule(Some(rule)) if rule.to_string() == "every 5 min"));
        assert!(Terms::Rule.read("every").is_err());
    }
}
