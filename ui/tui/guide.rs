//! A guided tour: steps with a text each, shown as a banner until the user did what they say.

/// What the user has done so far, as far as a tour may ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// Layers that were asked for.
    pub(crate) dumps: usize,
    /// Of those, the ones that a tree got after it was rolled back.
    pub(crate) branches: usize,
    /// Layers that were kept of a running tree before it was rolled back.
    pub(crate) safeties: usize,
    /// Layers restored.
    pub(crate) restores: usize,
    /// Dedups done.
    pub(crate) dedups: usize,
    /// The preview of a dedup was seen.
    pub(crate) dedup_seen: bool,
    /// A tree is being watched and was counted.
    pub(crate) counted: bool,
    /// The map had the keyboard.
    pub(crate) map_visited: bool,
    /// Number of layers under the root.
    pub(crate) layers: usize,
    /// The signal that ended the program.
    pub(crate) signal: Option<i32>,
    /// Place of the selected layer among the layers of its stack, from the top; 0 is the newest.
    pub(crate) layer_depth: usize,
}

/// One step.
#[derive(Debug)]
pub(crate) struct Step {
    /// What to do, in a line or two.
    pub(crate) text: String,
    /// Whether it is done.
    pub(crate) done: fn(&Facts) -> bool,
}

/// A tour.
#[derive(Debug, Default)]
pub(crate) struct Guide {
    /// In order.
    pub(crate) steps: Vec<Step>,
    /// Steps behind us.
    pub(crate) at: usize,
}

impl Facts {
    /// The exit code: that of a shell's child that a signal ended, or 0.
    pub(crate) fn exit_code(&self) -> u8 {
        self.signal
            .and_then(|signal| u8::try_from(128 + signal).ok())
            .unwrap_or(0)
    }
}

impl Guide {
    /// Goes on past every step that is done.
    pub(crate) fn advance(&mut self, facts: &Facts) {
        while self
            .steps
            .get(self.at)
            .is_some_and(|step| (step.done)(facts))
        {
            self.at += 1;
        }
    }

    /// What the banner says.
    pub(crate) fn banner(&self) -> String {
        match self.steps.get(self.at) {
            Some(step) => format!("{} of {}: {}", self.at + 1, self.steps.len(), step.text),
            None => "That was all. Go on as you like; q leaves.".into(),
        }
    }
}
