//! Unix sockets of every type: pairs, listeners and their connections, names of every sort, with
//! bytes, messages and descriptors under way. A child holds some of the other ends.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    getsockname, recv, recvmsg, send, sendmsg, setsockopt, socketpair, sockopt,
};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{child, owned, unread};
use crate::options::{attach, filter, only};

/// Everything, built before the child is made.
struct Sockets {
    stream: (UnixStream, UnixStream),
    packets: (OwnedFd, OwnedFd),
    datagrams: (UnixDatagram, UnixDatagram),
    listener: UnixListener,
    client: UnixStream,
    accepted: UnixStream,
    lost: UnixListener,
    lost_name: String,
    /// Bound at `fresh.tmp`, then moved to `fresh`; with a connection.
    moved: Option<(UnixListener, UnixStream, UnixStream)>,
    abstracted: (UnixListener, SocketAddr),
    bound: UnixDatagram,
    sender: UnixDatagram,
    half: (UnixStream, UnixStream),
    orphan: UnixStream,
    courier: (UnixStream, UnixStream),
    waiting: Option<UnixStream>,
    /// The second got a message before it had a filter that drops such.
    filtered: Option<(UnixDatagram, UnixDatagram)>,
}

/// Lets pass what begins with `hi`.
const HELLO: [u64; 4] = only(0, u16::from_be_bytes(*b"hi"));

/// What the stream pair has under way: more than one page.
fn long() -> Vec<u8> {
    (0..20_000_u32).map(|n| (n % 251) as u8).collect()
}

/// Builds it and serves; the child at the desk `child`. `modest` is without what CRIU loses.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|a| a == "modest");
    std::env::set_current_dir(desk.dir()).unwrap();
    let path = desk.dir().join("listener");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let lost_name = desk.dir().join("lost").to_str().unwrap().to_owned();
    let lost = UnixListener::bind(&lost_name).unwrap();
    fs::remove_file(&lost_name).unwrap();
    let moved = (!modest).then(|| {
        let (early, fresh) = (desk.dir().join("fresh.tmp"), desk.dir().join("fresh"));
        let moved = UnixListener::bind(&early).unwrap();
        fs::rename(early, &fresh).unwrap();
        let caller = UnixStream::connect(&fresh).unwrap();
        let called = moved.accept().unwrap().0;
        (moved, caller, called)
    });
    let name = format!("icecore-specimen-{}", desk.dir().display());
    let name = SocketAddr::from_abstract_name(&name[..name.len().min(100)]).unwrap();
    let abstracted = (UnixListener::bind_addr(&name).unwrap(), name);
    let bound = UnixDatagram::bind("bound").unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect("bound").unwrap();
    let waiting = (!modest).then(|| UnixStream::connect(&path).unwrap());
    let filtered = (!modest).then(|| {
        let (near, far) = UnixDatagram::pair().unwrap();
        near.send(b"no").unwrap();
        attach(&far, &HELLO);
        far.set_nonblocking(true).unwrap();
        (near, far)
    });
    let (orphan, other) = UnixStream::pair().unwrap();
    (&other).write_all(b"last words").unwrap();
    drop(other);
    let packets = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    );
    let half = UnixStream::pair().unwrap();
    (&half.0).write_all(b"the end").unwrap();
    half.0.shutdown(std::net::Shutdown::Write).unwrap();
    let mut sockets = Sockets {
        stream: UnixStream::pair().unwrap(),
        packets: packets.unwrap(),
        datagrams: UnixDatagram::pair().unwrap(),
        listener,
        client,
        accepted,
        lost,
        lost_name,
        moved,
        abstracted,
        bound,
        sender,
        half,
        orphan,
        courier: UnixStream::pair().unwrap(),
        waiting,
        filtered,
    };
    setsockopt(&sockets.stream.0, sockopt::SndBuf, &100_000).unwrap();
    sockets
        .stream
        .1
        .set_read_timeout(Some(Duration::from_millis(2500)))
        .unwrap();
    sockets.datagrams.1.set_nonblocking(true).unwrap();
    sockets.fill(desk.dir());
    child(|| desk.beside("child").serve(&mut sockets));
    desk.wait_for("child");
    desk.serve(&mut sockets);
}

