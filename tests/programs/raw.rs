//! Raw sockets of IPv4 and IPv6, bound and connected, with filters for ICMP and for BPF; and UDP and
//! netlink sockets with such a filter. With the argument `ping` also sockets that need no right to ask
//! for echoes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    MsgFlags, SockaddrIn, SockaddrIn6, bind, connect, getsockname, recv, send, sendto,
};

use crate::desk::{Answer, Desk, Program, same};
use crate::options::{attach, filter, get, get_int, only, set, set_int, socket};

const LOCAL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
const LOCAL6: SocketAddrV6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
const SOL_RAW: i32 = 255;
/// ICMP messages of all types but this are dropped: answers to a ping.
const REPLY: u8 = 0;
const REPLY6: u8 = 129;
/// A protocol for experiments.
const OURS: i32 = 253;
const FILTER: i32 = 1;
const LOCK_FILTER: i32 = 44;

/// Has the first router on the way note its address (RFC 791).
const ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 0];

struct Raw {
    /// Bound to an address, takes answers to pings only.
    icmp: OwnedFd,
    /// Connected; its packets have their own headers.
    headers: OwnedFd,
    /// Sees what goes to the UDP socket, by a filter that is locked.
    sniffer: OwnedFd,
    /// Connected by IPv6, takes answers to pings only.
    icmp6: OwnedFd,
    /// Has the kernel put in checksums, and its own headers.
    sums: OwnedFd,
    /// Gets only what begins with a certain word.
    udp: UdpSocket,
    netlink: OwnedFd,
    pings: Option<(OwnedFd, OwnedFd, u16)>,
}

/// What begins with `hi`; a filter of UDP begins at its header.
const HELLO: [u64; 4] = only(8, u16::from_be_bytes(*b"hi"));

/// Packets to a port, seen with a header of IPv4.
fn to_port(udp: &UdpSocket) -> [u64; 4] {
    only(22, udp.local_addr().unwrap().port())
}

/// Blocks everything but one type.
fn types_but(kind: u8) -> [u8; 32] {
    let mut bits = [0xff; 32];
    bits[usize::from(kind / 8)] &= !(1 << (kind % 8));
    bits
}

/// Builds it and serves.
pub fn run(mut desk: Desk, args: &[String]) {
    let (ip, ip6) = (libc::IPPROTO_IP, libc::IPPROTO_IPV6);
    let raw = |domain, protocol| socket(domain, libc::SOCK_RAW, protocol).unwrap();
    let icmp = raw(libc::AF_INET, libc::IPPROTO_ICMP);
    bind(icmp.as_raw_fd(), &SockaddrIn::from(LOCAL)).unwrap();
    set(&icmp, SOL_RAW, FILTER, &types_but(REPLY)[..4]);
    set_int(&icmp, libc::SOL_SOCKET, libc::SO_TIMESTAMP, 1);
    set_int(&icmp, ip, libc::IP_RECVTTL, 1);
    set_int(&icmp, ip, libc::IP_TTL, 33);
    let headers = raw(libc::AF_INET, libc::IPPROTO_RAW);
    connect(headers.as_raw_fd(), &SockaddrIn::from(LOCAL)).unwrap();
    let udp = UdpSocket::bind(LOCAL).unwrap();
    attach(&udp, &HELLO);
    let sniffer = raw(libc::AF_INET, libc::IPPROTO_UDP);
    attach(&sniffer, &to_port(&udp));
    set_int(&sniffer, libc::SOL_SOCKET, LOCK_FILTER, 1);
    set(&sniffer, ip, libc::IP_OPTIONS, &ROUTE);
    let icmp6 = raw(libc::AF_INET6, libc::IPPROTO_ICMPV6);
    connect(icmp6.as_raw_fd(), &SockaddrIn6::from(LOCAL6)).unwrap();
    set(&icmp6, libc::IPPROTO_ICMPV6, FILTER, &types_but(REPLY6));
    set_int(&icmp6, ip6, libc::IPV6_RECVHOPLIMIT, 1);
    let sums = raw(libc::AF_INET6, OURS);
    set_int(&sums, SOL_RAW, libc::IPV6_CHECKSUM, 6);
    set_int(&sums, ip6, libc::IPV6_HDRINCL, 1);
    let netlink = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).unwrap();
    attach(&netlink, &only(4, 16));
    let pings = args.iter().any(|arg| arg == "ping").then(|| {
        let ping = |domain, protocol| socket(domain, libc::SOCK_DGRAM, protocol).unwrap();
        let four = ping(libc::AF_INET, libc::IPPROTO_ICMP);
        bind(four.as_raw_fd(), &SockaddrIn::from(LOCAL)).unwrap();
        let number = port(&four);
        (four, ping(libc::AF_INET6, libc::IPPROTO_ICMPV6), number)
    });
    let mut raw = Raw {
        icmp,
        headers,
        sniffer,
        icmp6,
        sums,
        udp,
        netlink,
        pings,
    };
    desk.serve(&mut raw);
}

