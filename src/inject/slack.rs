//! Where the stub goes: the zero bytes at the end of an executable mapping, past the end of the file
//! it maps. Nothing ever runs there, and a write makes a private copy of that one page.

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use crate::arch::stub;
use crate::error::{Error, Kind, Result};
use crate::sys::vm::Memory;
use crate::units::{Pid, Vaddr};

/// A place for the stub and the bytes that stand there.
#[derive(Debug)]
pub(super) struct Slack {
    pub(super) stub: Vaddr,
    pub(super) original: [u8; stub::LEN],
}

/// Finds slack in `maps`, the vDSO first. A stub left behind by an engine that died is taken over;
/// what stood there before it were zeros.
///
/// # Errors
/// [`Kind::Unsupported`] when no mapping has room.
pub(super) fn find(pid: Pid, maps: &[MemoryMap], memory: &Memory) -> Result<Slack> {
    let executable = |m: &&MemoryMap| {
        let wanted = MMPermissions::READ | MMPermissions::EXECUTE | MMPermissions::PRIVATE;
        m.perms.contains(wanted) && !m.perms.contains(MMPermissions::WRITE)
    };
    let (vdso, others): (Vec<_>, Vec<_>) = maps
        .iter()
        .filter(executable)
        .partition(|m| m.pathname == MMapPath::Vdso);
    let backed = others
        .into_iter()
        .filter(|m| matches!(m.pathname, MMapPath::Path(_)));
    for map in vdso.into_iter().chain(backed) {
        let stub = (map.address.1 - stub::LEN as u64) & !15;
        let mut there = [0u8; stub::LEN];
        if memory.read(stub, &mut there).is_err() {
            continue;
        }
        if stub::is_stub(&there) {
            return Ok(Slack {
                stub,
                original: [0; stub::LEN],
            });
        }
        if there.iter().all(|b| *b == 0) {
            return Ok(Slack {
                stub,
                original: there,
            });
        }
    }
    Err(Error::new(
        Kind::Unsupported,
        format!(
            "Process {pid} has no executable mapping with {} free bytes at its end",
            stub::LEN
        ),
    )
    .hint("a program without vDSO and libraries cannot be dumped yet"))
}
