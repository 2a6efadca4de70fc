//! Who outside of the target holds the other end of a pipe, or a memfd, of the target.
//!
//! Such a thing cannot be restored: the outsider would keep the old one. Processes that may not be
//! looked into are taken as holding nothing.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;
use std::{fmt, fs};

use super::descriptor::{self, Stat};
use super::packet;
use super::tty::Surveyed;
use super::unix::diag::Table;
use crate::task;
use crate::units::Pid;

/// A process outside of the target.
#[derive(Clone, Debug)]
pub struct Holder {
    /// Its pid.
    pub pid: Pid,
    /// Its command name.
    pub comm: String,
}

/// The files of the target that outsiders hold too.
#[derive(Clone, Debug, Default)]
pub struct Outside {
    holders: HashMap<(u64, u64), Holder>,
    /// The terminals of the target, whose other ends may be outside.
    pub(super) terminals: Option<Surveyed>,
    /// The first process of the target, where it is known.
    pub(super) root: Option<Pid>,
    /// The processes of the target, where they are known.
    pub(super) members: Option<HashSet<Pid>>,
    /// Sockets of the target, by inode number.
    pub(super) held: HashSet<u64>,
    /// All unix sockets, when the target has some.
    pub(super) unix: Option<Table>,
    /// The TCP sockets that sign their segments, by inode number.
    pub(super) signed: HashSet<u64>,
    /// All packet sockets, when it has some.
    pub(super) packets: Option<packet::diag::Table>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.comm, self.pid)
    }
}

/// True for a process that has an ancestor in `target`, and for one that is gone.
fn descends(mut pid: Pid, target: &HashSet<Pid>) -> bool {
    loop {
        match task::process(pid) {
            Ok(process) if target.contains(&process.ppid) => return true,
            Ok(process) if process.ppid.as_raw() <= 1 => return false,
            Ok(process) => pid = process.ppid,
            Err(_gone) => return true,
        }
    }
}

/// Visits every descriptor of processes outside of `target` whose link says one of `texts`.
pub(super) fn each_open(
    target: &HashSet<Pid>,
    texts: &HashSet<OsString>,
    visit: &mut dyn FnMut(Pid, RawFd, &OsStr),
) {
    if texts.is_empty() {
        return;
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|e| e.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    for pid in pids.filter(|pid| !target.contains(pid)) {
        let Ok(numbers) = descriptor::numbers(pid) else {
            continue;
        };
        for number in numbers {
            let Ok(text) = fs::read_link(format!("/proc/{pid}/fd/{number}")) else {
                continue;
            };
            if !texts.contains(text.as_os_str()) {
                continue;
            }
            // Born since the target was looked at, or ended by now.
            if descends(pid, target) {
                break;
            }
            visit(pid, number, text.as_os_str());
        }
    }
}

impl Outside {
    /// Of outsiders nothing is known.
    pub(super) fn of(root: Option<Pid>) -> Self {
        Self {
            root,
            ..Self::default()
        }
    }

    /// Looks through all processes but those of `target` for files whose links say one of `texts`.
    pub fn scan(target: &HashSet<Pid>, texts: &HashSet<OsString>) -> Self {
        let mut holders = HashMap::new();
        each_open(target, texts, &mut |pid, number, _| {
            let link = format!("/proc/{pid}/fd/{number}");
            let Ok(stat) = fs::metadata(&link).map(|meta| Stat::from(&meta)) else {
                return;
            };
            holders
                .entry((stat.dev, stat.ino))
                .or_insert_with(|| Holder {
                    pid,
                    comm: descriptor::comm(pid),
                });
        });
        Self {
            holders,
            ..Self::default()
        }
    }

    /// An outsider that holds the file with this stat.
    pub fn holder(&self, stat: &Stat) -> Option<&Holder> {
        self.holder_of(stat.dev, stat.ino)
    }

    /// An outsider that holds the file with this device and inode.
    pub(super) fn holder_of(&self, dev: u64, ino: u64) -> Option<&Holder> {
        self.holders.get(&(dev, ino))
    }
}