impl Sockets {
    /// Puts everything under way.
    fn fill(&mut self, dir: &std::path::Path) {
        (&self.stream.0).write_all(&long()).unwrap();
        for message in [&b"one"[..], b"two and more", b"three"] {
            let flags = MsgFlags::empty();
            send(self.packets.0.as_raw_fd(), message, flags).unwrap();
            self.datagrams.0.send(message).unwrap();
            self.sender.send(message).unwrap();
        }
        (&self.client).write_all(b"question").unwrap();
        (&self.accepted).write_all(b"answer").unwrap();
        let path = dir.join("carried");
        fs::write(&path, "carried contents").unwrap();
        let carried = File::open(path).unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"in the pipe").unwrap();
        let numbers = [carried.as_raw_fd(), reader.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&numbers)];
        let bytes = [IoSlice::new(b"catch")];
        let to = self.courier.0.as_raw_fd();
        sendmsg::<()>(to, &bytes, &rights, MsgFlags::empty(), None).unwrap();
    }

    fn messages(&self, socket: RawFd, what: &str) -> Result<(), String> {
        for message in ["one", "two and more", "three"] {
            let mut is = [0; 100];
            let count = recv(socket, &mut is, MsgFlags::MSG_DONTWAIT)
                .map_err(|e| format!("{what}: {e}"))?;
            same(
                what,
                &String::from_utf8_lossy(&is[..count]).as_ref(),
                &message,
            )?;
        }
        let end = recv(socket, &mut [0; 8], MsgFlags::MSG_DONTWAIT);
        same(what, &end, &Err(nix::errno::Errno::EAGAIN))
    }

    /// Reads the descriptors that are under way.
    fn catch(&self) -> Result<(), String> {
        let mut bytes = [0; 100];
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([RawFd; 2]);
        let from = self.courier.1.as_raw_fd();
        let message = recvmsg::<()>(from, &mut iov, Some(&mut space), MsgFlags::MSG_DONTWAIT);
        let message = message.map_err(|e| format!("courier: {e}"))?;
        let mut numbers = Vec::new();
        for control in message.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(rights) = control {
                numbers = rights;
            }
        }
        let [carried, reader] = numbers[..] else {
            return Err(format!("descriptors under way: {numbers:?}"));
        };
        let mut text = String::new();
        let mut carried = File::from(owned(carried.into()));
        carried.read_to_string(&mut text).unwrap();
        same("carried file", &text.as_str(), &"carried contents")?;
        text.clear();
        File::from(owned(reader.into()))
            .read_to_string(&mut text)
            .unwrap();
        same("carried pipe", &text.as_str(), &"in the pipe")
    }
}

fn exactly(mut socket: &UnixStream, what: &str, should: &[u8]) -> Result<(), String> {
    same(what, &unread(socket), &should.len())?;
    let mut is = vec![0; should.len()];
    socket
        .read_exact(&mut is)
        .map_err(|e| format!("{what}: {e}"))?;
    same(what, &(is == should), &true)
}

