//! What sockets of every family have in common: their nature, and the options of socket(7).
//!
//! CRIU: `sk_opts_entry`. Buffer sizes are as getsockopt(2) gives them, twice what setsockopt(2) takes.
//! An instruction of a filter is one number: code, both jumps, constant, from the highest bit on.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::Refusal;
use super::descriptor::Descriptor;
use crate::image::proto::{SkBytesEntry, SkOptionEntry, SkOptsEntry};
use crate::sys::socket::{
    attach_filter, filter, filter_length, get, get_int, has_error, is_urgent, queued, set, set_int,
    waits,
};

/// `TCP_CLOSE`.
const CLOSED: u8 = 7;

/// What a socket was made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// `AF_UNIX`, …
    pub domain: i32,
    /// `SOCK_STREAM`, …
    pub kind: i32,
    /// `IPPROTO_TCP`, …
    pub protocol: i32,
    /// It listens.
    pub listens: bool,
    /// `tcpi_state` of a TCP socket, 0 of others.
    pub tcp_state: u8,
    /// Connections that it has yet to accept, when it is a TCP socket that listens.
    pub pending: u32,
    /// The most of them.
    pub backlog: u32,
    /// It has a BPF filter.
    pub filtered: bool,
    /// That is not a classic one, so that nobody is told what it is.
    pub opaque: bool,
    /// Something waits in it to be received.
    pub waits: bool,
    /// It has a datagram that the program has begun and not sent (`MSG_MORE`, `UDP_CORK`).
    pub begun: bool,
    /// Another protocol has been put between TCP and the program (`TCP_ULP`: TLS).
    pub layered: bool,
    /// Urgent data of a TCP connection waits, or is announced.
    pub urgent: bool,
    /// That is among the other bytes (`SO_OOBINLINE`).
    pub in_line: bool,
    /// An error of a TCP socket that has no connection waits to be told.
    pub failed: Option<Failed>,
}

/// Which error that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// It never had a connection: connect(2) failed.
    Connect,
    /// Its connection ended by it.
    Connection,
}

impl Nature {
    /// The nature of a socket of ours.
    ///
    /// # Errors
    /// `ENOTSOCK`.
    pub fn of(fd: impl AsFd) -> nix::Result<Self> {
        let fd = fd.as_fd();
        let of = |name| get_int(fd, libc::SOL_SOCKET, name);
        let filter = filter_length(fd);
        let mut nature = Self {
            domain: of(libc::SO_DOMAIN)?,
            kind: of(libc::SO_TYPE)?,
            protocol: of(libc::SO_PROTOCOL)?,
            listens: of(libc::SO_ACCEPTCONN)? != 0,
            tcp_state: 0,
            pending: 0,
            backlog: 0,
            waits: waits(fd)?,
            opaque: filter == Err(Errno::EACCES),
            filtered: filter.map_or_else(|e| e == Errno::EACCES, |length| length != 0),
            begun: false,
            layered: false,
            urgent: false,
            in_line: of(libc::SO_OOBINLINE)? != 0,
            failed: None,
        };
        if nature.protocol == libc::IPPROTO_UDP && nature.kind == libc::SOCK_DGRAM {
            // What has been sent counts only as long as the network has it.
            nature.begun = queued(fd, libc::TIOCOUTQ)? != 0;
        }
        if nature.is_tcp() {
            // struct tcp_info: the state, of a listener `tcpi_unacked` and `tcpi_sacked`, and `tcpi_rtt`,
            // which only who had another end knows.
            let mut info = [0; 72];
            get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
            let word = |at: usize| {
                let bytes = info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
                bytes.map_or(0, u32::from_le_bytes)
            };
            nature.tcp_state = info[0];
            if nature.listens {
                (nature.pending, nature.backlog) = (word(24), word(28));
            } else if nature.tcp_state == CLOSED {
                let had_other_end = word(68) != 0;
                nature.failed = has_error(fd)?.then_some(if had_other_end {
                    Failed::Connection
                } else {
                    Failed::Connect
                });
            } else {
                let plain = nature.protocol == libc::IPPROTO_TCP;
                nature.urgent = plain && is_urgent(fd)?;
                let mut name = [0; 16];
                let length = get(fd, libc::IPPROTO_TCP, libc::TCP_ULP, &mut name).unwrap_or(0);
                nature.layered = plain && length != 0;
            }
        }
        Ok(nature)
    }

