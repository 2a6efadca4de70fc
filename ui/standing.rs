//! Who stands on which layer: a tracked process goes on from the layer that its writes are counted since, be
//! that the newest or, after a roll back, one far below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use icecore::dedup::{Plan, Victim};
use icecore::image::{Images, Sidecar};
use icecore::track;

use crate::format;

/// Processes by the identity of the layer on which they stand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing(BTreeMap<String, Vec<i32>>);

impl Standing {
    /// As it is now. Without a keeper nobody stands anywhere.
    pub(crate) fn now() -> Self {
        let records = track::list().unwrap_or_default().into_iter();
        Self::of(records.filter_map(|record| Some((record.pid, record.layer?))))
    }

    /// Of processes with their layers.
    pub(crate) fn of(all: impl IntoIterator<Item = (i32, String)>) -> Self {
        let mut standing = Self::default();
        for (pid, layer) in all {
            standing.0.entry(layer).or_default().push(pid);
        }
        standing
    }

    /// The layers, by identity.
    pub(crate) fn layers(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// What to warn of before a plan: layers that it gives up although a process stands on them.
    pub(crate) fn warnings(&self, plan: &Plan) -> Vec<String> {
        let warning = |victim: &Victim| {
            let id = identity(&victim.dir)?;
            let pids = self.0.get(&id)?;
            let first = pids.iter().min()?;
            let who = match pids.len() {
                0 | 1 => format!("process {first} stands"),
                n => format!("process {first} and {} more stand", n - 1),
            };
            let name = format::plain(&victim.name);
            Some(format!(
                "{who} on layer {name}, which is given up: there is no way back to it then, \
                 and the next layer has to be a full one"
            ))
        };
        plan.lost_layers().filter_map(warning).collect()
    }
}

/// The identity of the layer in `dir`, if it has one that can be read.
pub(crate) fn identity(dir: &Path) -> Option<String> {
    let sidecar = Sidecar::read(&Images::open(dir).ok()?).ok()??;
    (!sidecar.id.is_empty()).then(|| Sidecar::hex(&sidecar.id))
}
