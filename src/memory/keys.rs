//! Protection keys (pkeys(7)): which keys a process has allocated (`mm_entry.protection_keys`), and which one
//! each mapping has (`vma_entry.protection_key`); fields of our own, CRIU loses both in silence. What a thread may do with
//! a key is in its registers (PKRU).
//!
//! The kernel gives the lowest free key only, so a restore takes all, and gives back those that nobody had. A
//! mapping that may only be executed has a key that the kernel chose and does not count as allocated
//! (mprotect(2), PROT_EXEC alone).

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::image::proto::{MmEntry, VmaEntry};
use crate::inject::{Call, Remote};
use crate::units::PAGE_SIZE;

/// Keys that can be allocated; 0 is what everything has.
const KEYS: std::ops::Range<u32> = 1..16;
/// No process has a mapping here: one past the last address (4-level page tables).
const NOWHERE: u64 = 0x7fff_ffff_f000;

/// Dump half, inside the process: its allocated keys, bit `n` for key `n`; `None` where there are no such
/// keys. The kernel looks at the key before it looks for the mapping, so nothing changes.
///
/// # Errors
/// When the thread died.
pub fn dump(remote: &mut Remote) -> Result<Option<u32>> {
    let prot = u64::from(libc::PROT_READ.cast_unsigned());
    let ask = |key: u32| {
        Call::new(
            libc::SYS_pkey_mprotect,
            &[NOWHERE, PAGE_SIZE, prot, key.into()],
        )
    };
    let mut calls: Vec<Call> = KEYS.map(ask).collect();
    remote.run(&mut calls)?;
    let known = |call: &Call| call.value() == Err(nix::errno::Errno::ENOMEM);
    let keys = KEYS
        .zip(&calls)
        .filter(|(_, call)| known(call))
        .fold(0, |set, (key, _)| set | 1 << key);
    Ok(Some(keys).filter(|keys| *keys != 0))
}

/// Restore half, inside the new process when its pages are there: allocates the keys, and gives the
/// mappings that have one that key and their final protection.
///
/// # Errors
/// [`Kind::Unsupported`] on a CPU without such keys.
pub fn restore(remote: &mut Remote, mm: &MmEntry) -> Result<()> {
    let allocated = mm.protection_keys.unwrap_or(0);
    let keyed: Vec<(&VmaEntry, u32)> = mm
        .vmas
        .iter()
        .filter_map(|vma| Some((vma, vma.protection_key?)))
        .collect();
    if allocated == 0 && keyed.is_empty() {
        return Ok(());
    }
    let none = [0, 0];
    let mut calls: Vec<Call> = KEYS
        .map(|_| Call::new(libc::SYS_pkey_alloc, &none))
        .collect();
    remote.run(&mut calls)?;
    let got: BTreeSet<u32> = calls
        .iter()
        .filter_map(|call| u32::try_from(call.value().ok()?).ok())
        .collect();
    let kernels = kernels_key(allocated, &keyed);
    let mut calls = Vec::new();
    if let Some(key) = kernels {
        // The only free one: the kernel chooses it again.
        calls.push(free(key));
    }
    for (vma, key) in &keyed {
        if !got.contains(key) {
            return Err(Error::new(
                Kind::Unsupported,
                format!(
                    "Process {} needs protection key {key}, which it does not get",
                    remote.tid()
                ),
            )
            .hint("restore on a CPU that has such keys (pku and ospke in /proc/cpuinfo)"));
        }
        let [at, bytes, prot] = [vma.start, vma.end - vma.start, vma.prot.into()];
        calls.push(match Some(*key) == kernels {
            true => Call::new(libc::SYS_mprotect, &[at, bytes, prot]),
            false => Call::new(libc::SYS_pkey_mprotect, &[at, bytes, prot, (*key).into()]),
        });
    }
    let spare = |key: &u32| allocated & 1 << key == 0 && Some(*key) != kernels;
    calls.extend(got.iter().filter(|key| spare(key)).map(|key| free(*key)));
    remote.run(&mut calls)?;
    for call in &calls {
        call.value().map_err(|e| {
            let what = format!("Setting protection keys failed in process {}", remote.tid());
            Error::os(what, e)
        })?;
    }
    Ok(())
}

fn free(key: u32) -> Call {
    Call::new(libc::SYS_pkey_free, &[key.into()])
}

/// The key that the kernel chose for what may only be executed, if there is such.
fn kernels_key(allocated: u32, keyed: &[(&VmaEntry, u32)]) -> Option<u32> {
    let only_executed = |vma: &VmaEntry| vma.prot == libc::PROT_EXEC.cast_unsigned();
    let mut all = keyed.iter().map(|(_, key)| *key);
    all.find(|key| {
        allocated & 1 << key == 0
            && keyed
                .iter()
                .filter(|(_, other)| other == key)
                .all(|(vma, _)| only_executed(vma))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_key_is_one_that_nobody_allocated_and_only_code_has() {
        let vma = |prot: i32| VmaEntry {
            prot: prot.cast_unsigned(),
            ..VmaEntry::default()
        };
        let (code, data) = (vma(libc::PROT_EXEC), vma(libc::PROT_READ));
        assert_eq!(kernels_key(0, &[(&code, 3)]), Some(3));
        assert_eq!(kernels_key(1 << 3, &[(&code, 3)]), None);
        assert_eq!(kernels_key(0, &[(&code, 3), (&data, 3)]), None);
        // Freed while a mapping still has it.
        assert_eq!(kernels_key(0, &[(&data, 2), (&code, 4)]), Some(4));
    }
}
