//! What this kernel can do and what we may do: found by trying, never by version, and never by
//! changing anything but a child of our own.

pub mod features;
pub mod privileges;

use serde::Serialize;

/// How well something works here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should.
    Ok,
    /// Some things cannot be done, or only slower.
    Limited,
    /// Dumps or restores cannot be done at all.
    Missing,
}

impl State {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// The kernel and its configuration.
    Kernel,
    /// Our rights.
    Rights,
    /// How written pages are found.
    Tracking,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// The thing.
    pub what: String,
    /// How well it works here.
    pub state: State,
    /// What was found; empty when there is nothing to add.
    pub found: String,
    /// What cannot be done because of it.
    pub consequence: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    /// Something that works.
    pub fn ok(area: Area, what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            area,
            what: what.into(),
            state: State::Ok,
            found: found.into(),
            consequence: None,
            fix: None,
        }
    }

    /// The same thing, found not to work as it should.
    #[must_use]
    pub fn but(
        mut self,
        state: State,
        consequence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        self.state = state;
        self.consequence = Some(consequence.into());
        self.fix = Some(fix.into());
        self
    }
}

/// Looks at the kernel and at our rights. Takes a few milliseconds; forks a few children that do
/// nothing.
pub fn doctor() -> Vec<Finding> {
    let mut findings = features::findings();
    findings.extend(privileges::findings());
    findings
}
