//! What processes share without being threads of one: descriptors, and working and root directory with
//! the umask (clone(2): `CLONE_FILES`, `CLONE_FS`); memory (`CLONE_VM`), which cannot be saved.
//!
//! Nobody can join later: a child shares with its parent from birth on, or never. So the tree can be made
//! again when each that shares does so with its parent, but for the first of them. CRIU: equal `files_id`
//! and `fs_id` in `ids-PID.img`.

use std::cmp::Ordering;

use super::sessions::{self, Kin};
use super::tree::Process;
use crate::error::{Error, Obstacle, Result};
use crate::sys::kcmp::{self, Resource};
use crate::units::Pid;

/// A process, with numbers for what it may share: those of the same thing are equal. In lists, parents come
/// before children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The process.
    pub pid: Pid,
    /// Its parent; of the root, anything.
    pub parent: Pid,
    /// Its memory.
    pub memory: u32,
    /// Its table of descriptors.
    pub files: u32,
    /// Its directories and umask.
    pub fs: u32,
}

/// Reads what each of `processes`, which are alive, shares; the number of something is that of the first
/// process that has it, as `number` tells it.
///
/// # Errors
/// When the kernel does not compare them: without the right to trace them, or without `CONFIG_KCMP`.
pub fn read(processes: &[&Process], number: impl Fn(&Process) -> u32) -> Result<Vec<Shares>> {
    let [memory, files, fs] = [Thing::Memory, Thing::Files, Thing::Fs]
        .map(|thing| numbers(processes, thing.resource(), &number));
    let (memory, files, fs) = (memory?, files?, fs?);
    let of = |(index, process): (usize, &&Process)| Shares {
        pid: process.pid,
        parent: process.ppid,
        memory: memory[index],
        files: files[index],
        fs: fs[index],
    };
    Ok(processes.iter().enumerate().map(of).collect())
}

/// The numbers of one resource, in the order of `processes`.
fn numbers(
    processes: &[&Process],
    resource: Resource,
    number: impl Fn(&Process) -> u32,
) -> Result<Vec<u32>> {
    // In the kernel's order.
    let mut known: Vec<(Pid, u32)> = Vec::with_capacity(processes.len());
    let mut numbers = Vec::with_capacity(processes.len());
    for process in processes {
        let mut failed = None;
        let found = known.binary_search_by(|(pid, _)| {
            kcmp::compare(*pid, process.pid, resource).unwrap_or_else(|errno| {
                failed = Some(errno);
                Ordering::Equal
            })
        });
        if let Some(errno) = failed {
            let what = format!("Cannot compare what process {} has (kcmp)", process.pid);
            return Err(Error::os(what, errno).hint("the kernel needs CONFIG_KCMP"));
        }
        let own = match found {
            Ok(at) => known[at].1,
            Err(at) => {
                let own = number(process);
                known.insert(at, (process.pid, own));
                own
            }
        };
        numbers.push(own);
    }
    Ok(numbers)
}

/// What process `pid` gets of its parent's by birth: flags of clone(2).
pub fn by_birth(tree: &[Shares], pid: Pid) -> u64 {
    let find = |pid: Pid| tree.iter().find(|shares| shares.pid == pid);
    let Some((own, parent)) = find(pid).and_then(|own| Some((own, find(own.parent)?))) else {
        return 0;
    };
    let flag = |same: bool, flag: i32| if same { flag } else { 0 };
    let flags = flag(own.files == parent.files, libc::CLONE_FILES)
        | flag(own.fs == parent.fs, libc::CLONE_FS);
    u64::from(flags.cast_unsigned())
}

/// What no restore could make again of what the processes of `kin` share.
pub fn obstacles(tree: &[Shares], kin: &[Kin]) -> Vec<Obstacle> {
    let (strays, _) = sessions::strays(kin);
    let is_stray = |pid: Pid| strays.iter().any(|stray| stray.pid == pid);
    let refuse = |(pid, other, what): (Pid, Pid, Thing)| {
        let shared = format!("Processes {other} and {pid} share their {}", what.name());
        match what {
            Thing::Memory => Obstacle::unsupported(
                shared,
                "processes that share memory without being threads cannot be saved",
            ),
            Thing::Files | Thing::Fs => Obstacle::unsupported(
                format!("{shared}, but not by birth of one from the other"),
                "what processes share through others cannot be made again",
            ),
        }
    };
    impossible(tree, is_stray).into_iter().map(refuse).collect()
}

