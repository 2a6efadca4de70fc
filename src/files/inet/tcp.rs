//! Established TCP connections, taken over and made again by `TCP_REPAIR`.
//!
//! From the moment that a connection is looked at until the target is gone (or runs again), a filter on
//! its socket drops whatever arrives: the other end sends it again later. In repair mode the end of the
//! target closes it without a word. Between the end of the target and its restore the keeper holds the
//! socket ([`crate::track::connections`]), and the restore of that layer takes it from there. Where
//! there is none any more, the connection is made anew from the layer.
//!
//! CRIU: `tcp_stream_entry`, then the bytes received and not read, then those sent and not
//! acknowledged, or not sent. An end that was announced (FIN) has a number in the sequence, but no
//! byte. Where a half-closed connection is made anew, ours is announced again, which the other side
//! knows already; theirs is made up by shutdown(2), with its number counted as received. Urgent data that
//! was not received stops the dump; of such that was, the byte is left out of the queue, and the mark
//! is lost. What we have sent as urgent and the other end has not acknowledged cannot be told from
//! the rest.
//!
//! Sources: tcp(7), `net/ipv4/tcp.c`, CRIU's documentation of TCP.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use libc::{SO_RCVBUFFORCE, SO_SNDBUF, SO_SNDBUFFORCE, SOL_SOCKET};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, bind, connect, recv, send, shutdown};
use prost::Message as _;

use super::{
    CLOSE_WAIT, CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK, new, set_kinds_options, shown, sockaddr,
    v6only,
};
use crate::error::{Error, Result};
use crate::files::socket::SO_BUF_LOCK;
use crate::image::Images;
use crate::image::proto::{InetSkEntry, TcpStreamEntry};
use crate::sys::socket::{attach_drop_filter, get, get_int, queued, set, set_int};

/// `linux/tcp.h`, `linux/sockios.h`.
const TCP: i32 = libc::IPPROTO_TCP;
const TCP_TIMESTAMP: i32 = 24;
const TCP_REPAIR_WINDOW: i32 = 29;
const SIOCOUTQNSD: libc::Ioctl = 0x894b;
/// Bytes for whatever a queue has (`SO_SNDBUFFORCE`).
const ROOM: i32 = 1 << 26;
const NO_QUEUE: i32 = 0;
const RECEIVED: i32 = 1;
const SENT: i32 = 2;
/// Bits of `tcpi_options`: timestamps, selective acknowledgements, window scaling.
const TIMESTAMPS: u32 = 1;
const SACK: u32 = 2;
const SCALING: u32 = 4;
/// Codes of TCP's options.
const MSS: u32 = 2;
const WINDOW: u32 = 3;
const SACK_PERMITTED: u32 = 4;
const TIMESTAMP: u32 = 8;

/// A saved connection.
#[derive(Clone, Debug)]
pub(in crate::files) struct Stream {
    /// Numbers.
    pub(in crate::files) entry: TcpStreamEntry,
    /// Both queues.
    pub(in crate::files) bytes: Vec<u8>,
    /// Among what was received is a mark of urgent data, which no image has.
    pub(in crate::files) mark: bool,
}

impl Stream {
    /// From a layer; `None` when the connection was not saved.
    pub(super) fn read(images: &Images, ino: u32) -> Result<Option<Self>> {
        let name = format!("tcp-stream-{ino:x}.img");
        let Some(record) = images.records(&name)?.into_iter().next() else {
            return Ok(None);
        };
        let entry = TcpStreamEntry::decode(&*record.bytes)
            .map_err(|e| Error::corrupt(format!("Cannot decode {name}")).because(e))?;
        Ok(Some(Self {
            entry,
            bytes: record.extra,
            mark: false,
        }))
    }
}

/// Connections in repair mode, deaf. When dropped, they go on.
#[derive(Debug, Default)]
pub struct Connections(Vec<Stopped>);

/// One of them.
#[derive(Debug)]
struct Stopped {
    socket: OwnedFd,
    reuse: bool,
    ends: String,
}

impl Connections {
    /// Stops a connection of the frozen target and reads it.
    pub(super) fn save(
        &mut self,
        socket: &OwnedFd,
        state: u32,
        ends: String,
    ) -> nix::Result<Stream> {
        attach_drop_filter(socket)?;
        let reuse = get_int(socket, SOL_SOCKET, libc::SO_REUSEADDR)? != 0;
        self.0.push(Stopped {
            socket: socket.try_clone().map_err(|_full| Errno::EMFILE)?,
            reuse,
            ends,
        });
        set_int(socket, TCP, libc::TCP_REPAIR, 1)?;
        save(socket, state)
    }

