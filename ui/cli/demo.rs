//! `icecore demo`, and the hidden `icecore demo-target`, which is the process tree it plays with.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use icecore::Result;

use crate::config::settings::Settings;
use crate::demo::{self, target};

/// Options of `demo`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Do all steps without a screen, one line for each (so it is without a terminal)
    #[arg(long)]
    plain: bool,
    /// The same with an object for each step
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `demo`.
pub(crate) fn run(args: &Args, settings: Settings) -> Result<ExitCode> {
    demo::run(args.plain, args.json, settings)
}

/// Options of `demo-target`.
#[derive(Debug, ClapArgs)]
pub(crate) struct TargetArgs {
    /// Which process of the tree to be
    #[arg(long, default_value = "parent")]
    role: Role,
    /// Descriptor of the shared memory
    #[arg(long, default_value_t = -1)]
    memory: i32,
    /// The demo's directory
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Parent,
    Adder,
    Painter,
}

/// Is a process of the demo's tree.
pub(crate) fn target(args: &TargetArgs) -> Result<()> {
    match args.role {
        Role::Parent => {
            // A session of its own: nothing is shared with the terminal.
            let _leads_already = nix::unistd::setsid();
            target::parent(&args.dir)
        }
        Role::Adder => target::adder(args.memory),
        Role::Painter => target::painter(args.memory),
    }
}
