//! What sockets of every family have in common: their nature, and the options of socket(7).
//!
//! CRIU: `sk_opts_entry`. Buffer sizes are as getsockopt(2) gives them, twice what setsockopt(2) takes.

use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::image::proto::SkOptsEntry;
use crate::sys::socket::{filter_length, get, get_int, set, set_int};

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
}

impl Nature {
    /// The nature of a socket of ours.
    ///
    /// # Errors
    /// `ENOTSOCK`.
    pub fn of(fd: impl AsFd) -> nix::Result<Self> {
        let fd = fd.as_fd();
        let of = |name| get_int(fd, libc::SOL_SOCKET, name);
        let mut nature = Self {
            domain: of(libc::SO_DOMAIN)?,
            kind: of(libc::SO_TYPE)?,
            protocol: of(libc::SO_PROTOCOL)?,
            listens: of(libc::SO_ACCEPTCONN)? != 0,
            tcp_state: 0,
            pending: 0,
            backlog: 0,
            // A filter that is not classic is not shown.
            filtered: filter_length(fd).map_or_else(|e| e == Errno::EACCES, |length| length != 0),
        };
        if nature.protocol == libc::IPPROTO_TCP {
            // struct tcp_info: the state, and of a listener `tcpi_unacked` and `tcpi_sacked`.
            let mut info = [0; 32];
            get(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
            let [state, .., a, b, c, d, e, f, g, h] = info;
            nature.tcp_state = state;
            if nature.listens {
                nature.pending = u32::from_le_bytes([a, b, c, d]);
                nature.backlog = u32::from_le_bytes([e, f, g, h]);
            }
        }
        Ok(nature)
    }
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
    if now.so_sndbuf != wanted.so_sndbuf {
        number(libc::SO_SNDBUFFORCE, wanted.so_sndbuf / 2)?;
    }
    if now.so_rcvbuf != wanted.so_rcvbuf {
        number(libc::SO_RCVBUFFORCE, wanted.so_rcvbuf / 2)?;
    }
    if let Some(locked) = wanted.so_buf_lock {
        number(SO_BUF_LOCK, locked)?;
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
    Ok(())
}

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
}
