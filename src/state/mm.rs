//! What the kernel knows of an address space besides its mappings: where code, data, heap, stack,
//! arguments and environment lie, the auxiliary vector, the executable, whether it may be dumped,
//! whether it gets huge pages (PR_SET_MM_MAP, PR_SET_DUMPABLE, PR_SET_THP_DISABLE in prctl(2);
//! `mm-PID.img`).

use std::fs;
use std::os::fd::RawFd;

use super::words::{low, pair, to_words, words};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::MmEntry;
use crate::inject::{Call, Remote};
use crate::task::proc;
use crate::units::Pid;

const PR_GET_DUMPABLE: u64 = 3;
const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_MM: u64 = 35;
const PR_SET_MM_MAP: u64 = 14;
const PR_SET_THP_DISABLE: u64 = 41;
const PR_GET_THP_DISABLE: u64 = 42;
/// Bytes of `struct prctl_mm_map`: twelve words, length of the auxiliary vector, descriptor.
const MAP_SIZE: u64 = 104;

/// Dump half: the record without `vmas` and `aios`.
///
/// # Errors
/// When the process is gone or does not tell.
pub fn dump(pid: Pid, remote: &mut Remote, exe_file_id: u32) -> Result<MmEntry> {
    let stat = proc::stat(pid, pid)?;
    let path = format!("/proc/{pid}/auxv");
    let auxv = fs::read(&path).map_err(|e| Error::path("read", &path, e))?;
    let mut calls = [
        Call::new(libc::SYS_brk, &[0]),
        Call::new(libc::SYS_prctl, &[PR_GET_DUMPABLE]),
        Call::new(libc::SYS_prctl, &[PR_GET_THP_DISABLE]),
    ];
    super::run(remote, "brk", &mut calls)?;
    let [brk, dumpable, thp_disabled] = calls.map(|call| call.result.cast_unsigned());
    let need = |field: Option<u64>| {
        let missing = || Error::new(Kind::Unsupported, format!("/proc/{pid}/stat is too short"));
        field.ok_or_else(missing)
    };
    Ok(MmEntry {
        mm_start_code: stat.startcode,
        mm_end_code: stat.endcode,
        mm_start_data: need(stat.start_data)?,
        mm_end_data: need(stat.end_data)?,
        mm_start_stack: stat.startstack,
        mm_start_brk: need(stat.start_brk)?,
        mm_brk: brk,
        mm_arg_start: need(stat.arg_start)?,
        mm_arg_end: need(stat.arg_end)?,
        mm_env_start: need(stat.env_start)?,
        mm_env_end: need(stat.env_end)?,
        exe_file_id,
        mm_saved_auxv: without_end(to_words(&auxv)),
        dumpable: i32::try_from(dumpable).ok(),
        thp_disabled: (thp_disabled != 0).then_some(true),
        thp_disable_flags: Some(low(thp_disabled)).filter(|flags| *flags > 1),
        ..MmEntry::default()
    })
}

/// The auxiliary vector without the AT_NULL pair at its end, which the kernel adds by itself: CRIU
/// takes no more than 44 words, and they are that many without.
fn without_end(mut auxv: Vec<u64>) -> Vec<u64> {
    while let [.., 0, 0] = auxv[..] {
        auxv.truncate(auxv.len() - 2);
    }
    auxv
}

/// Restore half, inside the new process, once everything is mapped: `exe` is a descriptor of the
/// executable there. (The kernel lets go of the old one only when nothing of it is mapped.) Returns what
/// could not be made as it was.
///
/// # Errors
/// When the kernel refuses: an address outside of the mappings, no right to change the executable.
pub fn restore(remote: &mut Remote, mm: &MmEntry, exe: RawFd) -> Result<Option<Obstacle>> {
    let auxv = words(&mm.mm_saved_auxv);
    let auxv_place = remote.put(MAP_SIZE, &auxv)?;
    let length = u32::try_from(auxv.len()).unwrap_or(u32::MAX);
    let map = map(mm, auxv_place, length, exe.cast_unsigned());
    let place = remote.put(0, &words(&map))?;
    remote.call(
        "prctl(PR_SET_MM_MAP)",
        libc::SYS_prctl,
        &[PR_SET_MM, PR_SET_MM_MAP, place, MAP_SIZE, 0],
    )?;
    let thp = u64::from(mm.thp_disabled.unwrap_or(false));
    // PR_GET_THP_DISABLE gives the flags beside the switch, which is the lowest bit.
    let flags = u64::from(mm.thp_disable_flags.unwrap_or(0)) & !1;
    let mut set = Call::new(libc::SYS_prctl, &[PR_SET_THP_DISABLE, thp, flags]);
    remote.run(std::slice::from_mut(&mut set))?;
    if set.value().is_ok() {
        return Ok(None);
    }
    // A kernel before Linux 6.18 knows no flags.
    let plain = [PR_SET_THP_DISABLE, thp];
    remote.call("prctl(PR_SET_THP_DISABLE)", libc::SYS_prctl, &plain)?;
    Ok((flags != 0).then(|| {
        let text = format!(
            "Process {} gets no huge pages even where it asks for them",
            remote.tid()
        );
        Obstacle::unsupported(text, "the exception is known to Linux 6.18 and newer")
    }))
}

/// Restore half of the dumpable flag. Last of all: each change of credentials resets it, and without
/// it even the owner may not look into `/proc/PID` any more.
///
/// # Errors
/// When the thread died.
pub fn restore_dumpable(remote: &mut Remote, mm: &MmEntry) -> Result<Option<Obstacle>> {
    let wanted = u64::from(mm.dumpable.unwrap_or(1).cast_unsigned());
    let present = remote.call(
        "prctl(PR_GET_DUMPABLE)",
        libc::SYS_prctl,
        &[PR_GET_DUMPABLE],
    )?;
    if wanted == present {
        return Ok(None);
    }
    // 2 (core files readable by root only) comes from the sysctl alone; 0 is the nearest.
    let set = if wanted > 1 { 0 } else { wanted };
    remote.call(
        "prctl(PR_SET_DUMPABLE)",
        libc::SYS_prctl,
        &[PR_SET_DUMPABLE, set],
    )?;
    Ok((set != wanted).then(|| {
        Obstacle::unsupported(
            format!(
                "Process {} becomes undumpable (0) instead of {wanted}",
                remote.tid()
            ),
            "set the sysctl fs.suid_dumpable to 2 before the restore",
        )
    }))
}

/// `struct prctl_mm_map`.
fn map(mm: &MmEntry, auxv: u64, auxv_size: u32, exe: u32) -> [u64; 13] {
    [
        mm.mm_start_code,
        mm.mm_end_code,
        mm.mm_start_data,
        mm.mm_end_data,
        mm.mm_start_brk,
        mm.mm_brk,
        mm.mm_start_stack,
        mm.mm_arg_start,
        mm.mm_arg_end,
        mm.mm_env_start,
        mm.mm_env_end,
        auxv,
        pair(auxv_size, exe),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_as_long_as_the_kernel_wants_it() {
        let map = map(&MmEntry::default(), 0, 0, 0);
        assert_eq!(words(&map).len() as u64, MAP_SIZE);
    }

    #[test]
    fn length_and_descriptor_share_the_last_word() {
        let map = map(
            &MmEntry {
                mm_start_brk: 7,
                ..MmEntry::default()
            },
            9,
            352,
            5,
        );
        assert_eq!((map[4], map[11], map[12]), (7, 9, 352 | 5 << 32));
    }
}
