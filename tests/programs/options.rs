//! Sockets of any kind, their options by number, and classic BPF filters: socket(7).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::kernel::{call, call_with, owned};

/// A socket that waits five seconds for what it is to receive.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    let args = [domain, kind | libc::SOCK_CLOEXEC, protocol].map(|n| n as u64);
    let [domain, kind, protocol] = args;
    let socket = owned(call(libc::SYS_socket, [domain, kind, protocol, 0, 0, 0])?);
    let seconds = [5_u64.to_le_bytes(), [0; 8]].concat();
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &seconds);
    Ok(socket)
}

/// Sets an option.
pub fn set(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) {
    let mut bytes = [0_u8; 64];
    bytes[..value.len()].copy_from_slice(value);
    let before = [socket.as_raw_fd(), level, name].map(|n| n as u64);
    let after = [value.len() as u64];
    call_with(libc::SYS_setsockopt, &before, &mut bytes, &after).unwrap();
}

/// Sets an option that is a number.
pub fn set_int(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    set(socket, level, name, &value.to_le_bytes());
}

/// An option of at most 64 bytes.
pub fn get(socket: &impl AsRawFd, level: i32, name: i32) -> Result<Vec<u8>, String> {
    let mut bytes = [0_u8; 64];
    let mut length = 64_u32;
    let before = [socket.as_raw_fd(), level, name].map(|n| n as u64);
    let after = [(&raw mut length).expose_provenance() as u64];
    call_with(libc::SYS_getsockopt, &before, &mut bytes, &after)
        .map_err(|e| format!("option {level}.{name}: {e}"))?;
    Ok(bytes[..length as usize].to_vec())
}

/// An option that is a number.
pub fn get_int(socket: &impl AsRawFd, level: i32, name: i32) -> Result<i32, String> {
    let bytes = get(socket, level, name)?;
    Ok(i32::from_le_bytes(bytes[..4].try_into().unwrap()))
}

/// An instruction of a filter as the kernel has it.
pub const fn instruction(code: u16, jt: u8, jf: u8, constant: u32) -> u64 {
    code as u64 | (jt as u64) << 16 | (jf as u64) << 24 | (constant as u64) << 32
}

/// Lets pass what has `value` in the two bytes at `offset`.
pub const fn only(offset: u32, value: u16) -> [u64; 4] {
    [
        instruction(0x28, 0, 0, offset),
        instruction(0x15, 0, 1, value as u32),
        instruction(0x06, 0, 0, 0x4_0000),
        instruction(0x06, 0, 0, 0),
    ]
}

/// Puts a filter on a socket.
pub fn attach(socket: &impl AsRawFd, filter: &[u64]) {
    let address = filter.as_ptr().expose_provenance() as u64;
    let program = [(filter.len() as u64).to_le_bytes(), address.to_le_bytes()].concat();
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program);
}

/// The filter that is on a socket.
pub fn filter(socket: &impl AsRawFd) -> Vec<u64> {
    let mut filter = [0_u64; 16];
    let mut length = 16_u32;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_GET_FILTER);
    let before = [socket.as_raw_fd(), level, name].map(|n| n as u64);
    let after = [(&raw mut length).expose_provenance() as u64];
    call_with(libc::SYS_getsockopt, &before, &mut filter, &after).unwrap();
    filter[..length as usize].to_vec()
}
