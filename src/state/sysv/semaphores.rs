//! Sets of semaphores: their values, and who changed each one last.
//!
//! CRIU: `ipc_sem_entry`, followed by the values. Sources: semctl(2), proc_sysvipc(5).

use std::collections::BTreeMap;

use prost::Message as _;

use super::{In, Known, Sort, desc, used};
use crate::error::{Error, Obstacle, Result};
use crate::image::Images;
use crate::image::proto::IpcSemEntry;
use crate::inject::{Call, Remote};
use crate::memory::sysv::create_in;
use crate::sys::sysv::{remove_semaphores, semaphore_pid, semaphore_values, set_semaphores};
use crate::task::sysv::Object;
use crate::task::{Ids, Process};
use crate::units::Pid;

pub(super) fn image(number: u32) -> String {
    format!("ipcns-sem-{number}.img")
}

/// For messages and commands.
pub(super) static SORT: Sort = Sort {
    name: "Set of semaphores",
    option: "-s",
    remove: remove_semaphores,
};

/// A set of a layer: values, and who changed each semaphore last (0: nobody knows).
pub(super) type Wanted = Known<Vec<(u16, u32)>>;

/// Who changed each semaphore last.
fn pids(id: u32, count: u64) -> nix::Result<Vec<u32>> {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    (0..count)
        .map(|index| semaphore_pid(id.cast_signed(), index))
        .collect()
}

/// The same, as far as it can be told.
pub(super) fn last_users(id: u32, object: &Object) -> Vec<u32> {
    pids(id, object.number("nsems")).unwrap_or_default()
}

/// True when the tree uses the set; an obstacle when others do, too.
pub(super) fn users(
    id: u32,
    object: &Object,
    tree: &[Process],
) -> std::result::Result<bool, Obstacle> {
    let changed = object.number("otime").max(object.number("ctime"));
    used(&SORT.called(id), &last_users(id, object), changed, tree)
}

/// Dump half.
pub(super) fn dump(id: u32, object: &Object, ids: &Ids) -> Result<(IpcSemEntry, Vec<u8>)> {
    let cannot = |e| Error::os(format!("Cannot read {}", SORT.called(id)), e);
    let count = object.number("nsems");
    let values = semaphore_values(id.cast_signed(), usize::try_from(count).unwrap_or(0));
    let mut bytes: Vec<u8> = values
        .map_err(cannot)?
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let pids = pids(id, count).map_err(cannot)?.into_iter();
    let entry = IpcSemEntry {
        desc: desc(id, object),
        nsems: object.small("nsems"),
        pids: pids
            .map(|pid| ids.number(Pid::from_raw(pid.cast_signed())))
            .collect(),
    };
    Ok((entry, bytes))
}

pub(super) fn read(images: &Images, number: u32) -> Result<Vec<Wanted>> {
    let mut all = Vec::new();
    let name = image(number);
    for record in images.records(&name)? {
        let entry = IpcSemEntry::decode(&*record.bytes)
            .map_err(|e| Error::corrupt(format!("Cannot decode {name}")).because(e))?;
        let values = record.extra.as_chunks().0.iter().copied();
        let pids = entry.pids.iter().copied().chain(std::iter::repeat(0));
        let count = usize::try_from(entry.nsems).unwrap_or(0);
        all.push(Known {
            sort: &SORT,
            desc: entry.desc,
            size: ("nsems", entry.nsems.into()),
            contents: values
                .map(u16::from_le_bytes)
                .zip(pids)
                .take(count)
                .collect(),
        });
    }
    Ok(all)
}

/// Makes an empty set in the process given.
pub(super) fn create(set: &Wanted, remote: &mut Remote) -> Result<()> {
    let (key, count) = (set.desc.key.into(), set.size.1);
    let get = |flags| Call::new(libc::SYS_semget, &[key, count, flags]);
    create_in(
        remote,
        &set.desc,
        "sem",
        &SORT.called(set.desc.id),
        SORT.remove,
        get,
    )
}

impl Wanted {
    /// Sets all values, each in the process that changed it last.
    pub(super) fn fill(&self, within: &mut In<'_>) -> Result<()> {
        let desc = &self.desc;
        let cannot = |e| Error::os(format!("Cannot restore {}", SORT.called(desc.id)), e);
        let id = desc.id.cast_signed();
        set_semaphores(id, desc.uid, desc.gid, desc.mode).map_err(cannot)?;
        let values = semaphore_values(id, self.contents.len()).map_err(cannot)?;
        let pids = pids(desc.id, self.size.1).map_err(cannot)?;
        let mut by_pid: BTreeMap<u32, Vec<Call>> = BTreeMap::new();
        for (index, (value, pid)) in self.contents.iter().enumerate() {
            // One that nobody ever changed cannot be made so.
            if values.get(index) == Some(value) && pids.get(index) == Some(pid) {
                continue;
            }
            let command = u64::from(libc::SETVAL.cast_unsigned());
            let args = [desc.id.into(), index as u64, command, (*value).into()];
            let call = Call::new(libc::SYS_semctl, &args);
            by_pid.entry(*pid).or_default().push(call);
        }
        for (pid, mut calls) in by_pid {
            within(pid, &mut |remote| {
                remote.run(&mut calls)?;
                let all = calls.iter().try_for_each(|call| call.value().map(drop));
                all.map_err(cannot)
            })?;
        }
        Ok(())
    }
}
