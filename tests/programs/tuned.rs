//! Sockets of every family with each option that the kernel lets a program change changed, whatever it is
//! called: all numbers are tried at each level, and compared afterwards.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{Backlog, SockaddrIn, SockaddrIn6, bind, listen};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::call_with;
use crate::options::{get, socket};

/// Levels, and the numbers below which their options are.
const LEVELS: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, 90),
    (libc::IPPROTO_IP, 55),
    (libc::IPPROTO_IPV6, 82),
    (libc::IPPROTO_TCP, 46),
    (libc::IPPROTO_UDP, 106),
    (libc::SOL_NETLINK, 13),
];

/// Not asked, or asked and not compared: what is no setting (the state, counters, memory, addresses), what asking
/// changes (errors), what belongs to the machine (the processor), the socket's name for BPF.
const PASSED_OVER: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_ERROR),
    (libc::SOL_SOCKET, libc::SO_PEERCRED),
    (libc::SOL_SOCKET, libc::SO_INCOMING_CPU),
    (libc::SOL_SOCKET, 55),
    (libc::SOL_SOCKET, 56),
    (libc::SOL_SOCKET, 57),
    (libc::SOL_SOCKET, 77),
    (libc::IPPROTO_TCP, libc::TCP_INFO),
    (libc::IPPROTO_TCP, 24),
    (libc::IPPROTO_TCP, 26),
    (libc::IPPROTO_TCP, 28),
];

/// Not changed: what changes the nature of a socket (filters, the device, repair mode, its family, options in
/// headers), or what its other options may be.
const LEFT: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
    (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
    (libc::SOL_SOCKET, libc::SO_DETACH_FILTER),
    (libc::SOL_SOCKET, libc::SO_LOCK_FILTER),
    (libc::SOL_SOCKET, libc::SO_ATTACH_BPF),
    (libc::IPPROTO_IP, 16),
    (libc::IPPROTO_IP, 17),
    (libc::IPPROTO_IP, 36),
    (libc::IPPROTO_IPV6, 1),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, 34),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_REPAIR),
    (libc::IPPROTO_TCP, 31),
    (libc::IPPROTO_TCP, 35),
    (libc::IPPROTO_TCP, 43),
];

/// What is tried where an option is no switch.
const VALUES: [i32; 5] = [2, 3, 10, 100, 1000];

type Options = BTreeMap<(i32, i32), Vec<u8>>;

struct Tuned(Vec<(&'static str, OwnedFd, Options)>);

fn try_to_set(socket: &OwnedFd, (level, name): (i32, i32), value: &mut [u8]) -> bool {
    let before = [socket.as_raw_fd(), level, name].map(|n| n as u64);
    let mut bytes = [0_u8; 64];
    bytes[..value.len()].copy_from_slice(value);
    let after = [value.len() as u64];
    call_with(libc::SYS_setsockopt, &before, &mut bytes, &after).is_ok()
}

/// All options that tell something.
fn options(socket: &OwnedFd) -> Options {
    let all = LEVELS
        .iter()
        .flat_map(|&(level, end)| (1..end).map(move |name| (level, name)));
    let told = |name: (i32, i32)| Some((name, get(socket, name.0, name.1).ok()?));
    all.filter(|name| !PASSED_OVER.contains(name))
        .filter_map(told)
        .collect()
}

/// Changes each option that is a number.
fn tune(socket: &OwnedFd) {
    for (name, was) in options(socket) {
        let Ok(number) = was.try_into().map(i32::from_le_bytes) else {
            continue;
        };
        if LEFT.contains(&name) {
            continue;
        }
        let first = if matches!(number, 0 | 1) {
            1 - number
        } else {
            number.wrapping_add(1)
        };
        for value in [first].into_iter().chain(VALUES) {
            let set = value != number && try_to_set(socket, name, &mut value.to_le_bytes());
            if set && get(socket, name.0, name.1) != Ok(number.to_le_bytes().to_vec()) {
                break;
            }
        }
    }
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let (stream, datagrams) = (libc::SOCK_STREAM, libc::SOCK_DGRAM);
    let mut all = Vec::new();
    for (what, family, kind, protocol) in [
        ("tcp", libc::AF_INET, stream, 0),
        ("tcp6", libc::AF_INET6, stream, 0),
        ("listener", libc::AF_INET, stream, 0),
        ("listener6", libc::AF_INET6, stream, 0),
        ("udp", libc::AF_INET, datagrams, 0),
        ("udp6", libc::AF_INET6, datagrams, 0),
        ("unix", libc::AF_UNIX, stream, 0),
        ("unix datagrams", libc::AF_UNIX, datagrams, 0),
        ("netlink", libc::AF_NETLINK, libc::SOCK_RAW, 0),
    ] {
        let socket = socket(family, kind, protocol).unwrap();
        tune(&socket);
        if what.starts_with("tcp") || what.starts_with("listener") {
            let mut other = b"reno\0".to_owned();
            assert!(try_to_set(
                &socket,
                (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
                &mut other
            ));
        }
        if what.starts_with("listener") {
            let at = socket.as_raw_fd();
            let bound = if family == libc::AF_INET {
                bind(at, &SockaddrIn::new(127, 0, 0, 1, 0))
            } else {
                let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::LOCALHOST, 0, 0, 0);
                bind(at, &SockaddrIn6::from(any))
            };
            bound.unwrap();
            listen(&socket, Backlog::new(5).unwrap()).unwrap();
        }
        let now = options(&socket);
        all.push((what, socket, now));
    }
    desk.serve(&mut Tuned(all));
}

impl Program for Tuned {
    fn check(&mut self) -> Answer {
        for (what, socket, wanted) in &self.0 {
            let now = options(socket);
            let names = now.keys().chain(wanted.keys());
            for name in names {
                let what = format!("{what}: option {name:?}");
                same(&what, &now.get(name), &wanted.get(name))?;
            }
        }
        Ok(format!("{} sockets", self.0.len()))
    }
}
