//! The boxes of the watch view: which one has the keyboard, and whether it has all the room.

/// One of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Panel {
    /// What is written, over time.
    #[default]
    Chart,
    /// Where it is written.
    Mappings,
    /// Working set, rule and budget.
    Rule,
    /// What a dump made now would be.
    Dump,
}

impl Panel {
    /// All, in the order in which the keyboard goes through them.
    pub(crate) const ALL: [Self; 4] = [Self::Chart, Self::Mappings, Self::Rule, Self::Dump];

    /// Where it is among them.
    pub(crate) fn place(self) -> usize {
        let at = Self::ALL.iter().position(|panel| *panel == self);
        at.unwrap_or(0)
    }

    /// The one after it, around.
    pub(crate) fn next(self) -> Self {
        let next = (self.place() + 1) % Self::ALL.len();
        Self::ALL.get(next).copied().unwrap_or_default()
    }

    /// The one before it, around.
    pub(crate) fn previous(self) -> Self {
        let before = (self.place() + Self::ALL.len() - 1) % Self::ALL.len();
        Self::ALL.get(before).copied().unwrap_or_default()
    }
}

/// The boxes as they are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Panels {
    /// The one with the keyboard.
    pub(crate) at: Panel,
    /// It has all the room.
    pub(crate) alone: bool,
}
