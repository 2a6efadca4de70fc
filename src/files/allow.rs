//! What a dump or a restore does only on request, by CRIU's options of the same names.

use super::ghost::GHOST_LIMIT;

/// Requests; by default nothing is allowed that CRIU does not do unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Deleted files of up to this many bytes go into the layer (`--ghost-limit`).
    pub ghost_limit: u64,
    /// Files that have lost their name get another one for the layer (`--link-remap`).
    pub link_remap: bool,
    /// The terminal of the target is one outside of it; ours is to stand for it (`--shell-job`).
    pub shell_job: bool,
}

impl Default for Allow {
    fn default() -> Self {
        Self {
            ghost_limit: GHOST_LIMIT,
            link_remap: false,
            shell_job: false,
        }
    }
}
