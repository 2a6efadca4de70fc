//! All unix sockets of this network namespace, as the kernel lists them: sock_diag(7).

use std::collections::HashMap;

use super::super::diag::{self, word};
use crate::error::{Error, Result};

/// Name, file, peer, pending connections, queue lengths.
const SHOW: u32 = 0x1f;

/// What the kernel tells about one socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::files) struct Info {
    /// `SOCK_STREAM`, …
    pub(super) kind: u8,
    /// `TCP_ESTABLISHED` (1), `TCP_CLOSE` (7), `TCP_LISTEN` (10).
    pub(super) state: u8,
    /// Its name: an abstract one begins with NUL, a path ends with it.
    pub(super) name: Vec<u8>,
    /// Inode and device of the file that it is bound to.
    pub(super) file: Option<(u32, u32)>,
    /// Inode of the socket at the other end, 0 when that is closed or not accepted yet.
    pub(super) peer: u32,
    /// Clients whose connections were not accepted yet.
    pub(super) pending: Vec<u32>,
    /// What it has received (or, when it listens, connections to be accepted), and what it has sent
    /// and the other end has not read (or the greatest number of connections).
    pub(super) queues: (u32, u32),
    /// Bit 0: it receives no more, bit 1: it sends no more.
    pub(super) shutdown: u8,
}

/// The unix sockets by inode number.
#[derive(Clone, Debug, Default)]
pub(in crate::files) struct Table(HashMap<u32, Info>);

impl Table {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When it does not answer.
    pub(in crate::files) fn read() -> Result<Self> {
        let cannot = |e| {
            Error::os("Cannot list unix sockets (sock_diag)", e)
                .hint("the kernel needs CONFIG_UNIX_DIAG")
        };
        let mut table = Self::default();
        // Family, protocol, padding; states, inode, what to show, cookie.
        let mut request = vec![1, 0, 0, 0];
        for word in [u32::MAX, 0, SHOW, 0, 0] {
            request.extend(word.to_le_bytes());
        }
        diag::list(&request, |body| table.0.extend(parse(body))).map_err(cannot)?;
        Ok(table)
    }

    /// The socket with this inode number.
    pub(super) fn get(&self, ino: u64) -> Option<&Info> {
        self.0.get(&u32::try_from(ino).ok()?)
    }

    /// The listener that has yet to accept the connection of this client.
    pub(super) fn listener_of(&self, client: u64) -> Option<u32> {
        let client = u32::try_from(client).ok()?;
        let waits = |info: &&Info| info.pending.contains(&client);
        self.0
            .iter()
            .find_map(|(ino, info)| waits(&info).then_some(*ino))
    }

    /// Inode numbers of the sockets that others must be asked about: the other ends of `ino`.
    pub(in crate::files) fn others(&self, ino: u64) -> Vec<u32> {
        let info = self.get(ino);
        let peer = info.map_or(0, |info| info.peer);
        let pending = info.map(|info| info.pending.clone()).unwrap_or_default();
        let all = [peer]
            .into_iter()
            .chain(pending)
            .chain(self.listener_of(ino));
        all.filter(|other| *other != 0).collect()
    }

    /// A socket bound to this name, or to the file with this inode and device.
    pub(super) fn bound(&self, name: &[u8], file: Option<(u32, u32)>) -> bool {
        let by_name = name.first() == Some(&0);
        self.0.values().any(|info| {
            by_name && info.name == name || !by_name && file.is_some() && info.file == file
        })
    }
}

/// `struct unix_diag_msg` and its attributes.
fn parse(body: &[u8]) -> Option<(u32, Info)> {
    let ino = word(body, 4)?;
    let mut info = Info {
        kind: *body.get(1)?,
        state: *body.get(2)?,
        ..Info::default()
    };
    for (kind, value) in diag::attributes(body.get(16..)?) {
        let pair = || Some((word(value, 0)?, word(value, 4)?));
        match kind {
            0 => info.name = value.to_vec(),
            1 => info.file = pair(),
            2 => info.peer = word(value, 0)?,
            3 => {
                let words = (0..value.len() / 4).filter_map(|n| word(value, n * 4));
                info.pending = words.collect();
            }
            4 => info.queues = pair()?,
            6 => info.shutdown = *value.first()?,
            _ => {}
        }
    }
    Some((ino, info))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;

    fn ino(socket: impl Into<OwnedFd>) -> (u64, OwnedFd) {
        let file = File::from(socket.into());
        (file.metadata().unwrap().ino(), file.into())
    }

    #[test]
    fn the_kernel_tells_peers_names_and_pending_connections() {
        let (a, b) = UnixStream::pair().unwrap();
        let ((a, _a), (b, _b)) = (ino(a), ino(b));
        let name = format!("icecore-diag-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let (listener, _l) = ino(UnixListener::bind_addr(&address).unwrap());
        let (client, _c) = ino(UnixStream::connect_addr(&address).unwrap());
        let table = Table::read().unwrap();
        assert_eq!(u64::from(table.get(a).unwrap().peer), b);
        assert_eq!(table.get(a).unwrap().state, 1);
        let seen = table.get(listener).unwrap();
        assert_eq!(seen.name, [b"\0", name.as_bytes()].concat());
        assert_eq!((seen.state, seen.queues.0), (10, 1));
        assert_eq!(table.listener_of(client).map(u64::from), Some(listener));
        assert!(table.bound(&seen.name, None));
    }
}