    /// Each of them: its ends in words, its socket.
    pub fn each(&self) -> impl Iterator<Item = (&str, &OwnedFd)> {
        self.0.iter().map(|c| (c.ends.as_str(), &c.socket))
    }

    /// The target has ended: its connections end without a word, but for those that somebody else holds.
    pub fn end(mut self) {
        self.0.clear();
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        for Stopped {
            socket,
            reuse,
            ends,
        } in &self.0
        {
            if let Err(errno) = go_on(socket, *reuse) {
                tracing::warn!("The connection of {ends} does not go on: {errno}");
            }
        }
    }
}

fn save(socket: &OwnedFd, state: u32) -> nix::Result<Stream> {
    let mut info = [0; 8];
    get(socket, TCP, libc::TCP_INFO, &mut info)?;
    let options: u32 = info[5].into();
    let scales: u32 = info[6].into();
    let number = |name| get_int(socket, TCP, name).map(i32::cast_unsigned);
    let length = |count: usize| u32::try_from(count).map_err(|_too_large| Errno::EOVERFLOW);
    set_int(socket, TCP, libc::TCP_REPAIR_QUEUE, RECEIVED)?;
    let inq_seq = number(libc::TCP_QUEUE_SEQ)?;
    let (mut bytes, mark) = received(socket)?;
    let inq_len = length(bytes.len())?;
    set_int(socket, TCP, libc::TCP_REPAIR_QUEUE, SENT)?;
    let outq_seq = number(libc::TCP_QUEUE_SEQ)?;
    // Our end waits to be acknowledged: it has a number, but no byte.
    let end = usize::from(matches!(state, FIN_WAIT1 | LAST_ACK | CLOSING));
    let out = queued(socket, libc::TIOCOUTQ)?.saturating_sub(end);
    let out = queue(socket, out)?;
    let outq_len = length(out.len())?;
    bytes.extend(out);
    let unsent = length(queued(socket, SIOCOUTQNSD)?.saturating_sub(end))?;
    set_int(socket, TCP, libc::TCP_REPAIR_QUEUE, NO_QUEUE)?;
    let mut window = [0; 20];
    get(socket, TCP, TCP_REPAIR_WINDOW, &mut window)?;
    let word = |n: usize| {
        let bytes = window
            .get(n * 4..n * 4 + 4)
            .and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes)
    };
    let scaled = options & SCALING != 0;
    let entry = TcpStreamEntry {
        inq_len,
        inq_seq,
        outq_len,
        outq_seq,
        opt_mask: options & (TIMESTAMPS | SACK | SCALING),
        snd_wscale: if scaled { scales & 0xf } else { 0 },
        mss_clamp: number(libc::TCP_MAXSEG)?,
        rcv_wscale: Some(if scaled { scales >> 4 } else { 0 }),
        timestamp: (options & TIMESTAMPS != 0)
            .then(|| number(TCP_TIMESTAMP))
            .transpose()?,
        cork: Some(number(libc::TCP_CORK)? != 0),
        nodelay: Some(number(libc::TCP_NODELAY)? != 0),
        unsq_len: Some(unsent),
        snd_wl1: word(0),
        snd_wnd: word(1),
        max_window: word(2),
        rcv_wnd: word(3),
        rcv_wup: word(4),
    };
    Ok(Stream { entry, bytes, mark })
}

/// The bytes that were received and not read, and whether a mark of urgent data is among them; they stay
/// where they are.
///
/// What tells their number, and what reads them, stops at the mark. With urgent data in line the number
/// is that of all, and reading goes on from the mark when it starts there. The byte of urgent data that
/// was received apart is none of the stream.
fn received(socket: &OwnedFd) -> nix::Result<(Vec<u8>, bool)> {
    let option = |name| get_int(socket, SOL_SOCKET, name);
    let in_line = option(libc::SO_OOBINLINE)?;
    // Kernels before 6.9 do not let programs peek on in TCP.
    let offset = option(libc::SO_PEEK_OFF).ok();
    let up_to_mark = queued(socket, libc::FIONREAD)?;
    set_int(socket, SOL_SOCKET, libc::SO_OOBINLINE, 1)?;
    let bytes = queued(socket, libc::FIONREAD)
        .and_then(|length| in_order(socket, length, offset.is_some()));
    set_int(socket, SOL_SOCKET, libc::SO_OOBINLINE, in_line)?;
    if let Some(offset) = offset {
        set_int(socket, SOL_SOCKET, libc::SO_PEEK_OFF, offset)?;
    }
    let mut bytes = bytes?;
    let apart = up_to_mark < bytes.len();
    if apart {
        bytes.remove(up_to_mark);
    }
    let mark = apart && !bytes.is_empty();
    Ok((bytes, mark))
}

