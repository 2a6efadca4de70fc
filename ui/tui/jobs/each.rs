//! Several trees dumped by one key: the plans of all of them first. Each is a job of its own then.

use icecore::{Error, Kind, Result, task};

use super::Jobs;
use super::dump::GO_ON;
use crate::format;
use crate::tui::message::{Failure, Wish};
use crate::tui::popup::{Deed, Mark, Preview};

impl Jobs {
    /// What each of these dumps would do. One that cannot be made as it is, is left out.
    pub(super) fn plan_each(&self, wishes: &[Wish]) -> Preview {
        let trees = format::count(wishes.len() as u64, "tree");
        let mut all = Preview::new(format!("Dump {trees} — nothing has been done yet"));
        let mut possible = Vec::new();
        for wish in wishes {
            all.line(Mark::Hint, wish.title());
            let preview = same(wish).and_then(|()| self.plan_dump(wish));
            let preview = match preview {
                Ok(preview) => preview,
                Err(error) => {
                    let failure = Failure::from(&error);
                    all.line(Mark::Bad, failure.text);
                    for (what, hint) in failure.obstacles {
                        all.line(Mark::Bad, what);
                        all.line(Mark::Hint, hint);
                    }
                    continue;
                }
            };
            all.freezes.extend(preview.freezes);
            // What is focused does no harm.
            let chosen = preview.buttons.get(preview.focus);
            let chosen = chosen.and_then(|button| match &button.deed {
                Some(Deed::Wish(wish)) => Some(wish.clone()),
                _ => None,
            });
            for (mark, text) in preview.lines.into_iter().filter(|(_, text)| text != GO_ON) {
                all.line(mark, text);
            }
            match chosen {
                Some(wish) => possible.push(wish),
                None => {
                    let text = "it is left out; dumped alone, it tells what can be done";
                    all.line(Mark::Warn, text);
                }
            }
        }
        if possible.is_empty() {
            all.line(Mark::Bad, "none of them can be dumped as it is");
            return all;
        }
        if possible.len() > 1 {
            all.line(
                Mark::Plain,
                "Each stops for a moment by itself and goes on: their layers are not of one moment.",
            );
        }
        let label = match possible.len() {
            n if n == wishes.len() => format!("Dump all {n}"),
            n => format!("Dump {n} of {}", wishes.len()),
        };
        all.offer(label, Wish::Each(possible), true);
        all
    }
}

/// The process is the one that was marked.
fn same(wish: &Wish) -> Result<()> {
    if let Wish::Dump {
        root,
        start_time: Some(start_time),
        ..
    } = wish
        && task::process(*root)?.start_time != *start_time
    {
        let text = format!("Process {root} is not the one that was marked any more");
        return Err(Error::new(Kind::TargetGone, text).hint("mark it again"));
    }
    Ok(())
}
