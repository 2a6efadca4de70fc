//! Packet sockets: protocol, interface, memberships, group, options.
//!
//! CRIU: `packet_sock_entry`; the protocol is in the order of the network. It has numbers of interfaces
//! only; names, which outlive a reboot, are ours. Packets that wait are not saved, as the network may
//! lose them, too. A ring of shared memory is an obstacle: nothing tells where in it the kernel is, and a
//! new one begins anew, while the program waits somewhere else. Sources: packet(7),
//! `linux/if_packet.h`.

use std::os::fd::{AsFd as _, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};

pub(in crate::files) mod diag;

use diag::{Socket, Table};

use super::descriptor::Descriptor;
use super::socket::{FURTHER, opaque_filter, options, set_options, unusual, waiting};
use super::survey::obstacle;
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened, part};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, PacketMclist, PacketSockEntry};
use crate::sys::socket::{bind_packet, get_int, make, packet_name, set, set_int, waits};

/// `linux/if_packet.h`.
const ADD_MEMBERSHIP: i32 = 1;
const COPY_THRESH: i32 = 7;
const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const RESERVE: i32 = 12;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const TIMESTAMP: i32 = 17;
const FANOUT: i32 = 18;
/// Options that CRIU's images have no place for: offsets of what is sent, no queueing, nothing of our
/// own, the size of a header.
const MORE: &[(i32, i32)] = &[
    (libc::SOL_PACKET, 19),
    (libc::SOL_PACKET, 20),
    (libc::SOL_PACKET, 23),
    (libc::SOL_PACKET, 24),
];
/// Types of groups in which a program of BPF chooses.
const FANOUT_CBPF: u32 = 6;
const FANOUT_EBPF: u32 = 7;
/// Bytes of a hardware address in a membership (`MAX_ADDR_LEN`).
const ADDRESS: usize = 32;

/// `AF_PACKET`.
#[derive(Debug)]
pub(super) struct Packet;

