//! Raw sockets, which see a whole protocol, and ping sockets (`SOCK_DGRAM` with the protocol ICMP).
//!
//! CRIU: an `inet_sk_entry` whose type is `SOCK_RAW`, with `ip_opts_raw_entry`; the number of the
//! protocol takes the place of the port. It has no place for the offset of `IPV6_CHECKSUM`. Which other
//! end such a socket has is told by `/proc/net` only: it has no port there, and getpeername(2) fails. CRIU
//! takes only what has a port for connected, so the number of the protocol stands in for that of the other
//! end, too. What waits to be received is not saved, as with UDP.
//! Sources: raw(7), icmp(7), ipv6(7), RFC 3542.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use procfs::net::UdpNetEntries;
use procfs::{FromReadSI as _, current_system_info};

use super::{ESTABLISHED, ip, is_v6, new};
use crate::error::{Kind, Obstacle};
use crate::files::Nature;
use crate::image::proto::{InetSkEntry, IpOptsRawEntry};
use crate::sys::socket::{get, get_int, set, set_int};

/// The level of options that are for raw sockets only.
const SOL_RAW: i32 = 255;
/// `ICMP_FILTER` of `linux/icmp.h` and `ICMPV6_FILTER` of `linux/icmpv6.h`.
const FILTER: i32 = 1;
/// `linux/in.h`.
const IP_NODEFRAG: i32 = 22;

/// Options that CRIU's images have no place for: level and name.
pub(super) const MORE: &[(i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_ROUTER_ALERT),
    (SOL_RAW, libc::IPV6_CHECKSUM),
];

/// A socket for a whole protocol.
pub(super) fn is_raw(nature: Nature) -> bool {
    nature.kind == libc::SOCK_RAW
}

/// A socket that asks for echoes, for which no right is needed.
pub(super) fn is_ping(nature: Nature) -> bool {
    nature.kind == libc::SOCK_DGRAM
        && matches!(nature.protocol, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6)
}

/// The same, of a layer.
pub(super) fn was_raw(entry: &InetSkEntry) -> bool {
    entry.r#type == libc::SOCK_RAW.cast_unsigned()
}

fn was_ping(entry: &InetSkEntry) -> bool {
    let protocol = entry.proto.cast_signed();
    let pings = matches!(protocol, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6);
    pings && !was_raw(entry)
}

/// One of both.
pub(super) fn without_port(entry: &InetSkEntry) -> bool {
    was_raw(entry) || was_ping(entry)
}

/// Its protocol in words.
pub(super) fn protocol(entry: &InetSkEntry) -> String {
    if was_ping(entry) {
        return "ping".to_owned();
    }
    let name = match entry.proto.cast_signed() {
        libc::IPPROTO_ICMP => "ICMP",
        libc::IPPROTO_IGMP => "IGMP",
        libc::IPPROTO_TCP => "TCP",
        libc::IPPROTO_UDP => "UDP",
        libc::IPPROTO_ICMPV6 => "ICMPv6",
        libc::IPPROTO_RAW => "any",
        other => return format!("raw protocol {other}"),
    };
    format!("raw {name}")
}

/// It has an address of its own. Raw sockets have no port.
pub(super) fn has_address(entry: &InetSkEntry) -> bool {
    ip(&entry.src_addr).is_some_and(|ip| !ip.is_unspecified())
}

/// The other end of the socket with this inode number, when it is connected to a port 0.
pub(super) fn peer(nature: Nature, ino: u64) -> Option<SocketAddr> {
    let table = match (nature.domain, is_ping(nature)) {
        (libc::AF_INET6, false) => "raw6",
        (libc::AF_INET6, true) => "icmp6",
        (_, false) => "raw",
        (_, true) => "icmp",
    };
    let path = format!("/proc/net/{table}");
    let UdpNetEntries(all) = UdpNetEntries::from_file(path, current_system_info()).ok()?;
    let found = all.into_iter().find(|socket| socket.inode == ino)?;
    let remote = found.remote_address;
    (!remote.ip().is_unspecified()).then_some(remote)
}

