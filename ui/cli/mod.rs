//! The command line: one file a subcommand. Commands that CRIU has keep CRIU's option names.

mod adopt;
mod allow;
mod cat;
mod change;
pub(crate) mod check;
mod config;
mod core;
pub(crate) mod criu;
mod dedup;
mod demo;
pub(crate) mod diff;
mod doctor;
mod drop;
pub(crate) mod dump;
mod flatten;
mod foreground;
mod keeper;
mod label;
mod manual;
pub(crate) mod output;
mod owners;
mod prune;
pub(crate) mod ps;
pub(crate) mod restore;
pub(crate) mod schema;
pub(crate) mod search;
mod show;
mod snap;
mod squash;
pub(crate) mod stacks;
pub(crate) mod verify;
pub(crate) mod watch;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use icecore::{Error, Kind, Result};
use tracing_subscriber::EnvFilter;

use crate::config::settings::{self, Choice, Settings};

/// Stacks of process snapshots: freeze a running process tree in layers, look into them, thaw any.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do; without it the terminal UI opens
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// How the terminal UI starts
    #[command(flatten)]
    pub(crate) screen: Screen,
}

/// Options of the terminal UI; they win over the files (`icecore config`). Its looks may be told before
/// and after a subcommand: `demo` has the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Screen {
    /// Where the terminal UI looks for layers and makes new ones (by default the working directory, or where it was last)
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Its colours: auto, dark, light, or a theme of your own
    #[arg(long, value_name = "NAME", global = true)]
    theme: Option<String>,
    /// How many colours it uses
    #[arg(long, global = true, value_name = "N", value_parser = ["auto", "none", "16", "256", "true"])]
    colors: Option<String>,
    /// Show nothing but ASCII
    #[arg(long, global = true)]
    ascii: bool,
    /// Show plain lines, and say in a sentence what was selected and what happened
    #[arg(long, global = true)]
    screen_reader: bool,
    /// Start as for the first time, and keep nothing of where one was
    #[arg(long)]
    no_state: bool,
}

impl Screen {
    /// A command that has a directory of its own takes it itself.
    ///
    /// # Errors
    /// When there is a directory for the terminal UI, and a command instead of it.
    fn fits(&self) -> Result<()> {
        match &self.root {
            Some(root) => Err(Error::new(
                Kind::Usage,
                format!(
                    "--root {} is for the terminal UI, and there is a command instead",
                    root.display()
                ),
            )
            .hint("give it after the command, where that has it (`icecore COMMAND --help`)")),
            None => Ok(()),
        }
    }

    /// The same as settings.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            root: self.root.clone(),
            theme: self.theme.clone(),
            colors: self.colors.as_deref().and_then(settings::colors),
            ascii: self.ascii.then_some(Choice::Is(true)),
            mouse: None,
            screen_reader: self.screen_reader.then_some(true),
            state: self.no_state.then_some(false),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Freeze a process tree into a new layer
    Dump(dump::Args),
    /// Tell what a process tree holds, and whether it can be dumped (`doctor` checks the machine)
    Check(check::Args),
    /// Add a layer to the stack of a running process, where named stacks are kept
    Snap(snap::Args),
    /// Let a layer run again
    Restore(restore::Args),
    /// List the running process trees
    Ps(ps::Args),
    /// Show the stacks of layers below a directory
    Stacks(stacks::Args),
    /// List the files of a layer, or print one
    Show(show::Args),
    /// Write memory of a process as of a layer
    Cat(cat::Args),
    /// Write a process of a layer as a core file, for debuggers
    Core(core::Args),
    /// Compare two layers of one tree
    Diff(diff::Args),
    /// Look for text or bytes in the memory of a layer
    Search(search::Args),
    /// Count the pages that a running tree writes, and dump it by a rule
    Watch(watch::Args),
    /// Free pages that the layers of a stack store for nothing
    Dedup(dedup::Args),
    /// Check that every byte of a stack is still what was written
    Verify(verify::Args),
    /// Tell what each layer of a stack stores, and how much of it is still needed
    Owners(owners::Args),
    /// Give layers that CRIU made an identity and digests
    Adopt(adopt::Args),
    /// Call a layer something
    Label(label::LabelArgs),
    /// Keep a layer from becoming unrestorable
    Pin(label::PinArgs),
    /// Let a layer be dropped again
    Unpin(label::PinArgs),
    /// Make a layer on top of another one, with nothing of its own
    Branch(label::BranchArgs),
    /// Make a layer stand alone
    Flatten(flatten::Args),
    /// Remove layers; those above take over what they need
    Drop(drop::Args),
    /// Make one layer of several
    Squash(squash::Args),
    /// Keep only the layers worth keeping
    Prune(prune::Args),
    /// Tell what works on this machine, and what to do about the rest
    Doctor(doctor::Args),
    /// Tell which settings of the terminal UI hold, or print files to start from
    Config(config::Args),
    /// Print what makes a shell complete icecore's commands
    Completions(manual::CompletionsArgs),
    /// Print the manual page
    Man(manual::ManArgs),
    /// Watch a small process tree being frozen in layers and thawed again
    Demo(demo::Args),
    /// A process of the demo's tree
    #[command(hide = true)]
    DemoTarget(demo::TargetArgs),
    /// The first process of a pid namespace that a tree is restored in
    #[command(hide = true)]
    FirstProcess(restore::apart::FirstArgs),
    /// What is held between commands: tracking, TCP connections (started by itself)
    Keeper(keeper::Args),
}