impl FileKind for Packet {
    fn name(&self) -> &'static str {
        "packet socket"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.socket
            .is_some_and(|nature| nature.domain == libc::AF_PACKET)
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, _: &Allow) -> Option<Refusal> {
        let nature = file.socket?;
        if !matches!(nature.kind, libc::SOCK_RAW | libc::SOCK_DGRAM) {
            return Some(Refusal {
                what: format!("a packet socket of the type SOCK_PACKET ({})", file.shown()),
                hint: "have the program use SOCK_RAW or SOCK_DGRAM".to_owned(),
            });
        }
        let table = outside.packets.as_ref();
        let socket = table.and_then(|table| table.get(file.stat.ino));
        opaque_filter(file, "a packet socket").or_else(|| too_much(file, socket?))
    }

    fn loss(&self, file: &Descriptor) -> Option<Refusal> {
        waiting(file, "a packet socket")
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Packetsk
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        enter(&held, id, dumper)
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        check(
            part(entry, entry.psk.as_ref(), "a packet socket")?,
            findings,
        )
    }

    fn open(&self, entry: &FileEntry, _: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry, entry.psk.as_ref(), "a packet socket")?;
        let cannot = |e| Error::os(format!("Cannot make {}", shown(entry)), e);
        Ok(Some(Reopened {
            file: reopen(entry).map_err(cannot)?,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

/// What no other socket could be given.
fn too_much(file: &Descriptor, socket: &Socket) -> Option<Refusal> {
    let shown = file.shown();
    if socket.has_ring {
        return Some(Refusal {
            what: format!("a packet socket with a ring of shared memory ({shown})"),
            hint: "end the capture before the dump, or have the program receive without a ring \
                   (PACKET_RX_RING, PACKET_TX_RING)"
                .to_owned(),
        });
    }
    let kind = socket.fanout? >> 16 & 0xff;
    matches!(kind, FANOUT_CBPF | FANOUT_EBPF).then(|| Refusal {
        what: format!("a packet socket of a group in which a BPF program chooses ({shown})"),
        hint: "have the program leave the group (PACKET_FANOUT) before the dump".to_owned(),
    })
}

fn enter(held: &Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
    let file = held.file;
    let (Some(nature), Some(copy)) = (file.socket, &held.copy) else {
        let what = format!("{} has no descriptor", file.shown());
        return Err(Error::corrupt(what));
    };
    let cannot = |e| Error::os(format!("Cannot look into {}", file.shown()), e);
    let table = Table::read()?;
    let socket = table.get(file.stat.ino).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            format!("The kernel does not list {}", file.shown()),
        )
    })?;
    if let Some(refusal) = too_much(file, socket) {
        let what = format!("Cannot dump process {}", file.pid);
        return Err(Error::refused(what, vec![obstacle(file, refusal)]));
    }
    let (protocol, interface) = packet_name(copy).map_err(cannot)?;
    let level = libc::SOL_PACKET;
    let number = |name| get_int(copy, level, name).map(i32::cast_unsigned);
    let switch = |name| number(name).map(|value| value != 0);
    let fresh = new(nature.kind).ok();
    let more = MORE.iter().chain(FURTHER);
    let mut entry = PacketSockEntry {
        id,
        r#type: nature.kind.cast_unsigned(),
        protocol: protocol.into(),
        flags: file.flags,
        ifindex: interface.cast_unsigned(),
        fown: held.fown,
        opts: options(copy).map_err(cannot)?,
        version: number(VERSION).map_err(cannot)?,
        reserve: number(RESERVE).map_err(cannot)?,
        aux_data: switch(AUXDATA).map_err(cannot)?,
        orig_dev: switch(ORIGDEV).map_err(cannot)?,
        vnet_hdr: switch(VNET_HDR).map_err(cannot)?,
        loss: switch(LOSS).map_err(cannot)?,
        timestamp: number(TIMESTAMP).map_err(cannot)?,
        copy_thresh: socket.copy_thresh,
        mclist: socket.memberships.clone(),
        // With its flags, which the list does not have.
        fanout: socket.fanout.and_then(|_| number(FANOUT).ok()),
        rx_ring: None,
        tx_ring: None,
        ns_id: None,
        options: unusual(copy, fresh.as_ref(), more),
        interface: name(interface.cast_unsigned()),
    };
    for membership in &mut entry.mclist {
        membership.interface = name(membership.index);
    }
    if interface < 0 {
        (entry.ifindex, entry.protocol) = (0, 0);
        dumper.warn(Obstacle::unsupported(
            format!("The interface of {} is gone", file.shown()),
            "a restored process receives nothing by this socket",
        ));
    }
    if waits(copy).map_err(cannot)? {
        dumper.warn(Obstacle::unsupported(
            format!("Packets wait in {}", shown(&entry)),
            "a restored process does not get those",
        ));
    }
    dumper.push(FileEntry {
        r#type: FdTypes::Packetsk.into(),
        id,
        psk: Some(entry),
        ..FileEntry::default()
    });
    Ok(())
}

/// One that receives nothing yet.
fn new(kind: i32) -> nix::Result<OwnedFd> {
    make(libc::AF_PACKET, kind, 0)
}

