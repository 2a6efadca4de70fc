//! `icecore keeper`: started by dumps and watches that track memory; not for people.

use clap::Args as ClapArgs;
use icecore::Result;
use icecore::track::keeper;

use super::ourselves;

/// Options of `keeper`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Serve on the listening socket at standard input
    #[arg(long)]
    serve: bool,
}

/// Starts a keeper in the background, or is it.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.serve {
        keeper::serve()
    } else {
        keeper::start(&ourselves()?)
    }
}