/// As many bytes, peeked in one go or, with `SO_PEEK_OFF`, in several.
fn in_order(socket: &OwnedFd, length: usize, seeks: bool) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        if seeks {
            let at = i32::try_from(done).map_err(|_too_large| Errno::EOVERFLOW)?;
            set_int(socket, SOL_SOCKET, libc::SO_PEEK_OFF, at)?;
        }
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let count = recv(socket.as_raw_fd(), rest, flags)?;
        if count == 0 || (count < rest.len() && !seeks) {
            return Err(Errno::EIO);
        }
        done += count;
    }
    Ok(bytes)
}

/// The bytes of the chosen queue; they stay in it.
fn queue(socket: &OwnedFd, length: usize) -> nix::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    if length == 0 {
        return Ok(bytes);
    }
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let count = recv(socket.as_raw_fd(), &mut bytes, flags)?;
    if count == length {
        Ok(bytes)
    } else {
        Err(Errno::EIO)
    }
}

/// Makes the end of a connection again, still in repair mode.
pub(super) fn reopen(entry: &InetSkEntry, stream: &Stream) -> Result<OwnedFd> {
    make(entry, stream).map_err(|e| {
        let error = Error::os(format!("Cannot make the connection of {}", shown(entry)), e);
        match e {
            Errno::EADDRINUSE => {
                error.hint("end what uses the address, or restore with --tcp-close")
            }
            _ => error.hint("restore with --tcp-close: connections are dropped"),
        }
    })
}

fn make(
    entry: &InetSkEntry,
    Stream {
        entry: saved,
        bytes,
        ..
    }: &Stream,
) -> nix::Result<OwnedFd> {
    let socket = new(entry)?;
    let number = |name, value: u32| set_int(&socket, TCP, name, value.cast_signed());
    set_int(&socket, TCP, libc::TCP_REPAIR, 1)?;
    set_int(&socket, TCP, libc::TCP_REPAIR_QUEUE, SENT)?;
    number(
        libc::TCP_QUEUE_SEQ,
        saved
            .outq_seq
            .wrapping_sub(saved.outq_len)
            .wrapping_sub(has_ended_here(entry.state).into()),
    )?;
    set_int(&socket, TCP, libc::TCP_REPAIR_QUEUE, RECEIVED)?;
    number(
        libc::TCP_QUEUE_SEQ,
        saved.inq_seq.wrapping_sub(saved.inq_len),
    )?;
    set_int(&socket, TCP, libc::TCP_REPAIR_QUEUE, NO_QUEUE)?;
    v6only(&socket, entry)?;
    bind(
        socket.as_raw_fd(),
        &*sockaddr(entry, &entry.src_addr, entry.src_port)?,
    )?;
    connect(
        socket.as_raw_fd(),
        &*sockaddr(entry, &entry.dst_addr, entry.dst_port)?,
    )?;
    let mut options = vec![(MSS, saved.mss_clamp)];
    if saved.opt_mask & SCALING != 0 {
        options.push((
            WINDOW,
            saved.snd_wscale | saved.rcv_wscale.unwrap_or(0) << 16,
        ));
    }
    if saved.opt_mask & SACK != 0 {
        options.push((SACK_PERMITTED, 0));
    }
    if saved.opt_mask & TIMESTAMPS != 0 {
        options.push((TIMESTAMP, 0));
    }
    let pairs = options.iter().flat_map(|(code, value)| [*code, *value]);
    let raw_options: Vec<u8> = pairs.flat_map(u32::to_le_bytes).collect();
    set(&socket, TCP, libc::TCP_REPAIR_OPTIONS, &raw_options)?;
    fit(&socket)?;
    if let Some(timestamp) = saved.timestamp {
        number(TCP_TIMESTAMP, timestamp)?;
    }
    for name in [SO_SNDBUFFORCE, SO_RCVBUFFORCE] {
        set_int(&socket, SOL_SOCKET, name, ROOM)?;
    }
    let length = |count: u32| usize::try_from(count).unwrap_or(0);
    let (received, out) = bytes
        .split_at_checked(length(saved.inq_len))
        .ok_or(Errno::EBADMSG)?;
    let unsent = length(saved.unsq_len.unwrap_or(0));
    let sent = out.len().checked_sub(unsent).ok_or(Errno::EBADMSG)?;
    let (sent, unsent) = out.split_at(sent);
    fill(&socket, RECEIVED, received)?;
    fill(&socket, SENT, sent)?;
    let window = [
        saved.snd_wl1,
        saved.snd_wnd,
        saved.max_window,
        saved.rcv_wnd,
        saved.rcv_wup,
    ];
    if let [Some(a), Some(b), Some(c), Some(d), Some(e)] = window {
        let words: Vec<u8> = [a, b, c, d, e]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        set(&socket, TCP, TCP_REPAIR_WINDOW, &words)?;
        fit(&socket)?;
    }
    set_kinds_options(&socket, entry)?;
    if let Some(nodelay) = saved.nodelay {
        set_int(&socket, TCP, libc::TCP_NODELAY, nodelay.into())?;
    }
    if !unsent.is_empty() {
        // What was never sent goes the usual way; in repair mode it would count as sent.
        // The room that sufficed for it may not suffice for pieces of another size.
        let own = [SO_SNDBUF, SO_BUF_LOCK].map(|name| get_int(&socket, SOL_SOCKET, name));
        set_int(&socket, SOL_SOCKET, SO_SNDBUFFORCE, ROOM)?;
        set_int(&socket, TCP, libc::TCP_REPAIR, -1)?;
        all(&socket, unsent)?;
        set_int(&socket, TCP, libc::TCP_REPAIR, 1)?;
        let [room, locked] = own;
        set_int(&socket, SOL_SOCKET, SO_SNDBUFFORCE, room? / 2)?;
        // Kernels before 5.14 do not tell.
        if let Ok(locked) = locked {
            set_int(&socket, SOL_SOCKET, SO_BUF_LOCK, locked)?;
        }
    }
    Ok(socket)
}

