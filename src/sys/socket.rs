//! Socket options by number, and what only ioctl(2) tells about sockets: socket(7), unix(7), tcp(7).
#![expect(unsafe_code, reason = "options that have no safe wrapper")]

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixCredentials, sendmsg};

/// `SIOCUNIXFILE` of `linux/un.h`: opens the file that a unix socket is bound to.
const SIOCUNIXFILE: libc::Ioctl = 0x89e0;

/// Reads an option into `bytes`; the number of bytes (or of filter instructions) that it has.
///
/// # Errors
/// As getsockopt(2).
pub fn get(fd: impl AsFd, level: i32, name: i32, bytes: &mut [u8]) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let mut length = libc::socklen_t::try_from(bytes.len()).map_err(|_too_large| Errno::EINVAL)?;
    // SAFETY: the kernel writes at most `length` bytes to `bytes`, which has as many.
    let result =
        unsafe { libc::getsockopt(fd, level, name, bytes.as_mut_ptr().cast(), &raw mut length) };
    Errno::result(result)?;
    usize::try_from(length).map_err(|_too_large| Errno::EINVAL)
}

/// Sets an option.
///
/// # Errors
/// As setsockopt(2).
pub fn set(fd: impl AsFd, level: i32, name: i32, bytes: &[u8]) -> nix::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    let length = libc::socklen_t::try_from(bytes.len()).map_err(|_too_large| Errno::EINVAL)?;
    // SAFETY: the kernel reads `length` bytes of `bytes`, which has as many.
    let result = unsafe { libc::setsockopt(fd, level, name, bytes.as_ptr().cast(), length) };
    Errno::result(result).map(drop)
}

/// Reads an option that is an int.
///
/// # Errors
/// As getsockopt(2).
pub fn get_int(fd: impl AsFd, level: i32, name: i32) -> nix::Result<i32> {
    let mut bytes = [0; 4];
    get(fd, level, name, &mut bytes)?;
    Ok(i32::from_le_bytes(bytes))
}

/// Sets an option that is an int.
///
/// # Errors
/// As setsockopt(2).
pub fn set_int(fd: impl AsFd, level: i32, name: i32, value: i32) -> nix::Result<()> {
    set(fd, level, name, &value.to_le_bytes())
}

/// Number of instructions of the classic BPF filter on a socket (`SO_GET_FILTER`).
///
/// # Errors
/// `EACCES` for a filter that is not classic.
pub fn filter_length(fd: impl AsFd) -> nix::Result<usize> {
    // With a length of 0 the kernel only tells how many there are.
    get(fd, libc::SOL_SOCKET, libc::SO_GET_FILTER, &mut [])
}

/// The classic BPF filter on a socket; empty when there is none.
///
/// # Errors
/// `EACCES` for a filter that is not classic.
pub fn filter(fd: impl AsFd) -> nix::Result<Vec<libc::sock_filter>> {
    let nothing = libc::sock_filter {
        code: 0,
        jt: 0,
        jf: 0,
        k: 0,
    };
    let mut filter = vec![nothing; filter_length(&fd)?];
    // The length of this option is a number of instructions; with 0 nothing would be written.
    let mut length = libc::socklen_t::try_from(filter.len()).map_err(|_too_large| Errno::EINVAL)?;
    let fd = fd.as_fd().as_raw_fd();
    let bytes = filter.as_mut_ptr().cast();
    let (level, name) = (libc::SOL_SOCKET, libc::SO_GET_FILTER);
    // SAFETY: the kernel writes at most `length` instructions to `filter`, which has as many, or
    // fails when a longer one was attached meanwhile.
    Errno::result(unsafe { libc::getsockopt(fd, level, name, bytes, &raw mut length) })?;
    Ok(filter)
}

/// Puts a classic BPF filter on a socket.
///
/// # Errors
/// As setsockopt(2): `EINVAL` for one that makes no sense, `EPERM` when the filter is locked.
pub fn attach_filter(fd: impl AsFd, filter: &[libc::sock_filter]) -> nix::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_too_large| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    let fd = fd.as_fd().as_raw_fd();
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let option = (&raw const filter).cast();
    // SAFETY: the kernel reads `filter` and the instructions that it points to; both outlive the
    // call, and it writes to neither.
    let result =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, option, length) };
    Errno::result(result).map(drop)
}

/// Has a socket drop whatever arrives, until `SO_DETACH_FILTER`: a TCP connection is deaf then, and the
/// other end sends again.
///
/// # Errors
/// As setsockopt(2).
pub fn attach_drop_filter(fd: impl AsFd) -> nix::Result<()> {
    // BPF_RET | BPF_K with 0: keep nothing.
    let drop = libc::sock_filter {
        code: 0x06,
        jt: 0,
        jf: 0,
        k: 0,
    };
    attach_filter(fd, &[drop])
}