/// The number that a ping socket puts into its questions.
fn port(ping: &OwnedFd) -> u16 {
    getsockname::<SockaddrIn>(ping.as_raw_fd()).unwrap().port()
}

/// A question of ICMP, with its checksum (RFC 1071); the kernel makes that of ICMPv6.
fn question(kind: u8, number: u16) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(number.to_be_bytes());
    bytes.extend(*b"\0\x01icecore!");
    let words = bytes
        .chunks_exact(2)
        .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Receives until it is the answer to our question; nothing else than answers may come.
fn answer(socket: &OwnedFd, skip: usize, kind: u8, number: Option<u16>) -> Result<(), String> {
    loop {
        let mut bytes = [0; 256];
        let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty());
        let length = length.map_err(|e| format!("answer {kind}: {e}"))?;
        let bytes = &bytes[skip..length];
        same("type", &bytes[0], &kind)?;
        let ours = number.is_none_or(|number| bytes[4..6] == number.to_be_bytes());
        if ours && bytes.ends_with(b"icecore!") {
            return Ok(());
        }
    }
}

impl Program for Raw {
    fn check(&mut self) -> Answer {
        let (ip, ip6) = (libc::IPPROTO_IP, libc::IPPROTO_IPV6);
        let name = getsockname::<SockaddrIn>(self.icmp.as_raw_fd()).unwrap();
        same("name", &name.ip(), &Ipv4Addr::LOCALHOST)?;
        let word = &types_but(REPLY)[..4];
        same("filter", &get(&self.icmp, SOL_RAW, FILTER)?, &word.to_vec())?;
        let words = types_but(REPLY6).to_vec();
        let is = get(&self.icmp6, libc::IPPROTO_ICMPV6, FILTER)?;
        same("filter of IPv6", &is, &words)?;
        same("ttl", &get_int(&self.icmp, ip, libc::IP_TTL)?, &33)?;
        let own = get_int(&self.headers, ip, libc::IP_HDRINCL)?;
        same("headers", &own, &1)?;
        same("udp's filter", &filter(&self.udp), &HELLO.to_vec())?;
        let wanted = to_port(&self.udp).to_vec();
        same("sniffer's filter", &filter(&self.sniffer), &wanted)?;
        let filter = filter(&self.netlink);
        same("netlink's filter", &filter, &only(4, 16).to_vec())?;
        let far = getsockname::<SockaddrIn6>(self.icmp6.as_raw_fd()).unwrap();
        same("connected", &far.ip(), &Ipv6Addr::LOCALHOST)?;
        let own = get_int(&self.sums, ip6, libc::IPV6_HDRINCL)?;
        same("headers of IPv6", &own, &1)?;
        if let Some((ping, _, number)) = &self.pings {
            same("number", &port(ping), number)?;
        }
        let hops = get_int(&self.icmp6, ip6, libc::IPV6_MULTICAST_LOOP)?;
        same("loop", &hops, &1)?;
        Ok(String::new())
    }

