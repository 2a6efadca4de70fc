//! `icecore config`: which settings hold, where they come from, and files to start from.

use std::path::Path;

use icecore::Result;
use serde_json::json;

use super::line;
use super::schema::SCHEMA;
use crate::config::{self, Config, keys, settings::Settings, themes};
use crate::tui::keymap::Keymap;
use crate::tui::theme::{DARK, LIGHT};

/// Options of `config`; without any, the files are checked and what holds is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print config.toml with all defaults and what they mean
    #[arg(long, group = "what")]
    print_default: bool,
    /// Print the keys that hold, as a keys.toml
    #[arg(long, group = "what")]
    print_keys: bool,
    /// Print a theme, as a file to change
    #[arg(long, group = "what", value_name = "THEME", value_parser = ["dark", "light"])]
    print_theme: Option<String>,
    /// Print the files that are read, in their order: later ones win
    #[arg(long, group = "what")]
    path: bool,
    /// Print what holds as JSON
    #[arg(long, conflicts_with = "what")]
    pub(crate) json: bool,
}

/// Runs `config`.
pub(crate) fn run(args: &Args, settings: Settings) -> Result<()> {
    if args.print_default {
        return line(config::DEFAULT.trim_end());
    }
    if let Some(name) = &args.print_theme {
        let palette = if name == "light" { LIGHT } else { DARK };
        return line(themes::print(name, &palette).trim_end());
    }
    let paths = config::paths();
    if args.path {
        for path in paths {
            let there = if path.exists() { "" } else { "  (not there)" };
            line(&format!("{}{there}", path.display()))?;
        }
        return Ok(());
    }
    let config = Config::load(settings)?;
    if args.print_keys {
        return line(keys::print(&config.keys).trim_end());
    }
    let colors = match config.theme.colors {
        crate::tui::theme::Colors::None => "none",
        crate::tui::theme::Colors::Sixteen => "16",
        crate::tui::theme::Colors::Indexed => "256",
        crate::tui::theme::Colors::True => "true",
    };
    let files: Vec<String> = paths
        .iter()
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    let root = config.root.as_deref().unwrap_or(Path::new("."));
    if args.json {
        let all = json!({
            "schema": SCHEMA,
            "files": files,
            "unread": config.unread,
            "root": root.to_string_lossy(),
            "theme": config.theme_name,
            "light": config.theme.palette == LIGHT,
            "colors": colors,
            "ascii": config.theme.ascii,
            "mouse": config.mouse,
            "state": config.state,
            "screen_reader": config.screen_reader,
            "default_keys": config.keys == Keymap::default(),
        });
        return line(&format!("{all:#}"));
    }
    let light = if config.theme.palette == LIGHT {
        "light"
    } else {
        "dark"
    };
    let theme = match config.theme_name.as_str() {
        "auto" => format!("auto ({light})"),
        name => name.to_owned(),
    };
    let own = if config.keys == Keymap::default() {
        "the default"
    } else {
        "of your own"
    };
    let files = if files.is_empty() {
        "none".to_owned()
    } else {
        files.join(", ")
    };
    for unread in &config.unread {
        line(&format!("unread  {}", crate::format::plain(unread)))?;
    }
    for (name, value) in [
        ("files", files),
        ("root", root.display().to_string()),
        ("theme", theme),
        ("colors", colors.to_owned()),
        ("ascii", config.theme.ascii.to_string()),
        ("mouse", config.mouse.to_string()),
        ("state", config.state.to_string()),
        ("reader", config.screen_reader.to_string()),
        ("keys", own.to_owned()),
    ] {
        line(&format!("{name:<8}{}", crate::format::plain(&value)))?;
    }
    Ok(())
}
