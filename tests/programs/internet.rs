//! TCP and UDP sockets: listeners, bound, connected and unconnected ones, with options. With the
//! argument `connected` also both ends of TCP connections, with bytes under way in both directions;
//! with `halves` such that one end has closed for writing, or both have; with `ending` such whose end is
//! said, but waits behind bytes that the other end has no room for; with `urgent`, `in-line` or `alarm` such
//! with urgent data; with `refused` a socket that failed to connect and does not know; with `paths` there is a listener of
//! MPTCP, and a socket that is nothing yet.

use std::hash::{BuildHasher as _, RandomState};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn,
    bind, connect, getsockname, getsockopt, listen, recv, send, setsockopt, socket, sockopt,
};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call_with, child};
use crate::options::{get, get_int, socket as socket_of};

/// TCP by several paths.
const MPTCP: i32 = libc::IPPROTO_MPTCP;

/// Multicast groups.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x1234);

struct Internet {
    listeners: Vec<(TcpListener, SocketAddr)>,
    bound: (UdpSocket, SocketAddr),
    connected: (UdpSocket, SocketAddr),
    fresh: OwnedFd,
    /// It may have several paths one day.
    nothing: Option<OwnedFd>,
    /// Listens to changes of network interfaces; with its port.
    netlink: (OwnedFd, u32),
    pairs: Vec<(TcpStream, TcpStream)>,
    /// How long a segment of each end of `pairs` may be.
    segments: Vec<(u32, u32)>,
    /// The second end of each has urgent data among what it has yet to read: received by itself, in line,
    /// or not received at all.
    urgent: Vec<(TcpStream, TcpStream)>,
    /// Could not connect, and does not know.
    refused: Option<OwnedFd>,
    /// The first end of each has said that it will write no more.
    halves: Vec<(TcpStream, TcpStream)>,
    /// The second end of each has something to say before its end, this many bytes.
    endings: Vec<(TcpStream, TcpStream, usize)>,
}

/// States of an end, as the kernel numbers them.
const FIN_WAIT1: u8 = 4;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// More than the other end takes at once, so that some of it was never sent.
fn long() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n % 251) as u8).collect()
}

/// Writes until neither end has room for more; how much that was.
fn fill(client: &TcpStream, mut server: &TcpStream) -> usize {
    setsockopt(client, sockopt::RcvBuf, &100_000).unwrap();
    setsockopt(server, sockopt::SndBuf, &300_000).unwrap();
    server.set_nonblocking(true).unwrap();
    let rest = long();
    let mut sent = 0;
    while let Ok(count) = server.write(&rest[sent..]) {
        sent += count;
        assert!(sent < rest.len(), "the queues have no end");
    }
    server.set_nonblocking(false).unwrap();
    sent
}

/// Waits for an end to get into a state.
fn until(end: &TcpStream, wanted: u8) {
    while state(end) != wanted {
        std::thread::yield_now();
    }
}

/// The state of an end, as the kernel numbers them (the first byte of `TCP_INFO`).
fn state(end: &TcpStream) -> u8 {
    let mut state = 0_u8;
    let mut length = 1_u32;
    let length = (&raw mut length).expose_provenance() as u64;
    let level = libc::IPPROTO_TCP as u64;
    let before = [end.as_raw_fd() as u64, level, libc::TCP_INFO as u64];
    call_with(libc::SYS_getsockopt, &before, &mut state, &[length]).unwrap();
    state
}

/// How much waits to be read, with urgent data, which else would be none of it.
fn unread(end: &TcpStream) -> usize {
    let in_line = getsockopt(end, sockopt::OobInline).unwrap();
    setsockopt(end, sockopt::OobInline, &true).unwrap();
    let mut count = 0_i32;
    let before = [end.as_raw_fd() as u64, libc::FIONREAD];
    call_with(libc::SYS_ioctl, &before, &mut count, &[]).unwrap();
    setsockopt(end, sockopt::OobInline, &in_line).unwrap();
    count as usize
}

/// Receives a byte of urgent data.
fn receive_urgent(end: &TcpStream) -> Result<u8, String> {
    let mut byte = [0];
    let flags = MsgFlags::MSG_OOB | MsgFlags::MSG_DONTWAIT;
    match recv(end.as_raw_fd(), &mut byte, flags) {
        Ok(1) => Ok(byte[0]),
        other => Err(format!("urgent data: {other:?}")),
    }
}