    /// `talk` uses everything; `leave` does not receive an answer; `all` looks at what CRIU's images have no place for.
    fn command(&mut self, words: &[&str]) -> Answer {
        let (ip, ip6) = (libc::IPPROTO_IP, libc::IPPROTO_IPV6);
        if words == ["all"] {
            let shared = libc::SOL_SOCKET;
            let stamps = get_int(&self.icmp, shared, libc::SO_TIMESTAMP)?;
            same("time stamps", &stamps, &1)?;
            same("ttl", &get_int(&self.icmp, ip, libc::IP_RECVTTL)?, &1)?;
            let locked = get_int(&self.sniffer, shared, LOCK_FILTER)?;
            same("lock", &locked, &1)?;
            let route = get(&self.sniffer, ip, libc::IP_OPTIONS)?;
            same("options in headers", &route, &ROUTE.to_vec())?;
            let hops = get_int(&self.icmp6, ip6, libc::IPV6_RECVHOPLIMIT)?;
            same("hops", &hops, &1)?;
            let sum = get_int(&self.sums, SOL_RAW, libc::IPV6_CHECKSUM)?;
            same("checksum", &sum, &6)?;
            return Ok(String::new());
        }
        if words == ["leave"] {
            let to = SockaddrIn::from(LOCAL);
            let icmp = self.icmp.as_raw_fd();
            let sent = sendto(icmp, &question(8, 1), &to, MsgFlags::empty());
            sent.map_err(|e| e.to_string())?;
            return recv(icmp, &mut [0; 64], MsgFlags::MSG_PEEK)
                .map(|_| String::new())
                .map_err(|e| e.to_string());
        }
        let text = |e: nix::Error| e.to_string();
        let none = MsgFlags::empty();
        let number = std::process::id() as u16 ^ 0x5a5a;
        let to = SockaddrIn::from(LOCAL);
        sendto(self.icmp.as_raw_fd(), &question(8, number), &to, none).map_err(text)?;
        answer(&self.icmp, 20, REPLY, Some(number))?;
        send(self.icmp6.as_raw_fd(), &question(128, number), none).map_err(text)?;
        answer(&self.icmp6, 0, REPLY6, Some(number))?;
        if let Some((four, six, _)) = &self.pings {
            sendto(four.as_raw_fd(), &question(8, 0), &to, none).map_err(text)?;
            answer(four, 0, REPLY, None)?;
            let to = SockaddrIn6::from(LOCAL6);
            sendto(six.as_raw_fd(), &question(128, 0), &to, none).map_err(text)?;
            answer(six, 0, REPLY6, None)?;
        }
        // One that the filter lets pass, after one that it does not.
        for say in [*b"no", *b"hi"] {
            let port = self.udp.local_addr().unwrap().port().to_be_bytes();
            // Version and length, its length, protocol and addresses; the kernel adds the checksum.
            let mut packet = vec![0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0];
            packet.extend([127, 0, 0, 1, 127, 0, 0, 1]);
            packet.extend([0x12, 0x34, port[0], port[1], 0, 10, 0, 0]);
            packet.extend(say);
            send(self.headers.as_raw_fd(), &packet, none).map_err(text)?;
            let mut is = [0; 64];
            let length = recv(self.sniffer.as_raw_fd(), &mut is, none).map_err(text)?;
            same("sniffed", &&is[28..length], &&say[..])?;
        }
        let mut is = [0; 64];
        self.udp.set_nonblocking(true).unwrap();
        let (length, from) = self.udp.recv_from(&mut is).map_err(|e| e.to_string())?;
        same(
            "received",
            &(&is[..length], from.port()),
            &(&b"hi"[..], 0x1234),
        )?;
        Ok(String::new())
    }
}