impl Program for Sockets {
    fn check(&mut self) -> Answer {
        let dir = std::env::current_dir().unwrap();
        let path = dir.join("listener");
        let name = |fd: RawFd| {
            getsockname::<UnixAddr>(fd)
                .unwrap()
                .path()
                .map(ToOwned::to_owned)
        };
        same(
            "listener",
            &name(self.listener.as_raw_fd()),
            &Some(path.clone()),
        )?;
        same(
            "lost",
            &name(self.lost.as_raw_fd()),
            &Some(self.lost_name.clone().into()),
        )?;
        same(
            "bound",
            &name(self.bound.as_raw_fd()),
            &Some("bound".into()),
        )?;
        same(
            "mode",
            &(fs::metadata(&path).unwrap().permissions().mode() & 0o777),
            &0o640,
        )?;
        if let Some((moved, ..)) = &self.moved {
            let early = dir.join("fresh.tmp");
            same("old place", &early.exists(), &false)?;
            same("moved", &name(moved.as_raw_fd()), &Some(early))?;
        }
        same("no file", &fs::exists(&self.lost_name).unwrap(), &false)?;
        let timeout = self.stream.1.read_timeout().unwrap();
        same("timeout", &timeout, &Some(Duration::from_millis(2500)))?;
        let room = nix::sys::socket::getsockopt(&self.stream.0, sockopt::SndBuf).unwrap();
        same("buffer", &room, &200_000)?;
        same("stream", &unread(&self.stream.1), &long().len())?;
        same("half", &unread(&self.half.1), &7)?;
        if let Some((_, far)) = &self.filtered {
            same("filter", &filter(far), &HELLO.to_vec())?;
        }
        Ok("sockets".to_owned())
    }

    /// `drain` reads everything, compares, and connects anew; `names` is about accepted connections.
    fn command(&mut self, words: &[&str]) -> Answer {
        if words == ["names"] {
            let path = std::env::current_dir().unwrap().join("listener");
            let name = self.accepted.local_addr().unwrap();
            same("accepted", &name.as_pathname(), &Some(path.as_path()))?;
            return Ok(String::new());
        }
        exactly(&self.stream.1, "stream", &long())?;
        self.messages(self.packets.1.as_raw_fd(), "packets")?;
        self.messages(self.datagrams.1.as_raw_fd(), "datagrams")?;
        self.messages(self.bound.as_raw_fd(), "bound")?;
        exactly(&self.accepted, "accepted", b"question")?;
        exactly(&self.client, "client", b"answer")?;
        exactly(&self.orphan, "orphan", b"last words")?;
        same(
            "orphan's end",
            &(&self.orphan).read(&mut [0; 8]).unwrap(),
            &0,
        )?;
        exactly(&self.half.1, "half", b"the end")?;
        same("half's end", &(&self.half.1).read(&mut [0; 8]).unwrap(), &0)?;
        (&self.half.1)
            .write_all(b"still")
            .map_err(|e| e.to_string())?;
        exactly(&self.half.0, "other half", b"still")?;
        self.catch()?;
        if let Some((near, far)) = &self.filtered {
            near.send(b"no more").unwrap();
            near.send(b"hi").unwrap();
            for wanted in [&b"no"[..], b"hi"] {
                let mut is = [0; 16];
                let length = far.recv(&mut is).map_err(|e| format!("filtered: {e}"))?;
                same("filtered", &&is[..length], &wanted)?;
            }
        }
        if let Some(waiting) = &self.waiting {
            let (mut got, _) = self.listener.accept().unwrap();
            (&*waiting).write_all(b"finally").unwrap();
            let mut is = [0; 7];
            got.read_exact(&mut is).unwrap();
            same("waiting", &is, b"finally")?;
            self.waiting = None;
        }
        let again = UnixStream::connect(std::env::current_dir().unwrap().join("listener"));
        drop(again.map_err(|e| format!("connect: {e}"))?);
        drop(self.listener.accept().unwrap());
        if let Some((moved, caller, called)) = &self.moved {
            (&*caller).write_all(b"moved").map_err(|e| e.to_string())?;
            exactly(called, "moved", b"moved")?;
            let again = UnixStream::connect(std::env::current_dir().unwrap().join("fresh"));
            drop(again.map_err(|e| format!("connect where it was moved: {e}"))?);
            drop(moved.accept().unwrap());
        }
        let again = UnixStream::connect_addr(&self.abstracted.1);
        drop(again.map_err(|e| format!("connect by abstract name: {e}"))?);
        drop(self.abstracted.0.accept().unwrap());
        self.sender.send(b"more").map_err(|e| e.to_string())?;
        let mut is = [0; 8];
        same("bound", &self.bound.recv(&mut is).unwrap(), &4)?;
        Ok(String::new())
    }
}