/// Has the kernel reckon anew how long a segment may be: connect(2) did that before it was told what
/// the other end takes, and would leave it at the least that any host takes. Setting the options in the
/// headers of IPv4, to none, is what does it, for IPv6 too.
fn fit(socket: &OwnedFd) -> nix::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &[])
}

/// Puts bytes into a queue.
fn fill(socket: &OwnedFd, queue: i32, bytes: &[u8]) -> nix::Result<()> {
    set_int(socket, TCP, libc::TCP_REPAIR_QUEUE, queue)?;
    all(socket, bytes)?;
    set_int(socket, TCP, libc::TCP_REPAIR_QUEUE, NO_QUEUE)
}

fn all(socket: &OwnedFd, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        let most = bytes.len().min(1 << 16);
        let part = bytes.get(..most).unwrap_or(bytes);
        let sent = send(socket.as_fd().as_raw_fd(), part, MsgFlags::MSG_DONTWAIT)?;
        bytes = bytes.get(sent..).unwrap_or_default();
    }
    Ok(())
}

/// True when our end was announced.
fn has_ended_here(state: u32) -> bool {
    matches!(state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING)
}

/// True when one end was announced, or both.
pub(super) fn is_half_closed(state: u32) -> bool {
    has_ended_here(state) || state == CLOSE_WAIT
}

/// Closes what was closed of a connection that goes on; nothing, when it is so already, or when the
/// connection was dropped.
pub(super) fn close_halves(socket: &OwnedFd, entry: &InetSkEntry) -> nix::Result<()> {
    let close = |half| match shutdown(socket.as_raw_fd(), half) {
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(errno) => Err(errno),
    };
    let ended_there = matches!(entry.state, CLOSE_WAIT | LAST_ACK | CLOSING);
    if ended_there || entry.shutdown.is_some() {
        close(Shutdown::Read)?;
    }
    if has_ended_here(entry.state) {
        close(Shutdown::Write)?;
    }
    Ok(())
}

/// Ends the repair mode of a connection, and its deafness: the other end is told our window, and sends
/// again what was dropped. The kernel forgets `SO_REUSEADDR` then.
pub(super) fn go_on(socket: &OwnedFd, reuse: bool) -> nix::Result<()> {
    if get_int(socket, TCP, libc::TCP_REPAIR)? == 0 {
        return Ok(());
    }
    match set_int(socket, SOL_SOCKET, libc::SO_DETACH_FILTER, 0) {
        // One that was made anew has none.
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    set_int(socket, TCP, libc::TCP_REPAIR, 0)?;
    set_int(socket, SOL_SOCKET, libc::SO_REUSEADDR, reuse.into())
}
