//! The thread that reads the images root: whenever something under it changes, or somebody asks.
//!
//! A target may write its own files there, many times a second. What cannot concern a layer is passed
//! over, what changed nothing is not told, and the more a look at the layers takes, the rarer it is.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use icecore::chain::Catalog;
use notify::event::ModifyKind;
use notify::{Event, EventKind, RecursiveMode, Watcher as _};

use super::message::{Failure, Msg};
use super::stacks;

/// How long to wait for more changes.
const QUIET: Duration = Duration::from_millis(150);
/// How many times as long as a look took nobody looks again.
const REST: u32 = 20;
/// The longest rest.
const LONGEST: Duration = Duration::from_secs(2);

/// Reads the images root until nobody listens. `ring` makes a request.
pub(super) fn follow(
    root: &PathBuf,
    ring: &Sender<()>,
    requests: &Receiver<()>,
    catalogs: &Sender<Catalog>,
    messages: &Sender<Msg>,
) {
    let ring = ring.clone();
    let watcher = notify::recommended_watcher(move |change: notify::Result<Event>| {
        if change.is_ok_and(|change| concerns_layers(&change)) {
            let _gone = ring.send(());
        }
    });
    // Without a watcher (no inotify instances left) R still reads everything again.
    let _watcher = watcher.and_then(|mut watcher| {
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    let mut shown = None;
    loop {
        let started = Instant::now();
        let catalog = Catalog::scan(root).map_err(|e| Failure::from(&e));
        let rest = (started.elapsed() * REST).min(LONGEST);
        let listed = catalog.as_ref().map(|catalog| stacks::rows(catalog, root));
        let listed = listed.map_err(Clone::clone);
        // What is still read of each layer depends on live processes, too: that is found out anew.
        let _gone = catalog.map(|catalog| catalogs.send(catalog));
        if shown.as_ref() != Some(&listed) {
            shown = Some(listed.clone());
            if messages.send(Msg::Stacks(listed)).is_err() {
                return;
            }
        }
        if requests.recv().is_err() {
            return;
        }
        while requests.recv_timeout(QUIET).is_ok() || started.elapsed() < rest {}
    }
}

/// Whether a change may be one of a layer. Reading images is none; nor is what is written into a file
/// that is no image.
fn concerns_layers(change: &Event) -> bool {
    let is_image = |path: &PathBuf| path.extension().is_some_and(|end| end == "img");
    match change.kind {
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)) => {
            change.paths.iter().any(is_image)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::{fs, thread};

    use notify::event::{AccessKind, CreateKind, DataChange, RenameMode};

    use super::*;

    fn change(kind: EventKind, path: &str) -> bool {
        concerns_layers(&Event::new(kind).add_path(path.into()))
    }

    #[test]
    fn only_what_may_change_a_layer_has_the_layers_read_again() {
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        assert!(change(written, "/img/1/icecore.img"));
        assert!(!change(written, "/img/server.log"));
        assert!(!change(
            EventKind::Access(AccessKind::Any),
            "/img/1/pages-1.img"
        ));
        assert!(change(EventKind::Create(CreateKind::Folder), "/img/2"));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        assert!(change(renamed, "/img/2"));
        // Events were lost: anything may have happened.
        assert!(concerns_layers(&Event::new(EventKind::Other)));
    }

    #[test]
    fn layers_that_are_as_they_were_are_not_told_again() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().to_path_buf();
        let (ring, requests) = channel();
        let (catalogs, _listed) = channel();
        let (messages, told) = channel();
        let bell = ring.clone();
        let thread = thread::spawn(move || follow(&dir, &bell, &requests, &catalogs, &messages));
        let patience = Duration::from_secs(60);
        assert!(
            matches!(told.recv_timeout(patience), Ok(Msg::Stacks(Ok(rows))) if rows.is_empty())
        );
        // A look at what it knows, then one at something new: only that one is told.
        fs::write(root.path().join("note"), "no layer").unwrap();
        ring.send(()).unwrap();
        fs::remove_dir_all(root.path()).unwrap();
        ring.send(()).unwrap();
        assert!(matches!(
            told.recv_timeout(patience),
            Ok(Msg::Stacks(Err(_)))
        ));
        drop(told);
        // It notices that nobody listens when there is something to tell.
        fs::create_dir(root.path()).unwrap();
        ring.send(()).unwrap();
        thread.join().unwrap();
    }
}
