//! Netlink sockets: protocol, port, groups.
//!
//! CRIU: `netlink_sk_entry`. A socket with something queued or with another end than the kernel is an
//! obstacle, as for CRIU: what the kernel has told once it does not tell again. Sources: netlink(7).

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, NetlinkAddr, bind, getpeername, getsockname, recv};

use super::descriptor::Descriptor;
use super::socket::{FURTHER, opaque_filter, options, set_options, unusual};
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, NetlinkSkEntry, SkOptionEntry};
use crate::sys::socket::{get, get_int, make, set_int};

/// `NETLINK_CONNECTED` of the kernel, as CRIU notes it; 0 otherwise.
const CONNECTED: u32 = 1;

/// Options that CRIU's images have no place for (`linux/netlink.h`): packet info, errors of
/// broadcasts, no errors for lost messages, all namespaces, short and extended acknowledgements, strict
/// checks.
const MORE: &[i32] = &[3, 4, 5, 8, 10, 11, 12];

/// `AF_NETLINK`.
#[derive(Debug)]
pub(super) struct Netlink;

impl FileKind for Netlink {
    fn name(&self) -> &'static str {
        "netlink socket"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.socket
            .is_some_and(|nature| nature.domain == libc::AF_NETLINK)
    }

    fn refusal(&self, file: &Descriptor, _: &Outside, _: &Allow) -> Option<Refusal> {
        opaque_filter(file, "a netlink socket")
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Netlinksk
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        enter(&held, id, dumper)
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        let entry = part(entry)?;
        let protocol = entry.protocol.cast_signed();
        if let Err(e) = make(libc::AF_NETLINK, libc::SOCK_RAW, protocol) {
            findings.obstacle(Obstacle::unsupported(
                format!(
                    "The kernel has no netlink protocol {protocol} ({})",
                    e.desc()
                ),
                "load the module that offers it",
            ));
        }
        Ok(())
    }

    fn open(&self, entry: &FileEntry, _: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let cannot = |e| Error::os(format!("Cannot make netlink socket {}", entry.id), e);
        Ok(Some(Reopened {
            file: reopen(entry).map_err(cannot)?,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

fn part(entry: &FileEntry) -> Result<&NetlinkSkEntry> {
    let missing = || {
        Error::corrupt(format!(
            "files.img: entry {} is no netlink socket",
            entry.id
        ))
    };
    entry.nlsk.as_ref().ok_or_else(missing)
}

fn enter(held: &Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
    let file = held.file;
    let (Some(nature), Some(copy)) = (file.socket, &held.copy) else {
        return Err(Error::corrupt(format!(
            "{} has no descriptor",
            file.shown()
        )));
    };
    let cannot = |e| Error::os(format!("Cannot look into {}", file.shown()), e);
    let number = copy.as_raw_fd();
    let queued = recv(
        number,
        &mut [0; 1],
        MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT,
    );
    if queued != Err(Errno::EAGAIN) {
        let shown = format!("{} (pid {}) {}", file.comm, file.pid, file.shown());
        return Err(Error::refused(
            format!("Cannot dump process {}", file.pid),
            vec![Obstacle::unsupported(
                format!("{shown}, a netlink socket, has something to be read"),
                "try again when the program has read it",
            )],
        ));
    }
    let local: NetlinkAddr = getsockname(number).map_err(cannot)?;
    let remote: NetlinkAddr = getpeername(number).map_err(cannot)?;
    let mut groups = [0; 64];
    let length = get(
        copy,
        libc::SOL_NETLINK,
        libc::NETLINK_LIST_MEMBERSHIPS,
        &mut groups,
    );
    let length = length.unwrap_or(0).min(groups.len());
    let words = groups.get(..length).unwrap_or_default().chunks_exact(4);
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    let mut groups: Vec<u32> = words.map(word).collect();
    // CRIU restores one word only.
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let set = MORE.iter().filter_map(|&name| {
        let value = get_int(copy, libc::SOL_NETLINK, name)
            .ok()
            .filter(|value| *value != 0)?;
        let level = libc::SOL_NETLINK;
        Some(SkOptionEntry { level, name, value })
    });
    let fresh = make(libc::AF_NETLINK, libc::SOCK_RAW, nature.protocol).ok();
    let set = set.chain(unusual(copy, fresh.as_ref(), FURTHER));
    let connected = remote.pid() != 0 || remote.groups() != 0;
    let entry = NetlinkSkEntry {
        id,
        ino: u32::try_from(file.stat.ino).map_err(|e| {
            Error::new(
                Kind::Unsupported,
                format!("{} has too large a number", file.shown()),
            )
            .because(e)
        })?,
        protocol: nature.protocol.cast_unsigned(),
        state: if connected { CONNECTED } else { 0 },
        flags: file.flags,
        portid: local.pid(),
        groups,
        dst_portid: remote.pid(),
        // The number of the group; the address has a bit.
        dst_group: u32::BITS - remote.groups().leading_zeros(),
        fown: held.fown,
        opts: options(copy).map_err(cannot)?,
        options: set.collect(),
        ns_id: None,
    };
    dumper.push(FileEntry {
        r#type: FdTypes::Netlinksk.into(),
        id,
        nlsk: Some(entry),
        ..FileEntry::default()
    });
    Ok(())
}

fn reopen(entry: &NetlinkSkEntry) -> nix::Result<OwnedFd> {
    let protocol = entry.protocol.cast_signed();
    let socket = make(libc::AF_NETLINK, libc::SOCK_RAW, protocol)?;
    if entry.portid != 0 {
        bind(socket.as_raw_fd(), &NetlinkAddr::new(entry.portid, 0))?;
    }
    for (word, bits) in entry.groups.iter().enumerate() {
        for bit in (0..32_usize).filter(|bit| bits >> bit & 1 == 1) {
            let group = i32::try_from(word * 32 + bit + 1).map_err(|_too_large| Errno::EINVAL)?;
            set_int(
                &socket,
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                group,
            )?;
        }
    }
    for option in &entry.options {
        set_int(&socket, option.level, option.name, option.value)?;
    }
    if entry.state == CONNECTED {
        let group = entry
            .dst_group
            .checked_sub(1)
            .map_or(0, |bit| 1_u32.rotate_left(bit));
        let other = NetlinkAddr::new(entry.dst_portid, group);
        nix::sys::socket::connect(socket.as_raw_fd(), &other)?;
    }
    set_options(&socket, &entry.opts)?;
    Ok(socket)
}
