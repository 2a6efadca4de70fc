//! All running processes as trees, for display (proc_pid_stat(5), proc_pid_cmdline(5)).
//!
//! A snapshot of something that moves: processes that end while it is read are left out, and a
//! child whose parent vanished becomes a root. Kernel threads have no memory to look at and are
//! skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use procfs::process::Process as Proc;
use serde::Serialize;

use super::proc;
use crate::error::{Error, Result};
use crate::units::Pid;

/// Kernel thread (`PF_KTHREAD` of linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;
/// Every so often a [`Roster`] believes nothing that it knew.
const AFRESH: u32 = 10;

/// One running process with its children.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tree {
    /// Its pid, in our pid namespace.
    #[serde(serialize_with = "raw")]
    pub pid: Pid,
    /// Its parent.
    #[serde(serialize_with = "raw")]
    pub ppid: Pid,
    /// Name of the leader. Any bytes: whoever shows it has to defuse control characters.
    pub comm: String,
    /// Arguments joined by blanks, or the name in brackets when there are none.
    pub cmdline: String,
    /// Resident memory in bytes, shared pages included.
    pub rss: u64,
    /// Number of threads.
    pub threads: u64,
    /// Owner.
    pub uid: u32,
    /// The letter of `/proc/PID/stat`: `R`, `S`, `D`, `T`, `Z`, …
    pub state: char,
    /// Start time in clock ticks after boot: with the pid, its identity until the next boot.
    pub start_time: u64,
    /// Its children, by pid.
    pub children: Vec<Self>,
}

impl Tree {
    /// Number of processes, this one included.
    pub fn len(&self) -> usize {
        self.walk().count()
    }

    /// Never: a tree has its root.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Resident memory of all processes together, in bytes.
    pub fn total_rss(&self) -> u64 {
        self.walk().map(|(_, tree)| tree.rss).sum()
    }

    /// All processes, parents before children, with their depth below this one.
    pub fn walk(&self) -> impl Iterator<Item = (usize, &Self)> {
        let mut todo = vec![(0, self)];
        std::iter::from_fn(move || {
            let (depth, tree) = todo.pop()?;
            todo.extend(tree.children.iter().rev().map(|child| (depth + 1, child)));
            Some((depth, tree))
        })
    }

    /// The process `pid`, if it is in the tree.
    pub fn find(&self, pid: Pid) -> Option<&Self> {
        self.walk()
            .map(|(_, tree)| tree)
            .find(|tree| tree.pid == pid)
    }
}

/// The trees of all running processes, by the pid of the root.
///
/// # Errors
/// When `/proc` cannot be read at all.
pub fn trees() -> Result<Vec<Tree>> {
    Roster::default().trees()
}

/// Lists the processes again and again, and reads again only what may have changed: whoever shows
/// them every second shall not cost anything.
#[derive(Debug, Default)]
pub struct Roster {
    /// How often they have been listed.
    rounds: u32,
    /// By their pids.
    known: BTreeMap<i32, Known>,
}

/// What is remembered of a process.
#[derive(Debug)]
enum Known {
    /// It has no memory, and never will.
    KernelThread,
    /// A process, by its start time and name: a new program has another one, as a rule.
    Process {
        start_time: u64,
        comm: String,
        cmdline: String,
        uid: u32,
    },
}

impl Roster {
    /// The trees of all running processes, by the pid of the root. A process that gave itself other
    /// arguments or another owner without a new name shows it with every tenth call.
    ///
    /// # Errors
    /// When `/proc` cannot be read at all.
    pub fn trees(&mut self) -> Result<Vec<Tree>> {
        let entries = fs::read_dir("/proc").map_err(|e| {
            Error::new(crate::Kind::Failed, "Cannot list the processes in /proc")
                .because(e)
                .hint("mount -t proc proc /proc")
        })?;
        let pids: BTreeSet<i32> = entries
            .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        if self.rounds.is_multiple_of(AFRESH) {
            self.known.clear();
        }
        self.rounds = self.rounds.wrapping_add(1);
        self.known.retain(|pid, _| pids.contains(pid));
        let mut found = BTreeMap::new();
        for pid in pids {
            if let Some(tree) = self.read(Pid::from_raw(pid)) {
                found.insert(pid, tree);
            }
        }
        Ok(assemble(found))
    }

