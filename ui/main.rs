//! The front end: parses the command line, runs a command or the terminal UI, and turns the outcome
//! into an exit code.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod demo;
mod error;
mod format;
mod home;
mod rights;
mod standing;
mod tui;

use std::process::ExitCode;

use clap::Parser as _;
use cli::output::{UNREAD, is_unread};
use icecore::{Error, Kind};

/// Whether a command line that makes no sense asks for JSON.
fn asked_for_json() -> bool {
    std::env::args_os().any(|word| word == "--json")
}

/// What clap says in several lines, in one.
fn misspelt(wrong: &clap::Error) -> Error {
    let text = wrong.to_string();
    let mut said = text.split("\n\n");
    let what = said.next().unwrap_or_default();
    let what = what.trim_start_matches("error: ").split_whitespace();
    let what: Vec<&str> = what.collect();
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: "));
    let hint = usage.unwrap_or("icecore help");
    Error::new(Kind::Usage, what.join(" ")).hint(hint)
}

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => match cli::criu::explain(&wrong) {
            Some(error) => {
                error::print(&error, asked_for_json());
                return ExitCode::from(error.kind().exit_code());
            }
            None if wrong.use_stderr() && asked_for_json() => {
                error::print(&misspelt(&wrong), true);
                return ExitCode::from(Kind::Usage.exit_code());
            }
            None => wrong.exit(),
        },
    };
    let (done, json) = match &cli.command {
        Some(command) => {
            let done = cli::log(command).and_then(|()| cli::run(command, &cli.screen));
            (done, cli::wants_json(command))
        }
        None => {
            let done = config::Config::load(cli.screen.settings())
                .and_then(|config| tui::run(tui::Options::of(config)))
                .map(|facts| ExitCode::from(facts.exit_code()));
            (done, false)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) if is_unread(&error) => ExitCode::from(UNREAD),
        Err(error) => {
            error::print(&error, json);
            ExitCode::from(error.kind().exit_code())
        }
    }
}