/// Runs a command.
pub(crate) fn run(command: &Command, screen: &Screen) -> Result<ExitCode> {
    screen.fits()?;
    let done = match command {
        Command::Dump(args) => dump::run(args),
        Command::Check(args) => return check::run(args),
        Command::Snap(args) => snap::run(args),
        Command::Restore(args) => return restore::run(args),
        Command::Ps(args) => ps::run(args),
        Command::Stacks(args) => stacks::run(args),
        Command::Show(args) => show::run(args),
        Command::Cat(args) => cat::run(args),
        Command::Core(args) => core::run(args),
        Command::Diff(args) => return diff::run(args),
        Command::Search(args) => return search::run(args),
        Command::Watch(args) => return watch::run(args),
        Command::Dedup(args) => dedup::run(args),
        Command::Verify(args) => return verify::run(args),
        Command::Adopt(args) => adopt::run(args),
        Command::Owners(args) => owners::run(args),
        Command::Label(args) => label::label(args),
        Command::Pin(args) => label::pin(args),
        Command::Unpin(args) => label::unpin(args),
        Command::Branch(args) => label::branch(args),
        Command::Flatten(args) => flatten::run(args),
        Command::Drop(args) => drop::run(args),
        Command::Squash(args) => squash::run(args),
        Command::Prune(args) => prune::run(args),
        Command::Doctor(args) => return doctor::run(args),
        Command::Config(args) => config::run(args, screen.settings()),
        Command::Completions(args) => manual::completions(args),
        Command::Man(args) => manual::man(args),
        Command::Demo(args) => return demo::run(args, screen.settings()),
        Command::DemoTarget(args) => demo::target(args),
        Command::FirstProcess(args) => return restore::apart::first(args),
        Command::Keeper(args) => keeper::run(args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Whether errors should be JSON too.
pub(crate) fn wants_json(command: &Command) -> bool {
    match command {
        Command::Dump(args) => args.json,
        Command::Check(args) => args.json,
        Command::Snap(args) => args.json,
        Command::Restore(args) => args.json,
        Command::Ps(args) => args.json,
        Command::Stacks(args) => args.json,
        Command::Show(args) => args.json,
        Command::Diff(args) => args.json,
        Command::Search(args) => args.json,
        Command::Watch(args) => args.json,
        Command::Dedup(args) => args.json,
        Command::Verify(args) => args.json,
        Command::Adopt(args) => args.json,
        Command::Owners(args) => args.json,
        Command::Flatten(args) => args.options.json,
        Command::Drop(args) => args.options.json,
        Command::Squash(args) => args.options.json,
        Command::Prune(args) => args.options.json,
        Command::Label(args) => args.json,
        Command::Pin(args) | Command::Unpin(args) => args.json,
        Command::Branch(args) => args.json,
        Command::Doctor(args) => args.json,
        Command::Config(args) => args.json,
        Command::Cat(args) => args.json,
        Command::Core(args) => args.json,
        Command::Demo(args) => args.json,
        Command::Keeper(args) => args.json,
        Command::Completions(_)
        | Command::Man(_)
        | Command::DemoTarget(_)
        | Command::FirstProcess(_) => false,
    }
}

/// Options of CRIU's that concern the log.
#[derive(Debug, clap::Args)]
pub(crate) struct Log {
    /// More messages: repeat it, or give a level from 0 to 4
    #[arg(short, long, visible_alias = "verbosity", value_name = "N", num_args = 0..=1,
          default_missing_value = "", value_parser = level, action = clap::ArgAction::Append)]
    verbose: Vec<u8>,
    /// Write messages to this file
    #[arg(short = 'o', long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Directory of the log file, when that is relative
    #[arg(short = 'W', long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
}

/// What `-v`, `-vvv` and `-v4` add to the level, as in criu(8).
fn level(text: &str) -> std::result::Result<u8, String> {
    if text.bytes().all(|b| b == b'v') {
        return u8::try_from(text.len() + 1).map_err(|e| e.to_string());
    }
    match text.parse() {
        Ok(level) if level <= 4 => Ok(level),
        _ => Err("a level is a number from 0 to 4".into()),
    }
}

impl Log {
    fn path(&self) -> Option<PathBuf> {
        let file = self.log_file.as_ref()?;
        Some(
            self.work_dir
                .as_ref()
                .map_or_else(|| file.clone(), |dir| dir.join(file)),
        )
    }
}

/// Sends the engine's messages where the command wants them.
pub(crate) fn log(command: &Command) -> Result<()> {
    let log = match command {
        Command::Dump(args) => &args.log,
        Command::Restore(args) => &args.log,
        _ => return Ok(()),
    };
    // CRIU's numbers: 0 messages, 1 errors, 2 warnings (the default), 3 information, 4 everything.
    let level = match log.verbose.iter().sum::<u8>() {
        _ if log.verbose.is_empty() => "warn",
        0 => "off",
        1 => "error",
        2 => "warn",
        3 => "info",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("ICECORE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match log.path() {
        Some(path) => {
            let file =
                std::fs::File::create(&path).map_err(|e| Error::path("create log", &path, e))?;
            builder.with_ansi(false).with_writer(file).init();
        }
        None => builder.with_writer(std::io::stderr).init(),
    }
    Ok(())
}

/// Writes a line to stdout.
pub(crate) fn line(text: &str) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(output::output)
}

/// Writes a remark to stderr; nobody is left to tell when that is closed.
fn note(text: &str) {
    let _closed = writeln!(std::io::stderr(), "icecore: {text}");
}

/// This program: it serves as keeper.
pub(crate) fn ourselves() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::io("Cannot find our own executable", e))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Commands whose output is no object of ours, and why.
    const WITHOUT_JSON: &[(&str, &str)] = &[
        ("completions", "a script for a shell"),
        ("man", "a page for man(1)"),
        (
            "demo-target",
            "hidden: a process of the demo's tree, which prints nothing",
        ),
        (
            "first-process",
            "hidden: passes on what the restore below it prints",
        ),
    ];

    #[test]
    fn every_command_has_json_unless_there_is_a_reason() {
        let mut reasons = WITHOUT_JSON.to_vec();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let json = command
                .get_arguments()
                .any(|arg| arg.get_long() == Some("json"));
            let reason = reasons.iter().position(|(without, _)| *without == name);
            match (json, reason) {
                (true, None) => {}
                (false, Some(at)) => drop(reasons.remove(at)),
                (json, _) => panic!("{name}: --json {json}, {reason:?}"),
            }
        }
        assert!(reasons.is_empty(), "{reasons:?}");
    }
}