/// A socket whose connection was refused, which nobody has asked yet.
fn refused() -> OwnedFd {
    // Bound, but it does not listen.
    let socket = || socket_of(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
    let (deaf, caller) = (socket(), socket());
    bind(
        deaf.as_raw_fd(),
        &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
    )
    .unwrap();
    let at = getsockname::<SockaddrIn>(deaf.as_raw_fd()).unwrap();
    fcntl(&caller, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    connect(caller.as_raw_fd(), &at).unwrap_err();
    // struct pollfd: descriptor, events, what happened.
    let mut poll = u64::from(caller.as_raw_fd().cast_unsigned());
    call_with(libc::SYS_poll, &[], &mut poll, &[1, 5000]).unwrap();
    caller
}

/// How long a segment may be (`tcpi_snd_mss`).
fn segment(end: &TcpStream) -> u32 {
    let info = get(end, libc::IPPROTO_TCP, libc::TCP_INFO).unwrap();
    u32::from_le_bytes(info[16..20].try_into().unwrap())
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, args: &[String]) {
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let backlog = Backlog::new(77).unwrap();
    listen(&plain, backlog).unwrap();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    six.set_nonblocking(true).unwrap();
    let bound = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connected = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let other = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let to = other.local_addr().unwrap();
    connected.connect(to).unwrap();
    connected.set_broadcast(true).unwrap();
    bound
        .join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)
        .unwrap();
    connected.join_multicast_v6(&GROUP6, 1).unwrap();
    let flags = SockFlag::SOCK_CLOEXEC;
    let fresh = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    setsockopt(&fresh, sockopt::TcpNoDelay, &true).unwrap();
    setsockopt(&fresh, sockopt::KeepAlive, &true).unwrap();
    setsockopt(&fresh, sockopt::TcpKeepIdle, &123).unwrap();
    setsockopt(&fresh, sockopt::TcpUserTimeout, &4567).unwrap();
    setsockopt(&fresh, sockopt::RcvBuf, &50_000).unwrap();
    let route = SockProtocol::NetlinkRoute;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, route).unwrap();
    // By itself the kernel takes the pid, which specimens in other pid namespaces have, too.
    let port = RandomState::new().hash_one(0) as u32 | 1 << 31;
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(port, 1)).unwrap();
    setsockopt(&netlink, sockopt::RcvBuf, &40_000).unwrap();
    let port = getsockname::<NetlinkAddr>(netlink.as_raw_fd())
        .unwrap()
        .pid();
    let paths = args.iter().any(|arg| arg == "paths").then(|| {
        let new = || socket_of(libc::AF_INET, libc::SOCK_STREAM, MPTCP).unwrap();
        let (listener, nothing) = (new(), new());
        setsockopt(&listener, sockopt::ReuseAddr, &true).unwrap();
        setsockopt(&nothing, sockopt::KeepAlive, &true).unwrap();
        let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        bind(listener.as_raw_fd(), &any).unwrap();
        listen(&listener, backlog).unwrap();
        (TcpListener::from(listener), nothing)
    });
    let (paths, nothing) = paths.unzip();
    let mut internet = Internet {
        nothing,
        netlink: (netlink, port),
        bound: (bound.try_clone().unwrap(), bound.local_addr().unwrap()),
        connected: (connected, to),
        fresh,
        pairs: Vec::new(),
        segments: Vec::new(),
        urgent: Vec::new(),
        refused: None,
        halves: Vec::new(),
        endings: Vec::new(),
        listeners: [plain, six]
            .into_iter()
            .chain(paths)
            .map(|listener| {
                let at = listener.local_addr().unwrap();
                (listener, at)
            })
            .collect(),
    };
    if args.iter().any(|arg| arg == "connected") {
        internet.connect();
    }
    for how in ["urgent", "in-line", "alarm"] {
        if args.iter().any(|arg| arg == how) {
            internet.alarm(how);
        }
    }
    if args.iter().any(|arg| arg == "refused") {
        internet.refused = Some(refused());
    }
    if args.iter().any(|arg| arg == "halves") {
        internet.halve();
    }
    if args.iter().any(|arg| arg == "ending") {
        internet.end();
    }
    child(|| desk.beside("child").serve(&mut internet));
    desk.wait_for("child");
    desk.serve(&mut internet);
}