/// The file that a unix socket is bound to, as an `O_PATH` descriptor: its link in `/proc/self/fd`
/// is the path.
///
/// # Errors
/// `ENOENT` when it is bound to none, `EPERM` without `CAP_NET_ADMIN`.
pub fn bound_file(fd: impl AsFd) -> nix::Result<OwnedFd> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: no argument is read.
    let file = Errno::result(unsafe { libc::ioctl(fd, SIOCUNIXFILE) })?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// True when the other end has announced that it sends no more, or this one that it reads no more
/// (poll(2), `POLLRDHUP`).
///
/// # Errors
/// As poll(2).
pub fn reads_no_more(fd: impl AsFd) -> nix::Result<bool> {
    Ok(poll(fd, libc::POLLRDHUP)? & libc::POLLRDHUP != 0)
}

/// True when something waits to be received, or an error to be told; neither is taken away.
///
/// # Errors
/// As poll(2).
pub fn waits(fd: impl AsFd) -> nix::Result<bool> {
    Ok(poll(fd, libc::POLLIN)? & (libc::POLLIN | libc::POLLERR) != 0)
}

/// True when an error waits to be told (`SO_ERROR`); it is not taken away.
///
/// # Errors
/// As poll(2).
pub fn has_error(fd: impl AsFd) -> nix::Result<bool> {
    Ok(poll(fd, 0)? & libc::POLLERR != 0)
}

/// True when urgent data waits to be received, or is announced; it is not taken away.
///
/// # Errors
/// As poll(2).
pub fn is_urgent(fd: impl AsFd) -> nix::Result<bool> {
    let fd = fd.as_fd();
    if poll(fd, libc::POLLPRI)? & libc::POLLPRI != 0 {
        return Ok(true);
    }
    Ok(peek_urgent(fd) == Err(Errno::EAGAIN))
}

/// The byte of urgent data that waits, which stays where it is.
///
/// # Errors
/// `EINVAL` when there is none, or when it is among the others (`SO_OOBINLINE`); `EAGAIN` when it is
/// announced only.
pub fn peek_urgent(fd: impl AsFd) -> nix::Result<u8> {
    let flags = MsgFlags::MSG_OOB | MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    let mut byte = [0];
    match nix::sys::socket::recv(fd.as_fd().as_raw_fd(), &mut byte, flags)? {
        0 => Err(Errno::EINVAL),
        _ => Ok(byte[0]),
    }
}

