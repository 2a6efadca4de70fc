//! The log as one reads it: the lines of earlier runs and of this one that have the text of the filter, and
//! where one is in them. Pure.

use super::history::seconds;
use super::model::Model;
use super::popup::Mark;
use super::text::age;

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    /// When it was said: the time, or of an earlier run how long ago.
    pub(crate) when: String,
    /// How it is marked.
    pub(crate) mark: Mark,
    /// What it says.
    pub(crate) text: &'a str,
    /// It was said in an earlier run.
    pub(crate) earlier: bool,
}

/// The lines, the latest last.
pub(crate) fn entries(model: &Model) -> Vec<Entry<'_>> {
    let now = seconds(model.now);
    let earlier = model.earlier.iter().map(|said| Entry {
        when: format!("{} ago", age(now.saturating_sub(said.at))),
        mark: said.mark,
        text: &said.text,
        earlier: true,
    });
    let now = model.log.iter().map(|(second, mark, text)| Entry {
        when: time(*second),
        mark: *mark,
        text,
        earlier: false,
    });
    let all = earlier.chain(now);
    all.filter(|entry| matches(model, entry.text)).collect()
}

/// A second of the day.
pub(crate) fn time(second: u64) -> String {
    let (hours, minutes) = (second / 3600, second / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", second % 60)
}

/// Whether a line has the text of the filter.
pub(super) fn matches(model: &Model, text: &str) -> bool {
    let wanted = model.log_filter.value().to_lowercase();
    text.to_lowercase().contains(&wanted)
}

/// Number of the selected one of so many lines.
pub(crate) fn at(model: &Model, len: usize) -> usize {
    len.saturating_sub(1 + model.log_back)
}

/// The first one shown of `len` lines in `rows` rows: the latest, as long as the selected one is among
/// them.
pub(crate) fn first(model: &Model, len: usize, rows: usize) -> usize {
    len.saturating_sub(rows).min(at(model, len))
}