    /// One process without its children; none when it is gone or a kernel thread.
    fn read(&mut self, pid: Pid) -> Option<Tree> {
        let known = self.known.get(&pid.as_raw());
        if matches!(known, Some(Known::KernelThread)) {
            return None;
        }
        let stat = proc::stat_of_process(pid).ok()?;
        if stat.flags & KERNEL_THREAD != 0 {
            self.known.insert(pid.as_raw(), Known::KernelThread);
            return None;
        }
        let (cmdline, uid) = match known {
            Some(Known::Process {
                start_time,
                comm,
                cmdline,
                uid,
            }) if *start_time == stat.starttime && *comm == stat.comm => (cmdline.clone(), *uid),
            _ => {
                let arguments = Proc::new(pid.as_raw()).and_then(|proc| proc.cmdline());
                let cmdline = match arguments {
                    Ok(arguments) if !arguments.is_empty() => arguments.join(" "),
                    _ => format!("[{}]", stat.comm),
                };
                let uid = fs::metadata(format!("/proc/{pid}")).map_or(u32::MAX, |m| m.uid());
                let known = Known::Process {
                    start_time: stat.starttime,
                    comm: stat.comm.clone(),
                    cmdline: cmdline.clone(),
                    uid,
                };
                self.known.insert(pid.as_raw(), known);
                (cmdline, uid)
            }
        };
        Some(Tree {
            pid,
            ppid: Pid::from_raw(stat.ppid),
            cmdline,
            rss: stat.rss.saturating_mul(procfs::page_size()),
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            uid,
            state: stat.state,
            start_time: stat.starttime,
            comm: stat.comm,
            children: Vec::new(),
        })
    }
}

/// Hangs every process below its parent.
fn assemble(found: BTreeMap<i32, Tree>) -> Vec<Tree> {
    let pids: BTreeSet<i32> = found.keys().copied().collect();
    let mut children: BTreeMap<i32, Vec<Tree>> = BTreeMap::new();
    let mut roots = Vec::new();
    for (pid, tree) in found {
        let parent = tree.ppid.as_raw();
        // A pid may be used again while /proc is read: only what makes a tree is believed.
        if parent != pid && pids.contains(&parent) {
            children.entry(parent).or_default().push(tree);
        } else {
            roots.push(tree);
        }
    }
    for root in &mut roots {
        adopt(root, &mut children);
    }
    roots
}

fn adopt(root: &mut Tree, children: &mut BTreeMap<i32, Vec<Tree>>) {
    root.children = children.remove(&root.pid.as_raw()).unwrap_or_default();
    for child in &mut root.children {
        adopt(child, children);
    }
}

fn raw<S: serde::Serializer>(pid: &Pid, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_i32(pid.as_raw())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    fn tree(pid: i32, ppid: i32) -> (i32, Tree) {
        let tree = Tree {
            pid: Pid::from_raw(pid),
            ppid: Pid::from_raw(ppid),
            comm: format!("p{pid}"),
            cmdline: format!("p{pid}"),
            rss: 4096,
            threads: 1,
            uid: 0,
            state: 'S',
            start_time: 1,
            children: Vec::new(),
        };
        (pid, tree)
    }

    #[test]
    fn every_process_appears_once_below_its_parent() {
        let roots = assemble([tree(1, 0), tree(5, 1), tree(7, 5), tree(9, 1), tree(20, 18)].into());
        let pids: Vec<(usize, i32)> = roots
            .iter()
            .flat_map(Tree::walk)
            .map(|(depth, tree)| (depth, tree.pid.as_raw()))
            .collect();
        assert_eq!(pids, [(0, 1), (1, 5), (2, 7), (1, 9), (0, 20)]);
        assert_eq!(roots[0].len(), 4);
        assert_eq!(roots[0].total_rss(), 4 * 4096);
    }

    #[test]
    fn the_running_test_is_among_the_processes() {
        let me = Pid::this();
        let trees = trees().unwrap();
        let found = trees.iter().find_map(|tree| tree.find(me)).unwrap();
        assert!(found.rss > 0);
        assert!(found.threads >= 1);
        assert!(!found.cmdline.is_empty());
    }

    #[test]
    fn a_roster_follows_processes_that_begin_change_and_end() {
        let mut roster = Roster::default();
        let before = roster.trees().unwrap();
        // Its name tells when it has become the other program.
        let mut child = Command::new("sh")
            .args(["-c", "read line; exec cat"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let find = |trees: &[Tree]| trees.iter().find_map(|tree| tree.find(pid)).cloned();
        assert_eq!(find(&before), None);
        let mut input = child.stdin.take().unwrap();
        let mut seen = roster.trees().unwrap();
        // Known by now.
        assert_eq!(find(&seen).unwrap().ppid, Pid::this());
        input.write_all(b"\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while find(&seen).unwrap().cmdline != "cat" {
            assert!(Instant::now() < deadline, "{:?}", find(&seen));
            seen = roster.trees().unwrap();
        }
        drop(input);
        child.wait().unwrap();
        assert_eq!(find(&roster.trees().unwrap()), None);
    }
}
