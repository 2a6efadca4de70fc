//! Options of IP, TCP, UDP and raw sockets: those that CRIU's images have a place for, and those that we add.
//!
//! CRIU: `ip_opts_entry`, `tcp_opts_entry`. Sources: ip(7), ipv6(7), tcp(7).

use std::os::fd::OwnedFd;

use super::super::socket::{FURTHER, set_options, unusual, unusual_bytes};
use super::{CLOSE, LISTEN, is_v6, new, raw, was_tcp};
use crate::image::proto::{InetSkEntry, IpOptsEntry, TcpOptsEntry};
use crate::sys::socket::{get, get_int, reads_no_more, set as set_bytes, set_int};

/// Options of IPv4, IPv6, TCP and UDP that CRIU's images have no place for: level and name.
const MORE: &[(i32, i32)] = &[
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_THIN_LINEAR_TIMEOUTS),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_FASTOPEN),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_TCP, TCP_SAVE_SYN),
    (libc::IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE),
    (libc::IPPROTO_TCP, TCP_INQ),
    (libc::IPPROTO_TCP, TCP_TX_DELAY),
    (libc::IPPROTO_TCP, TCP_RTO_MAX_MS),
    (libc::IPPROTO_UDP, UDP_CORK),
    (libc::IPPROTO_UDP, UDP_ENCAP),
    (libc::IPPROTO_UDP, UDP_NO_CHECK6_TX),
    (libc::IPPROTO_UDP, UDP_NO_CHECK6_RX),
    (libc::IPPROTO_UDP, UDP_SEGMENT),
    (libc::IPPROTO_UDP, UDP_GRO),
    (libc::IPPROTO_IP, libc::IP_RECVOPTS),
    (libc::IPPROTO_IP, libc::IP_RETOPTS),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_RECVTTL),
    (libc::IPPROTO_IP, libc::IP_RECVTOS),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
    (libc::IPPROTO_IP, IP_PASSSEC),
    (libc::IPPROTO_IP, libc::IP_RECVORIGDSTADDR),
    (libc::IPPROTO_IP, IP_MINTTL),
    (libc::IPPROTO_IP, IP_CHECKSUM),
    (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT),
    (libc::IPPROTO_IP, IP_RECVFRAGSIZE),
    (libc::IPPROTO_IP, IP_RECVERR_RFC4884),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_LOOP),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_ALL),
    (libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE),
    (libc::IPPROTO_IPV6, IPV6_2292PKTINFO),
    (libc::IPPROTO_IPV6, IPV6_2292HOPOPTS),
    (libc::IPPROTO_IPV6, IPV6_2292DSTOPTS),
    (libc::IPPROTO_IPV6, IPV6_2292RTHDR),
    (libc::IPPROTO_IPV6, IPV6_2292HOPLIMIT),
    (libc::IPPROTO_IPV6, IPV6_FLOWINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL),
    (libc::IPPROTO_IPV6, IPV6_ROUTER_ALERT_ISOLATE),
    (libc::IPPROTO_IPV6, IPV6_RECVERR_RFC4884),
    (libc::IPPROTO_IPV6, IPV6_FLOWINFO_SEND),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVHOPOPTS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVRTHDR),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVDSTOPTS),
    (libc::IPPROTO_IPV6, IPV6_RECVPATHMTU),
    (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    (libc::IPPROTO_IPV6, IPV6_AUTOFLOWLABEL),
    (libc::IPPROTO_IPV6, IPV6_ADDR_PREFERENCES),
    (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT),
    (libc::IPPROTO_IPV6, IPV6_RECVORIGDSTADDR),
    (libc::IPPROTO_IPV6, IPV6_RECVFRAGSIZE),
];

