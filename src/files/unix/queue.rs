//! What was sent to a unix socket and not read yet: bytes, descriptors, credentials.
//!
//! It is read by peeking, so that it stays where it is (`SO_PEEK_OFF`, socket(7)). Descriptors under
//! way are entered like those of a process. CRIU: `sk-queues.img`.

use std::os::fd::{OwnedFd, RawFd};

use nix::errno::Errno;

use super::super::Dumper;
use crate::error::{Error, Result};
use crate::image::proto::{ScmEntry, SkPacketEntry};
use crate::sys::socket::{Peeked, get_int, peek, reads_no_more, send, set_int};
use crate::units::Pid;

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
    for message in messages(socket).map_err(cannot)? {
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
        };
        dumper.unix.queues.packets.push((entry, message.bytes));
    }
    Ok(())
}

/// All messages; the peeking offset is as before afterwards.
fn messages(socket: &OwnedFd) -> nix::Result<Vec<Peeked>> {
    let offset = get_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    let mut most = 1 << 18;
    let result = loop {
        set_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 0)?;
        match from_start(socket, most) {
            Ok(Some(messages)) => break Ok(messages),
            Ok(None) => most *= 4,
            Err(e) => break Err(e),
        }
    };
    set_int(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, offset)?;
    result
}

/// `None` when a message is larger than `most`.
fn from_start(socket: &OwnedFd, most: usize) -> nix::Result<Option<Vec<Peeked>>> {
    let packets = get_int(socket, libc::SOL_SOCKET, libc::SO_TYPE)? != libc::SOCK_STREAM;
    let mut messages = Vec::new();
    loop {
        match peek(socket, most) {
            // A message without bytes, or the end of what the other end sends.
            Ok(message) if message.bytes.is_empty() && message.descriptors.is_empty() => {
                if !packets || reads_no_more(socket)? {
                    return Ok(Some(messages));
                }
                messages.push(message);
            }
            Ok(message) if message.truncated => return Ok(None),
            Ok(message) => messages.push(message),
            Err(Errno::EAGAIN) => return Ok(Some(messages)),
            // It is not connected: nothing can be queued.
            Err(Errno::EINVAL | Errno::ENOTCONN) => return Ok(Some(messages)),
            // An error that the program has yet to be told of; it is consumed by this.
            Err(Errno::ECONNRESET) => {}
            Err(e) => return Err(e),
        }
    }
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
        match send(sender, rest, numbers, credentials) {
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
