//! What a dump or a restore does only on request, by CRIU's options of the same names.

use super::ghost::GHOST_LIMIT;

/// Things that are allowed all, or by their inode numbers, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Chosen {
    /// None.
    #[default]
    None,
    /// These.
    Some(Vec<u64>),
    /// All.
    All,
}

impl Chosen {
    /// True when this one is allowed.
    pub fn allows(&self, inode: u64) -> bool {
        match self {
            Self::None => false,
            Self::Some(inodes) => inodes.contains(&inode),
            Self::All => true,
        }
    }
}

/// Requests; by default nothing is allowed that CRIU does not do unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Deleted files of up to this many bytes go into the layer (`--ghost-limit`).
    pub ghost_limit: u64,
    /// Files that have lost their name get another one for the layer (`--link-remap`).
    pub link_remap: bool,
    /// The terminal of the target is one outside of it; ours is to stand for it (`--shell-job`).
    pub shell_job: bool,
    /// Datagram sockets that are connected with a socket outside of the tree: after a restore they are
    /// connected again by its name (`--ext-unix-sk`).
    pub ext_unix_sk: Chosen,
    /// Established TCP connections are saved, and go on after a restore (`--tcp-established`).
    pub tcp_established: bool,
    /// TCP connections are dropped: their sockets come back closed (`--tcp-close`).
    pub tcp_close: bool,
    /// Locks on files are saved (`--file-locks`).
    pub file_locks: bool,
    /// Files that are open for writing are copied into the layer (`--snapshot-files`).
    pub snapshot_files: bool,
    /// Those of the layer are put back (`--with-files`).
    pub with_files: bool,
    /// Connections that were not accepted yet are dropped (`--skip-in-flight`).
    pub skip_in_flight: bool,
}

impl Allow {
    /// All requests of a dump at once that cost nothing but space; what becomes of connections stays as
    /// wished.
    #[must_use]
    pub fn everything(&self) -> Self {
        Self {
            ghost_limit: u64::MAX,
            link_remap: true,
            shell_job: true,
            ext_unix_sk: Chosen::All,
            tcp_established: !self.tcp_close,
            file_locks: true,
            skip_in_flight: true,
            ..self.clone()
        }
    }
}

impl Default for Allow {
    fn default() -> Self {
        Self {
            ghost_limit: GHOST_LIMIT,
            link_remap: false,
            shell_job: false,
            ext_unix_sk: Chosen::None,
            tcp_established: false,
            tcp_close: false,
            file_locks: false,
            skip_in_flight: false,
            snapshot_files: false,
            with_files: false,
        }
    }
}
