//! Descriptors over a unix socket (SCM_RIGHTS, unix(7)).
#![expect(unsafe_code, reason = "received descriptors come as bare numbers")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Sends one message, with a descriptor if given.
///
/// # Errors
/// As sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> nix::Result<()> {
    let raw: Vec<i32> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let control = ControlMessage::ScmRights(&raw);
    let controls = if raw.is_empty() {
        &[][..]
    } else {
        std::slice::from_ref(&control)
    };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        controls,
        flags,
        None,
    )
    .map(drop)
}

/// Receives one message of at most `limit` bytes, and the descriptor that came with it. An empty
/// message is the end.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(socket: BorrowedFd<'_>, limit: usize) -> nix::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; limit];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut iov = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), flags)?;
    let mut got = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
                got = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let len = message.bytes;
    bytes.truncate(len);
    Ok((bytes, got))
}

/// Accepts a connection (accept4(2)).
///
/// # Errors
/// As accept4(2).
pub fn accept(listener: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC;
    let fd = nix::sys::socket::accept4(listener.as_raw_fd(), flags)?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
