//! One error for the whole engine. It names the object, the action and the cause, says in which
//! state the target is left, and carries the next thing to try. The exit code follows from its kind.

use std::fmt;
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// Result of everything in the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is. Exit codes follow from it (see [`Kind::exit_code`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Kind {
    /// Any other failure.
    Failed,
    /// The command line or an option does not make sense.
    Usage,
    /// A process, layer or file is not there.
    NotFound,
    /// An image is damaged, truncated, or contradicts another one.
    Corrupt,
    /// The kernel, the CPU or this engine cannot do it.
    Unsupported,
    /// A right is missing.
    Permission,
    /// Something else holds the process, pid or directory.
    Busy,
    /// The target vanished or is not the process it was.
    TargetGone,
    /// No space left on the device.
    NoSpace,
    /// Two things that should be equal differ.
    Differs,
    /// Freezing took longer than the caller allowed.
    FreezeBudget,
    /// The caller asked to stop.
    Cancelled,
}

impl Kind {
    /// Exit code of a command that ends with this kind of error.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Corrupt => 4,
            Self::Unsupported => 5,
            Self::Permission => 6,
            Self::Busy => 7,
            Self::TargetGone => 8,
            Self::NoSpace => 9,
            Self::Differs => 10,
            Self::FreezeBudget => 11,
            Self::Cancelled => 130,
        }
    }
}

impl Kind {
    /// What usually helps, where nothing more precise is known.
    fn next_step(self) -> Option<&'static str> {
        match self {
            Self::NotFound => Some("icecore stacks DIR lists layers, icecore ps processes"),
            Self::Corrupt => Some("use another layer of the stack; icecore stacks DIR lists them"),
            Self::Permission => Some("run it as root"),
            Self::TargetGone => Some("icecore ps lists the running process trees"),
            Self::NoSpace => Some("free some space, or choose another directory"),
            _ => None,
        }
    }
}

/// What became of the target process tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetState {
    /// It was never touched (or there is no target).
    Untouched,
    /// It was stopped for a while and runs again as before.
    Running,
    /// It is stopped.
    Stopped,
    /// It was killed.
    Killed,
    /// It has ended by itself.
    Gone,
    /// Nobody knows.
    Unknown,
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::Running => "running as before",
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        })
    }
}

/// A failure: what, why, what became of the target, what to try next.
#[derive(Debug)]
#[expect(
    clippy::error_impl_error,
    reason = "the engine's one error, called icecore::Error outside"
)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    what: String,
    target: TargetState,
    hint: Option<String>,
    obstacles: Vec<Obstacle>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind`. `what` is one line that names the object and the failed action.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            target: TargetState::Untouched,
            hint: None,
            obstacles: Vec::new(),
            source: None,
        }))
    }

    /// A plan that cannot be applied because of `obstacles`.
    pub fn refused(what: impl Into<String>, obstacles: Vec<Obstacle>) -> Self {
        let kind = obstacles.first().map_or(Kind::Unsupported, |o| o.kind);
        let mut error = Self::new(kind, what);
        error.0.obstacles = obstacles;
        error
    }

    /// A failed system call or file operation: `what` names object and action.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ENOSPC | Errno::EDQUOT) => Kind::NoSpace,
            Some(Errno::EPERM | Errno::EACCES) => Kind::Permission,
            Some(Errno::ENOENT) => Kind::NotFound,
            Some(Errno::ESRCH) => Kind::TargetGone,
            Some(Errno::EBUSY) => Kind::Busy,
            Some(Errno::ENOSYS | Errno::EOPNOTSUPP) => Kind::Unsupported,
            _ => Kind::Failed,
        };
        Self::new(kind, what).because(source)
    }

    /// Like [`Error::io`] for an errno.
    pub fn os(what: impl Into<String>, errno: Errno) -> Self {
        Self::io(what, errno.into())
    }

    /// Like [`Error::io`]; the text is `action path`, e.g. `Cannot read /a/b`.
    pub fn path(action: &str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let denied = source.raw_os_error() == Some(libc::EACCES);
        let what = format!("Cannot {action} {}", path.as_ref().display());
        let error = Self::io(what, source);
        if denied {
            return error
                .hint("files of others take CAP_DAC_OVERRIDE: run it as root, or as their owner");
        }
        error
    }

    /// A damaged image.
    pub fn corrupt(what: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, what)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds the next thing to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Records what became of the target.
    #[must_use]
    pub fn target(mut self, target: TargetState) -> Self {
        self.0.target = target;
        self
    }

    /// Replaces the kind.
    #[must_use]
    pub fn kinded(mut self, kind: Kind) -> Self {
        self.0.kind = kind;
        self
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What became of the target.
    pub fn target_state(&self) -> TargetState {
        self.0.target
    }

    /// The next thing to try, if known: what was said with the failure, or what usually helps.
    pub fn next_step(&self) -> Option<&str> {
        let usual = || {
            self.0
                .kind
                .next_step()
                .filter(|_| self.0.obstacles.is_empty())
        };
        self.0.hint.as_deref().or_else(usual)
    }

    /// The obstacles of a refused plan.
    pub fn obstacles(&self) -> &[Obstacle] {
        &self.0.obstacles
    }

    /// The whole message in one line: what, then each cause after a colon.
    pub fn one_line(&self) -> String {
        let mut text = self.0.what.clone();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

/// Why a plan cannot be applied (or, as a warning, what will not be as it was).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Obstacle {
    /// Decides the exit code when the plan is refused.
    pub kind: Kind,
    /// What is in the way: kind of thing, descriptor or address, pid.
    pub what: String,
    /// The next thing to try.
    pub hint: String,
}

impl Obstacle {
    /// Something that this engine (or kernel) cannot save or restore.
    pub fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Kind::Unsupported, what, hint)
    }

    /// An obstacle of another kind.
    pub fn new(kind: Kind, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.hint)
    }
}