    /// A TCP socket, not a raw one that sees the segments of TCP; or one that may use several paths,
    /// as those that programs in Go listen with.
    pub(super) fn is_tcp(self) -> bool {
        matches!(self.protocol, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP)
            && self.kind == libc::SOCK_STREAM
    }
}

/// Why a socket with a filter that nobody is told cannot be dumped; `what` it is.
pub(super) fn opaque_filter(file: &Descriptor, what: &str) -> Option<Refusal> {
    file.socket.filter(|nature| nature.opaque).map(|_| Refusal {
        what: format!("{what} with an extended BPF filter ({})", file.shown()),
        hint: "have the program detach the filter before the dump".to_owned(),
    })
}

/// That a restored process does not get what waits in a socket; `what` it is.
pub(super) fn waiting(file: &Descriptor, what: &str) -> Option<Refusal> {
    file.socket.filter(|nature| nature.waits).map(|_| Refusal {
        what: format!("{what} with something to be received ({})", file.shown()),
        hint: "let the program receive it: a restored process does not get that".to_owned(),
    })
}

/// The options of a socket.
///
/// # Errors
/// As getsockopt(2).
pub(super) fn options(fd: impl AsFd) -> nix::Result<SkOptsEntry> {
    let fd = fd.as_fd();
    let number = |name| get_int(fd, libc::SOL_SOCKET, name).map(i32::cast_unsigned);
    // Not every family has every option.
    let maybe = |name| number(name).ok();
    let switch = |name| number(name).ok().map(|value| value != 0);
    let time = |name| -> nix::Result<(u64, u64)> {
        let mut bytes = [0; 16];
        get(fd, libc::SOL_SOCKET, name, &mut bytes)?;
        Ok((word(&bytes[..8]), word(&bytes[8..])))
    };
    let (so_snd_tmo_sec, so_snd_tmo_usec) = time(libc::SO_SNDTIMEO)?;
    let (so_rcv_tmo_sec, so_rcv_tmo_usec) = time(libc::SO_RCVTIMEO)?;
    let mut device = [0; libc::IFNAMSIZ];
    let length = get(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut device).unwrap_or(0);
    let device = String::from_utf8_lossy(&device[..length]);
    let device = device.trim_end_matches('\0');
    let mut linger = [0; 8];
    let lingers = get(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut linger).is_ok();
    let [on, .., a, b, c, d] = linger;
    Ok(SkOptsEntry {
        so_sndbuf: number(libc::SO_SNDBUF)?,
        so_rcvbuf: number(libc::SO_RCVBUF)?,
        so_snd_tmo_sec,
        so_snd_tmo_usec,
        so_rcv_tmo_sec,
        so_rcv_tmo_usec,
        reuseaddr: switch(libc::SO_REUSEADDR),
        so_priority: maybe(libc::SO_PRIORITY),
        so_rcvlowat: maybe(libc::SO_RCVLOWAT),
        so_mark: maybe(libc::SO_MARK),
        so_passcred: switch(libc::SO_PASSCRED),
        so_passsec: switch(libc::SO_PASSSEC),
        so_dontroute: switch(libc::SO_DONTROUTE),
        so_no_check: switch(libc::SO_NO_CHECK),
        so_bound_dev: (!device.is_empty()).then(|| device.to_owned()),
        so_reuseport: switch(libc::SO_REUSEPORT),
        so_broadcast: switch(libc::SO_BROADCAST),
        so_keepalive: switch(libc::SO_KEEPALIVE),
        so_oobinline: maybe(libc::SO_OOBINLINE),
        so_filter: filter(fd)?.into_iter().map(encoded).collect(),
        so_lock_filter: switch(SO_LOCK_FILTER).filter(|locked| *locked),
        so_linger: (lingers && on != 0).then(|| u32::from_le_bytes([a, b, c, d])),
        so_buf_lock: maybe(SO_BUF_LOCK),
        ..SkOptsEntry::default()
    })
}