/// What poll(2) tells without waiting.
fn poll(fd: impl AsFd, events: i16) -> nix::Result<i16> {
    let mut asked = libc::pollfd {
        fd: fd.as_fd().as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the kernel reads and writes the one entry of `asked`, and does not wait.
    Errno::result(unsafe { libc::poll(&raw mut asked, 1, 0) })?;
    Ok(asked.revents)
}

/// An ioctl that writes one int, such as `SIOCOUTQ`.
///
/// # Errors
/// As ioctl(2).
pub fn queued(fd: impl AsFd, request: libc::Ioctl) -> nix::Result<usize> {
    let fd = fd.as_fd().as_raw_fd();
    let mut bytes: libc::c_int = 0;
    // SAFETY: all requests that are used with this write one int.
    Errno::result(unsafe { libc::ioctl(fd, request, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// A socket of any family, type and protocol, close-on-exec.
///
/// # Errors
/// As socket(2): `EPROTONOSUPPORT` when the kernel does not have the protocol.
pub fn make(domain: i32, kind: i32, protocol: i32) -> nix::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Protocol (in the order of the network) and interface of a packet socket: packet(7). An interface that
/// is gone is -1.
///
/// # Errors
/// As getsockname(2).
pub fn packet_name(fd: impl AsFd) -> nix::Result<(u16, i32)> {
    // SAFETY: a sockaddr_ll is numbers; all zero is a valid one.
    let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let address = (&raw mut name).cast();
    // SAFETY: the kernel writes at most `length` bytes to `name`, which has as many.
    let result = unsafe { libc::getsockname(fd.as_fd().as_raw_fd(), address, &raw mut length) };
    Errno::result(result)?;
    Ok((name.sll_protocol, name.sll_ifindex))
}

/// Has a packet socket receive a protocol (in the order of the network) from an interface, or, with 0,
/// from all: packet(7).
///
/// # Errors
/// As bind(2): `ENODEV` when there is no such interface.
pub fn bind_packet(fd: impl AsFd, protocol: u16, interface: u32) -> nix::Result<()> {
    // SAFETY: a sockaddr_ll is numbers; all zero is a valid one.
    let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    name.sll_family = libc::AF_PACKET as libc::sa_family_t;
    name.sll_protocol = protocol;
    name.sll_ifindex = interface.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    let address = (&raw const name).cast();
    // SAFETY: the kernel reads `length` bytes of `name`, which has as many.
    Errno::result(unsafe { libc::bind(fd.as_fd().as_raw_fd(), address, length) }).map(drop)
}

/// Accepts a connection; the new descriptor is close-on-exec.
///
/// # Errors
/// As accept(2).
pub fn accept(listener: impl AsFd) -> nix::Result<OwnedFd> {
    let listener = listener.as_fd().as_raw_fd();
    let fd = nix::sys::socket::accept4(listener, nix::sys::socket::SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just made this descriptor, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A message in the queue of a unix socket; it is still there.
#[derive(Debug, Default)]
pub struct Peeked {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// There was more than fits.
    pub truncated: bool,
    /// Copies of the descriptors under way with it.
    pub descriptors: Vec<OwnedFd>,
    /// pid, uid, gid of the sender, when the receiver asks for them.
    pub credentials: Option<(i32, u32, u32)>,
    /// Name of the sender: a path, which ends with NUL, or NUL and an abstract name.
    pub sender: Option<Vec<u8>>,
}

/// Most descriptors in one message (`SCM_MAX_FD`).
const MOST: usize = 253;

/// Reads the message at the peeking offset of a unix socket (`SO_PEEK_OFF`) without taking it out;
/// does not wait.
///
/// # Errors
/// `EAGAIN` at the end of the queue.
pub fn peek(fd: impl AsFd, most: usize) -> nix::Result<Peeked> {
    let mut bytes = vec![0; most];
    // Room for headers, descriptors and credentials; words, because headers are aligned.
    let mut space = vec![0_u64; 20 + MOST.div_ceil(2)];
    let mut name = [0_u8; size_of::<libc::sockaddr_un>()];
    let mut iov = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: a msghdr is numbers and pointers; all zero is a valid one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = u32::try_from(name.len()).unwrap_or(0);
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = space.len() * 8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: `message` points to buffers of the lengths that it tells; all outlive the call.
    let length = unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut message, flags) };
    bytes.truncate(Errno::result(length)?.cast_unsigned());
    let mut peeked = Peeked {
        bytes,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        ..Peeked::default()
    };
    let control: Vec<u8> = space.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut rest = control.get(..message.msg_controllen).unwrap_or_default();
    while let Some((length, level, kind)) = header(rest) {
        let words: Vec<i32> = rest
            .get(16..length)
            .unwrap_or_default()
            .chunks_exact(4)
            .map(|word| word.try_into().map_or(0, i32::from_le_bytes))
            .collect();
        match (level, kind, words.as_slice()) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS, numbers) => {
                // SAFETY: the kernel has just made these descriptors, nobody else owns them.
                let owned = |number: &RawFd| unsafe { OwnedFd::from_raw_fd(*number) };
                peeked.descriptors.extend(numbers.iter().map(owned));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS, &[pid, uid, gid]) => {
                peeked.credentials = Some((pid, uid.cast_unsigned(), gid.cast_unsigned()));
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    let named = usize::try_from(message.msg_namelen).unwrap_or(0);
    peeked.sender = name
        .get(2..named)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec);
    Ok(peeked)
}

/// Length, level and type of the control message at the start of `bytes` (cmsg(3)).
fn header(bytes: &[u8]) -> Option<(usize, i32, i32)> {
    let length = usize::try_from(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?)).ok()?;
    let level = i32::from_le_bytes(bytes.get(8..12)?.try_into().ok()?);
    let kind = i32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?);
    (length >= 16 && length <= bytes.len()).then_some((length, level, kind))
}

/// Sends one message over a connected unix socket, with descriptors and with credentials of another
/// process, as urgent data if so wished; does not wait.
///
/// # Errors
/// `EAGAIN` when there is no room, `ESRCH` when there is no such process.
pub fn send(
    fd: impl AsFd,
    bytes: &[u8],
    descriptors: &[RawFd],
    credentials: Option<(i32, u32, u32)>,
    urgent: bool,
) -> nix::Result<usize> {
    let who =
        credentials.map(|(pid, uid, gid)| UnixCredentials::from(libc::ucred { pid, uid, gid }));
    let mut controls = Vec::new();
    if !descriptors.is_empty() {
        controls.push(ControlMessage::ScmRights(descriptors));
    }
    controls.extend(who.as_ref().map(ControlMessage::ScmCredentials));
    let mut flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    flags.set(MsgFlags::MSG_OOB, urgent);
    let fd = fd.as_fd().as_raw_fd();
    sendmsg::<()>(fd, &[IoSlice::new(bytes)], &controls, flags, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_socket_tells_its_file_and_no_filter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let file = bound_file(&socket).unwrap();
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        assert_eq!(link, path);
        assert_eq!(filter_length(&socket), Ok(0));
        assert_eq!(filter(&socket).map(|filter| filter.len()), Ok(0));
    }

    #[test]
    fn a_filter_comes_back_as_attached() {
        let (socket, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        attach_drop_filter(&socket).unwrap();
        let is = filter(&socket).unwrap();
        assert_eq!((is.len(), is[0].code, is[0].k), (1, 6, 0));
        assert_eq!(waits(&socket), Ok(false));
    }

    #[test]
    fn an_option_comes_back_as_set() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(queued(&socket, libc::TIOCOUTQ), Ok(0));
        set_int(&socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, 7).unwrap();
        assert_eq!(get_int(&socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF), Ok(7));
    }
}
