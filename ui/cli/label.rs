//! `icecore label`, `pin`, `unpin`, `branch`: names and marks of layers.

use std::path::PathBuf;

use icecore::{Result, edit};

use super::line;

/// Options of `label`.
#[derive(Debug, clap::Args)]
pub(crate) struct LabelArgs {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// What to call it; nothing takes the label away
    #[arg(default_value = "", hide_default_value = true)]
    text: String,
}

/// Options of `pin` and `unpin`.
#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
}

/// Options of `branch`.
#[derive(Debug, clap::Args)]
pub(crate) struct BranchArgs {
    /// Directory of the layer to stand on
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// Directory of the new layer
    new: PathBuf,
    /// What to call it
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

/// Sets a label.
pub(crate) fn label(args: &LabelArgs) -> Result<()> {
    let changed = edit::label(&args.layer, &args.text)?;
    let what = if args.text.trim().is_empty() {
        "no label"
    } else {
        args.text.trim()
    };
    said(changed, &format!("{}: {what}", args.layer.display()))
}

/// Pins a layer.
pub(crate) fn pin(args: &PinArgs) -> Result<()> {
    let changed = edit::pin(&args.layer, true)?;
    said(changed, &format!("{}: pinned", args.layer.display()))
}

/// Unpins a layer.
pub(crate) fn unpin(args: &PinArgs) -> Result<()> {
    let changed = edit::pin(&args.layer, false)?;
    said(changed, &format!("{}: not pinned", args.layer.display()))
}

/// Makes a branch.
pub(crate) fn branch(args: &BranchArgs) -> Result<()> {
    edit::branch(&args.layer, &args.new, args.label.as_deref())?;
    line(&format!(
        "{} stands on {}",
        args.new.display(),
        args.layer.display()
    ))
}

fn said(changed: bool, what: &str) -> Result<()> {
    line(&format!(
        "{what}{}",
        if changed { "" } else { ", as before" }
    ))
}
