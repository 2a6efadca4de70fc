//! What was sent to a unix socket and not read yet: bytes, descriptors, credentials.
//!
//! It is read by peeking, so that it stays where it is (`SO_PEEK_OFF`, socket(7)). Descriptors under
//! way are entered like those of a process. CRIU: `sk-queues.img`.

use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;

use super::super::Dumper;
use crate::error::{Error, Obstacle, Result};
use crate::image::proto::{ScmEntry, SkPacketEntry};
use crate::sys::socket::{
    Peeked, get_int, is_urgent, peek, peek_urgent, queued, reads_no_more, send, set_int,
};
use crate::units::Pid;

/// `linux/sockios.h`: nothing is before urgent data.
const SIOCATMARK: libc::Ioctl = 0x8905;

/// `SCM_RIGHTS`, as the kernel and CRIU number it.
const RIGHTS: u32 = 1;

/// Queued messages, each with the id of the socket that has yet to read it.
#[derive(Debug, Default)]
pub(in crate::files) struct Queues {
    packets: Vec<(SkPacketEntry, Vec<u8>)>,
    /// Copies of the descriptors under way: others are compared with them.
    held: Vec<OwnedFd>,
}

impl Queues {
    /// For `sk-queues.img`.
    pub(in crate::files) fn records(&self) -> impl Iterator<Item = (&SkPacketEntry, &[u8])> {
        self.packets
            .iter()
            .map(|(entry, bytes)| (entry, bytes.as_slice()))
    }
}

/// Takes over what waits in the socket `socket`, which has the file id `id`.
pub(super) fn dump(dumper: &mut Dumper, id: u32, socket: &OwnedFd, shown: &str) -> Result<()> {
    let cannot = |e| Error::os(format!("Cannot look into the queue of {shown}"), e);
    let found = messages(socket).map_err(cannot)?;
    let urgent = urgent(socket).map_err(cannot)?;
    let found = match urgent {
        None => found.into_iter().map(|message| (message, false)).collect(),
        Some(urgent) => set_apart(found, &urgent).ok_or_else(|| {
            Error::refused(
                format!("Cannot look into the queue of {shown}"),
                vec![Obstacle::unsupported(
                    format!("{shown} has urgent data (MSG_OOB) whose place cannot be told"),
                    "try again when the program has received it",
                )],
            )
        })?,
    };
    if found.iter().skip(1).any(|(message, _)| is_empty(message)) {
        dumper.warn(Obstacle::unsupported(
            format!("{shown} has an empty message behind others"),
            "this layer has it, but the kernel does not show it to a later dump of this process again",
        ));
    }
    for (message, urgent) in found {
        let mut rights = Vec::new();
        for descriptor in message.descriptors {
            rights.push(dumper.under_way(&descriptor)?);
            dumper.unix.queues.held.push(descriptor);
        }
        let scm = ScmEntry {
            r#type: RIGHTS,
            rights,
        };
        let entry = SkPacketEntry {
            id_for: id,
            length: u32::try_from(message.bytes.len()).map_err(|e| {
                Error::corrupt(format!("{shown} has a message without end")).because(e)
            })?,
            scm: Some(scm)
                .filter(|scm| !scm.rights.is_empty())
                .into_iter()
                .collect(),
            pid: message
                .credentials
                .map(|(pid, ..)| dumper.ids.number(Pid::from_raw(pid))),
            uid: message.credentials.map(|(_, uid, _)| uid),
            gid: message.credentials.map(|(.., gid)| gid),
            sender: message.sender,
            urgent: urgent.then_some(true),
        };
        dumper.unix.queues.packets.push((entry, message.bytes));
    }
    Ok(())
}

/// All messages; the peeking offset is as before afterwards.
fn messages(socket: &OwnedFd) -> nix::Result<Vec<Peeked>> {
    let offset = get_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    let result = from_start(socket);
    set_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)?;
    result
}

fn is_empty(message: &Peeked) -> bool {
    message.bytes.is_empty() && message.descriptors.is_empty()
}

fn from_start(socket: &OwnedFd) -> nix::Result<Vec<Peeked>> {
    let packets = get_int(socket, libc::SOL_SOCKET, libc::SO_TYPE)? != libc::SOCK_STREAM;
    let from = |at: usize| {
        let at = i32::try_from(at).map_err(|_too_large| Errno::EOVERFLOW)?;
        set_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, at)
    };
    let mut messages = Vec::new();
    let (mut most, mut at) = (1 << 18, 0);
    if packets {
        // With an offset the kernel passes over an empty message that somebody has peeked at before. The
        // first one it shows without.
        set_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, -1)?;
        match peek(socket, 1) {
            Ok(first) if is_empty(&first) && !reads_no_more(socket)? => messages.push(first),
            _ => {}
        }
    }
    from(at)?;
    loop {
        match peek(socket, most) {
            // A message without bytes, or the end of what the other end sends.
            Ok(message) if is_empty(&message) => {
                if !packets || reads_no_more(socket)? {
                    return Ok(messages);
                }
                messages.push(message);
            }
            Ok(message) if message.truncated => {
                most *= 4;
                from(at)?;
            }
            Ok(message) => {
                at += message.bytes.len();
                messages.push(message);
            }
            Err(Errno::EAGAIN) => return Ok(messages),
            // It is not connected: nothing can be queued.
            Err(Errno::EINVAL | Errno::ENOTCONN) => return Ok(messages),
            // An error that the program has yet to be told of; it is consumed by this.
            Err(Errno::ECONNRESET) => {}
            Err(e) => return Err(e),
        }
    }
}

