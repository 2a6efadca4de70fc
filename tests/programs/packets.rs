//! Packet sockets: with and without headers, for one protocol or all interfaces, with memberships,
//! options, filters and a group. Each argument is an interface that one more listens to; with `modest`
//! nothing is there that CRIU cannot dump.

use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, recv};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::call_with;
use crate::options::{attach, filter, get_int, only, set, set_int, socket};

const SOL_PACKET: i32 = libc::SOL_PACKET;
const ADD_MEMBERSHIP: i32 = 1;
const AUXDATA: i32 = 8;
const ORIGDEV: i32 = 9;
const VERSION: i32 = 10;
const RESERVE: i32 = 12;
const LOSS: i32 = 14;
const VNET_HDR: i32 = 15;
const TIMESTAMP: i32 = 17;
const FANOUT: i32 = 18;
const QDISC_BYPASS: i32 = 20;
/// Protocols for experiments, IEEE 802.
const OURS: u16 = 0x88b5;
const GROUPS: u16 = 0x88b6;
/// Frames of ours that begin with `hi`, without their headers.
const HELLO: [u64; 4] = only(0, u16::from_be_bytes(*b"hi"));
/// `PACKET_MR_MULTICAST`, `PACKET_MR_PROMISC`.
const MULTICAST: u16 = 0;
const PROMISCUOUS: u16 = 1;
/// `PACKET_FANOUT_LB`, with `PACKET_FANOUT_FLAG_DEFRAG`.
const IN_TURN: u32 = 0x8001;

struct Packets {
    /// Receives frames of ours that begin with `hi`, from one interface.
    filtered: OwnedFd,
    /// Sees frames of ours on all interfaces.
    all: OwnedFd,
    /// Receives nothing, has memberships and options.
    member: OwnedFd,
    /// Nor does this, which has other ones.
    sender: OwnedFd,
    /// They get frames in turn; number and flags of their group.
    group: ([OwnedFd; 2], u32),
    /// Listen to an interface each.
    named: Vec<(OwnedFd, String)>,
}

/// A `struct sockaddr_ll`.
fn address(protocol: u16, interface: &str) -> [u8; 20] {
    let mut address = [0; 20];
    address[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_le_bytes());
    address[2..4].copy_from_slice(&protocol.to_be_bytes());
    let index = match interface {
        "" => 0,
        name => if_nametoindex(name).unwrap_or(u32::MAX),
    };
    address[4..8].copy_from_slice(&index.to_le_bytes());
    address
}

fn bound(kind: i32, protocol: u16, interface: &str) -> OwnedFd {
    let socket = socket(libc::AF_PACKET, kind, 0).unwrap();
    let number = [socket.as_raw_fd() as u64];
    let mut address = address(protocol, interface);
    call_with(libc::SYS_bind, &number, &mut address, &[20]).unwrap();
    socket
}

/// Protocol and interface of a socket.
fn name(socket: &OwnedFd) -> Vec<u8> {
    let (mut name, mut length) = ([0_u8; 20], 20_u32);
    let number = [socket.as_raw_fd() as u64];
    let after = [(&raw mut length).expose_provenance() as u64];
    call_with(libc::SYS_getsockname, &number, &mut name, &after).unwrap();
    name[..8].to_vec()
}

fn join(socket: &OwnedFd, kind: u16, group: &[u8]) {
    let mut request = if_nametoindex("lo").unwrap().to_le_bytes().to_vec();
    request.extend(kind.to_le_bytes());
    request.extend((group.len() as u16).to_le_bytes());
    request.extend(group);
    request.resize(16, 0);
    set(socket, SOL_PACKET, ADD_MEMBERSHIP, &request);
}

/// Builds it and serves.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|arg| arg == "modest");
    let filtered = bound(libc::SOCK_DGRAM, OURS, "lo");
    attach(&filtered, &HELLO);
    set_int(&filtered, SOL_PACKET, AUXDATA, 1);
    let all = bound(libc::SOCK_RAW, OURS, "");
    set_int(&all, SOL_PACKET, ORIGDEV, 1);
    set_int(&all, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1);
    let new = || socket(libc::AF_PACKET, libc::SOCK_RAW, 0).unwrap();
    let (member, sender) = (new(), new());
    join(&member, MULTICAST, &[1, 0, 0x5e, 1, 2, 3]);
    let times = if modest { 1 } else { 2 };
    (0..times).for_each(|_| join(&member, PROMISCUOUS, &[]));
    set_int(&member, SOL_PACKET, VERSION, 2);
    set_int(&member, SOL_PACKET, RESERVE, 16);
    set_int(&member, SOL_PACKET, TIMESTAMP, 1);
    set_int(&sender, SOL_PACKET, LOSS, 1);
    set_int(&sender, SOL_PACKET, VNET_HDR, 1);
    set_int(&sender, SOL_PACKET, QDISC_BYPASS, 1);
    // Specimens of other tests may share the network.
    let number = RandomState::new().hash_one(0) as u16;
    let fanout = u32::from(number) | IN_TURN << 16;
    let group = [0; 2].map(|_| {
        let socket = bound(libc::SOCK_RAW, GROUPS, "lo");
        set_int(&socket, SOL_PACKET, FANOUT, fanout.cast_signed());
        socket
    });
    let named = args.iter().filter(|name| *name != "modest").map(|name| {
        let socket = bound(libc::SOCK_DGRAM, OURS, name);
        (socket, name.clone())
    });
    let mut packets = Packets {
        filtered,
        all,
        member,
        sender,
        group: (group, fanout),
        named: named.collect(),
    };
    desk.serve(&mut packets);
}

