//! The store of named stacks: a directory with a directory for each stack.
//!
//! `$XDG_DATA_HOME/icecore`, or `~/.local/share/icecore`; root has `/var/lib/icecore`.
//! `ICECORE_STORE` names another one. Where a command wants a layer or a directory of layers, a path
//! that does not exist here is looked for there: `web/3`, or `web` for all of a stack.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use icecore::Pid;
use icecore::chain::{Catalog, Layer, State};
use icecore::dump::Past;

/// Where the named stacks are.
pub(crate) fn store() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    store_of(
        nix::unistd::geteuid().is_root(),
        variable("ICECORE_STORE"),
        variable("XDG_DATA_HOME"),
        variable("HOME"),
    )
}

fn store_of(
    root: bool,
    named: Option<OsString>,
    data: Option<OsString>,
    home: Option<OsString>,
) -> PathBuf {
    if let Some(named) = named {
        return named.into();
    }
    // A relative path is to be ignored (XDG base directory specification).
    let data = data.map(PathBuf::from).filter(|data| data.is_absolute());
    match (root, data, home) {
        (true, _, _) => "/var/lib/icecore".into(),
        (false, Some(data), _) => data.join("icecore"),
        (false, None, Some(home)) => Path::new(&home).join(".local/share/icecore"),
        (false, None, None) => "icecore".into(),
    }
}

/// What `text` means as a place of layers: a path, or else a name in the store (as clap wants it: it
/// never fails).
pub(crate) fn place(text: &str) -> Result<PathBuf, String> {
    Ok(place_in(&store(), text))
}

fn place_in(store: &Path, text: &str) -> PathBuf {
    let path = PathBuf::from(text);
    let is_name = !text.starts_with(['/', '.']) && !text.contains("..");
    let stored = store.join(text);
    if is_name && !path.exists() && stored.exists() {
        return stored;
    }
    path
}

/// The layer that a dump of a process goes on top of: the one that tracking continues, or else the
/// newest of the same process, with which it is compared.
pub(crate) fn parent_of(
    layers: &[Layer],
    root: Pid,
    comm: &str,
    since: Option<&str>,
) -> Option<PathBuf> {
    let usable = |layer: &&Layer| layer.state == State::Complete;
    let continued = since.and_then(|id| {
        let same = |layer: &&Layer| layer.id.as_deref() == Some(id);
        layers.iter().filter(usable).find(same)
    });
    let pid = u32::try_from(root.as_raw()).ok();
    let newest = || {
        layers
            .iter()
            .filter(usable)
            .filter(|layer| !layer.own_pids)
            .filter(|layer| layer.root == pid && layer.comm.as_deref() == Some(comm))
            .max_by_key(|layer| layer.created_unix_ns)
    };
    continued.or_else(newest).map(|layer| layer.dir.clone())
}

/// What earlier dumps teach about the next one on top of `parent`: those of its stack, the oldest
/// first; or else those of all stacks there, and false.
pub(crate) fn past(catalog: &Catalog, parent: Option<&Path>) -> (Vec<Past>, bool) {
    let layers = catalog.layers();
    let mut own = Vec::new();
    let mut next = parent.and_then(|dir| catalog.find(dir));
    while let Some(at) = next {
        own.extend(Past::of_layer(&layers[at]));
        // A chain that bites its tail is told by the catalog.
        next = catalog.parent(at).filter(|_| own.len() <= layers.len());
    }
    if !own.is_empty() {
        own.reverse();
        return (own, true);
    }
    let mut all: Vec<&Layer> = layers.iter().collect();
    all.sort_by_key(|layer| layer.created_unix_ns);
    (all.into_iter().filter_map(Past::of_layer).collect(), false)
}

/// The directory of a new stack: the name of the program may have any bytes, a directory may not.
pub(crate) fn stack_name(comm: &str, root: Pid) -> String {
    let safe: String = comm
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    format!("{}-{root}", safe.trim_start_matches('.'))
}

/// The next number in `stack` that no entry has.
pub(crate) fn next_free(stack: &Path) -> PathBuf {
    let highest = fs::read_dir(stack)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.trim_end_matches(".partial").parse::<u64>().ok()
        })
        .max();
    stack.join((highest.unwrap_or(0) + 1).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_where_the_user_or_the_system_keeps_data() {
        let some = |text: &str| Some(OsString::from(text));
        let at = |root, named, data, home| store_of(root, named, data, home).display().to_string();
        assert_eq!(at(true, None, some("/d"), some("/h")), "/var/lib/icecore");
        assert_eq!(at(false, None, some("/d"), some("/h")), "/d/icecore");
        let home = "/h/.local/share/icecore";
        assert_eq!(at(false, None, some("d"), some("/h")), home);
        assert_eq!(at(false, None, None, some("/h")), home);
        assert_eq!(at(true, some("/s"), some("/d"), None), "/s");
    }

    #[test]
    fn a_path_that_exists_is_not_looked_for_in_the_store() {
        let store = tempfile::tempdir().unwrap();
        fs::create_dir_all(store.path().join("web/3")).unwrap();
        fs::create_dir_all(store.path().join("src")).unwrap();
        let place = |text: &str| place_in(store.path(), text);
        assert_eq!(place("web/3"), store.path().join("web/3"));
        assert_eq!(place("web/4"), Path::new("web/4"));
        assert_eq!(place("src"), Path::new("src"), "tests run in the package");
        assert_eq!(place("./web"), Path::new("./web"));
        assert_eq!(place("web/../web"), Path::new("web/../web"));
    }
}
