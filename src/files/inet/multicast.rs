//! Memberships of multicast groups.
//!
//! No call lists them, but a socket can be asked about one group on one interface, and the kernel
//! lists the groups that any socket is in. Sources: ip(7), RFC 3678, `net/ipv4/igmp.c`,
//! `/proc/net/igmp`, `/proc/net/igmp6`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::net::if_::{if_nameindex, if_nametoindex};

use super::{ip, words};
use crate::image::proto::SkMembershipEntry;
use crate::sys::socket::{get, set};

/// `linux/in.h`.
const MCAST_JOIN_GROUP: i32 = 42;
const MCAST_MSFILTER: i32 = 48;
const MCAST_EXCLUDE: u32 = 0;
/// Bytes of `struct group_req`, and of `struct group_filter` without a source.
const REQUEST: usize = 136;
const FILTER: usize = 144;

/// The groups that `socket` is in; and those of which it takes some sources only, which are left
/// out.
pub(super) fn memberships(socket: &OwnedFd) -> (Vec<SkMembershipEntry>, Vec<IpAddr>) {
    let (mut found, mut restricted) = (Vec::new(), Vec::new());
    let names = if_nameindex().ok();
    for (index, group) in groups() {
        let mut bytes = request(index, group);
        bytes.resize(FILTER, 0);
        if get(socket, level(group), MCAST_MSFILTER, &mut bytes).is_err() {
            continue;
        }
        let word = |at: usize| {
            let bytes = bytes
                .get(at..at + 4)
                .and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_le_bytes)
        };
        if (word(REQUEST), word(REQUEST + 4)) != (MCAST_EXCLUDE, 0) {
            restricted.push(group);
            continue;
        }
        let mut all = names.iter().flatten();
        let Some(interface) = all.find(|interface| interface.index() == index) else {
            continue;
        };
        let family = if group.is_ipv6() {
            libc::AF_INET6
        } else {
            libc::AF_INET
        };
        found.push(SkMembershipEntry {
            interface: interface.name().to_string_lossy().into_owned(),
            group: words(Some(SocketAddr::new(group, 0)), family),
        });
    }
    (found, restricted)
}

/// Joins a group again.
pub(super) fn join(socket: &OwnedFd, membership: &SkMembershipEntry) -> nix::Result<()> {
    let group = ip(&membership.group).ok_or(Errno::EINVAL)?;
    let index = if_nametoindex(membership.interface.as_str())?;
    set(
        socket,
        level(group),
        MCAST_JOIN_GROUP,
        &request(index, group),
    )
}

fn level(group: IpAddr) -> i32 {
    match group {
        IpAddr::V4(_) => libc::IPPROTO_IP,
        IpAddr::V6(_) => libc::IPPROTO_IPV6,
    }
}

/// `struct group_req`: the interface, and the group as a `struct sockaddr_storage`.
fn request(index: u32, group: IpAddr) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    bytes[..4].copy_from_slice(&index.to_le_bytes());
    match group {
        IpAddr::V4(group) => {
            bytes.extend((libc::AF_INET as u16).to_le_bytes());
            bytes.extend([0; 2]);
            bytes.extend(group.octets());
        }
        IpAddr::V6(group) => {
            bytes.extend((libc::AF_INET6 as u16).to_le_bytes());
            bytes.extend([0; 6]);
            bytes.extend(group.octets());
        }
    }
    bytes.resize(REQUEST, 0);
    bytes
}

/// All groups that this machine is in, with the numbers of the interfaces.
fn groups() -> Vec<(u32, IpAddr)> {
    let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
    let mut groups = v4(&read("/proc/net/igmp"));
    groups.extend(v6(&read("/proc/net/igmp6")));
    groups
}

/// Lines of an interface begin with its number, those of its groups with blanks.
fn v4(text: &str) -> Vec<(u32, IpAddr)> {
    let mut index = 0;
    let mut groups = Vec::new();
    for line in text.lines().skip(1) {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(char::is_whitespace) {
            let group = u32::from_str_radix(first, 16).map(u32::to_le_bytes);
            groups.extend(group.map(|group| (index, Ipv4Addr::from(group).into())));
        } else {
            index = first.parse().unwrap_or(0);
        }
    }
    groups
}

fn v6(text: &str) -> Vec<(u32, IpAddr)> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((index, IpAddr::from(Ipv6Addr::from(group))))
    };
    text.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_lists_are_read() {
        let text = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
                    4\teth0      :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        assert_eq!(v4(text), [(4, IpAddr::from([224, 0, 0, 1]))]);
        let text = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n";
        assert_eq!(v6(text), [(1, "ff02::1".parse().unwrap())]);
    }
}
