//! Maintenance commands of the project. `cargo xtask proto` regenerates `proto/gen`.

fn main() {}
