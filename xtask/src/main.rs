//! Maintenance commands of the project.
//!
//! `cargo xtask proto` compiles `proto/*.proto` into `proto/gen`; with `--check` it only fails when
//! that would change something. No `protoc` is needed: protox compiles, prost-build writes Rust.

mod proto;

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["proto"] => proto::write(),
        ["proto", "--check"] => proto::check(),
        _ => Err("usage: cargo xtask proto [--check]".into()),
    }
}
