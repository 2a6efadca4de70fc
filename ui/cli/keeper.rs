//! `icecore keeper`: what is held between commands. Dumps and watches start it.

use clap::Args as ClapArgs;
use icecore::Result;
use icecore::track::{connections, keeper};

use serde_json::json;

use super::schema::versioned;
use super::{line, ourselves};

/// Options of `keeper`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Serve on the listening socket at standard input
    #[arg(long)]
    serve: bool,
    /// End the TCP connections that are held for the restore of their layer
    #[arg(long, conflicts_with = "serve")]
    let_go: bool,
    /// Print what was ended as JSON
    #[arg(long, requires = "let_go")]
    pub(crate) json: bool,
}

/// Starts a keeper in the background, or is it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.let_go {
        let held = connections::list()?;
        connections::let_go(None)?;
        if args.json {
            let ended: Vec<String> = held.iter().map(|c| c.ends.clone()).collect();
            return line(&versioned(&json!({ "ended": ended }))?.to_string());
        }
        for connection in held {
            line(&format!("{}: ended", connection.ends))?;
        }
        Ok(())
    } else if args.serve {
        keeper::serve()
    } else {
        keeper::start(&ourselves()?)
    }
}
