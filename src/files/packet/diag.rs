//! All packet sockets of this network namespace, as the kernel lists them: sock_diag(7),
//! `linux/packet_diag.h`.

use std::collections::HashMap;

use super::super::diag::{self, word};
use crate::error::{Error, Result};
use crate::image::proto::PacketMclist;

/// What it is, its memberships, its rings, its group.
const SHOW: u32 = 0xf;
/// Bytes of `struct packet_diag_msg` and of `struct packet_diag_mclist`.
const FIXED: usize = 16;
const MEMBERSHIP: usize = 44;

/// What the kernel tells about one socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Socket {
    /// `PACKET_COPY_THRESH`, which getsockopt(2) does not tell.
    pub(super) copy_thresh: u32,
    /// `PACKET_ADD_MEMBERSHIP`, the latest first, as often as they were added.
    pub(super) memberships: Vec<PacketMclist>,
    /// It has a ring of memory for what is received or sent.
    pub(super) has_ring: bool,
    /// Number and type of the group that it shares packets with (`PACKET_FANOUT`).
    pub(super) fanout: Option<u32>,
}

/// The packet sockets by inode number.
#[derive(Clone, Debug, Default)]
pub(in crate::files) struct Table(HashMap<u32, Socket>);

impl Table {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When it does not answer.
    pub(in crate::files) fn read() -> Result<Self> {
        let cannot = |e| {
            Error::os("Cannot list packet sockets (sock_diag)", e)
                .hint("the kernel needs CONFIG_PACKET_DIAG")
        };
        let mut table = Self::default();
        // Family, protocol, padding; inode, what to show, cookie.
        let mut request = vec![libc::AF_PACKET as u8, 0, 0, 0];
        for word in [0, SHOW, 0, 0] {
            request.extend(word.to_le_bytes());
        }
        diag::list(&request, |body| table.0.extend(parse(body))).map_err(cannot)?;
        Ok(table)
    }

    /// The socket with this inode number.
    pub(super) fn get(&self, ino: u64) -> Option<&Socket> {
        self.0.get(&u32::try_from(ino).ok()?)
    }

    /// Some socket is in the group of this number.
    pub(super) fn has_group(&self, number: u16) -> bool {
        let numbers = self.0.values().filter_map(|socket| socket.fanout);
        numbers
            .into_iter()
            .any(|fanout| fanout & 0xffff == u32::from(number))
    }
}

/// `struct packet_diag_msg` and its attributes.
fn parse(body: &[u8]) -> Option<(u32, Socket)> {
    let ino = word(body, 4)?;
    let mut socket = Socket::default();
    for (kind, value) in diag::attributes(body.get(FIXED..)?) {
        match kind {
            // struct packet_diag_info: interface, version, reserve, threshold, …
            0 => socket.copy_thresh = word(value, 12)?,
            1 => {
                let all = value.chunks_exact(MEMBERSHIP).filter_map(membership);
                socket.memberships = all.flatten().collect();
            }
            2 | 3 => socket.has_ring = true,
            4 => socket.fanout = word(value, 0),
            _ => {}
        }
    }
    Some((ino, socket))
}

/// `struct packet_diag_mclist`.
fn membership(bytes: &[u8]) -> Option<impl Iterator<Item = PacketMclist>> {
    let half = |at: usize| Some(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let times = usize::try_from(word(bytes, 4)?).ok()?;
    let length = usize::from(half(10)?);
    let entry = PacketMclist {
        index: word(bytes, 0)?,
        r#type: half(8)?.into(),
        addr: bytes.get(12..12 + length)?.to_vec(),
        interface: None,
    };
    Some(std::iter::repeat_n(entry, times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_read_with_its_memberships_ring_and_group() {
        let mut body = vec![17, 3, 0, 8];
        for word in [77_u32, 0, 0] {
            body.extend(word.to_le_bytes());
        }
        let mut attribute = |kind: u16, value: &[u8]| {
            body.extend(u16::try_from(value.len() + 4).unwrap().to_le_bytes());
            body.extend(kind.to_le_bytes());
            body.extend(value);
        };
        let words =
            |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
        attribute(0, &words(&[1, 2, 0, 500, 0, 1]));
        let mut groups = words(&[1, 2, 6 << 16]);
        groups.extend([1, 0, 0x5e, 1, 2, 3]);
        groups.resize(MEMBERSHIP, 0);
        attribute(1, &groups);
        attribute(4, &words(&[77 | 1 << 16]));
        let (ino, socket) = parse(&body).unwrap();
        let group = PacketMclist {
            index: 1,
            r#type: 0,
            addr: vec![1, 0, 0x5e, 1, 2, 3],
            interface: None,
        };
        let wanted = Socket {
            copy_thresh: 500,
            memberships: vec![group.clone(), group],
            has_ring: false,
            fanout: Some(0x1_004d),
        };
        assert_eq!((ino, socket), (77, wanted));
        let table = Table(HashMap::from([
            (ino, Socket::default()),
            (78, parse(&body).unwrap().1),
        ]));
        assert!(table.has_group(77) && !table.has_group(1));
    }
}
