//! The palette: every action by its name, for whoever does not know its key.

use crossterm::event::{Event, KeyCode, KeyEvent};
use tui_input::Input;
use tui_input::backend::crossterm::EventHandler as _;

use super::action::{ACTIONS, Act};
use super::fuzzy::Fuzzy;
use super::keymap;

/// What was typed, and what is selected of what has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Palette {
    /// What was typed.
    pub(crate) input: Input,
    /// The selected one of [`Palette::found`].
    pub(crate) at: usize,
}

/// What a key did to it.
pub(super) enum Choice {
    /// Nothing is chosen yet.
    None,
    /// It goes.
    Leave,
    /// This is to be done.
    Act(Act),
}

impl Palette {
    /// Rows of the action table that have what was typed, the best first.
    pub(crate) fn found(&self) -> Vec<usize> {
        let mut fuzzy = Fuzzy::new(self.input.value());
        let mut found: Vec<(u32, usize)> = Vec::new();
        for (row, action) in ACTIONS.iter().enumerate() {
            if action.act == Act::Palette {
                continue;
            }
            // The name counts more than what is said about it.
            let named = fuzzy.score(&title(action.act)).map(|score| score * 4);
            let score = named.max(fuzzy.score(action.help));
            found.extend(score.map(|score| (score, row)));
        }
        found.sort_by_key(|(score, row)| (std::cmp::Reverse(*score), *row));
        found.into_iter().map(|(_, row)| row).collect()
    }

    /// Takes a key.
    pub(super) fn key(&mut self, key: KeyEvent) -> Choice {
        let last = self.found().len().saturating_sub(1);
        match key.code {
            KeyCode::Esc => return Choice::Leave,
            KeyCode::Up | KeyCode::BackTab => self.at = self.at.checked_sub(1).unwrap_or(last),
            KeyCode::Down | KeyCode::Tab => self.at = if self.at < last { self.at + 1 } else { 0 },
            KeyCode::PageUp => self.at = self.at.saturating_sub(10),
            KeyCode::PageDown => self.at = (self.at + 10).min(last),
            KeyCode::Enter => {
                let chosen = self.found().get(self.at).and_then(|row| ACTIONS.get(*row));
                return chosen.map_or(Choice::None, |action| Choice::Act(action.act));
            }
            _ => {
                let changed = self.input.handle_event(&Event::Key(key));
                if changed.is_some_and(|changed| changed.value) {
                    self.at = 0;
                }
            }
        }
        Choice::None
    }
}

/// The name of an action, as people read it.
pub(crate) fn title(act: Act) -> String {
    keymap::name(act).replace('-', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(text: &str) -> Option<Act> {
        let palette = Palette {
            input: Input::new(text.into()),
            at: 0,
        };
        palette.found().first().map(|row| ACTIONS[*row].act)
    }

    #[test]
    fn what_is_typed_finds_the_action_that_is_meant() {
        for (text, act) in [
            ("dump", Act::Dump),
            ("rest", Act::Restore),
            ("ddp", Act::Dedup),
            ("flat", Act::Flatten),
            ("copy", Act::Copy),
            ("quit", Act::Quit),
        ] {
            assert_eq!(first(text), Some(act), "{text}");
        }
        assert_eq!(first("xyzzy"), None);
        assert_eq!(Palette::default().found().len(), ACTIONS.len() - 1);
    }
}
