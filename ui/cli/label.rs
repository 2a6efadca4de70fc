//! `icecore label`, `pin`, `unpin`, `branch`: names and marks of layers.

use std::path::PathBuf;

use icecore::{Result, edit};
use serde_json::{Value, json};

use super::line;
use super::schema::versioned;

/// Options of `label`.
#[derive(Debug, clap::Args)]
pub(crate) struct LabelArgs {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// What to call it; nothing takes the label away
    #[arg(default_value = "", hide_default_value = true)]
    text: String,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `pin` and `unpin`.
#[derive(Debug, clap::Args)]
pub(crate) struct PinArgs {
    /// Directory of the layer
    #[arg(value_parser = crate::home::place)]
    layer: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
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
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Sets a label.
pub(crate) fn label(args: &LabelArgs) -> Result<()> {
    let changed = edit::label(&args.layer, &args.text)?;
    let text = args.text.trim();
    if args.json {
        let label = (!text.is_empty()).then_some(text);
        return print(&json!({ "layer": args.layer, "label": label, "changed": changed }));
    }
    let what = if text.is_empty() { "no label" } else { text };
    said(changed, &format!("{}: {what}", args.layer.display()))
}

/// Pins a layer.
pub(crate) fn pin(args: &PinArgs) -> Result<()> {
    set_pin(args, true)
}

/// Unpins a layer.
pub(crate) fn unpin(args: &PinArgs) -> Result<()> {
    set_pin(args, false)
}

fn set_pin(args: &PinArgs, pinned: bool) -> Result<()> {
    let changed = edit::pin(&args.layer, pinned)?;
    if args.json {
        return print(&json!({ "layer": args.layer, "pinned": pinned, "changed": changed }));
    }
    let what = if pinned { "pinned" } else { "not pinned" };
    said(changed, &format!("{}: {what}", args.layer.display()))
}

/// Makes a branch.
pub(crate) fn branch(args: &BranchArgs) -> Result<()> {
    edit::branch(&args.layer, &args.new, args.label.as_deref())?;
    if args.json {
        return print(&json!({ "layer": args.new, "parent": args.layer, "label": args.label }));
    }
    line(&format!(
        "{} stands on {}",
        args.new.display(),
        args.layer.display()
    ))
}

fn print(result: &Value) -> Result<()> {
    line(&versioned(&result)?.to_string())
}

fn said(changed: bool, what: &str) -> Result<()> {
    line(&format!(
        "{what}{}",
        if changed { "" } else { ", as before" }
    ))
}
