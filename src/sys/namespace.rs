//! Whose a namespace is (ioctl_ns(2)).
#![expect(unsafe_code, reason = "ioctl(2) has no safe interface")]

use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use linux_raw_sys::ioctl::NS_GET_USERNS;
use nix::errno::Errno;

/// The user namespace that the namespace behind `namespace` belongs to: who has a capability in that, has it
/// over this.
///
/// # Errors
/// `EPERM` when it is neither our own user namespace nor one below that.
pub fn owner(namespace: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument, and touches no memory of ours.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS.into()) };
    // SAFETY: the kernel has just opened this descriptor for us; nobody else owns it.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn only_a_namespace_has_an_owner() {
        let file = File::open("/dev/null").unwrap();
        assert_eq!(owner(file.as_fd()).unwrap_err(), Errno::ENOTTY);
        let ours = File::open("/proc/self/ns/user").unwrap();
        // The owner of a user namespace is its parent, which is out of reach.
        assert_eq!(owner(ours.as_fd()).unwrap_err(), Errno::EPERM);
    }
}