/// A frame of a protocol.
fn frame(protocol: u16, text: &str) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend(protocol.to_be_bytes());
    frame.extend(text.as_bytes());
    frame
}

impl Packets {
    fn send(&self, protocol: u16, text: &str) -> Result<(), String> {
        // By a socket that wants the header of a virtual network before each frame.
        let mut bytes = vec![0; 10];
        bytes.extend(frame(protocol, text));
        let buffer = bytes.as_ptr().expose_provenance() as u64;
        let before = [
            self.sender.as_raw_fd() as u64,
            buffer,
            bytes.len() as u64,
            0,
        ];
        let mut to = address(protocol, "lo");
        call_with(libc::SYS_sendto, &before, &mut to, &[20])
            .map(drop)
            .map_err(|e| format!("send {text}: {e}"))
    }
}

/// Everything that waits in a socket.
fn waiting(socket: &OwnedFd) -> Result<Vec<Vec<u8>>, String> {
    let mut found = Vec::new();
    loop {
        let mut bytes = [0; 256];
        match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => found.push(bytes[..length].to_vec()),
            Err(Errno::EAGAIN) => return Ok(found),
            Err(e) => return Err(format!("receive: {e}")),
        }
    }
}

impl Program for Packets {
    fn check(&mut self) -> Answer {
        let names = [
            (&self.filtered, OURS, "lo"),
            (&self.all, OURS, ""),
            (&self.member, 0, ""),
            (&self.sender, 0, ""),
        ];
        let more = self
            .named
            .iter()
            .map(|(socket, name)| (socket, OURS, &name[..]));
        for (socket, protocol, interface) in names.into_iter().chain(more) {
            let wanted = address(protocol, interface)[..8].to_vec();
            same(&format!("name ({interface})"), &name(socket), &wanted)?;
        }
        for (what, socket, option, wanted) in [
            ("auxdata", &self.filtered, AUXDATA, 1),
            ("origdev", &self.all, ORIGDEV, 1),
            ("auxdata of another", &self.all, AUXDATA, 0),
            ("version", &self.member, VERSION, 2),
            ("reserve", &self.member, RESERVE, 16),
            ("time stamps", &self.member, TIMESTAMP, 1),
            ("loss", &self.sender, LOSS, 1),
            ("header", &self.sender, VNET_HDR, 1),
        ] {
            same(what, &get_int(socket, SOL_PACKET, option)?, &wanted)?;
        }
        let kind = get_int(&self.filtered, libc::SOL_SOCKET, libc::SO_TYPE)?;
        same("type", &kind, &libc::SOCK_DGRAM)?;
        same("filter", &filter(&self.filtered), &HELLO.to_vec())?;
        for socket in &self.group.0 {
            let is = get_int(socket, SOL_PACKET, FANOUT)?.cast_unsigned();
            // CRIU does not save its flags.
            same("group", &(is & 0xff_ffff), &(self.group.1 & 0xff_ffff))?;
        }
        Ok(String::new())
    }

    /// `talk` uses everything; `leave` sends and does not receive; `all` looks at what CRIU's images
    /// have no place for.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["leave"] => return self.send(OURS, "hi there").map(|()| String::new()),
            ["all"] => {
                let stamps = get_int(&self.all, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
                same("time stamps", &stamps, &1)?;
                let bypass = get_int(&self.sender, SOL_PACKET, QDISC_BYPASS)?;
                same("bypass", &bypass, &1)?;
                let fanout = get_int(&self.group.0[0], SOL_PACKET, FANOUT)?;
                same("group", &fanout.cast_unsigned(), &self.group.1)?;
                return Ok(String::new());
            }
            _ => {}
        }
        for socket in [
            &self.filtered,
            &self.all,
            &self.group.0[0],
            &self.group.0[1],
        ] {
            waiting(socket)?;
        }
        self.send(OURS, "no")?;
        self.send(OURS, "hi")?;
        let seen = waiting(&self.all)?;
        for text in ["no", "hi"] {
            let there = seen.contains(&frame(OURS, text));
            same(&format!("{text} was seen"), &there, &true)?;
        }
        let seen = waiting(&self.filtered)?;
        let all = !seen.is_empty() && seen.iter().all(|text| text == b"hi");
        same("only what the filter lets pass", &all, &true)?;
        let texts: Vec<String> = (0..8).map(|n| format!("frame {n}")).collect();
        texts.iter().try_for_each(|text| self.send(GROUPS, text))?;
        let [one, other] = &self.group.0;
        let (one, other) = (waiting(one)?, waiting(other)?);
        same(
            "both got some",
            &(one.is_empty() || other.is_empty()),
            &false,
        )?;
        for text in &texts {
            let wanted = frame(GROUPS, text);
            let there = one.contains(&wanted) || other.contains(&wanted);
            same(&format!("{text} was seen"), &there, &true)?;
        }
        Ok(String::new())
    }
}
