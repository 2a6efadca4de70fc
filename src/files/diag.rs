//! The kernel's lists of sockets of a family, in this network namespace: sock_diag(7), netlink(7).

use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `SOCK_DIAG_BY_FAMILY` and the marks of netlink(7).
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Asks for the sockets that `request` (a `struct ..._diag_req`) describes; each answer goes to
/// `each`.
///
/// # Errors
/// `ENOENT` when the kernel cannot list this family, or as socket(2).
pub(super) fn list(request: &[u8], mut each: impl FnMut(&[u8])) -> nix::Result<()> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let length = u32::try_from(HEADER + request.len()).map_err(|_too_long| Errno::EINVAL)?;
    let mut message = Vec::new();
    message.extend(length.to_le_bytes());
    message.extend(BY_FAMILY.to_le_bytes());
    message.extend(DUMP.to_le_bytes());
    // Sequence, port.
    message.extend([0; 8]);
    message.extend(request);
    let kernel = NetlinkAddr::new(0, 0);
    sendto(socket.as_raw_fd(), &message, &kernel, MsgFlags::empty())?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, after)) = first(rest) {
            match kind {
                BY_FAMILY => each(body),
                DONE => return Ok(()),
                ERROR => {
                    let errno = word(body, 0).unwrap_or(0).cast_signed().wrapping_neg();
                    return Err(Errno::from_raw(errno));
                }
                _ => {}
            }
            rest = after;
        }
    }
}

/// The first message: its type, its body, and what follows it.
fn first(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(word(bytes, 0)?).ok()?;
    let kind = u16::from_le_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, after))
}

/// The attributes that follow the fixed part of an answer: number and value.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[a, b, c, d] = rest.first_chunk()?;
        let length = usize::from(u16::from_le_bytes([a, b]));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_le_bytes([c, d]), value))
    })
}

/// The word at byte `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_to_the_end_or_to_what_makes_no_sense() {
        let bytes = [5, 0, 1, 0, 7, 0, 0, 0, 4, 0, 2, 0, 9, 0, 3, 0, 1];
        let found: Vec<_> = attributes(&bytes).collect();
        assert_eq!(found, [(1, &[7][..]), (2, &[])]);
    }
}
