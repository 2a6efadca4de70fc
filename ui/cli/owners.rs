//! `icecore owners LAYER`: what each layer of a stack stores, and how much of it is still needed.

use std::path::PathBuf;

use icecore::chain::{Census, Held, Stack, named};
use icecore::dedup;
use icecore::image::PagemapId;
use icecore::{Cancel, Error, Kind, PAGE_SIZE, Result};
use serde_json::json;

use super::line;
use super::schema::SCHEMA;
use crate::format;

/// Strategies whose plans tell what is stored for nothing.
const CONTENT: [&str; 3] = ["unchanged", "zero", "content"];

/// Options of `owners`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The layer whose stack is looked at
    #[arg(default_value = ".", value_parser = crate::home::place)]
    layer: PathBuf,
    /// List the runs of this task instead: addresses, owner, place in its pages file
    #[arg(long, value_name = "PID", conflicts_with = "content")]
    pid: Option<u32>,
    /// Read all pages: how many are equal below, zero, or equal to others in the stack
    #[arg(long)]
    content: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `owners`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let _held = Held::shared(&args.layer)?;
    let stack = Stack::open(&args.layer)?;
    if let Some(pid) = args.pid {
        return runs(args, &stack, pid);
    }
    let census = Census::of(&stack, &Cancel::default())?;
    // Pages by layer (tip first) and strategy.
    let mut content = vec![[0; 3]; census.layers.len()];
    if args.content {
        for (n, name) in CONTENT.iter().enumerate() {
            let plan = dedup::plan(&args.layer, dedup::strategy(name)?)?;
            for cut in &plan.cuts {
                let layer = census.layers.iter().position(|c| c.dir == cut.dir);
                if let Some(counts) = layer.and_then(|layer| content.get_mut(layer)) {
                    counts[n] += cut.pages;
                }
            }
        }
    }
    if args.json {
        let mut value = json!({ "schema": SCHEMA, "census": census });
        if args.content {
            value["content"] = json!({ "strategies": CONTENT, "pages": content });
        }
        return line(&value.to_string());
    }
    let bytes = |pages: u64| format::bytes(pages * PAGE_SIZE);
    let mut text = format!("{:>12} {:>12} {:>12}", "stored", "owned", "superseded");
    if args.content {
        text.push_str(&format!(
            " {:>12} {:>12} {:>12}",
            "equal below", "zero", "equal other"
        ));
    }
    text.push_str("  layer\n");
    for (counted, content) in census.layers.iter().zip(&content) {
        text.push_str(&format!(
            "{:>12} {:>12} {:>12}",
            bytes(counted.stored),
            bytes(counted.owned),
            bytes(counted.superseded)
        ));
        if args.content {
            for pages in content {
                text.push_str(&format!(" {:>12}", bytes(*pages)));
            }
        }
        text.push_str(&format!("  {}\n", counted.dir.display()));
    }
    let pages = format::count(census.pages, "page");
    text.push_str(&format!("{pages} as of {}", args.layer.display()));
    if census.missing > 0 {
        text.push_str(&format!(", {} MISSING", census.missing));
    }
    line(&text)
}

/// The runs of one task.
fn runs(args: &Args, stack: &Stack, pid: u32) -> Result<()> {
    let id = PagemapId::Task(pid);
    let ownership = stack.ownership(id)?;
    if ownership.runs().is_empty() && ownership.missing().is_empty() {
        let what = format!("Layer {} has no pages of pid {pid}", args.layer.display());
        return Err(Error::new(Kind::NotFound, what).hint("icecore show LAYER pstree lists tasks"));
    }
    let mappings = stack.tip().mappings(id);
    let mut all = Vec::new();
    for run in ownership.runs() {
        let dir = stack.level(run.layer)?.dir();
        let file = dir.join(format!("pages-{}.img", run.pages_id));
        for (range, mapping) in named(&mappings, run.range) {
            let offset = run.offset + (range.start - run.range.start);
            if args.json {
                all.push(json!({
                    "range": range, "mapping": mapping, "layer": dir, "file": file, "offset": offset,
                }));
            } else {
                let mapping = format::plain(&mapping);
                line(&format!(
                    "{range}  {}:{offset:x}  {mapping}",
                    file.display()
                ))?;
            }
        }
    }
    for gap in ownership.missing() {
        if args.json {
            all.push(json!({ "range": gap.range, "missing": gap.why }));
        } else {
            line(&format!("{}  MISSING", gap.range))?;
        }
    }
    if args.json {
        line(&json!({ "schema": SCHEMA, "runs": all }).to_string())?;
    }
    Ok(())
}
