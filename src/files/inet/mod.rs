//! TCP and UDP over IPv4 and IPv6, and what has no port (see [`raw`]).
//!
//! CRIU: `inet_sk_entry` per description; the two ends of a connection in `tcp-stream-INO.img` (see
//! [`tcp`]). Datagrams that wait in a socket are not saved, as the network may lose them, too.
//! Of MPTCP, that which is no connection: a listener accepts clients of TCP as connections of TCP.
//! A connection is saved with `--tcp-established`; with `--tcp-close` its socket comes back closed.
//! Sources: ip(7), ipv6(7), tcp(7), udp(7).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::{if_nameindex, if_nametoindex};
use nix::sys::socket::{
    Backlog, Shutdown, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, bind, connect,
    getpeername, getsockname, listen, shutdown,
};
use procfs::net::TcpState;

mod multicast;
mod named;
mod options;
mod raw;
pub(in crate::files) mod signed;
pub(in crate::files) mod tcp;

use named::{begun, lost_mark, signed as signs, untold, urgent};
use options::{kinds_options, set_kinds_options, v6only};

use super::descriptor::Descriptor;
use super::socket::{Failed, opaque_filter, options as shared_options, waiting};
use super::survey::obstacle;
use super::{Allow, Dumper, FileKind, Findings, Held, Nature, Opening, Outside, Refusal, Reopened};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, InetSkEntry, SkShutdown};
use crate::sys::socket::{is_urgent, make, queued, reads_no_more, set_int, waits};
use crate::track::connections::{self, Connection};

/// States of a socket, as the kernel and the images number them.
const ESTABLISHED: u32 = 1;
const SYN_SENT: u32 = 2;
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE: u32 = 7;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const LISTEN: u32 = 10;
const CLOSING: u32 = 11;

/// `AF_INET`, `AF_INET6`.
#[derive(Debug)]
pub(super) struct Inet;

