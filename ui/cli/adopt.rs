//! `icecore adopt [DIR]`: layers that CRIU made get an identity and digests.

use std::path::PathBuf;

use icecore::chain::{self, Adopted};
use icecore::{Cancel, Result};

use super::line;
use super::schema::versioned;
use crate::format;

/// Options of `adopt`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A layer (adopted with its ancestors), or a directory of layers
    #[arg(default_value = ".", value_parser = crate::home::place)]
    dir: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `adopt`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let adopted = chain::adopt(&args.dir, &(), &Cancel::default())?;
    if !args.json {
        return line(&as_text(&adopted));
    }
    line(&versioned(&adopted)?.to_string())
}

fn as_text(adopted: &Adopted) -> String {
    let mut text = String::new();
    for dir in &adopted.layers {
        text.push_str(&format!("{}: adopted\n", dir.display()));
    }
    for dir in &adopted.partial {
        text.push_str(&format!(
            "{}: its dump was never finished, left alone\n",
            dir.display()
        ));
    }
    text.push_str(&format!(
        "{} adopted, {} had digests already",
        format::count(adopted.layers.len() as u64, "layer"),
        adopted.known.len()
    ));
    text
}