/// The same, of datagrams only: an accepted connection shows what its first packet had.
const OF_DATAGRAMS: &[(i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (libc::IPPROTO_IP, libc::IP_MULTICAST_IF),
    (libc::IPPROTO_IP, IP_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF),
    (libc::IPPROTO_IPV6, IPV6_UNICAST_IF),
    (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
];

/// The same, of TCP sockets that have no connection; of the others they tell something else, or can no
/// longer be set.
const WITHOUT_CONNECTION: &[(i32, i32)] = &[
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT),
];

/// Options of TCP that are no number: how it avoids congestion, and its keys for TCP_FASTOPEN.
const BYTES: &[(i32, i32)] = &[
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, TCP_FASTOPEN_KEY),
];

/// `linux/tcp.h`.
const TCP_SAVE_SYN: i32 = 27;
const TCP_FASTOPEN_CONNECT: i32 = 30;
const TCP_FASTOPEN_KEY: i32 = 33;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
const TCP_INQ: i32 = 36;
const TCP_TX_DELAY: i32 = 37;
const TCP_RTO_MAX_MS: i32 = 44;
/// `linux/udp.h`.
const UDP_CORK: i32 = 1;
const UDP_ENCAP: i32 = 100;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
/// `linux/in.h`.
const IP_PASSSEC: i32 = 18;
const IP_MINTTL: i32 = 21;
const IP_CHECKSUM: i32 = 23;
const IP_RECVFRAGSIZE: i32 = 25;
const IP_RECVERR_RFC4884: i32 = 26;
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// `linux/in6.h`.
const IPV6_2292PKTINFO: i32 = 2;
const IPV6_2292HOPOPTS: i32 = 3;
const IPV6_2292DSTOPTS: i32 = 4;
const IPV6_2292RTHDR: i32 = 5;
const IPV6_2292HOPLIMIT: i32 = 8;
const IPV6_FLOWINFO: i32 = 11;
const IPV6_ROUTER_ALERT_ISOLATE: i32 = 30;
const IPV6_RECVERR_RFC4884: i32 = 31;
const IPV6_FLOWINFO_SEND: i32 = 33;
const IPV6_RECVPATHMTU: i32 = 60;
const IPV6_AUTOFLOWLABEL: i32 = 70;
const IPV6_ADDR_PREFERENCES: i32 = 72;
const IPV6_MINHOPCOUNT: i32 = 73;
const IPV6_RECVORIGDSTADDR: i32 = 74;
const IPV6_RECVFRAGSIZE: i32 = 77;

/// Bytes of options in a header of IPv4.
const LONGEST: usize = 40;
/// The interface of what is sent (`linux/in.h`, `linux/in6.h`).
const IP_UNICAST_IF: i32 = 50;
const IPV6_UNICAST_IF: i32 = 76;

