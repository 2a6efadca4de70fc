//! `icecore drop LAYER...`: layers go, and those above take over what they still need.

use std::path::PathBuf;

use icecore::{Result, edit};

use super::change;

/// Options of `drop`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directories of the layers
    #[arg(required = true)]
    layers: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) options: change::Options,
}

/// Plans and carries out.
pub(crate) fn run(args: &Args) -> Result<()> {
    change::carry_out(edit::drop_layers(&args.layers)?, &args.options)
}
