//! Fuzzy matching, as people know it from fzf.

use nucleo_matcher::pattern::{CaseMatching, Normalization, Pattern};
use nucleo_matcher::{Config, Matcher, Utf32Str};

/// Something to be found.
#[derive(Debug)]
pub(super) struct Fuzzy {
    matcher: Matcher,
    pattern: Pattern,
    letters: Vec<char>,
}

impl Fuzzy {
    /// `text`: words in any order, of which letters may be left out. Capitals count if there are any.
    pub(super) fn new(text: &str) -> Self {
        Self {
            matcher: Matcher::new(Config::DEFAULT),
            pattern: Pattern::parse(text, CaseMatching::Smart, Normalization::Smart),
            letters: Vec::new(),
        }
    }

    /// How well `text` has it; nothing when it has it not.
    pub(super) fn score(&mut self, text: &str) -> Option<u32> {
        let text = Utf32Str::new(text, &mut self.letters);
        self.pattern.score(text, &mut self.matcher)
    }
}
