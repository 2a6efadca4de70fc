//! `specimen`: the processes that tests checkpoint.

fn main() {}
