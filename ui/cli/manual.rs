//! `icecore completions` and `icecore man`: made from the definition of the command line.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;
use icecore::{Error, Result};

use super::output::output;

/// Options of `completions`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell; its documentation says where the script goes
    shell: Shell,
}

/// Options of `man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Write a page for every command into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints what makes a shell complete.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "icecore",
        &mut script,
    );
    print(&script)
}

/// Prints the manual page, or writes all of them.
pub(crate) fn man(args: &ManArgs) -> Result<()> {
    let command = super::Cli::command();
    match &args.dir {
        Some(dir) => {
            fs::create_dir_all(dir).map_err(|e| Error::path("create", dir, e))?;
            clap_mangen::generate_to(command, dir)
                .map_err(|e| Error::path("write manual pages to", dir, e))
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(|e| Error::io("Cannot make the manual page", e))?;
            print(&page)
        }
    }
}

fn print(text: &[u8]) -> Result<()> {
    io::stdout().write_all(text).map_err(output)
}