impl FileKind for Inet {
    fn name(&self) -> &'static str {
        "internet socket"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.socket.is_some_and(|nature| {
            matches!(nature.domain, libc::AF_INET | libc::AF_INET6)
                && (nature.is_tcp()
                    || is_udp(nature)
                    || raw::is_raw(nature)
                    || raw::is_ping(nature))
        })
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
        let nature = file.socket?;
        if let Some(refusal) = opaque_filter(file, "an internet socket") {
            return Some(refusal);
        }
        // Its place is taken by the one that makes the connection deaf.
        if nature.filtered && is_connection(nature) && !allow.tcp_close {
            return Some(Refusal {
                what: format!("a TCP connection with a BPF filter ({})", file.shown()),
                hint: "have the program detach the filter before the dump".to_owned(),
            });
        }
        if nature.pending != 0 && !allow.skip_in_flight && !allow.tcp_close {
            return Some(Refusal {
                what: format!(
                    "a TCP socket ({}) with {} connections to be accepted",
                    file.shown(),
                    nature.pending
                ),
                hint: "try again when the program has accepted them, or drop them with \
                       --skip-in-flight"
                    .to_owned(),
            });
        }
        // To look at the error would take it away, and nothing puts one back.
        if nature.failed == Some(Failed::Connect) {
            return Some(named::failed(file));
        }
        if nature.listens && outside.signed.contains(&file.stat.ino) {
            return Some(signs(file));
        }
        if !is_connection(nature) || allow.tcp_close {
            return None;
        }
        if nature.layered {
            return Some(named::layered(file));
        }
        if outside.signed.contains(&file.stat.ino) {
            return Some(signs(file));
        }
        if nature.urgent && !nature.in_line {
            return Some(urgent(&format!("a TCP connection ({})", file.shown())));
        }
        if nature.protocol == libc::IPPROTO_MPTCP {
            return Some(Refusal {
                what: format!("a connection of MPTCP ({})", file.shown()),
                hint: "have the program use TCP, or drop all connections with --tcp-close"
                    .to_owned(),
            });
        }
        // It would be stopped for the other process, too.
        if let Some(holder) = outside.holder(&file.stat) {
            return Some(Refusal {
                what: format!("a TCP connection ({}) shared with {holder}", file.shown()),
                hint:
                    "dump from a common ancestor of both processes, or drop all connections with \
                       --tcp-close"
                        .to_owned(),
            });
        }
        let state = u32::from(nature.tcp_state);
        if state != ESTABLISHED && !tcp::is_half_closed(state) {
            let being = if state == SYN_SENT { "made" } else { "closed" };
            return Some(Refusal {
                what: format!("a TCP connection ({}) that is being {being}", file.shown()),
                hint: "try again later, or drop all connections with --tcp-close".to_owned(),
            });
        }
        (!allow.tcp_established).then(|| Refusal {
            what: format!("an established TCP connection ({})", file.shown()),
            hint: "dump with --tcp-established to save it, with --tcp-close to drop it".to_owned(),
        })
    }

    fn loss(&self, file: &Descriptor) -> Option<Refusal> {
        let nature = file.socket?;
        let datagrams = !nature.is_tcp();
        if nature.urgent {
            let (what, hint) = lost_mark(&format!("a TCP connection ({})", file.shown()));
            return Some(Refusal { what, hint });
        }
        if nature.failed == Some(Failed::Connection) {
            let (what, hint) = untold(&format!("a TCP socket ({})", file.shown()));
            return Some(Refusal { what, hint });
        }
        let what = "an internet socket";
        if nature.begun {
            let (what, hint) = begun(&format!("{what} ({})", file.shown()));
            return Some(Refusal { what, hint });
        }
        datagrams.then(|| waiting(file, what)).flatten()
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Inetsk
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        enter(&held, id, dumper)
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        check(part(entry)?, findings)
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let cannot = |e| Error::os(format!("Cannot make {}", shown(entry)), e);
        let file = if is_connected_tcp(entry) {
            match tcp::Stream::read(opening.images(), entry.ino)? {
                Some(stream) if !opening.allow().tcp_close => connection(entry, &stream, opening)?,
                _ => {
                    connections::let_go(Some(&shown(entry)))?;
                    closed(entry).map_err(cannot)?
                }
            }
        } else if has_ended(entry) {
            closed(entry).map_err(cannot)?
        } else {
            reopen(entry).map_err(cannot)?
        };
        Ok(Some(Reopened {
            file,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }

    fn start(&self, entry: &FileEntry, file: &OwnedFd) -> Result<()> {
        let entry = part(entry)?;
        // Connections of MPTCP are closed already.
        if is_connected_tcp(entry) && entry.proto.cast_signed() == libc::IPPROTO_TCP {
            // From here on it belongs to the new process alone.
            connections::let_go(Some(&shown(entry)))?;
            tcp::go_on(file, entry.opts.reuseaddr.unwrap_or(false))
                .and_then(|()| tcp::close_halves(file, entry))
                .map_err(|e| Error::os(format!("Cannot let {} go on", shown(entry)), e))?;
        }
        Ok(())
    }
}

fn part(entry: &FileEntry) -> Result<&InetSkEntry> {
    let missing = || {
        Error::corrupt(format!(
            "files.img: entry {} is no internet socket",
            entry.id
        ))
    };
    entry.isk.as_ref().ok_or_else(missing)
}

/// A TCP socket with another end.
fn is_connection(nature: Nature) -> bool {
    nature.is_tcp() && !matches!(u32::from(nature.tcp_state), CLOSE | LISTEN)
}

fn is_udp(nature: Nature) -> bool {
    nature.protocol == libc::IPPROTO_UDP && nature.kind == libc::SOCK_DGRAM
}

fn was_tcp(entry: &InetSkEntry) -> bool {
    let protocol = entry.proto.cast_signed();
    matches!(protocol, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) && !raw::was_raw(entry)
}

fn is_connected_tcp(entry: &InetSkEntry) -> bool {
    was_tcp(entry) && !matches!(entry.state, CLOSE | LISTEN)
}

/// A TCP socket whose connection was over when the layer was made.
fn has_ended(entry: &InetSkEntry) -> bool {
    was_tcp(entry) && entry.state == CLOSE && entry.shutdown == Some(SkShutdown::Both.into())
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
    let ino = u32::try_from(file.stat.ino).map_err(|e| {
        Error::new(
            Kind::Unsupported,
            format!("{} has too large a number", file.shown()),
        )
        .because(e)
    })?;
    let local = address(&getsockname(copy.as_raw_fd()).map_err(cannot)?);
    let remote = match getpeername(copy.as_raw_fd()) {
        Ok(remote) => address(&remote),
        Err(Errno::ENOTCONN) if raw::is_raw(nature) || raw::is_ping(nature) => {
            raw::peer(nature, file.stat.ino)
        }
        Err(Errno::ENOTCONN) => None,
        Err(e) => return Err(cannot(e)),
    };
    let is_tcp = nature.is_tcp();
    let state = match (is_tcp, remote) {
        (true, _) => nature.tcp_state.into(),
        (false, Some(_)) => ESTABLISHED,
        (false, None) => CLOSE,
    };
    let state = if state == SYN_SENT { CLOSE } else { state };
    let mut entry = InetSkEntry {
        id,
        ino,
        family: nature.domain.cast_unsigned(),
        r#type: nature.kind.cast_unsigned(),
        proto: nature.protocol.cast_unsigned(),
        state,
        src_port: local.map_or(0, |a| a.port().into()),
        dst_port: remote.map_or(0, |a| a.port().into()),
        flags: file.flags,
        backlog: nature.backlog,
        src_addr: words(local, nature.domain),
        dst_addr: words(remote, nature.domain),
        fown: held.fown,
        opts: shared_options(copy).map_err(cannot)?,
        ifname: local.and_then(interface),
        ..InetSkEntry::default()
    };
    entry.dst_port = raw::noted_port(&entry);
    kinds_options(copy, &mut entry);
    if !is_tcp {
        let (found, restricted) = multicast::memberships(copy);
        entry.memberships = found;
        for group in restricted {
            dumper.warn(Obstacle::unsupported(
                format!(
                    "{} takes some sources of the group {group} only",
                    shown(&entry)
                ),
                "a restored process has to join it again",
            ));
        }
        if is_udp(nature) && queued(copy, libc::TIOCOUTQ).map_err(cannot)? != 0 {
            let (what, hint) = begun(&shown(&entry));
            dumper.warn(Obstacle::unsupported(what, hint));
        }
        if waits(copy).map_err(cannot)? {
            dumper.warn(Obstacle::unsupported(
                format!("Datagrams wait in {}", shown(&entry)),
                "a restored process does not get those",
            ));
        }
    }
    if is_tcp && state == CLOSE && reads_no_more(copy).map_err(cannot)? {
        // Its connection was reset: it still tells the name that it had, but has the port no more
        // (the listener that accepted it has).
        entry.src_port = 0;
        entry.shutdown = Some(SkShutdown::Both.into());
    }
    if nature.failed == Some(Failed::Connection) {
        let (what, hint) = untold(&shown(&entry));
        dumper.warn(Obstacle::unsupported(what, hint));
    }
    if is_connected_tcp(&entry) && !dumper.allow().tcp_close {
        let deaf = reads_no_more(copy).map_err(cannot)?;
        entry.shutdown = deaf.then_some(SkShutdown::Read.into());
        let name = format!("tcp-stream-{ino:x}.img");
        let mut stream = dumper
            .connections
            .save(copy, state, shown(&entry))
            .map_err(cannot)?;
        // It may have come since the freeze; from here on nothing more does.
        if is_urgent(copy).map_err(cannot)? {
            if !nature.in_line {
                let refusal = urgent(&format!("a TCP connection ({})", file.shown()));
                let what = format!("Cannot dump process {}", file.pid);
                return Err(Error::refused(what, vec![obstacle(file, refusal)]));
            }
            stream.mark = true;
        }
        if stream.mark {
            let (what, hint) = lost_mark(&shown(&entry));
            dumper.warn(Obstacle::unsupported(what, hint));
        }
        dumper.streams.push((name, stream));
    }
    dumper.push(FileEntry {
        r#type: FdTypes::Inetsk.into(),
        id,
        isk: Some(entry),
        ..FileEntry::default()
    });
    Ok(())
}

fn is_v6(entry: &InetSkEntry) -> bool {
    entry.family == libc::AF_INET6.cast_unsigned()
}

fn new(entry: &InetSkEntry) -> nix::Result<OwnedFd> {
    let number = u32::cast_signed;
    make(
        number(entry.family),
        number(entry.r#type),
        number(entry.proto),
    )
}

/// The end of a connection: the socket that the keeper holds since the layer was made, or one made
/// from the layer.
fn connection(
    entry: &InetSkEntry,
    stream: &tcp::Stream,
    opening: &mut Opening<'_>,
) -> Result<OwnedFd> {
    let ends = shown(entry);
    if let Some(layer) = opening.layer()? {
        let wanted = Connection {
            layer,
            ends: ends.clone(),
        };
        if let Some(socket) = connections::held(&wanted)? {
            return Ok(socket);
        }
    }
    connections::let_go(Some(&ends))?;
    tcp::reopen(entry, stream)
}

/// A socket that is not the end of a TCP connection.
fn reopen(entry: &InetSkEntry) -> nix::Result<OwnedFd> {
    let socket = new(entry)?;
    v6only(&socket, entry)?;
    set_kinds_options(&socket, entry)?;
    if has_name(entry) {
        bound(&socket, entry)?;
    }
    for membership in &entry.memberships {
        multicast::join(&socket, membership)?;
    }
    if entry.state == LISTEN {
        let backlog = i32::try_from(entry.backlog).unwrap_or(i32::MAX);
        listen(&socket, Backlog::new(backlog).unwrap_or(Backlog::MAXCONN))?;
    }
    if was_tcp(entry) {
        set_reuse(&socket, entry.opts.reuseaddr.unwrap_or(false))?;
    }
    if entry.state == ESTABLISHED {
        let port = raw::true_port(entry);
        connect(
            socket.as_raw_fd(),
            &*sockaddr(entry, &entry.dst_addr, port)?,
        )?;
    }
    Ok(socket)
}

/// A socket whose connection has ended: reads end, writes fail.
fn closed(entry: &InetSkEntry) -> nix::Result<OwnedFd> {
    let socket = new(entry)?;
    set_kinds_options(&socket, entry)?;
    match shutdown(socket.as_raw_fd(), Shutdown::Both) {
        Ok(()) | Err(Errno::ENOTCONN) => Ok(socket),
        Err(e) => Err(e),
    }
}

/// It was bound to an address.
fn has_name(entry: &InetSkEntry) -> bool {
    if raw::was_raw(entry) {
        return raw::has_address(entry);
    }
    entry.src_port != 0
}

/// Binds to the local address. What is left of connections of a former life, and those that are held
/// or made already, are no hindrance: that lasts (`SO_REUSEADDR`), since listen(2) asks for the address again.
fn bound(socket: &OwnedFd, entry: &InetSkEntry) -> nix::Result<()> {
    if was_tcp(entry) {
        set_reuse(socket, true)?;
    }
    bind(
        socket.as_raw_fd(),
        &*sockaddr(entry, &entry.src_addr, entry.src_port)?,
    )
}

fn set_reuse(socket: &OwnedFd, on: bool) -> nix::Result<()> {
    set_int(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, on.into())
}

/// Is its address free?
fn check(entry: &InetSkEntry, findings: &mut Findings<'_>) -> Result<()> {
    if is_connected_tcp(entry) {
        let saved = findings.has_image(&format!("tcp-stream-{:x}.img", entry.ino));
        if saved && !findings.allow.tcp_established && !findings.allow.tcp_close {
            findings.obstacle(Obstacle::unsupported(
                format!(
                    "The layer has an established TCP connection ({})",
                    shown(entry)
                ),
                "restore with --tcp-established to go on with it, with --tcp-close to drop it",
            ));
        } else if saved
            && !findings.allow.tcp_close
            && let Some(obstacle) = taken(entry)?
        {
            findings.obstacle(obstacle);
        }
        return Ok(());
    }
    let without_port = raw::without_port(entry);
    if let Some(obstacle) = without_port.then(|| raw::forbidden(entry)).flatten() {
        findings.obstacle(obstacle);
        return Ok(());
    }
    if !has_name(entry) {
        return Ok(());
    }
    let tried = new(entry).and_then(|socket| {
        v6only(&socket, entry)?;
        set_kinds_options(&socket, entry)?;
        bound(&socket, entry)
    });
    let (what, hint) = match tried {
        Ok(()) => return Ok(()),
        Err(Errno::EADDRINUSE) => (
            "is in use",
            "end the program that has it (ss -lntup shows it), or wait a minute for the end of \
             connections that are over (ss -tan)"
                .to_owned(),
        ),
        Err(Errno::EADDRNOTAVAIL) => (
            "is none of this machine",
            "give a network interface this address (ip address add)".to_owned(),
        ),
        Err(e) => ("cannot be had", format!("the kernel says: {}", e.desc())),
    };
    let what = format!("The address of {} {what}", shown(entry));
    findings.obstacle(Obstacle::new(Kind::Busy, what, hint));
    Ok(())
}

/// What has the addresses of a connection that is to go on. What the keeper holds makes room.
fn taken(entry: &InetSkEntry) -> Result<Option<Obstacle>> {
    let end = |words: &[u32], port: u32| {
        let port = u16::try_from(port).ok()?;
        ip(words).map(|ip| SocketAddr::new(ip, port))
    };
    let ends = [
        end(&entry.src_addr, entry.src_port),
        end(&entry.dst_addr, entry.dst_port),
    ];
    // No table where the kernel has no such protocol.
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let mut there = tables.into_iter().flatten().flatten();
    let Some(found) =
        there.find(|other| [Some(other.local_address), Some(other.remote_address)] == ends)
    else {
        return Ok(None);
    };
    let name = shown(entry);
    if connections::list()?.iter().any(|held| held.ends == name) {
        return Ok(None);
    }
    let (kind, state) = match (found.inode, &found.state) {
        // Nobody has a descriptor of it any more, and the other end does not answer.
        (0, TcpState::FinWait1 | TcpState::LastAck | TcpState::Closing) => {
            (Kind::Failed, "is still being closed")
        }
        // What only waits for its time to pass makes room.
        (0, _) => return Ok(None),
        _ => (Kind::Busy, "is in use"),
    };
    Ok(Some(Obstacle::new(
        kind,
        format!("The connection of {name} {state}"),
        "wait for its end (ss -tanp shows it), or restore with --tcp-close",
    )))
}

/// A socket in words.
fn shown(entry: &InetSkEntry) -> String {
    let protocol = match entry.proto.cast_signed() {
        _ if raw::without_port(entry) => raw::protocol(entry),
        libc::IPPROTO_TCP => "TCP".to_owned(),
        libc::IPPROTO_MPTCP => "MPTCP".to_owned(),
        _ => "UDP".to_owned(),
    };
    let at = |words: &[u32], port: u32| {
        let ip = ip(words).map_or_else(
            || "?".to_owned(),
            |ip| match ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            },
        );
        if raw::was_raw(entry) {
            return ip;
        }
        format!("{ip}:{port}")
    };
    let mut text = format!("{protocol} socket {}", at(&entry.src_addr, entry.src_port));
    if entry.state == ESTABLISHED || entry.dst_port != 0 {
        text.push_str(&format!(" to {}", at(&entry.dst_addr, entry.dst_port)));
    }
    text
}

/// The address that system calls give.
fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|a| SocketAddr::from((a.ip(), a.port())));
    v4.or_else(|| {
        let v6 = storage.as_sockaddr_in6()?;
        let address = std::net::SocketAddrV6::new(v6.ip(), v6.port(), v6.flowinfo(), v6.scope_id());
        Some(address.into())
    })
}

