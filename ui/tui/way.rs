//! Where live processes stand, and the way through layers: `[` leads to the layer below, `]` back up by the way one came. Where one did not
//! come from above, it leads to the branch on which a live process stands, then to the newest.

use std::path::{Path, PathBuf};

use icecore::dedup::Plan;

use super::model::Model;
use super::stacks::LayerRow;

/// The layers that one came down from, the uppermost first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Way(Vec<PathBuf>);

impl Model {
    /// A tracked process that stands on a layer: what it writes goes on top of it.
    pub(crate) fn standing_on(&self, layer: &LayerRow) -> Option<i32> {
        let id = layer.id.as_ref()?;
        let mut tracked = self.tracked.iter();
        let (pid, _) = tracked.find(|(_, since)| since.as_ref() == Some(id))?;
        Some(*pid)
    }

    /// The processes that stand on layers which a plan gives up, with the names of these.
    pub(crate) fn stood_on(&self, plan: &Plan) -> impl Iterator<Item = (i32, &str)> {
        let lost = |layer: &&LayerRow| plan.lost_layers().any(|lost| lost.dir == layer.dir);
        self.layers()
            .filter(lost)
            .filter_map(|layer| Some((self.standing_on(layer)?, layer.name.as_str())))
    }

    fn layer_at(&self, dir: &Path) -> Option<&LayerRow> {
        self.layers().find(|layer| layer.dir == dir)
    }

    fn parent_of(&self, dir: &Path) -> Option<&Path> {
        self.layer_at(dir)?.parent.as_deref()
    }

    /// The directory of the layer on top of the one in `here` that one goes up to.
    pub(crate) fn above(&self, here: &Path) -> Option<PathBuf> {
        if let Some(last) = self.way.0.last()
            && self.parent_of(last) == Some(here)
        {
            return Some(last.clone());
        }
        let live: Vec<&Path> = self
            .layers()
            .filter(|layer| self.standing_on(layer).is_some())
            .filter_map(|layer| self.branch(here, &layer.dir))
            .collect();
        let above = self
            .layers()
            .filter(|layer| layer.parent.as_deref() == Some(here));
        let best = above.max_by_key(|layer| (live.contains(&layer.dir.as_path()), layer.created));
        best.map(|layer| layer.dir.clone())
    }

    /// The layer directly on top of `here` that `dir` is or stands on.
    fn branch<'a>(&'a self, here: &Path, dir: &'a Path) -> Option<&'a Path> {
        let mut at = dir;
        // No stack is higher than there are layers.
        for _ in self.layers() {
            let below = self.parent_of(at)?;
            if below == here {
                return Some(at);
            }
            at = below;
        }
        None
    }

    /// Notes that one went from a layer to the one below, or back.
    pub(crate) fn went(&mut self, from: &Path, to: &Path) {
        if self.parent_of(from) == Some(to) {
            let came = self.way.0.last().and_then(|last| self.parent_of(last));
            if came != Some(from) {
                self.way.0.clear();
            }
            self.way.0.push(from.to_path_buf());
        } else if self.parent_of(to) == Some(from) && self.way.0.pop().as_deref() != Some(to) {
            self.way.0.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::stacks::StackRow;
    use crate::tui::theme::Theme;

    /// Layers with their parents, the oldest first; `2` has the branches `3 4` and `5 6`.
    fn model() -> Model {
        let theme = Theme::of_environment(|_| String::new());
        let mut model = Model::new("/img".into(), theme, (80, 24));
        let stack = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 2), (6, 5)];
        model.catalog = stack
            .iter()
            .map(|(n, below)| {
                let mut layer = LayerRow::blank(format!("/img/{n}").into());
                layer.id = Some(format!("c{n}"));
                layer.parent = (*below > 0).then(|| format!("/img/{below}").into());
                let age = std::time::Duration::from_secs(*n);
                layer.created = Some(std::time::SystemTime::UNIX_EPOCH + age);
                StackRow::Layer(Box::new(layer))
            })
            .collect();
        model
    }

    fn up(model: &mut Model, from: &str) -> String {
        let to = model.above(Path::new(from)).unwrap();
        model.went(Path::new(from), &to);
        to.display().to_string()
    }

    #[test]
    fn the_way_up_is_the_way_that_one_came_down() {
        let mut model = model();
        for (from, to) in [
            ("/img/4", "/img/3"),
            ("/img/3", "/img/2"),
            ("/img/2", "/img/1"),
        ] {
            model.went(Path::new(from), Path::new(to));
        }
        assert_eq!(up(&mut model, "/img/1"), "/img/2");
        assert_eq!(up(&mut model, "/img/2"), "/img/3", "6 is newer");
        // Half the way down again.
        model.went(Path::new("/img/3"), Path::new("/img/2"));
        assert_eq!(up(&mut model, "/img/2"), "/img/3");
        assert_eq!(up(&mut model, "/img/3"), "/img/4");
        assert_eq!(model.above(Path::new("/img/4")), None);
    }

    #[test]
    fn who_did_not_come_from_above_goes_to_the_live_branch_then_to_the_newest() {
        let mut model = model();
        assert_eq!(up(&mut model, "/img/2"), "/img/5");
        model.tracked.insert(7, Some("c4".into()));
        assert_eq!(up(&mut model, "/img/1"), "/img/2");
        assert_eq!(up(&mut model, "/img/2"), "/img/3");
        // A layer that is gone is no way.
        model.went(Path::new("/img/5"), Path::new("/img/2"));
        model.catalog.truncate(4);
        assert_eq!(up(&mut model, "/img/2"), "/img/3");
    }
}
