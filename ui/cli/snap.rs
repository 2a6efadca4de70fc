//! `icecore snap PID`: another layer of a running process, where stacks are kept; it goes on running.
//!
//! The stack, its directory and the parent are found by themselves: the layer that tracking continues
//! (so after a restore of an older layer a branch begins), or else the newest of the same process.

use std::path::{Path, PathBuf};

use icecore::chain::Catalog;
use icecore::dump::{self, After, Options, Past, Plan};
use icecore::files::Allow;
use icecore::{Cancel, Error, Kind, Pid, Result, task, track};

use super::allow::DumpAllow;
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
    #[command(flatten)]
    allow: DumpAllow,
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
    let named = args.name.as_deref();
    let next = Next::find(&store, Pid::from_raw(args.pid), named)?;
    let plan = next.plan(args.label.clone(), Allow::from(&args.allow))?;
    let outcome = dump::run(&plan, &(), &Cancel::default())?;
    line(&if args.json {
        as_json(&outcome)
    } else {
        as_text(&outcome)
    })
}

/// Where the next layer of a process goes.
#[derive(Debug)]
pub(in crate::cli) struct Next {
    root: Pid,
    stack: PathBuf,
    parent: Option<PathBuf>,
    /// What earlier dumps teach.
    pub(in crate::cli) past: Vec<Past>,
    /// They were of this very stack.
    pub(in crate::cli) own: bool,
}

impl Next {
    /// Looks for it as things are now.
    pub(in crate::cli) fn find(store: &Path, root: Pid, name: Option<&str>) -> Result<Self> {
        let process = task::process(root)?;
        let since = track::of_process(&process).ok().flatten();
        let since = since.and_then(|(record, _)| record.layer);
        let named = name.map(|name| named(store, name)).transpose()?;
        let searched = named.as_deref().unwrap_or(store);
        let (mut parent, mut past, mut own) = (None, Vec::new(), false);
        if searched.exists() {
            let catalog = Catalog::scan(searched)?;
            parent = home::parent_of(catalog.layers(), root, &process.comm, since.as_deref());
            (past, own) = home::past(&catalog, parent.as_deref());
        }
        let beside = parent
            .as_deref()
            .and_then(Path::parent)
            .map(Path::to_path_buf);
        let stack = named
            .or(beside)
            .unwrap_or_else(|| store.join(home::stack_name(&process.comm, root)));
        Ok(Self {
            root,
            stack,
            parent,
            past,
            own,
        })
    }

    /// There is a layer below.
    pub(in crate::cli) fn has_parent(&self) -> bool {
        self.parent.is_some()
    }

    /// Plans a dump after which the tree goes on, tracked.
    pub(in crate::cli) fn plan(&self, label: Option<String>, allow: Allow) -> Result<Plan> {
        let link = self.parent.as_deref().and_then(Path::file_name);
        let mut plan = dump::plan(&Options {
            root: self.root,
            images_dir: home::next_free(&self.stack),
            prev_images_dir: link.map(|name| Path::new("..").join(name)),
            after: After::Run,
            track: true,
            auto_dedup: false,
            allow,
            label,
            keeper: ourselves()?,
        })?;
        if let Some(prediction) = &mut plan.prediction {
            prediction.learn_from(&self.past);
        }
        Ok(plan)
    }
}

/// The directory of a stack with this name.
pub(in crate::cli) fn named(store: &Path, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        let what = format!("{name:?} is no name of a stack");
        return Err(
            Error::new(Kind::Usage, what).hint("A name has no slash and begins with no dot")
        );
    }
    Ok(store.join(name))
}