/// What the images have as port of the other end.
pub(super) fn noted_port(entry: &InetSkEntry) -> u32 {
    if without_port(entry) && entry.state == ESTABLISHED && entry.dst_port == 0 {
        return entry.proto;
    }
    entry.dst_port
}

/// The port to connect to.
pub(super) fn true_port(entry: &InetSkEntry) -> u32 {
    if without_port(entry) && entry.dst_port == entry.proto {
        return 0;
    }
    entry.dst_port
}

/// Options of raw sockets.
pub(super) fn options(socket: &OwnedFd, entry: &InetSkEntry) -> Option<IpOptsRawEntry> {
    if !was_raw(entry) {
        return None;
    }
    let switch = |(level, name)| {
        let value = get_int(socket, level, name).ok();
        value.filter(|value| *value != 0).map(|_| true)
    };
    let mut filter = vec![0; words_of_filter(entry) * 4];
    let length = match level_of_filter(entry) {
        Some(level) => get(socket, level, FILTER, &mut filter).unwrap_or(0),
        None => 0,
    };
    let words = filter.get(..length).unwrap_or_default().chunks_exact(4);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    Some(IpOptsRawEntry {
        hdrincl: switch(own_headers(entry)),
        nodefrag: switch((libc::IPPROTO_IP, IP_NODEFRAG)),
        checksum: None,
        icmpv_filter: words.map(word).collect(),
    })
}

/// Sets them.
pub(super) fn set_options(socket: &OwnedFd, entry: &InetSkEntry) -> nix::Result<()> {
    let Some(options) = entry.ip_opts.as_ref().and_then(|all| all.raw.as_ref()) else {
        return Ok(());
    };
    // Layers of CRIU name options that this socket does not have, as off.
    for ((level, name), value) in [
        (own_headers(entry), options.hdrincl),
        ((libc::IPPROTO_IP, IP_NODEFRAG), options.nodefrag),
    ] {
        if value == Some(true) {
            set_int(socket, level, name, 1)?;
        }
    }
    if let Some(level) = level_of_filter(entry)
        && options.icmpv_filter.len() == words_of_filter(entry)
    {
        let words = options.icmpv_filter.iter();
        let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        set(socket, level, FILTER, &bytes)?;
    }
    Ok(())
}

/// The option by which packets have their own headers.
fn own_headers(entry: &InetSkEntry) -> (i32, i32) {
    if is_v6(entry) {
        return (libc::IPPROTO_IPV6, libc::IPV6_HDRINCL);
    }
    (libc::IPPROTO_IP, libc::IP_HDRINCL)
}

fn level_of_filter(entry: &InetSkEntry) -> Option<i32> {
    match (is_v6(entry), entry.proto.cast_signed()) {
        (false, libc::IPPROTO_ICMP) => Some(SOL_RAW),
        (true, libc::IPPROTO_ICMPV6) => Some(libc::IPPROTO_ICMPV6),
        _ => None,
    }
}

/// One bit for each type of message.
fn words_of_filter(entry: &InetSkEntry) -> usize {
    if is_v6(entry) { 8 } else { 1 }
}

/// What forbids to make such a socket here.
pub(super) fn forbidden(entry: &InetSkEntry) -> Option<Obstacle> {
    let why = new(entry).err()?;
    let hint = match why {
        Errno::EPERM => "restore as root, or with CAP_NET_RAW".to_owned(),
        Errno::EACCES => "let the group of icecore ping: sysctl -w \
                          net.ipv4.ping_group_range='0 2147483647'"
            .to_owned(),
        other => format!("the kernel says: {}", other.desc()),
    };
    let what = format!("A {} socket may not be made", protocol(entry));
    Some(Obstacle::new(Kind::Permission, what, hint))
}