/// Urgent data that waits in a socket.
struct Urgent {
    byte: u8,
    /// Nothing is before it.
    first: bool,
    /// It is among the other bytes (`SO_OOBINLINE`).
    in_line: bool,
}

fn urgent(socket: &OwnedFd) -> nix::Result<Option<Urgent>> {
    let level = libc::SOL_SOCKET;
    if get_int(socket, level, libc::SO_TYPE)? != libc::SOCK_STREAM || !is_urgent(socket)? {
        return Ok(None);
    }
    let in_line = get_int(socket, level, libc::SO_OOBINLINE)?;
    set_int(socket, level, libc::SO_OOBINLINE, 0)?;
    let byte = peek_urgent(socket);
    set_int(socket, level, libc::SO_OOBINLINE, in_line)?;
    Ok(Some(Urgent {
        byte: byte?,
        first: queued(socket, SIOCATMARK)? != 0,
        in_line: in_line != 0,
    }))
}

/// Makes a message of its own of urgent data, and marks that. A peek never goes on over the mark, so it
/// begins a message; the kernel does not tell which. `None` when that cannot be told.
fn set_apart(messages: Vec<Peeked>, urgent: &Urgent) -> Option<Vec<(Peeked, bool)>> {
    let begins = |at: &usize| messages.get(*at).and_then(|m| m.bytes.first()) == Some(&urgent.byte);
    let at = if urgent.first && !urgent.in_line {
        // A peek has passed over it.
        let alone = Peeked {
            bytes: vec![urgent.byte],
            ..Peeked::default()
        };
        let rest = messages.into_iter().map(|message| (message, false));
        return Some([(alone, true)].into_iter().chain(rest).collect());
    } else if urgent.first {
        begins(&0).then_some(0)?
    } else {
        let all: Vec<usize> = (1..messages.len()).filter(begins).collect();
        // Descriptors, and other credentials, end a message, too.
        let unexplained = |at: &usize| match messages.get(at - 1..=*at) {
            Some([before, after]) => {
                before.descriptors.is_empty() && before.credentials == after.credentials
            }
            _ => false,
        };
        let likely: Vec<usize> = all.iter().copied().filter(unexplained).collect();
        match (&*all, &*likely) {
            ([at], _) | (_, [at]) => *at,
            _ => return None,
        }
    };
    let mut found = Vec::new();
    for (number, mut message) in messages.into_iter().enumerate() {
        if number != at {
            found.push((message, false));
            continue;
        }
        let rest = message.bytes.split_off(1);
        let rest = Peeked {
            bytes: rest,
            credentials: message.credentials,
            sender: message.sender.clone(),
            ..Peeked::default()
        };
        found.push((message, true));
        if !rest.bytes.is_empty() {
            found.push((rest, false));
        }
    }
    Some(found)
}

/// Puts a message into the queue at the other end of `sender`, as one of process `who`.
pub(super) fn fill(
    sender: &OwnedFd,
    entry: &SkPacketEntry,
    who: Option<i32>,
    bytes: &[u8],
    numbers: &[RawFd],
) -> nix::Result<()> {
    let users = (entry.uid.unwrap_or(0), entry.gid.unwrap_or(0));
    let mut credentials = who.map(|pid| (pid, users.0, users.1));
    let mut numbers = numbers;
    let mut rest = bytes;
    loop {
        match send(sender, rest, numbers, credentials, entry.urgent()) {
            Ok(sent) => {
                rest = rest.get(sent..).unwrap_or_default();
                numbers = &[];
                if rest.is_empty() {
                    return Ok(());
                }
            }
            // The sender has ended since: nobody is left to be named.
            Err(Errno::ESRCH) if credentials.is_some() => credentials = None,
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn texts(found: &[(Peeked, bool)]) -> Vec<(&[u8], bool)> {
        found
            .iter()
            .map(|(message, urgent)| (&*message.bytes, *urgent))
            .collect()
    }

    #[test]
    fn urgent_data_is_found_at_its_place() {
        let (near, far) = UnixStream::pair().unwrap();
        let far = OwnedFd::from(far);
        (&near).write_all(b"ab").unwrap();
        send(&near, b"X", &[], None, true).unwrap();
        (&near).write_all(b"cd").unwrap();
        for in_line in [0, 1] {
            set_int(&far, libc::SOL_SOCKET, libc::SO_OOBINLINE, in_line).unwrap();
            let urgent = urgent(&far).unwrap().unwrap();
            let found = set_apart(messages(&far).unwrap(), &urgent).unwrap();
            let wanted = [(&b"ab"[..], false), (b"X", true), (b"cd", false)];
            assert_eq!(texts(&found), wanted);
        }
        let mut two = [0; 2];
        nix::unistd::read(&far, &mut two).unwrap();
        for in_line in [0, 1] {
            set_int(&far, libc::SOL_SOCKET, libc::SO_OOBINLINE, in_line).unwrap();
            let urgent = urgent(&far).unwrap().unwrap();
            let found = set_apart(messages(&far).unwrap(), &urgent).unwrap();
            assert_eq!(texts(&found), [(&b"X"[..], true), (b"cd", false)]);
        }
    }

    #[test]
    fn empty_messages_are_there_the_first_one_even_when_it_was_peeked_at() {
        let (near, far) = UnixDatagram::pair().unwrap();
        for message in [&b""[..], b"x", b"", b"", b"y"] {
            near.send(message).unwrap();
        }
        let far = OwnedFd::from(far);
        peek(&far, 8).unwrap();
        let all = messages(&far).unwrap();
        let all: Vec<&[u8]> = all.iter().map(|message| &*message.bytes).collect();
        assert_eq!(all, [&b""[..], b"x", b"", b"", b"y"]);
    }
}
