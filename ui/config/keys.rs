//! `keys.toml`: an action and its keys in each line. Actions that it does not name keep theirs.

use icecore::{Error, Kind, Result};
use toml::de::DeValue;

use super::file::{File, Value};
use crate::tui::action::ACTIONS;
use crate::tui::keymap::{Chord, Keymap, name};

const WANTED: &str = "a key or a list of keys: \"d\", \"ctrl-r\", \"f2\", \"page-up\", \"space\"";

/// The key map of these files, later ones winning.
///
/// # Errors
/// When an action or a key is unknown, or a key has two actions, with file, line and column.
pub(super) fn keymap(files: &[File]) -> Result<Keymap> {
    let mut keys = Keymap::default();
    // Where the keys of a row were set.
    let mut places = vec![None; ACTIONS.len()];
    for file in files {
        for (key, value) in &file.table()? {
            let wanted = key.get_ref().as_ref();
            let rows = ACTIONS.iter().map(|action| name(action.act));
            let Some(row) = rows.clone().position(|row| row == wanted) else {
                let names: Vec<String> = rows.collect();
                let what = format!("There is no action \u{201c}{wanted}\u{201d}");
                return Err(file
                    .wrong(key.span().start, &what)
                    .hint(format!("one of: {}", names.join(", "))));
            };
            keys.set(row, chords(file, value)?);
            if let Some(place) = places.get_mut(row) {
                *place = Some((file, key.span().start));
            }
        }
    }
    let Some((one, other, key)) = keys.conflict() else {
        return Ok(keys);
    };
    let of = |row: usize| ACTIONS.get(row).map_or_else(String::new, |a| name(a.act));
    // The row that was set is at fault, not the one that has its default.
    let (row, rival) = match places.get(other) {
        Some(Some(_)) => (other, one),
        _ => (one, other),
    };
    let what = format!(
        "The key {key} of {} is also the key of {}",
        of(row),
        of(rival)
    );
    let error = match places.get(row) {
        Some(Some((file, at))) => file.wrong(*at, &what),
        _ => Error::new(Kind::Usage, what),
    };
    Err(error.hint(format!(
        "give {} another key too: {} = \"...\"; [] is none",
        of(rival),
        of(rival)
    )))
}

fn chords(file: &File, value: &Value<'_>) -> Result<Vec<Chord>> {
    let one = |value: &Value<'_>| {
        let text = file.string(value, WANTED)?;
        text.parse().map_err(|()| file.wrong_value(value, WANTED))
    };
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(one).collect(),
        _ => one(value).map(|key| vec![key]),
    }
}

/// A key map as such a file.
pub(crate) fn print(keys: &Keymap) -> String {
    let mut text = String::from(
        "# Keys of the screen: save it as keys.toml beside config.toml, and keep the lines that you\n\
         # change. A key has one action; Esc and Ctrl-C cannot be given away.\n",
    );
    for (row, action) in ACTIONS.iter().enumerate() {
        if !action.help.is_empty() {
            text.push_str(&format!("\n# {}\n", action.help));
        }
        let keys: Vec<String> = keys
            .of_row(row)
            .iter()
            .map(|key| format!("{:?}", key.to_string()))
            .collect();
        text.push_str(&format!("{} = [{}]\n", name(action.act), keys.join(", ")));
    }
    text
}