/// Options and filter come before anything is received.
fn reopen(entry: &PacketSockEntry) -> nix::Result<OwnedFd> {
    let socket = new(entry.r#type.cast_signed())?;
    let level = libc::SOL_PACKET;
    let number = |name, value: u32| match value {
        0 => Ok(()),
        value => set_int(&socket, level, name, value.cast_signed()),
    };
    number(VERSION, entry.version)?;
    number(RESERVE, entry.reserve)?;
    number(AUXDATA, entry.aux_data.into())?;
    number(ORIGDEV, entry.orig_dev.into())?;
    number(VNET_HDR, entry.vnet_hdr.into())?;
    number(LOSS, entry.loss.into())?;
    number(TIMESTAMP, entry.timestamp)?;
    number(COPY_THRESH, entry.copy_thresh)?;
    for option in &entry.options {
        set_int(&socket, option.level, option.name, option.value)?;
    }
    set_options(&socket, &entry.opts)?;
    if entry.protocol != 0 || entry.ifindex != 0 {
        let protocol = u16::try_from(entry.protocol).map_err(|_too_large| Errno::EINVAL)?;
        let interface = index(entry.interface.as_deref(), entry.ifindex)?;
        bind_packet(&socket, protocol, interface)?;
        // An interface that is down is told once, and was.
        get_int(&socket, libc::SOL_SOCKET, libc::SO_ERROR)?;
    }
    // The latest is the first.
    for membership in entry.mclist.iter().rev() {
        join(&socket, membership)?;
    }
    if let Some(fanout) = group(entry) {
        set_int(socket.as_fd(), level, FANOUT, fanout.cast_signed())?;
    }
    Ok(socket)
}

/// `struct packet_mreq` with the longest of addresses.
fn join(socket: &OwnedFd, membership: &PacketMclist) -> nix::Result<()> {
    let half = |number| u16::try_from(number).map_err(|_too_large| Errno::EINVAL);
    let interface = index(membership.interface.as_deref(), membership.index)?;
    let length = membership.addr.len();
    let mut request = interface.to_le_bytes().to_vec();
    request.extend(half(membership.r#type)?.to_le_bytes());
    request.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
    request.extend(&membership.addr);
    request.resize(8 + ADDRESS.max(length), 0);
    set(socket, libc::SOL_PACKET, ADD_MEMBERSHIP, &request)
}

/// The group, with its type and flags. CRIU means none by all bits.
fn group(entry: &PacketSockEntry) -> Option<u32> {
    entry.fanout.filter(|fanout| *fanout != u32::MAX)
}

/// What an interface is called. (nix gives an empty name where there is none.)
fn name(index: u32) -> Option<String> {
    let name = if_indextoname(index).ok()?.to_string_lossy().into_owned();
    (!name.is_empty()).then_some(name)
}

/// The number of an interface, which another boot may have changed. 0 means all.
fn index(called: Option<&str>, number: u32) -> nix::Result<u32> {
    match called {
        Some(called) => if_nametoindex(called),
        None if number == 0 => Ok(0),
        None => name(number).map(|_| number).ok_or(Errno::ENODEV),
    }
}

fn check(entry: &PacketSockEntry, findings: &mut Findings<'_>) -> Result<()> {
    if entry.rx_ring.is_some() || entry.tx_ring.is_some() {
        findings.obstacle(Obstacle::unsupported(
            format!(
                "The layer has {} with a ring of shared memory",
                shown(entry)
            ),
            "restore this layer with criu",
        ));
        return Ok(());
    }
    if let Err(e) = new(entry.r#type.cast_signed()) {
        findings.obstacle(Obstacle::new(
            Kind::Permission,
            format!("A packet socket may not be made ({})", e.desc()),
            "restore as root, or with CAP_NET_RAW",
        ));
        return Ok(());
    }
    let own = (entry.interface.as_ref(), entry.ifindex);
    let others = entry.mclist.iter().map(|m| (m.interface.as_ref(), m.index));
    for (name, number) in others.chain([own]) {
        let name = name.map(String::as_str);
        if index(name, number).is_err() {
            let called = name.map_or_else(|| format!("number {number}"), str::to_owned);
            findings.obstacle(Obstacle::new(
                Kind::NotFound,
                format!(
                    "The network interface {called} of {} is not there",
                    shown(entry)
                ),
                "make it before the restore (ip link show lists those that there are)",
            ));
        }
    }
    if let Some(fanout) = group(entry) {
        let number = (fanout & 0xffff) as u16;
        if Table::read()?.has_group(number) {
            findings.warning(Obstacle::new(
                Kind::Busy,
                format!("Others share packets in group {number} of {}", shown(entry)),
                "end them, or they go on sharing with the restored process",
            ));
        }
    }
    Ok(())
}

/// A socket in words.
fn shown(entry: &PacketSockEntry) -> String {
    let on = match (&entry.interface, entry.ifindex) {
        (Some(name), _) => name.clone(),
        (None, 0) => "all interfaces".to_owned(),
        (None, number) => format!("interface {number}"),
    };
    format!("packet socket of {on}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_name_first_and_one_that_is_not_there_is_not() {
        let lo = if_nametoindex("lo").unwrap();
        assert_eq!(index(Some("lo"), 9999), Ok(lo));
        assert_eq!(index(None, lo), Ok(lo));
        assert_eq!(index(None, 0), Ok(0));
        assert_eq!(index(None, 0x7fff_0000), Err(Errno::ENODEV));
        assert!(index(Some("no-such-thing"), lo).is_err());
        assert_eq!(name(u32::MAX), None);
    }
}