impl Internet {
    /// Two ends of a connection for each listener.
    fn ends(&self) -> Vec<(TcpStream, TcpStream)> {
        let pair = |(listener, at): &(TcpListener, SocketAddr)| {
            let client = TcpStream::connect(at).unwrap();
            client.set_nodelay(true).unwrap();
            let mut server = listener.accept();
            while server
                .as_ref()
                .is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            {
                server = listener.accept();
            }
            (client, server.unwrap().0)
        };
        self.listeners.iter().map(pair).collect()
    }

    /// Makes connections that are closed in part, by the client and by the server.
    fn halve(&mut self) {
        let swapped = self
            .ends()
            .into_iter()
            .map(|(client, server)| (server, client));
        self.halves = self.ends().into_iter().chain(swapped).collect();
        for (ended, open) in &mut self.halves {
            ended.write_all(b"question").unwrap();
            ended.shutdown(Shutdown::Write).unwrap();
            open.write_all(b"half").unwrap();
            // Until all of it has arrived.
            while (state(ended), state(open)) != (5, 8) {
                std::thread::yield_now();
            }
        }
    }

    /// The ends see what they should see.
    fn check_halves(&self) -> Result<(), String> {
        for (ended, open) in &self.halves {
            let mut bytes = [0; 16];
            let count = open.peek(&mut bytes).map_err(|e| format!("peek: {e}"))?;
            same("question", &&bytes[..count], &&b"question"[..])?;
            let count = ended.peek(&mut bytes).map_err(|e| format!("peek: {e}"))?;
            same("half", &&bytes[..count], &&b"half"[..])?;
            // struct pollfd: descriptor, events, what happened.
            let number = u64::from(open.as_raw_fd().cast_unsigned());
            let mut poll = number | u64::from(libc::POLLRDHUP.cast_unsigned()) << 32;
            let ready = call_with(libc::SYS_poll, &[], &mut poll, &[1, 0]);
            same("the end is seen", &ready.unwrap_or(-1), &1)?;
            let write = (&*ended).write(b"x").map_err(|e| e.kind());
            same("write", &write, &Err(ErrorKind::BrokenPipe))?;
        }
        Ok(())
    }

    /// What was under way arrives, and then some more.
    fn talk(&mut self) -> Result<(), String> {
        for (mut client, mut server) in self.pairs.drain(..) {
            let mut is = [0; 8];
            server
                .read_exact(&mut is)
                .map_err(|e| format!("question: {e}"))?;
            same("question", &is, b"question")?;
            server.shutdown(Shutdown::Write).unwrap();
            let mut all = Vec::new();
            client
                .read_to_end(&mut all)
                .map_err(|e| format!("answer: {e}"))?;
            same("answer", &all.get(..6), &Some(&b"answer"[..]))?;
            let rest = &all[6..];
            same(
                "rest",
                &(rest.len() > 100_000 && long().starts_with(rest)),
                &true,
            )?;
            client
                .write_all(b"thanks")
                .map_err(|e| format!("thanks: {e}"))?;
            client.shutdown(Shutdown::Write).unwrap();
            let mut text = String::new();
            server
                .read_to_string(&mut text)
                .map_err(|e| format!("thanks: {e}"))?;
            same("thanks", &text.as_str(), &"thanks")?;
        }
        Ok(())
    }

    /// Makes connections with urgent data.
    fn alarm(&mut self, how: &str) {
        for (client, server) in self.ends() {
            setsockopt(&server, sockopt::OobInline, &(how == "in-line")).unwrap();
            (&client).write_all(b"abc").unwrap();
            send(client.as_raw_fd(), b"U", MsgFlags::MSG_OOB).unwrap();
            (&client).write_all(b"def").unwrap();
            while unread(&server) != 7 {
                std::thread::yield_now();
            }
            if how == "urgent" {
                assert_eq!(receive_urgent(&server), Ok(b'U'));
            }
            self.urgent.push((client, server));
        }
    }