/// Sets the options of a socket, those that differ from what it has.
///
/// # Errors
/// As setsockopt(2).
pub(super) fn set_options(fd: impl AsFd, wanted: &SkOptsEntry) -> nix::Result<()> {
    let fd = fd.as_fd();
    let now = options(fd)?;
    let number = |name, value: u32| set_int(fd, libc::SOL_SOCKET, name, value.cast_signed());
    // Without the right to exceed the limits a size within them will do.
    let sized = |name, modest, size| match number(name, size) {
        Err(Errno::EPERM) => number(modest, size),
        done => done,
    };
    if now.so_sndbuf != wanted.so_sndbuf {
        sized(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, wanted.so_sndbuf / 2)?;
    }
    if now.so_rcvbuf != wanted.so_rcvbuf {
        sized(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, wanted.so_rcvbuf / 2)?;
    }
    if let Some(locked) = wanted.so_buf_lock {
        match number(SO_BUF_LOCK, locked) {
            // MPTCP sizes its buffers by itself only as long as nobody has set them.
            Ok(()) | Err(Errno::EOPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
    }
    for (name, now, wanted) in [
        (libc::SO_PRIORITY, now.so_priority, wanted.so_priority),
        (libc::SO_RCVLOWAT, now.so_rcvlowat, wanted.so_rcvlowat),
        (libc::SO_MARK, now.so_mark, wanted.so_mark),
        (libc::SO_OOBINLINE, now.so_oobinline, wanted.so_oobinline),
        switch(libc::SO_REUSEADDR, now.reuseaddr, wanted.reuseaddr),
        switch(libc::SO_REUSEPORT, now.so_reuseport, wanted.so_reuseport),
        switch(libc::SO_PASSCRED, now.so_passcred, wanted.so_passcred),
        switch(libc::SO_PASSSEC, now.so_passsec, wanted.so_passsec),
        switch(libc::SO_DONTROUTE, now.so_dontroute, wanted.so_dontroute),
        switch(libc::SO_NO_CHECK, now.so_no_check, wanted.so_no_check),
        switch(libc::SO_BROADCAST, now.so_broadcast, wanted.so_broadcast),
        switch(libc::SO_KEEPALIVE, now.so_keepalive, wanted.so_keepalive),
    ] {
        if let Some(value) = wanted
            && now != Some(value)
        {
            number(name, value)?;
        }
    }
    let time = |name, seconds: u64, micros: u64| {
        let bytes = [seconds.to_le_bytes(), micros.to_le_bytes()].concat();
        set(fd, libc::SOL_SOCKET, name, &bytes)
    };
    time(
        libc::SO_SNDTIMEO,
        wanted.so_snd_tmo_sec,
        wanted.so_snd_tmo_usec,
    )?;
    time(
        libc::SO_RCVTIMEO,
        wanted.so_rcv_tmo_sec,
        wanted.so_rcv_tmo_usec,
    )?;
    if let Some(device) = &wanted.so_bound_dev {
        set(
            fd,
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            device.as_bytes(),
        )?;
    }
    if let Some(seconds) = wanted.so_linger {
        let bytes = [1_u32.to_le_bytes(), seconds.to_le_bytes()].concat();
        set(fd, libc::SOL_SOCKET, libc::SO_LINGER, &bytes)?;
    }
    if now.so_filter != wanted.so_filter {
        let filter: Vec<_> = wanted.so_filter.iter().copied().map(decoded).collect();
        attach_filter(fd, &filter)?;
    }
    if wanted.so_lock_filter == Some(true) {
        number(SO_LOCK_FILTER, 1)?;
    }
    Ok(())
}

/// An instruction of a filter as CRIU notes it.
fn encoded(instruction: libc::sock_filter) -> u64 {
    let [jt, jf] = [instruction.jt, instruction.jf].map(u64::from);
    u64::from(instruction.code) << 48 | jt << 40 | jf << 32 | u64::from(instruction.k)
}

fn decoded(number: u64) -> libc::sock_filter {
    let [a, b, jt, jf, c, d, e, f] = number.to_be_bytes();
    libc::sock_filter {
        code: u16::from_be_bytes([a, b]),
        jt,
        jf,
        k: u32::from_be_bytes([c, d, e, f]),
    }
}

/// Options of sockets of any family that CRIU's images have no place for (`asm-generic/socket.h`): time
/// stamps, counted drops, errors and select(2), busy polling, frame checks, what is told with what is
/// received and may be received, where a peek begins, how fast it sends.
pub(super) const FURTHER: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_DEBUG),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMP),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS),
    (libc::SOL_SOCKET, libc::SO_TIMESTAMPING),
    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL),
    (libc::SOL_SOCKET, libc::SO_WIFI_STATUS),
    (libc::SOL_SOCKET, libc::SO_PEEK_OFF),
    (libc::SOL_SOCKET, libc::SO_NOFCS),
    (libc::SOL_SOCKET, libc::SO_SELECT_ERR_QUEUE),
    (libc::SOL_SOCKET, libc::SO_BUSY_POLL),
    (libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE),
    (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
    (libc::SOL_SOCKET, SO_TIMESTAMP_NEW),
    (libc::SOL_SOCKET, SO_TIMESTAMPNS_NEW),
    (libc::SOL_SOCKET, SO_PREFER_BUSY_POLL),
    (libc::SOL_SOCKET, SO_TXREHASH),
    (libc::SOL_SOCKET, SO_RCVMARK),
    (libc::SOL_SOCKET, SO_PASSPIDFD),
    (libc::SOL_SOCKET, SO_RCVPRIORITY),
    (libc::SOL_SOCKET, SO_PASSRIGHTS),
];

