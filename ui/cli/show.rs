//! `icecore show`: the files of a layer, or one file of it, readable.

use std::path::{Path, PathBuf};

use icecore::chain::Held;
use icecore::image::{Images, text};
use icecore::{Error, Kind, Result};
use serde_json::Value;

use super::line;
use super::schema::versioned;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the layer, or one image inside of it
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// File to show, e.g. pagemap-42 (default: list the files)
    file: Option<String>,
    /// Print JSON, for a file as CRIU's `crit decode` does
    #[arg(long)]
    pub(crate) json: bool,
    /// With --json: indented
    #[arg(long, requires = "json")]
    pretty: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let (dir, file) = place(args)?;
    let _held = Held::shared(dir)?;
    let images = Images::open(dir)?;
    match (file, args.json) {
        (Some(file), true) => print(args, &text::json(&images, &whole(&images, file))?),
        (Some(file), false) => line(text::text(&images, &whole(&images, file))?.trim_end()),
        (None, true) => {
            let files = serde_json::json!({ "files": text::list(&images)? });
            print(args, &versioned(&files)?)
        }
        (None, false) => line(text::list_text(&images)?.trim_end()),
    }
}

/// The layer, and the file in it: `DIR FILE`, `DIR` or `DIR/FILE`.
fn place(args: &Args) -> Result<(&Path, Option<&str>)> {
    let layer = args.layer.as_path();
    if args.file.is_some() || !layer.is_file() {
        return Ok((layer, args.file.as_deref()));
    }
    let name = layer
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("{} is no name of an image", layer.display()),
            )
        })?;
    let dir = layer.parent().filter(|dir| !dir.as_os_str().is_empty());
    Ok((dir.unwrap_or(Path::new(".")), Some(name)))
}

/// The whole name of a file that may have been given without its ending.
fn whole(images: &Images, file: &str) -> String {
    let image = format!("{file}.img");
    let exists = |name: &str| images.dir().join(name).exists();
    if !exists(file) && exists(&image) {
        image
    } else {
        file.to_owned()
    }
}

fn print(args: &Args, value: &Value) -> Result<()> {
    line(&if args.pretty {
        format!("{value:#}")
    } else {
        value.to_string()
    })
}
