//! `icecore snap PID`: another layer of a running process, where stacks are kept; it goes on running.
//!
//! The stack, its directory and the parent are found by themselves: the layer that tracking continues
//! (so after a restore of an older layer a branch begins), or else the newest of the same process.

use std::path::{Path, PathBuf};

use icecore::chain::Catalog;
use icecore::dump::{self, After, Options};
use icecore::{Cancel, Error, Kind, Pid, Result, task, track};

use super::dump::{as_json, as_text};
use super::{line, ourselves};
use crate::home;

/// Options of `snap`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Root of the process tree
    pid: i32,
    /// The stack (default: the one that the process has, or else a new one with its name)
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// What to call the layer
    #[arg(long)]
    label: Option<String>,
    /// Where the stacks are [default: the store, see README]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Print figures as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Runs `snap`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let store = args.store.clone().unwrap_or_else(home::store);
    let root = Pid::from_raw(args.pid);
    let process = task::process(root)?;
    let since = track::of_process(&process).ok().flatten();
    let since = since.and_then(|(record, _)| record.layer);
    let named = args
        .name
        .as_deref()
        .map(|name| named(&store, name))
        .transpose()?;
    let searched = named.as_ref().unwrap_or(&store);
    let parent = match searched.exists() {
        true => {
            let catalog = Catalog::scan(searched)?;
            home::parent_of(catalog.layers(), root, &process.comm, since.as_deref())
        }
        false => None,
    };
    let beside = parent
        .as_deref()
        .and_then(Path::parent)
        .map(Path::to_path_buf);
    let stack = named
        .or(beside)
        .unwrap_or_else(|| store.join(home::stack_name(&process.comm, root)));
    let link = parent.as_deref().and_then(Path::file_name);
    let options = Options {
        root,
        images_dir: home::next_free(&stack),
        prev_images_dir: link.map(|name| Path::new("..").join(name)),
        after: After::Run,
        track: true,
        auto_dedup: false,
        allow: icecore::files::Allow::default(),
        label: args.label.clone(),
        keeper: ourselves()?,
    };
    let outcome = dump::run(&dump::plan(&options)?, &(), &Cancel::default())?;
    line(&if args.json {
        as_json(&outcome)
    } else {
        as_text(&outcome)
    })
}

/// The directory of a stack with this name.
fn named(store: &Path, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        let what = format!("{name:?} is no name of a stack");
        return Err(
            Error::new(Kind::Usage, what).hint("A name has no slash and begins with no dot")
        );
    }
    Ok(store.join(name))
}
