//! `icecore prune DIR`: only the layers worth keeping stay.

use std::path::PathBuf;

use icecore::Result;
use icecore::edit::{self, Keep};

use super::change;

/// Options of `prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the layers are; each tree of them is pruned by itself
    #[arg(default_value = ".", value_parser = crate::home::place)]
    dir: PathBuf,
    /// Keep the newest N layers
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_last: usize,
    /// Keep the newest layer of each of the latest N hours (of UTC) that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_hourly: usize,
    /// Keep the newest layer of each of the latest N days (of UTC) that have any
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_daily: usize,
    /// Keep layers with this label (may be repeated)
    #[arg(long, value_name = "LABEL")]
    keep_label: Vec<String>,
    /// Pinned layers are kept in any case
    #[arg(long, hide = true)]
    keep_pinned: bool,
    #[command(flatten)]
    pub(crate) options: change::Options,
}

/// Plans and carries out.
pub(crate) fn run(args: &Args) -> Result<()> {
    let keep = Keep {
        last: args.keep_last,
        hourly: args.keep_hourly,
        daily: args.keep_daily,
        labels: args.keep_label.clone(),
    };
    change::carry_out(edit::prune(&args.dir, &keep)?, &args.options)
}
