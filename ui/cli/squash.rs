//! `icecore squash FROM..TO`: one layer instead of several.

use std::path::{Path, PathBuf};

use icecore::{Error, Kind, Result, edit};

use super::change;

/// Options of `squash`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directories of the lowest and the uppermost layer, as FROM..TO or as two arguments; the result
    /// has the place, name and identity of TO
    #[arg(required = true, num_args = 1..=2, value_name = "FROM..TO")]
    layers: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) options: change::Options,
}

/// Plans and carries out.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (from, to) = match args.layers.as_slice() {
        [from, to] => (from.clone(), to.clone()),
        words => {
            let word = words
                .first()
                .map(|word| word.to_string_lossy().into_owned());
            ends(word.as_deref().unwrap_or_default())?
        }
    };
    change::carry_out(edit::squash(&from, &to)?, &args.options)
}

/// Both ends of `FROM..TO`. The paths themselves may contain `..`, so directories are asked for.
fn ends(word: &str) -> Result<(PathBuf, PathBuf)> {
    let mut splits = word
        .match_indices("..")
        .map(|(at, dots)| (&word[..at], &word[at + dots.len()..]));
    let there = |text: &str| !text.is_empty() && Path::new(text).is_dir();
    let found = splits.find(|(from, to)| there(from) && there(to));
    let (from, to) = found.ok_or_else(|| {
        Error::new(Kind::Usage, format!("{word} does not name two layers"))
            .hint("Give FROM..TO, the lower layer first, e.g. img/2..img/5")
    })?;
    Ok((from.into(), to.into()))
}
