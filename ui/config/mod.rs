//! Settings, keys and themes: files of the system and of the user, the environment, the command line.
//!
//! Every mistake in a file is an error with its place; nothing is ignored. Later files win over
//! earlier ones, setting by setting and key by key. Source: the XDG base directory specification
//! (`XDG_CONFIG_DIRS`, `XDG_CONFIG_HOME`).

mod file;
pub(crate) mod keys;
pub(crate) mod settings;
#[cfg(test)]
mod tests;
pub(crate) mod themes;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use icecore::{Error, Kind, Result};

use crate::tui::keymap::Keymap;
use crate::tui::theme::{DARK, LIGHT, Theme};
use file::File;
use settings::{Choice, Settings};

/// `config.toml` with all defaults, commented.
pub(crate) const DEFAULT: &str = include_str!("default.toml");

/// What the screen goes by.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where it looks for layers, when somebody says so.
    pub(crate) root: Option<PathBuf>,
    /// How it looks.
    pub(crate) theme: Theme,
    /// The name of that.
    pub(crate) theme_name: String,
    /// What keys do.
    pub(crate) keys: Keymap,
    /// The mouse does something.
    pub(crate) mouse: bool,
    /// It starts where one was at the end of the last run.
    pub(crate) state: bool,
    /// It is for a screen reader.
    pub(crate) screen_reader: bool,
    /// Directories of files that we may not read, in words.
    pub(crate) unread: Vec<String>,
}

impl Config {
    /// The configuration of this machine and user, under `flags`.
    ///
    /// # Errors
    /// When a file cannot be read, or something in it makes no sense.
    pub(crate) fn load(flags: Settings) -> Result<Self> {
        let paths = paths();
        let of = |name: &str| std::env::var(name).unwrap_or_default();
        let config = Self::of(&paths, flags, Theme::of_environment(of))?;
        match config.unread.first() {
            // A file that was asked for is another matter.
            Some(why) if std::env::var_os("ICECORE_CONFIG").is_some() => {
                Err(Error::new(Kind::Permission, why))
            }
            _ => Ok(config),
        }
    }

    fn of(paths: &[PathBuf], flags: Settings, environment: Theme) -> Result<Self> {
        let mut settings = Settings::default();
        let mut key_files = Vec::new();
        let mut unread = Vec::new();
        for path in paths {
            if let Some(file) = permitted(path, &mut unread)? {
                settings = Settings::of(&file)?.over(settings);
            }
            key_files.extend(permitted(&path.with_file_name("keys.toml"), &mut unread)?);
        }
        let settings = flags.over(settings);
        let theme_name = settings.theme.unwrap_or_else(|| "auto".into());
        let palette = match theme_name.as_str() {
            "auto" => environment.palette,
            "dark" => DARK,
            "light" => LIGHT,
            name => themes::palette(&theme_file(paths, name)?)?,
        };
        let colors = match settings.colors {
            Some(Choice::Is(colors)) => colors,
            _ => environment.colors,
        };
        let ascii = match settings.ascii {
            Some(Choice::Is(ascii)) => ascii,
            _ => environment.ascii,
        };
        Ok(Self {
            root: settings.root,
            theme: Theme {
                colors,
                ascii,
                palette,
            },
            theme_name,
            keys: keys::keymap(&key_files)?,
            mouse: settings.mouse.unwrap_or(true),
            state: settings.state.unwrap_or(true),
            screen_reader: settings.screen_reader.unwrap_or(false),
            unread,
        })
    }
}

/// Reads a file. One that we may not read is not ours (sudo and su may leave the home of another user), and no
/// reason not to start.
fn permitted(path: &Path, unread: &mut Vec<String>) -> Result<Option<File>> {
    match File::read(path) {
        Err(e) if e.kind() == Kind::Permission => {
            let dir = path.parent().unwrap_or(path).display();
            let why = format!("{dir} may not be read: it configures nothing");
            if !unread.contains(&why) {
                unread.push(why);
            }
            Ok(None)
        }
        read => read,
    }
}

/// The file of a theme, that of the user first.
fn theme_file(paths: &[PathBuf], name: &str) -> Result<File> {
    let places: Vec<PathBuf> = paths
        .iter()
        .rev()
        .map(|path| path.with_file_name("themes").join(format!("{name}.toml")))
        .collect();
    if !name.contains('/') {
        for place in &places {
            if let Some(file) = permitted(place, &mut Vec::new())? {
                return Ok(file);
            }
        }
    }
    let places: Vec<String> = places.iter().map(|p| p.display().to_string()).collect();
    let what = format!("There is no theme \u{201c}{name}\u{201d}");
    Err(Error::new(Kind::Usage, what).hint(format!(
        "auto, dark, light, or a file: {}",
        places.join(" or ")
    )))
}

/// The `config.toml` files, whether they are there or not: the system's first.
pub(crate) fn paths() -> Vec<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    paths_of(
        variable("ICECORE_CONFIG"),
        variable("XDG_CONFIG_DIRS"),
        variable("XDG_CONFIG_HOME"),
        variable("HOME"),
    )
}

fn paths_of(
    only: Option<OsString>,
    system: Option<OsString>,
    user: Option<OsString>,
    home: Option<OsString>,
) -> Vec<PathBuf> {
    if let Some(only) = only {
        return vec![only.into()];
    }
    let system = system.unwrap_or_else(|| "/etc/xdg".into());
    // The specification has the most important directory first; relative ones are to be ignored.
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&system).collect();
    dirs.reverse();
    let user = user.map(PathBuf::from).filter(|dir| dir.is_absolute());
    dirs.extend(user.or_else(|| home.map(|home| Path::new(&home).join(".config"))));
    dirs.retain(|dir| dir.is_absolute());
    dirs.into_iter()
        .map(|dir| dir.join("icecore/config.toml"))
        .collect()
}