/// What the root of a tree shares with its parent, which is not in the tree.
pub fn outside(root: &Process) -> Vec<Obstacle> {
    let shared = [Thing::Memory, Thing::Files, Thing::Fs].into_iter();
    let shared = shared.filter(|thing| {
        // Whose parent may not be asked is not dumped by the same user either.
        kcmp::same(root.pid, root.ppid, thing.resource()).unwrap_or(false)
    });
    let refuse = |thing: Thing| {
        Obstacle::unsupported(
            format!(
                "Process {} ({}) shares its {} with process {} outside of the tree",
                root.pid,
                root.comm,
                thing.name(),
                root.ppid
            ),
            format!("dump from that one: icecore dump -t {}", root.ppid),
        )
    };
    shared.map(refuse).collect()
}

/// What can be shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thing {
    Memory,
    Files,
    Fs,
}

impl Thing {
    fn resource(self) -> Resource {
        match self {
            Self::Memory => Resource::Vm,
            Self::Files => Resource::Files,
            Self::Fs => Resource::Fs,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Files => "descriptors",
            Self::Fs => "working directory",
        }
    }

    fn of(self, shares: &Shares) -> u32 {
        match self {
            Self::Memory => shares.memory,
            Self::Files => shares.files,
            Self::Fs => shares.fs,
        }
    }
}

/// Those that cannot be made again, each with one that it shares something with: memory; or what it shares with
/// others than its parent, or without being born by its parent (`is_stray`).
fn impossible(tree: &[Shares], is_stray: impl Fn(Pid) -> bool) -> Vec<(Pid, Pid, Thing)> {
    let mut found = Vec::new();
    for thing in [Thing::Memory, Thing::Files, Thing::Fs] {
        for (index, own) in tree.iter().enumerate() {
            let earlier = &tree[..index];
            let same = |other: &&Shares| thing.of(other) == thing.of(own);
            let Some(first) = earlier.iter().find(same) else {
                continue;
            };
            let born = earlier.iter().filter(same).any(|o| o.pid == own.parent);
            if thing == Thing::Memory || !born || is_stray(own.pid) {
                found.push((own.pid, first.pid, thing));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use super::*;
    use crate::task;

    fn shares(pid: i32, parent: i32, files: u32, fs: u32) -> Shares {
        let [pid, parent] = [pid, parent].map(Pid::from_raw);
        Shares {
            pid,
            parent,
            memory: pid.as_raw().cast_unsigned(),
            files,
            fs,
        }
    }

    #[test]
    fn a_child_gets_what_it_has_in_common_with_its_parent() {
        let tree = [
            shares(1, 0, 1, 1),
            shares(2, 1, 1, 2),
            shares(3, 1, 3, 1),
            shares(4, 2, 1, 2),
            shares(5, 2, 5, 5),
        ];
        let (files, fs) = (libc::CLONE_FILES, libc::CLONE_FS);
        let flags = [0, files, fs, files | fs, 0].map(|flags| u64::from(flags.cast_unsigned()));
        for (own, flags) in tree.iter().zip(flags) {
            assert_eq!(by_birth(&tree, own.pid), flags, "{own:?}");
        }
        assert_eq!(impossible(&tree, |_| false), []);
        let two = Pid::from_raw(2);
        let first = Pid::from_raw(1);
        assert_eq!(
            impossible(&tree, |pid| pid == two),
            [(two, first, Thing::Files)]
        );
    }

    #[test]
    fn who_shares_with_others_than_its_parent_cannot_be_made() {
        let tree = [
            shares(1, 0, 1, 1),
            shares(2, 1, 2, 1),
            shares(3, 1, 2, 3),
            shares(4, 2, 4, 3),
        ];
        let [two, three, four] = [2, 3, 4].map(Pid::from_raw);
        assert_eq!(
            impossible(&tree, |_| false),
            [(three, two, Thing::Files), (four, three, Thing::Fs)]
        );
        let parent = tree[0];
        let child = Shares {
            memory: parent.memory,
            ..tree[1]
        };
        assert_eq!(
            impossible(&[parent, child], |_| false),
            [(two, parent.pid, Thing::Memory)]
        );
    }

    #[test]
    fn processes_that_share_nothing_have_numbers_of_their_own() {
        let mut child = Command::new("sleep")
            .arg("60")
            .arg0("sharing")
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let both = [Pid::this(), pid].map(|pid| task::process(pid).unwrap());
        let read = read(&[&both[0], &both[1], &both[0]], |p| {
            p.pid.as_raw().cast_unsigned()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let numbers: Vec<_> = read
            .unwrap()
            .iter()
            .map(|s| (s.memory, s.files, s.fs))
            .collect();
        let [own, others] = both.map(|p| p.pid.as_raw().cast_unsigned());
        assert_eq!(
            numbers,
            [own, others, own].map(|number| (number, number, number))
        );
    }
}
