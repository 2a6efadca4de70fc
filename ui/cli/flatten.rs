//! `icecore flatten LAYER`: a layer that stands alone.

use std::path::PathBuf;

use icecore::{Result, edit};

use super::change;

/// Options of `flatten`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// Leave it as it is, and make a new layer here
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: change::Options,
}

/// Plans and carries out.
pub(crate) fn run(args: &Args) -> Result<()> {
    change::carry_out(
        edit::flatten(&args.layer, args.into.as_deref())?,
        &args.options,
    )
}