/// Options of IP, TCP and UDP.
pub(super) fn kinds_options(socket: &OwnedFd, entry: &mut InetSkEntry) {
    let number = |level, name| get_int(socket, level, name).map(i32::cast_unsigned);
    let switch = |level, name| number(level, name).ok().map(|value| value != 0);
    let ip = libc::IPPROTO_IP;
    entry.ip_opts = Some(IpOptsEntry {
        freebind: switch(ip, libc::IP_FREEBIND).filter(|on| *on),
        pktinfo: switch(ip, libc::IP_PKTINFO).filter(|on| *on),
        tos: number(ip, libc::IP_TOS).ok().filter(|tos| *tos != 0),
        ttl: number(ip, libc::IP_TTL).ok(),
        raw: raw::options(socket, entry),
    });
    let mut in_headers = [0; LONGEST];
    let length = get(socket, ip, libc::IP_OPTIONS, &mut in_headers).unwrap_or(0);
    entry.ip_options = in_headers
        .get(..length)
        .filter(|options| !options.is_empty())
        .map(<[u8]>::to_vec);
    if is_v6(entry) {
        entry.v6only = switch(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    }
    if was_tcp(entry) {
        let tcp = libc::IPPROTO_TCP;
        let [count, idle, interval] = [libc::TCP_KEEPCNT, libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL]
            .map(|n| number(tcp, n).ok());
        entry.tcp_opts = Some(TcpOptsEntry {
            cork: switch(tcp, libc::TCP_CORK),
            nodelay: switch(tcp, libc::TCP_NODELAY),
            keepcnt: count,
            keepidle: idle,
            keepintvl: interval,
        });
        // Where CRIU before 4.2 has them.
        entry.opts.tcp_keepcnt = count;
        entry.opts.tcp_keepidle = idle;
        entry.opts.tcp_keepintvl = interval;
    }
    // Not everybody may make a raw socket.
    let fresh = new(entry).ok();
    let its_own: &[&[_]] = match (was_tcp(entry), entry.state) {
        (true, LISTEN) => &[WITHOUT_CONNECTION],
        // One whose connection is over tells how long the segments of that were.
        (true, CLOSE) if !reads_no_more(socket).unwrap_or(false) => &[WITHOUT_CONNECTION],
        (true, _) => &[],
        (false, _) => &[OF_DATAGRAMS, raw::MORE],
    };
    let all = [MORE, FURTHER].into_iter().chain(its_own.iter().copied());
    entry.options = unusual(socket, fresh.as_ref(), all.flatten());
    if let Some(fresh) = fresh.as_ref().filter(|_| was_tcp(entry)) {
        entry.bytes_options = unusual_bytes(socket, fresh, BYTES);
    }
}

/// Sets what has to be set before the socket gets its address, and everything else.
pub(super) fn set_kinds_options(socket: &OwnedFd, entry: &InetSkEntry) -> nix::Result<()> {
    let set = |level, name, value: Option<u32>| match value {
        Some(value) => set_int(socket, level, name, value.cast_signed()),
        None => Ok(()),
    };
    let ip = libc::IPPROTO_IP;
    if let Some(options) = &entry.ip_opts {
        set(ip, libc::IP_FREEBIND, options.freebind.map(u32::from))?;
        set(ip, libc::IP_PKTINFO, options.pktinfo.map(u32::from))?;
        set(ip, libc::IP_TOS, options.tos)?;
        set(ip, libc::IP_TTL, options.ttl)?;
    }
    if let Some(in_headers) = &entry.ip_options {
        set_bytes(socket, ip, libc::IP_OPTIONS, in_headers)?;
    }
    raw::set_options(socket, entry)?;
    if was_tcp(entry) {
        let tcp = libc::IPPROTO_TCP;
        let options = entry.tcp_opts.unwrap_or_default();
        set(
            tcp,
            libc::TCP_KEEPCNT,
            options.keepcnt.or(entry.opts.tcp_keepcnt),
        )?;
        set(
            tcp,
            libc::TCP_KEEPIDLE,
            options.keepidle.or(entry.opts.tcp_keepidle),
        )?;
        set(
            tcp,
            libc::TCP_KEEPINTVL,
            options.keepintvl.or(entry.opts.tcp_keepintvl),
        )?;
        set(tcp, libc::TCP_NODELAY, options.nodelay.map(u32::from))?;
        set(tcp, libc::TCP_CORK, options.cork.map(u32::from))?;
    }
    for option in &entry.options {
        set_int(socket, option.level, option.name, option.value)?;
    }
    for option in &entry.bytes_options {
        set_bytes(socket, option.level, option.name, &option.value)?;
    }
    set_options(socket, &entry.opts)
}

/// Takes IPv4 or not. Before a socket has an address: with one of IPv6 it takes no IPv4 anyway.
pub(super) fn v6only(socket: &OwnedFd, entry: &InetSkEntry) -> nix::Result<()> {
    let (level, name) = (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY);
    match entry.v6only.map(i32::from) {
        Some(only) if get_int(socket, level, name)? != only => set_int(socket, level, name, only),
        _ => Ok(()),
    }
}