/// The bytes of an address in words, as in memory.
fn words(address: Option<SocketAddr>, family: i32) -> Vec<u32> {
    let octets = match address.map(|address| address.ip()) {
        Some(IpAddr::V4(ip)) => ip.octets().to_vec(),
        Some(IpAddr::V6(ip)) => ip.octets().to_vec(),
        None if family == libc::AF_INET6 => vec![0; 16],
        None => vec![0; 4],
    };
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    octets.chunks_exact(4).map(word).collect()
}

fn ip(words: &[u32]) -> Option<IpAddr> {
    let octets: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    if let Ok(octets) = <[u8; 16]>::try_from(&*octets) {
        return Some(Ipv6Addr::from(octets).into());
    }
    let octets: [u8; 4] = octets.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

/// The interface that a link-local address belongs to.
fn interface(address: SocketAddr) -> Option<String> {
    let SocketAddr::V6(address) = address else {
        return None;
    };
    let scope = address.scope_id();
    let all = if_nameindex().ok()?;
    let found = all
        .iter()
        .find(|interface| scope != 0 && interface.index() == scope);
    found.map(|interface| interface.name().to_string_lossy().into_owned())
}

/// An address for system calls.
fn sockaddr(entry: &InetSkEntry, words: &[u32], port: u32) -> nix::Result<Box<dyn SockaddrLike>> {
    let port = u16::try_from(port).map_err(|_too_large| Errno::EINVAL)?;
    Ok(match ip(words).ok_or(Errno::EINVAL)? {
        IpAddr::V4(ip) => Box::new(SockaddrIn::from(std::net::SocketAddrV4::new(ip, port))),
        IpAddr::V6(ip) => {
            let scope = entry.ifname.as_deref().map_or(Ok(0), if_nametoindex)?;
            Box::new(SockaddrIn6::from(std::net::SocketAddrV6::new(
                ip, port, 0, scope,
            )))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::proto::SkOptsEntry;
    use crate::sys::socket::get_int;

    #[test]
    fn a_listener_that_shares_no_address_is_made_beside_its_connections() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(at).unwrap();
        let (server, _) = listener.accept().unwrap();
        // As repair mode makes it.
        set_reuse(&OwnedFd::from(server.try_clone().unwrap()), true).unwrap();
        drop(listener);
        let entry = InetSkEntry {
            family: libc::AF_INET.cast_unsigned(),
            r#type: libc::SOCK_STREAM.cast_unsigned(),
            proto: libc::IPPROTO_TCP.cast_unsigned(),
            state: LISTEN,
            src_port: at.port().into(),
            src_addr: words(Some(at), libc::AF_INET),
            backlog: 7,
            opts: SkOptsEntry {
                reuseaddr: Some(false),
                ..SkOptsEntry::default()
            },
            ..InetSkEntry::default()
        };
        let again = reopen(&entry).unwrap();
        let is_on = |name| get_int(&again, libc::SOL_SOCKET, name).unwrap() != 0;
        assert!(is_on(libc::SO_ACCEPTCONN) && !is_on(libc::SO_REUSEADDR));
    }

    #[test]
    fn a_datagram_that_was_begun_and_not_sent_is_seen() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(socket.local_addr().unwrap()).unwrap();
        let begun = |socket: &std::net::UdpSocket| Nature::of(socket).unwrap().begun;
        socket.send(b"sent").unwrap();
        assert!(!begun(&socket));
        nix::sys::socket::send(
            socket.as_raw_fd(),
            b"be",
            nix::sys::socket::MsgFlags::from_bits_retain(libc::MSG_MORE),
        )
        .unwrap();
        assert!(begun(&socket));
        socket.send(b"gun").unwrap();
        assert!(!begun(&socket));
    }
}
