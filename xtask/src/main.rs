//! Maintenance commands of the project.
//!
//! `cargo xtask proto` compiles `proto/*.proto` into `proto/gen`; with `--check` it only fails when
//! that would change something. No `protoc` is needed: protox compiles, prost-build writes Rust.
//!
//! `cargo xtask bench [MIB] [ROUNDS]` measures dumps and restores beside CRIU's; `cargo xtask
//! bench-stacks [LAYERS] [PAGES] [DIRTY]` what is done with stacks.
//!
//! `cargo xtask bench-servers` measures dumps of real servers beside CRIU's.
//!
//! `cargo xtask bench-tui [LAYERS] [PAGES] [SECONDS]` measures the terminal UI in a pty.
//!
//! `cargo xtask screenshots` draws the demo's screens into `assets`.

mod bench;
mod bench_servers;
mod bench_stacks;
mod bench_tui;
mod proto;
mod screenshots;

use std::error::Error;

const USAGE: &str = "usage: cargo xtask proto [--check] | bench [MIB] [ROUNDS] | \
                     bench-stacks [LAYERS] [PAGES] [DIRTY] | bench-servers [ICECORE] | \
                     bench-tui [LAYERS] [PAGES] [SECONDS] | screenshots";

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["proto"] => proto::write(),
        ["proto", "--check"] => proto::check(),
        ["bench", ..] => Ok(bench::run(&arguments[1..])?),
        ["bench-stacks", ..] => Ok(bench_stacks::run(&arguments[1..])?),
        // The process that opens a stack, so that its memory can be measured.
        ["bench-census", _] => Ok(bench_stacks::census(&arguments[1])?),
        ["bench-plan", _, _] => Ok(bench_stacks::plan(&arguments[1], &arguments[2])?),
        // The process that the benchmark dumps.
        ["bench-target", _, _] => Ok(bench::target(&arguments[1..])?),
        ["bench-servers"] => Ok(bench_servers::run()?),
        ["bench-servers", icecore] => Ok(bench_servers::inside(icecore)?),
        // What runs in the namespace.
        ["bench-servers-inside", icecore] => Ok(bench_servers::measure(icecore)?),
        ["bench-tui", ..] => Ok(bench_tui::run(&arguments[1..])?),
        ["screenshots"] => Ok(screenshots::run()?),
        _ => Err(USAGE.into()),
    }
}
