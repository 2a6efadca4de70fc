//! Which TCP sockets sign their segments (`TCP_MD5SIG`): no option tells, but sock_diag(7) does, of those
//! that listen or have a connection.
//!
//! Sources: `linux/inet_diag.h`, RFC 2385.

use std::collections::HashSet;

use super::super::diag;

/// `INET_DIAG_MD5SIG`.
const KEYS: u16 = 18;
/// The bit of `INET_DIAG_INFO`.
const INFO: u8 = 1 << 1;
/// Bytes of `struct inet_diag_msg`, and where it has the inode number.
const MESSAGE: usize = 72;
const INODE: usize = 68;

/// The inode numbers of the TCP sockets of this network namespace that sign. None where the kernel does not
/// list TCP.
pub(in crate::files) fn sockets() -> HashSet<u64> {
    let mut found = HashSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // struct inet_diag_req_v2: family, protocol, extensions, padding; states; socket.
        let numbers = [family, libc::IPPROTO_TCP].map(|n| u8::try_from(n).unwrap_or(0));
        // The kernel tells of keys where it is asked for `struct tcp_info`.
        let mut request = vec![numbers[0], numbers[1], INFO, 0];
        request.extend(u32::MAX.to_le_bytes());
        request.resize(56, 0);
        let listed = diag::list(&request, |body| {
            let attributes = body.get(MESSAGE..).unwrap_or_default();
            let signs = diag::attributes(attributes).any(|(kind, _)| kind == KEYS);
            found.extend(diag::word(body, INODE).filter(|_| signs).map(u64::from));
        });
        if let Err(errno) = listed {
            tracing::debug!("TCP sockets of family {family} are not listed: {errno}");
        }
    }
    found
}
