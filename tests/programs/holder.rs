//! Holds one thing that no image can hold yet: `io_uring`, `bpf`, `epoll`, `socket`, `eventfd`.

use std::os::fd::OwnedFd;

use crate::desk::{Answer, Desk, Program};
use crate::kernel;

struct Holder {
    ticks: u64,
    _held: OwnedFd,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, args: &[String]) {
    let made = match args.first().map(String::as_str) {
        Some("io_uring") => {
            // struct io_uring_params, 120 bytes, all zeros.
            let mut params = [0u64; 15];
            kernel::call_with(libc::SYS_io_uring_setup, &[4], &mut params, &[])
        }
        Some("bpf") => {
            // BPF_MAP_CREATE of an array: type 2, key 4 bytes, value 8 bytes, 16 entries.
            let mut attributes = [0u32; 32];
            attributes[..4].copy_from_slice(&[2, 4, 8, 16]);
            kernel::call_with(libc::SYS_bpf, &[0], &mut attributes, &[128])
        }
        Some("epoll") => kernel::call(libc::SYS_epoll_create1, [0; 6]),
        Some("eventfd") => kernel::call(libc::SYS_eventfd2, [0; 6]),
        Some("socket") => kernel::call(libc::SYS_socket, [1, 1, 0, 0, 0, 0]),
        other => panic!("holder of what? {other:?}"),
    };
    let mut state = Holder {
        ticks: 0,
        _held: kernel::owned(made.unwrap()),
    };
    desk.serve(&mut state);
}

impl Program for Holder {
    fn check(&mut self) -> Answer {
        self.ticks += 1;
        Ok(self.ticks.to_string())
    }
}
