//! `cargo xtask bench-stacks [LAYERS] [PAGES] [DIRTY]`: synthetic stacks.
//!
//! First a stack of LAYERS layers of PAGES pages, of which each layer stores DIRTY, chosen at random
//! (by default 100 layers of 10⁷ pages, 10⁵ dirty, which makes 2·10⁷ entries): the time and the peak
//! memory of opening it and counting who owns what, beside `criu dedup` of a top layer with one
//! page, which opens the same files; then the time and the peak memory of planning a dedup of it by
//! each strategy that needs no other bytes. Then real pages: a dedup (*superseded*) of ten layers, beside
//! `criu dedup` of a copy. Needs `cargo build --release` for honest numbers.

#![allow(clippy::print_stdout, reason = "the benchmark reports to the terminal")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use icecore::chain::{Census, Stack};
use icecore::image::proto::InventoryEntry;
use icecore::image::{LayerWriter, Pagemap, PagemapId, Place, Run};
use icecore::{Cancel, PAGE_SIZE, dedup};

use crate::bench::{Criu, ms, text};

const ID: PagemapId = PagemapId::Task(7);
const BASE: u64 = 0x10_0000_0000;

/// Runs the benchmark.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let number = |i: usize, default: u64| args.get(i).map_or(Ok(default), |a| a.parse());
    let (layers, pages, dirty) = (number(0, 100)?, number(1, 10_000_000)?, number(2, 100_000)?);
    let criu = Criu::find();
    let temp = tempfile::tempdir()?;
    let dir = temp.path();
    synthesize(dir, layers, pages, dirty, false)?;
    println!("{layers} layers, {pages} pages, {dirty} of them stored by each layer:");
    let tip = dir.join((layers + 1).to_string());
    // Each in a process of its own, so that its peak is its own.
    let again = |words: &[&str]| -> Result<()> {
        let output = Command::new(std::env::current_exe()?)
            .args(words)
            .output()?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        print!("{}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    };
    again(&["bench-census", text(&tip)])?;
    for strategy in ["superseded", "unchanged", "zero"] {
        // The layer below the tip stores DIRTY pages, most of which are stored below as well.
        again(&["bench-plan", text(&dir.join(layers.to_string())), strategy])?;
    }
    if let Some(criu) = &criu {
        let started = Instant::now();
        criu.run(&["dedup", "-D", text(&tip)])?;
        println!("  criu dedup of one page on top  {:>9.0} ms", ms(started));
    }
    fs::remove_dir_all(dir)?;

    let (layers, pages, dirty) = (10, 100_000, 10_000);
    println!("dedup of {layers} layers, {pages} pages, {dirty} of them stored by each layer:");
    synthesize(&dir.join("ours"), layers, pages, dirty, true)?;
    synthesize(&dir.join("theirs"), layers, pages, dirty, true)?;
    let top = layers.to_string();
    let started = Instant::now();
    let plan = dedup::plan(dir.join("ours").join(&top), dedup::strategy("superseded")?)?;
    let planned = ms(started);
    let freed = dedup::apply(&plan, &(), &Cancel::default())?;
    let ours = ms(started);
    println!("  icecore plan                   {planned:>9.1} ms");
    println!(
        "  icecore plan and apply         {ours:>9.1} ms, {} bytes freed",
        freed.bytes
    );
    if let Some(criu) = &criu {
        let theirs = dir.join("theirs").join(&top);
        let started = Instant::now();
        criu.run(&["dedup", "-D", text(&theirs)])?;
        let criu = ms(started);
        println!(
            "  criu dedup                     {criu:>9.1} ms (ratio {:.2})",
            ours / criu
        );
    }
    Ok(())
}

/// Opens the stack of `dir`, counts, and tells time and peak memory.
pub(crate) fn census(dir: &str) -> Result<()> {
    let started = Instant::now();
    let stack = Stack::open(dir)?;
    println!("  icecore, stack opened          {:>9.0} ms", ms(started));
    let census = Census::of(&stack, &Cancel::default())?;
    println!("  icecore, all owners counted    {:>9.0} ms", ms(started));
    println!("  peak memory                    {:>12}", peak()?);
    ensure!(census.missing == 0, "pages are missing");
    Ok(())
}

/// Plans a dedup of the stack of `dir`, and tells time and peak memory.
pub(crate) fn plan(dir: &str, strategy: &str) -> Result<()> {
    let started = Instant::now();
    let plan = dedup::plan(dir, dedup::strategy(strategy)?)?;
    println!(
        "  icecore, dedup {strategy:<10} planned {:>7.0} ms, {} pages, peak memory {}",
        ms(started),
        plan.pages,
        peak()?
    );
    Ok(())
}

/// The most memory that this process had.
fn peak() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(peak.context("no VmHWM")?.trim().to_owned())
}

/// Layers `1` to `layers` in `dir`, and one of a single page on top of them.
pub(crate) fn synthesize(
    dir: &Path,
    layers: u64,
    pages: u64,
    dirty: u64,
    real: bool,
) -> Result<()> {
    let mut random = 88_172_645_463_325_252_u64;
    for layer in 1..=layers + 1 {
        let mut stored = vec![layer == 1; usize::try_from(pages)?];
        let count = if layer > layers { 1 } else { dirty };
        for _ in 0..count {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            stored[usize::try_from(random % pages)?] = true;
        }
        let mut map = Pagemap {
            pages_id: 1,
            runs: Vec::new(),
        };
        for (page, stored) in (0..).zip(&stored) {
            map.push(Run {
                start: BASE + page * PAGE_SIZE,
                pages: 1,
                place: if *stored {
                    Place::Present
                } else {
                    Place::Parent
                },
                lazy: false,
            });
        }
        let writer = LayerWriter::create(dir.join(layer.to_string()))?;
        let mut out = writer.pages(1)?;
        if real {
            let page = vec![u8::try_from(layer)?; usize::try_from(PAGE_SIZE)?];
            for _ in 0..map.stored_bytes() / PAGE_SIZE {
                out.append(&page)?;
            }
        } else {
            out.file().set_len(map.stored_bytes())?;
        }
        writer.pagemap(ID, &map)?;
        if layer > 1 {
            writer.link_parent(Path::new(&format!("../{}", layer - 1)))?;
        }
        let inventory = InventoryEntry {
            img_version: 2,
            ..InventoryEntry::default()
        };
        writer.one("inventory.img", &inventory)?;
        writer.commit()?;
    }
    Ok(())
}