/// Those of the options `all` of a socket that are not as in one just made. When none may be made, that
/// are on.
pub(super) fn unusual<'a>(
    socket: &OwnedFd,
    fresh: Option<&OwnedFd>,
    all: impl IntoIterator<Item = &'a (i32, i32)>,
) -> Vec<SkOptionEntry> {
    let unusual = |&(level, name): &(i32, i32)| {
        let value = get_int(socket, level, name).ok()?;
        let usual = fresh.map_or(Some(0), |fresh| get_int(fresh, level, name).ok());
        (usual != Some(value)).then_some(SkOptionEntry { level, name, value })
    };
    all.into_iter().filter_map(unusual).collect()
}

/// The same of options that are no number.
pub(super) fn unusual_bytes(
    socket: &OwnedFd,
    fresh: &OwnedFd,
    all: &[(i32, i32)],
) -> Vec<SkBytesEntry> {
    let value = |socket: &OwnedFd, level, name| {
        let mut bytes = [0; 64];
        let length = get(socket, level, name, &mut bytes).ok()?;
        bytes.get(..length).map(<[u8]>::to_vec)
    };
    let unusual = |&(level, name): &(i32, i32)| {
        let is = value(socket, level, name)?;
        let differs = value(fresh, level, name).as_ref() != Some(&is);
        let value = is;
        differs.then_some(SkBytesEntry { level, name, value })
    };
    all.iter().filter_map(unusual).collect()
}

/// Whether the filter is there to stay, and what libc has no names for.
const SO_LOCK_FILTER: i32 = 44;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_TXREHASH: i32 = 74;
const SO_RCVMARK: i32 = 75;
const SO_PASSPIDFD: i32 = 76;
const SO_RCVPRIORITY: i32 = 82;
const SO_PASSRIGHTS: i32 = 83;

/// Which buffer sizes the program has set itself (`asm-generic/socket.h`).
pub(super) const SO_BUF_LOCK: i32 = 72;

fn switch(name: i32, now: Option<bool>, wanted: Option<bool>) -> (i32, Option<u32>, Option<u32>) {
    (name, now.map(u32::from), wanted.map(u32::from))
}

fn word(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::time::Duration;

    use super::*;

    #[test]
    fn options_can_be_put_on_another_socket() {
        let (one, other) = UnixDatagram::pair().unwrap();
        set_int(&one, libc::SOL_SOCKET, libc::SO_SNDBUF, 50_000).unwrap();
        set_int(&one, libc::SOL_SOCKET, libc::SO_PASSCRED, 1).unwrap();
        one.set_read_timeout(Some(Duration::from_millis(1700)))
            .unwrap();
        let wanted = options(&one).unwrap();
        assert_ne!(options(&other).unwrap(), wanted);
        set_options(&other, &wanted).unwrap();
        assert_eq!(options(&other).unwrap(), wanted);
    }

    #[test]
    fn a_filter_is_noted_as_criu_does_and_comes_back() {
        // As CRIU 4.1 wrote it: ld [12]; jeq #0x11223344, 2, 3; ret #-1; ret #0, three times.
        let noted = [
            11_258_999_068_426_252,
            5_913_186_706_535_236,
            1_688_854_155_231_231,
            1_688_849_860_263_936,
            1_688_849_860_263_936,
            1_688_849_860_263_936,
        ];
        let (one, other) = UnixDatagram::pair().unwrap();
        let filter: Vec<_> = noted.into_iter().map(decoded).collect();
        assert_eq!((filter[1].code, filter[1].k), (0x15, 0x1122_3344));
        assert_eq!((filter[1].jt, filter[1].jf), (2, 3));
        attach_filter(&one, &filter).unwrap();
        set_int(&one, libc::SOL_SOCKET, SO_LOCK_FILTER, 1).unwrap();
        let wanted = options(&one).unwrap();
        assert_eq!(wanted.so_filter, noted);
        set_options(&other, &wanted).unwrap();
        assert_eq!(options(&other).unwrap(), wanted);
    }
}