    /// All bytes arrive in their order, and what is sent now after them.
    fn end_alarm(&mut self) -> Result<(), String> {
        for (mut client, server) in self.urgent.drain(..) {
            let in_line = getsockopt(&server, sockopt::OobInline).unwrap();
            client.write_all(b"ghi").map_err(|e| e.to_string())?;
            client.shutdown(Shutdown::Write).unwrap();
            let mut all = String::new();
            (&server)
                .read_to_string(&mut all)
                .map_err(|e| format!("urgent: {e}"))?;
            let wanted = if in_line { "abcUdefghi" } else { "abcdefghi" };
            same("with urgent data", &all.as_str(), &wanted)?;
        }
        Ok(())
    }

    /// Says the rest on the half-closed connections.
    fn end_halves(&mut self) -> Result<(), String> {
        for (mut ended, mut open) in self.halves.drain(..) {
            let text = |e: std::io::Error| e.to_string();
            let mut all = String::new();
            open.read_to_string(&mut all).map_err(text)?;
            same("question", &all.as_str(), &"question")?;
            open.write_all(b" and half").map_err(text)?;
            open.shutdown(Shutdown::Write).map_err(text)?;
            let mut all = String::new();
            ended.read_to_string(&mut all).map_err(text)?;
            same("answer", &all.as_str(), &"half and half")?;
        }
        Ok(())
    }

    /// Makes connections with an end that was said and not acknowledged.
    fn end(&mut self) {
        for wanted in [FIN_WAIT1, LAST_ACK, CLOSING] {
            for (client, server) in self.ends() {
                if wanted == LAST_ACK {
                    client.shutdown(Shutdown::Write).unwrap();
                    until(&server, CLOSE_WAIT);
                }
                let sent = fill(&client, &server);
                server.shutdown(Shutdown::Write).unwrap();
                if wanted == CLOSING {
                    client.shutdown(Shutdown::Write).unwrap();
                }
                until(&server, wanted);
                self.endings.push((client, server, sent));
            }
        }
    }

    /// Everything arrives, and then the end.
    fn end_endings(&mut self) -> Result<(), String> {
        for (mut client, mut server, sent) in self.endings.drain(..) {
            let text = |e: std::io::Error| format!("ending: {e}");
            let write = server.write(b"x").map_err(|e| e.kind());
            same("write", &write, &Err(ErrorKind::BrokenPipe))?;
            let mut all = Vec::new();
            client.read_to_end(&mut all).map_err(text)?;
            same("length", &all.len(), &sent)?;
            same("bytes", &(all == long()[..sent]), &true)?;
            // Some have said so before.
            match client.shutdown(Shutdown::Write) {
                Err(e) if e.kind() != ErrorKind::NotConnected => return Err(text(e)),
                _ => {}
            }
            same("end", &server.read(&mut [0; 8]).map_err(text)?, &0)?;
        }
        Ok(())
    }

    fn connect(&mut self) {
        for (client, server) in self.ends() {
            (&client).write_all(b"question").unwrap();
            (&server).write_all(b"answer").unwrap();
            // To the brim.
            fill(&client, &server);
            self.segments.push((segment(&client), segment(&server)));
            self.pairs.push((client, server));
        }
    }
}

impl Program for Internet {
    fn check(&mut self) -> Answer {
        for (listener, at) in &self.listeners {
            same("listener", &listener.local_addr().unwrap(), at)?;
            same(
                "listens",
                &getsockopt(listener, sockopt::AcceptConn),
                &Ok(true),
            )?;
            same(
                "reuse",
                &getsockopt(listener, sockopt::ReuseAddr),
                &Ok(true),
            )?;
        }
        same("bound", &self.bound.0.local_addr().unwrap(), &self.bound.1)?;
        let (udp, to) = &self.connected;
        same("connected", &udp.peer_addr().unwrap(), to)?;
        same("broadcast", &udp.broadcast().unwrap(), &true)?;
        same(
            "nodelay",
            &getsockopt(&self.fresh, sockopt::TcpNoDelay),
            &Ok(true),
        )?;
        same(
            "keepalive",
            &getsockopt(&self.fresh, sockopt::KeepAlive),
            &Ok(true),
        )?;
        same(
            "idle",
            &getsockopt(&self.fresh, sockopt::TcpKeepIdle),
            &Ok(123),
        )?;
        same(
            "buffer",
            &getsockopt(&self.fresh, sockopt::RcvBuf),
            &Ok(100_000),
        )?;
        let number = |socket, name| get_int(socket, libc::SOL_SOCKET, name);
        if let Some(nothing) = &self.nothing {
            let kept = number(nothing, libc::SO_KEEPALIVE)?;
            same("nothing is kept alive", &kept, &1)?;
            let listener = &self.listeners[2].0;
            for socket in [&listener.try_clone().unwrap().into(), nothing] {
                same("protocol", &number(socket, libc::SO_PROTOCOL)?, &MPTCP)?;
            }
        }
        let (netlink, port) = &self.netlink;
        let name = getsockname::<NetlinkAddr>(netlink.as_raw_fd()).unwrap();
        same("netlink", &(name.pid(), name.groups()), &(*port, 1))?;
        same(
            "netlink's buffer",
            &getsockopt(netlink, sockopt::RcvBuf),
            &Ok(80_000),
        )?;
        for (client, server) in &self.pairs {
            let ends = |s: &TcpStream| (s.local_addr().ok(), s.peer_addr().ok());
            let (near, far) = ends(client);
            same("ends", &ends(server), &(far, near))?;
            same("reuse", &getsockopt(server, sockopt::ReuseAddr), &Ok(true))?;
            same("nodelay of a client", &client.nodelay().unwrap(), &true)?;
        }
        self.check_halves()?;
        Ok(format!("{} connections", self.pairs.len()))
    }

