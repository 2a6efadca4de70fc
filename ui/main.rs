//! The front end: parses the command line, runs a command or the terminal UI, and turns the outcome
//! into an exit code.
#![forbid(unsafe_code)]

mod cli;
mod demo;
mod error;
mod format;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    cli::log(&cli.command);
    match cli::run(&cli.command) {
        Ok(code) => code,
        Err(error) => {
            error::print(&error, cli::wants_json(&cli.command));
            ExitCode::from(error.kind().exit_code())
        }
    }
}
