//! TCP and UDP sockets: listeners, bound, connected and unconnected ones, with options. With the
//! argument `connected` also both ends of TCP connections, with bytes under way in both directions.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, Backlog, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname,
    getsockopt, listen, setsockopt, socket, sockopt,
};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::child;

struct Internet {
    listeners: Vec<(TcpListener, SocketAddr)>,
    bound: (UdpSocket, SocketAddr),
    connected: (UdpSocket, SocketAddr),
    fresh: OwnedFd,
    /// Listens to changes of network interfaces; with its port.
    netlink: (OwnedFd, u32),
    pairs: Vec<(TcpStream, TcpStream)>,
}

/// More than the other end takes at once, so that some of it was never sent.
fn long() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n % 251) as u8).collect()
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
    let flags = SockFlag::SOCK_CLOEXEC;
    let fresh = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    setsockopt(&fresh, sockopt::TcpNoDelay, &true).unwrap();
    setsockopt(&fresh, sockopt::KeepAlive, &true).unwrap();
    setsockopt(&fresh, sockopt::TcpKeepIdle, &123).unwrap();
    setsockopt(&fresh, sockopt::TcpUserTimeout, &4567).unwrap();
    setsockopt(&fresh, sockopt::RcvBuf, &50_000).unwrap();
    let route = SockProtocol::NetlinkRoute;
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, flags, route).unwrap();
    bind(netlink.as_raw_fd(), &NetlinkAddr::new(0, 1)).unwrap();
    setsockopt(&netlink, sockopt::RcvBuf, &40_000).unwrap();
    let port = getsockname::<NetlinkAddr>(netlink.as_raw_fd())
        .unwrap()
        .pid();
    let mut internet = Internet {
        netlink: (netlink, port),
        bound: (bound.try_clone().unwrap(), bound.local_addr().unwrap()),
        connected: (connected, to),
        fresh,
        pairs: Vec::new(),
        listeners: [plain, six]
            .into_iter()
            .map(|listener| {
                let at = listener.local_addr().unwrap();
                (listener, at)
            })
            .collect(),
    };
    if args.iter().any(|arg| arg == "connected") {
        internet.connect();
    }
    child(|| desk.beside("child").serve(&mut internet));
    desk.wait_for("child");
    desk.serve(&mut internet);
}

impl Internet {
    fn connect(&mut self) {
        for (listener, at) in &self.listeners {
            let client = TcpStream::connect(at).unwrap();
            client.set_nodelay(true).unwrap();
            let mut server = listener.accept();
            while server
                .as_ref()
                .is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
            {
                server = listener.accept();
            }
            let (server, _) = server.unwrap();
            (&client).write_all(b"question").unwrap();
            (&server).write_all(b"answer").unwrap();
            // To the brim.
            setsockopt(&client, sockopt::RcvBuf, &100_000).unwrap();
            setsockopt(&server, sockopt::SndBuf, &300_000).unwrap();
            server.set_nonblocking(true).unwrap();
            let rest = long();
            let mut sent = 0;
            while let Ok(count) = (&server).write(&rest[sent..]) {
                sent += count;
                assert!(sent < rest.len(), "the queues have no end");
            }
            server.set_nonblocking(false).unwrap();
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
        Ok(format!("{} connections", self.pairs.len()))
    }

    /// `talk` uses everything; `dropped` finds all connections at their end.
    fn command(&mut self, words: &[&str]) -> Answer {
        if words == ["dropped"] {
            for (client, server) in &self.pairs {
                for mut end in [client, server] {
                    same("end", &end.read(&mut [0; 8]).map_err(|e| e.kind()), &Ok(0))?;
                    let write = end.write(b"x").map_err(|e| e.kind());
                    same("write", &write, &Err(ErrorKind::BrokenPipe))?;
                }
            }
            return Ok(String::new());
        }
        let timeout = getsockopt(&self.fresh, sockopt::TcpUserTimeout);
        same("timeout", &timeout, &Ok(4567))?;
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sender
            .send_to(b"hello", self.bound.1)
            .map_err(|e| e.to_string())?;
        let mut is = [0; 8];
        same("bound", &self.bound.0.recv(&mut is).unwrap(), &5)?;
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
