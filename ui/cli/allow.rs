//! CRIU's options that allow something; shared by the commands that take them.

use clap::Args as ClapArgs;
use icecore::files::{Allow, Chosen};

/// What becomes of TCP connections, at a dump and at a restore.
#[derive(Debug, ClapArgs)]
pub(crate) struct Tcp {
    /// Save established TCP connections; they go on after a restore
    #[arg(long, conflicts_with = "tcp_close")]
    tcp_established: bool,
    /// Drop TCP connections: their sockets come back closed
    #[arg(long)]
    tcp_close: bool,
}

impl From<&Tcp> for Allow {
    fn from(args: &Tcp) -> Self {
        Self {
            tcp_established: args.tcp_established,
            tcp_close: args.tcp_close,
            ..Self::default()
        }
    }
}

impl Tcp {
    /// The options as given.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.tcp_established, "--tcp-established"),
            (self.tcp_close, "--tcp-close"),
        ];
        all.into_iter()
            .filter_map(|(given, word)| given.then_some(word))
    }
}

/// What a dump may do on request only.
#[derive(Debug, ClapArgs)]
pub(crate) struct DumpAllow {
    /// Deleted files of up to this size go into the layer (bytes, or with K, M, G)
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = size)]
    ghost_limit: u64,
    /// Give files that have lost their name another one, which the layer needs from then on
    #[arg(long)]
    link_remap: bool,
    /// The tree was started from a terminal, which is not part of it
    #[arg(short = 'j', long)]
    shell_job: bool,
    /// Datagram sockets connected with one outside of the tree (all, or the one with this inode
    /// number) are connected again by its name after a restore
    #[arg(long, value_name = "INODE", num_args = 0..=1, require_equals = true)]
    ext_unix_sk: Option<Vec<u64>>,
    /// Save locks on files (flock, POSIX, OFD, leases)
    #[arg(short = 'l', long)]
    file_locks: bool,
    /// Copy files that are open for writing into the layer, while the tree stands still
    #[arg(long)]
    snapshot_files: bool,
    /// Drop TCP connections that were not accepted yet
    #[arg(long)]
    skip_in_flight: bool,
    #[command(flatten)]
    tcp: Tcp,
}

impl From<&DumpAllow> for Allow {
    fn from(args: &DumpAllow) -> Self {
        Self {
            ghost_limit: args.ghost_limit,
            link_remap: args.link_remap,
            shell_job: args.shell_job,
            ext_unix_sk: chosen(args.ext_unix_sk.as_deref()),
            file_locks: args.file_locks,
            skip_in_flight: args.skip_in_flight,
            snapshot_files: args.snapshot_files,
            with_files: false,
            tcp_established: args.tcp.tcp_established,
            tcp_close: args.tcp.tcp_close,
        }
    }
}

/// An option that may be given without a value, or several times with one.
fn chosen(given: Option<&[u64]>) -> Chosen {
    match given {
        None => Chosen::None,
        Some([]) => Chosen::All,
        Some(inodes) => Chosen::Some(inodes.to_vec()),
    }
}

/// A number of bytes, with CRIU's suffixes.
fn size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']) {
        digits if digits.len() == text.len() => (digits, 0),
        digits => match text.get(digits.len()..) {
            Some("k" | "K") => (digits, 10),
            Some("m" | "M") => (digits, 20),
            Some("g" | "G") => (digits, 30),
            _ => return Err(format!("{text} has a suffix other than K, M, G")),
        },
    };
    let number: u64 = digits.parse().map_err(|e| format!("{text}: {e}"))?;
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number)
        .ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_criu_s() {
        assert_eq!(size("17"), Ok(17));
        assert_eq!(size("3k"), Ok(3072));
        assert_eq!(size("2M"), Ok(2 << 20));
        assert_eq!(size("1G"), Ok(1 << 30));
        for bad in ["", "M", "1MM", "x", "99999999999G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
