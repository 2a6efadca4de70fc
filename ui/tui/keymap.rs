//! Which key does what: the action table's keys, or those of `keys.toml`.

use std::fmt;
use std::str::FromStr;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::action::{ACTIONS, Act};

/// A key, perhaps with Ctrl or Alt held. (Shift is part of the letter.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chord {
    /// The key.
    pub(crate) code: KeyCode,
    /// Ctrl or Alt.
    pub(crate) held: KeyModifiers,
}

/// Keys that are words.
const WORDS: &[(&str, KeyCode)] = &[
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("page-up", KeyCode::PageUp),
    ("page-down", KeyCode::PageDown),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
    ("insert", KeyCode::Insert),
    ("delete", KeyCode::Delete),
    ("backspace", KeyCode::Backspace),
    ("enter", KeyCode::Enter),
    ("tab", KeyCode::Tab),
    ("shift-tab", KeyCode::BackTab),
    ("space", KeyCode::Char(' ')),
];

impl Chord {
    const fn plain(code: KeyCode) -> Self {
        Self {
            code,
            held: KeyModifiers::NONE,
        }
    }

    fn of(key: KeyEvent) -> Self {
        Self {
            code: key.code,
            held: key.modifiers & (KeyModifiers::CONTROL | KeyModifiers::ALT),
        }
    }
}

impl FromStr for Chord {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (held, name) = match (text.strip_prefix("ctrl-"), text.strip_prefix("alt-")) {
            (Some(name), _) => (KeyModifiers::CONTROL, name),
            (None, Some(name)) => (KeyModifiers::ALT, name),
            (None, None) => (KeyModifiers::NONE, text),
        };
        let mut letters = name.chars();
        let code = match (letters.next(), letters.next()) {
            (Some(letter), None) if !letter.is_whitespace() && !letter.is_control() => {
                KeyCode::Char(letter)
            }
            _ => {
                let word = WORDS.iter().find(|(word, _)| *word == name);
                let function = || {
                    let number: u8 = name.strip_prefix('f')?.parse().ok()?;
                    (1..=24).contains(&number).then_some(KeyCode::F(number))
                };
                word.map(|(_, code)| *code).or_else(function).ok_or(())?
            }
        };
        // Both mean something everywhere already.
        let reserved = held == KeyModifiers::CONTROL && code == KeyCode::Char('c');
        if reserved {
            Err(())
        } else {
            Ok(Self { code, held })
        }
    }
}

impl fmt::Display for Chord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.held.contains(KeyModifiers::CONTROL) {
            f.write_str("ctrl-")?;
        }
        if self.held.contains(KeyModifiers::ALT) {
            f.write_str("alt-")?;
        }
        match (self.code, WORDS.iter().find(|(_, code)| *code == self.code)) {
            (_, Some((word, _))) => f.write_str(word),
            (KeyCode::Char(letter), None) => write!(f, "{letter}"),
            (KeyCode::F(number), None) => write!(f, "f{number}"),
            (other, None) => write!(f, "{other}"),
        }
    }
}

/// The keys of every action, in the order of the action table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keymap(Vec<Vec<Chord>>);

impl Default for Keymap {
    fn default() -> Self {
        let keys = |action: &super::action::Action| {
            action.keys.iter().copied().map(Chord::plain).collect()
        };
        Self(ACTIONS.iter().map(keys).collect())
    }
}

impl Keymap {
    /// The keys of the action in row `row` of the table.
    pub(crate) fn of_row(&self, row: usize) -> &[Chord] {
        self.0.get(row).map_or(&[], Vec::as_slice)
    }

    /// The keys of an action.
    pub(crate) fn of(&self, act: Act) -> &[Chord] {
        let row = ACTIONS.iter().position(|action| action.act == act);
        row.map_or(&[], |row| self.of_row(row))
    }

    /// The first key of an action, as texts show it.
    pub(crate) fn label(&self, act: Act) -> String {
        let first = self.of(act).first();
        first.map_or_else(|| "no key".into(), |key| label(*key))
    }

    /// Gives a row other keys.
    pub(crate) fn set(&mut self, row: usize, keys: Vec<Chord>) {
        if let Some(old) = self.0.get_mut(row) {
            *old = keys;
        }
    }

    /// The row of a key.
    pub(crate) fn row_of(&self, key: KeyEvent) -> Option<usize> {
        let chord = Chord::of(key);
        self.0.iter().position(|keys| keys.contains(&chord))
    }

    /// Two rows with one key.
    pub(crate) fn conflict(&self) -> Option<(usize, usize, Chord)> {
        let mut seen = std::collections::HashMap::new();
        for (row, keys) in self.0.iter().enumerate() {
            for key in keys {
                if let Some(before) = seen.insert(*key, row).filter(|before| *before != row) {
                    return Some((before, row, *key));
                }
            }
        }
        None
    }
}

/// The name of an action in `keys.toml`: `page-up`.
pub(crate) fn name(act: Act) -> String {
    let mut name = String::new();
    for c in format!("{act:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// A key as help and footer show it.
pub(crate) fn label(key: Chord) -> String {
    let held = match key.held {
        KeyModifiers::CONTROL => "Ctrl-",
        KeyModifiers::ALT => "Alt-",
        _ => "",
    };
    let code = match key.code {
        KeyCode::Char(' ') => "Space".into(),
        KeyCode::Char(c) => c.to_string(),
        KeyCode::F(n) => format!("F{n}"),
        KeyCode::Up => "↑".into(),
        KeyCode::BackTab => "Shift-Tab".into(),
        other => format!("{other:?}"),
    };
    format!("{held}{code}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_as_it_is_written_and_none_means_two_actions() {
        let keys = Keymap::default();
        assert_eq!(keys.conflict(), None);
        for chord in keys.0.iter().flatten() {
            assert_eq!(chord.to_string().parse(), Ok(*chord), "{chord}");
        }
        for text in ["ctrl-r", "alt-x", "f12", "space", "\u{e9}"] {
            assert_eq!(text.parse::<Chord>().unwrap().to_string(), text);
        }
        for text in ["", "ctrl-", "ctrl-c", "hello", "f25", "\u{1b}", "esc"] {
            assert_eq!(text.parse::<Chord>(), Err(()), "{text:?}");
        }
        assert_eq!(name(Act::PageUp), "page-up");
    }
}
