//! `themes/NAME.toml`: the colours of a theme.

use icecore::Result;
use ratatui::style::Color;
use toml::de::DeValue;

use super::file::{File, Value};
use crate::tui::theme::{DARK, LIGHT, Palette, Tint};

const WANTED: &str = "a colour: \"#rrggbb\", \"red\" or another name, or \"0\" to \"255\"";

/// The palette of a file: what it does not name is that of `base` ("dark" or "light").
///
/// # Errors
/// When something in it is unknown or no colour, with file, line and column.
pub(super) fn palette(file: &File) -> Result<Palette> {
    let table = file.table()?;
    let base = table.iter().find(|(key, _)| key.get_ref() == "base");
    let mut palette = match base {
        None => DARK,
        Some((_, value)) => {
            let wanted = "\"dark\" or \"light\"";
            match file.string(value, wanted)?.as_str() {
                "dark" => DARK,
                "light" => LIGHT,
                _ => return Err(file.wrong_value(value, wanted)),
            }
        }
    };
    for (key, value) in &table {
        let name = key.get_ref().as_ref();
        if name == "base" {
            continue;
        }
        if name == "owners" {
            let wanted = "a list of seven colours, that of the newest layer first";
            let DeValue::Array(items) = value.get_ref() else {
                return Err(file.wrong_value(value, wanted));
            };
            if items.len() != palette.owners.len() {
                return Err(file.wrong_value(value, wanted));
            }
            for (owner, item) in palette.owners.iter_mut().zip(items.iter()) {
                *owner = color(file, item)?;
            }
            continue;
        }
        let tint = color(file, value)?;
        let known: Vec<&str> = ["base", "owners"]
            .into_iter()
            .chain(palette.roles().map(|(name, _)| name))
            .collect();
        match palette.roles().find(|(role, _)| *role == name) {
            Some((_, role)) => *role = tint,
            None => return Err(file.unknown(key.span().start, name, known.into_iter())),
        }
    }
    Ok(palette)
}

fn color(file: &File, value: &Value<'_>) -> Result<Tint> {
    file.string(value, WANTED)?
        .parse::<Color>()
        .map(Tint::of)
        .map_err(|_unknown| file.wrong_value(value, WANTED))
}

/// A palette as such a file.
pub(crate) fn print(base: &str, palette: &Palette) -> String {
    let mut palette = *palette;
    let mut text = format!(
        "# A theme: save it as themes/NAME.toml beside config.toml, and set theme = \"NAME\" there.\n\
         # Colours are \"#rrggbb\", names, or indices of the 256 colours.\n\
         # What is not named here is as in this theme:\nbase = \"{base}\"\n\n"
    );
    for (name, tint) in palette.roles() {
        text.push_str(&format!("{name} = \"{}\"\n", tint.rich));
    }
    let owners: Vec<String> = palette
        .owners
        .iter()
        .map(|tint| format!("\"{}\"", tint.rich))
        .collect();
    text.push_str(
        "# Layers on the map, the newest first; the lowest has the colour \"base-layer\".\n",
    );
    text.push_str(&format!("owners = [{}]\n", owners.join(", ")));
    text
}