    /// `segments` measures them (CRIU shortens them), `receive` takes the urgent data, `ask` the error; `talk` uses everything; `dropped` finds all connections at their end.
    fn command(&mut self, words: &[&str]) -> Answer {
        if words == ["segments"] {
            for ((client, server), (one, other)) in self.pairs.iter().zip(&self.segments) {
                // It may grow with the window of the other end.
                let long = segment(client) >= *one && segment(server) >= *other;
                same("segments are as long as ever", &long, &true)?;
            }
            return Ok(String::new());
        }
        if words == ["receive"] {
            for (_, server) in &self.urgent {
                same("urgent data", &receive_urgent(server)?, &b'U')?;
            }
            return Ok(String::new());
        }
        if let (["ask"], Some(refused)) = (words, &self.refused) {
            let error = get_int(refused, libc::SOL_SOCKET, libc::SO_ERROR)?;
            same("error", &error, &libc::ECONNREFUSED)?;
            return Ok(String::new());
        }
        if words == ["dropped"] {
            let ending = self
                .endings
                .iter()
                .map(|(client, server, _)| (client, server));
            let pairs = self.pairs.iter().map(|(client, server)| (client, server));
            for (client, server) in pairs.chain(ending) {
                for mut end in [client, server] {
                    same("end", &end.read(&mut [0; 8]).map_err(|e| e.kind()), &Ok(0))?;
                    let write = end.write(b"x").map_err(|e| e.kind());
                    same("write", &write, &Err(ErrorKind::BrokenPipe))?;
                }
            }
            return Ok(String::new());
        }
        if words == ["pairs"] {
            return self.talk().map(|()| String::new());
        }
        self.end_halves()?;
        self.end_alarm()?;
        self.end_endings()?;
        let text = |e: std::io::Error| format!("group: {e}");
        let (bound, connected) = (&self.bound.0, &self.connected.0);
        bound
            .leave_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)
            .map_err(text)?;
        connected.leave_multicast_v6(&GROUP6, 1).map_err(text)?;
        bound
            .join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST)
            .map_err(text)?;
        connected.join_multicast_v6(&GROUP6, 1).map_err(text)?;
        let timeout = getsockopt(&self.fresh, sockopt::TcpUserTimeout);
        same("timeout", &timeout, &Ok(4567))?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender
            .send_to(b"hello", self.bound.1)
            .map_err(|e| e.to_string())?;
        let mut is = [0; 8];
        same("bound", &self.bound.0.recv(&mut is).unwrap(), &5)?;
        self.talk()?;
        for (listener, at) in &self.listeners {
            let mut client = TcpStream::connect(at).map_err(|e| format!("connect {at}: {e}"))?;
            let server = loop {
                match listener.accept() {
                    Ok((server, _)) => break server,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(e) => return Err(format!("accept: {e}")),
                }
            };
            (&server).write_all(b"ok").unwrap();
            drop(server);
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            same("served", &text.as_str(), &"ok")?;
        }
        Ok(String::new())
    }
}
