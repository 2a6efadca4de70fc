//! What a click means: whoever draws something that a key does notes where that is. Nothing is laid out
//! twice, so that a click hits what is seen.

use std::cell::RefCell;

use crossterm::event::KeyCode;
use ratatui::layout::{Position, Rect};

use super::action::Act;

/// Something that can be clicked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spot {
    /// A button of a dialog.
    Button(usize),
    /// What a dialog offers by a digit.
    Otherwise(usize),
    /// A tab of the reader.
    Tab(usize),
    /// An entry of the palette.
    Entry(usize),
    /// An action that is named with its key.
    Act(Act),
    /// A key that is named.
    Key(KeyCode),
    /// A job.
    Job(usize),
    /// A line of the log: so many come after it.
    Line(usize),
}

/// Those of the frame that was drawn last.
#[derive(Debug, Default)]
pub(crate) struct Spots(RefCell<Vec<(Rect, Spot)>>);

impl Spots {
    /// None is left: another frame is drawn, or what was drawn is not so any more.
    pub(crate) fn clear(&self) {
        if let Ok(mut spots) = self.0.try_borrow_mut() {
            spots.clear();
        }
    }

    /// Something was drawn there.
    pub(crate) fn note(&self, area: Rect, spot: Spot) {
        if let Ok(mut spots) = self.0.try_borrow_mut() {
            spots.push((area, spot));
        }
    }

    /// What is there: what was drawn last lies over the others.
    pub(crate) fn at(&self, at: Position) -> Option<Spot> {
        let spots = self.0.try_borrow().ok()?;
        let spot = spots.iter().rev().find(|(area, _)| area.contains(at));
        spot.map(|(_, spot)| *spot)
    }

    /// How many lines come after the last and after the first line of the log that is seen.
    pub(crate) fn lines(&self) -> Option<(usize, usize)> {
        let spots = self.0.try_borrow().ok()?;
        let lines = spots.iter().filter_map(|(_, spot)| match spot {
            Spot::Line(back) => Some(*back),
            _ => None,
        });
        let lines: Vec<usize> = lines.collect();
        Some((*lines.iter().min()?, *lines.iter().max()?))
    }
}
