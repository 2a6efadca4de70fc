//! `config.toml`: the settings of one file, or of the command line. Each may be left to the file before.

use std::path::PathBuf;

use icecore::Result;
use toml::Spanned;
use toml::de::DeValue;

use super::file::File;
use crate::tui::theme::Colors;

/// All settings, in the order of `default.toml`.
pub(super) const KNOWN: &[&str] = &[
    "root",
    "theme",
    "colors",
    "ascii",
    "mouse",
    "state",
    "screen_reader",
];

/// A choice that the environment makes unless somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice<T> {
    /// The environment.
    Auto,
    /// This.
    Is(T),
}

/// What is set; the rest is up to others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Where the screen looks for layers.
    pub(crate) root: Option<PathBuf>,
    /// Name of the theme.
    pub(crate) theme: Option<String>,
    /// How many colours.
    pub(crate) colors: Option<Choice<Colors>>,
    /// Nothing but ASCII.
    pub(crate) ascii: Option<Choice<bool>>,
    /// The mouse does something.
    pub(crate) mouse: Option<bool>,
    /// The screen starts where one was.
    pub(crate) state: Option<bool>,
    /// The screen is for a screen reader.
    pub(crate) screen_reader: Option<bool>,
}

/// How many colours a word means.
pub(crate) fn colors(word: &str) -> Option<Choice<Colors>> {
    Some(match word {
        "auto" => Choice::Auto,
        "none" => Choice::Is(Colors::None),
        "16" => Choice::Is(Colors::Sixteen),
        "256" => Choice::Is(Colors::Indexed),
        "true" => Choice::Is(Colors::True),
        _ => return None,
    })
}

impl Settings {
    /// Those of a file.
    ///
    /// # Errors
    /// When something in it is unknown or means nothing, with file, line and column.
    pub(crate) fn of(file: &File) -> Result<Self> {
        let mut settings = Self::default();
        for (key, value) in &file.table()? {
            match key.get_ref().as_ref() {
                "root" => settings.root = Some(file.string(value, "a directory")?.into()),
                "theme" => settings.theme = Some(file.string(value, "the name of a theme")?),
                "colors" => {
                    let wanted = "\"auto\", \"none\", \"16\", \"256\" or \"true\"";
                    let word = file.string(value, wanted)?;
                    let choice = colors(&word).ok_or_else(|| file.wrong_value(value, wanted))?;
                    settings.colors = Some(choice);
                }
                "ascii" => {
                    let wanted = "\"auto\", \"always\" or \"never\"";
                    settings.ascii = Some(match file.string(value, wanted)?.as_str() {
                        "auto" => Choice::Auto,
                        "always" => Choice::Is(true),
                        "never" => Choice::Is(false),
                        _ => return Err(file.wrong_value(value, wanted)),
                    });
                }
                "mouse" => settings.mouse = Some(switch(file, value)?),
                "state" => settings.state = Some(switch(file, value)?),
                "screen_reader" => settings.screen_reader = Some(switch(file, value)?),
                other => {
                    return Err(file.unknown(key.span().start, other, KNOWN.iter().copied()));
                }
            }
        }
        Ok(settings)
    }

    /// These, and what `earlier` says where these say nothing.
    pub(crate) fn over(self, earlier: Self) -> Self {
        Self {
            root: self.root.or(earlier.root),
            theme: self.theme.or(earlier.theme),
            colors: self.colors.or(earlier.colors),
            ascii: self.ascii.or(earlier.ascii),
            mouse: self.mouse.or(earlier.mouse),
            state: self.state.or(earlier.state),
            screen_reader: self.screen_reader.or(earlier.screen_reader),
        }
    }
}

/// A setting that is on or off.
fn switch(file: &File, value: &Spanned<DeValue<'_>>) -> Result<bool> {
    match value.get_ref() {
        DeValue::Boolean(on) => Ok(*on),
        _ => Err(file.wrong_value(value, "true or false")),
    }
}
