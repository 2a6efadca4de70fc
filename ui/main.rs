//! The front end: command line and terminal UI.

fn main() {}
