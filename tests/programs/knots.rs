//! Unix sockets that are under way in each other's queues, and packets whose other end is gone.

use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    recv, recvmsg, send, sendmsg, shutdown, socketpair,
};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::owned;

/// Everything.
struct Knots {
    /// The second end is under way to itself.
    itself: (UnixStream, UnixStream),
    /// The first end of each is under way in the other, and nowhere else.
    crossed: (UnixStream, UnixStream),
    /// Its other end sent two messages and is closed.
    orphan: OwnedFd,
    /// The first end sends no more.
    half: (OwnedFd, OwnedFd),
}

fn packets() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

fn mail(through: &UnixStream, what: &UnixStream) {
    let numbers = [what.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&numbers)];
    let bytes = [IoSlice::new(b"x")];
    sendmsg::<()>(
        through.as_raw_fd(),
        &bytes,
        &rights,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
}

fn unpack(from: &UnixStream) -> Result<UnixStream, String> {
    let mut bytes = [0; 8];
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(from.as_raw_fd(), &mut iov, Some(&mut space), flags)
        .map_err(|e| format!("a socket under way: {e}"))?;
    for control in message.cmsgs().unwrap() {
        if let ControlMessageOwned::ScmRights(rights) = control {
            return Ok(owned(rights[0].into()).into());
        }
    }
    Err("no socket under way".into())
}

/// What is sent to `from` arrives at `to`.
fn leads(mut from: &UnixStream, mut to: &UnixStream, what: &str) -> Result<(), String> {
    from.write_all(b"hello")
        .map_err(|e| format!("{what}: {e}"))?;
    let mut is = [0; 5];
    to.read_exact(&mut is).map_err(|e| format!("{what}: {e}"))?;
    same(what, &is, b"hello")
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _args: &[String]) {
    let itself = UnixStream::pair().unwrap();
    mail(&itself.0, &itself.1);
    let (one, other) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
    mail(&one.0, &other.0);
    mail(&other.0, &one.0);
    let (orphan, gone) = packets();
    for message in [&b"last"[..], b"words"] {
        send(gone.as_raw_fd(), message, MsgFlags::empty()).unwrap();
    }
    drop(gone);
    let half = packets();
    shutdown(half.0.as_raw_fd(), Shutdown::Write).unwrap();
    let mut knots = Knots {
        itself,
        crossed: (one.1, other.1),
        orphan,
        half,
    };
    desk.serve(&mut knots);
}

impl Program for Knots {
    fn check(&mut self) -> Answer {
        let mut is = [0; 8];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK;
        let length = recv(self.orphan.as_raw_fd(), &mut is, flags);
        same("orphan", &length, &Ok(4))?;
        Ok("knots".to_owned())
    }

    /// `drain` takes everything out and uses it.
    fn command(&mut self, _words: &[&str]) -> Answer {
        let take = |socket: &OwnedFd| {
            let mut is = [0; 16];
            recv(socket.as_raw_fd(), &mut is, MsgFlags::MSG_DONTWAIT).map(|n| is[..n].to_vec())
        };
        for message in [&b"last"[..], b"words", b"", b""] {
            same("orphan", &take(&self.orphan), &Ok(message.to_vec()))?;
        }
        same("half", &take(&self.half.1), &Ok(Vec::new()))?;
        same("other half", &take(&self.half.0), &Err(Errno::EAGAIN))?;
        let own = unpack(&self.itself.1)?;
        leads(&self.itself.0, &own, "to itself")?;
        let (of_other, of_one) = (unpack(&self.crossed.0)?, unpack(&self.crossed.1)?);
        leads(&of_other, &self.crossed.1, "crossed")?;
        leads(&of_one, &self.crossed.0, "crossed back")?;
        Ok(String::new())
    }
}
