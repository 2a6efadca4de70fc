//! Namespaces (namespaces(7)): which of them a tree has for itself, which of these can be made again,
//! and making them. A layer has one of each kind: every thread of the tree is in those of the root.
//!
//! * pid (pid_namespaces(7)): the root is its first process; images have the ids of that namespace.
//! * mnt (mount_namespaces(7)): a copy of ours, but for instances of proc mounted on `/proc`. CRIU
//!   wants all mounts in `mountpoints-N.img` instead, and refuses such a layer.
//! * uts (uts_namespaces(7)): its two names, `utsns-N.img`.
//! * ipc (ipc_namespaces(7)): all objects of System V in it (see [`ipc`]), `ipcns-…-N.img`.
//! * time (time_namespaces(7)): made where a clock would go back without (see [`clocks`]).
//!
//! `N` is the number of the namespace in `ids-PID.img`; 1 to 8 are the dumper's own.

pub mod clocks;
pub mod ipc;
pub mod mounts;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::error::{Error, Obstacle, Result};
use crate::image::proto::{IpcVarEntry, TaskKobjIdsEntry, TimensEntry, UtsnsEntry};
use crate::image::{Images, LayerWriter};
use crate::inject::Remote;
use crate::task::{Life, Process, is_inside, proc};
use crate::units::Pid;
use ipc::Inside;

/// Numbers of namespaces that the tree has for itself.
const OWN_PIDS: u32 = 9;
const OWN_NAMES: u32 = 10;
const OWN_MOUNTS: u32 = 11;
const OWN_TIME: u32 = 12;
const OWN_IPC: u32 = 13;

/// Identity of each namespace of a thread (`net:[4026531840]`), by the name in `/proc/PID/ns`.
type Namespaces = BTreeMap<&'static str, PathBuf>;

/// What a tree that runs has for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Process ids.
    pub pids: bool,
    /// Names of the host.
    names: bool,
    /// Clocks.
    time: bool,
    /// Objects of System V.
    ipc: bool,
    /// Mounts: how many instances of proc are mounted on those that we have.
    mounts: Option<u32>,
}

impl Own {
    /// Which ones, in words.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.pids, "pid"),
            (self.names, "uts"),
            (self.time, "time"),
            (self.mounts.is_some(), "mount"),
        ];
        all.into_iter()
            .filter(|(own, _)| *own)
            .map(|(_, name)| name)
    }
}

/// What a tree that is to be made shall have for itself.
#[derive(Clone, Debug, Default)]
pub struct Anew {
    /// Process ids.
    pub pids: bool,
    /// Names of the host.
    pub names: Option<UtsnsEntry>,
    /// Objects of System V: the number of their images.
    pub ipc: Option<u32>,
    /// Its limits.
    limits: Option<IpcVarEntry>,
    /// What clocks shall begin with.
    pub time: Option<TimensEntry>,
    /// Mounts: how many instances of proc to mount on those that we have.
    pub mounts: Option<u32>,
}

/// What the tree has for itself, and what is in the way, by name: kind of namespace, whose, and what
/// to do. The leader of the root is compared with us, everybody else with the leader of the root.
pub fn survey(processes: &[Process]) -> (Own, Vec<Obstacle>) {
    let mut own = Own::default();
    let mut found = Vec::new();
    let mut known = of(Pid::this());
    let mut is_root = true;
    for process in alive(processes) {
        for tid in &process.threads {
            let here = of(*tid);
            let whose = name(process, *tid);
            match (&known, &here) {
                (Some(known), Some(here)) => {
                    for kind in differences(known, here) {
                        let refused = match kind {
                            _ if !is_root => Some(refuse(&whose, kind, *tid)),
                            "pid" => own.pids(process, known),
                            "uts" => {
                                own.names = true;
                                None
                            }
                            "time" => {
                                own.time = true;
                                None
                            }
                            "ipc" => {
                                own.ipc = true;
                                None
                            }
                            "mnt" => own.mounts(&whose, *tid),
                            _ => Some(refuse(&whose, kind, *tid)),
                        };
                        found.extend(refused);
                    }
                }
                (_, None) if is_ending(*tid) => continue,
                // So it is after unshare(CLONE_NEWPID), until there is a child.
                _ => found.push(Obstacle::unsupported(
                    format!("{whose} may be in a namespace of its own: not all of them can be read"),
                    "try again when it has started its child, from a shell that has none of its own",
                )),
            }
            if std::mem::take(&mut is_root) {
                known = here;
            }
        }
    }
    (own, found)
}

impl Own {
    /// The tree has a pid namespace: it must be all of it.
    fn pids(&mut self, root: &Process, ours: &Namespaces) -> Option<Obstacle> {
        let status = proc::status(root.pid, root.pid).ok()?;
        if status.nspid.iter().flatten().last() == Some(&1) {
            self.pids = true;
            return None;
        }
        let first = first_inside(root, ours);
        Some(Obstacle::unsupported(
            format!(
                "Process {} ({}) is inside a pid namespace whose first process is {}",
                root.pid,
                root.comm,
                first.map_or("elsewhere".to_owned(), |pid| format!("process {pid}"))
            ),
            match first {
                Some(first) => format!("dump the whole namespace: icecore dump -t {first}"),
                None => "dump the whole namespace, by its first process".to_owned(),
            },
        ))
    }

    /// The tree has a mount namespace: it must be like ours.
    fn mounts(&mut self, whose: &str, root: Pid) -> Option<Obstacle> {
        let refuse = |why: String| {
            let hint = format!("run icecore inside: nsenter -t {root} --mount icecore …");
            let what = format!("{whose} is in a mnt namespace of its own: {why}");
            Some(Obstacle::unsupported(what, hint))
        };
        match mounts::compare(root) {
            Ok(Ok(procs)) => {
                self.mounts = Some(procs);
                None
            }
            Ok(Err(place)) => refuse(format!("{place} is not mounted as it is here")),
            Err(error) => refuse(error.one_line()),
        }
    }

    /// Kernel-object numbers of a process: everything of it its own (number `object`), its
    /// namespaces the tree's or the dumper's.
    pub fn ids(&self, object: u32) -> TaskKobjIdsEntry {
        let number = |is_own: bool, own, dumpers| Some(if is_own { own } else { dumpers });
        TaskKobjIdsEntry {
            vm_id: object,
            files_id: object,
            fs_id: object,
            sighand_id: object,
            pid_ns_id: number(self.pids, OWN_PIDS, 1),
            net_ns_id: Some(2),
            ipc_ns_id: number(self.ipc, OWN_IPC, 3),
            uts_ns_id: number(self.names, OWN_NAMES, 4),
            mnt_ns_id: number(self.mounts.is_some(), OWN_MOUNTS, 5),
            user_ns_id: Some(6),
            cgroup_ns_id: Some(7),
            time_ns_id: number(self.time, OWN_TIME, 8),
            proc_mounts: self.mounts,
        }
    }

    /// What is in them, of the frozen process `root`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn contents(&self, root: Pid) -> Result<Contents> {
        let names = self.names.then(|| names_of(root)).transpose()?;
        // What the dumper has is number 0.
        let number = if self.time { OWN_TIME } else { 0 };
        let time = (number, clocks::of(root)?);
        let limits = match self.ipc {
            true => {
                let _inside = Inside::enter(root)?;
                Some(ipc::limits())
            }
            false => None,
        };
        Ok(Contents {
            names,
            time: Some(time),
            limits,
        })
    }

    /// This thread in the ipc namespace of the tree of `root`, if it has one for itself.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn inside_ipc(&self, root: Pid) -> Result<Option<Inside>> {
        self.ipc.then(|| Inside::enter(root)).transpose()
    }

    /// The number of the images of objects of System V, and whether all of them are the tree's.
    pub fn ipc(&self) -> (u32, bool) {
        match self.ipc {
            true => (OWN_IPC, true),
            false => (0, false),
        }
    }
}

/// What is in the namespaces of a tree.
#[derive(Debug, Default)]
pub struct Contents {
    names: Option<UtsnsEntry>,
    time: Option<(u32, TimensEntry)>,
    limits: Option<IpcVarEntry>,
}

impl Contents {
    /// Writes their images.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, writer: &LayerWriter) -> Result<()> {
        if let Some(names) = &self.names {
            writer.one(&format!("utsns-{OWN_NAMES}.img"), names)?;
        }
        if let Some(limits) = &self.limits {
            writer.one(&format!("ipcns-var-{OWN_IPC}.img"), limits)?;
        }
        if let Some((number, clocks)) = &self.time {
            writer.one(&format!("timens-{number}.img"), clocks)?;
        }
        Ok(())
    }
}

impl Anew {
    /// True when it is not all as we have it.
    pub fn is_something(&self) -> bool {
        self.ipc.is_some()
            || self.pids
            || self.names.is_some()
            || self.time.is_some()
            || self.mounts.is_some()
    }

    /// The flags of clone(2) that make what is made together with the root.
    pub fn flags(&self) -> u64 {
        let flag = |wanted: bool, flag: i32| {
            if wanted {
                flag.cast_unsigned().into()
            } else {
                0
            }
        };
        flag(self.pids, libc::CLONE_NEWPID)
            | flag(self.names.is_some(), libc::CLONE_NEWUTS)
            | flag(self.ipc.is_some(), libc::CLONE_NEWIPC)
    }

    /// This thread in the ipc namespace of the tree, whose root we see as `root`, if it has one for
    /// itself.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn inside_ipc(&self, root: Pid) -> Result<Option<Inside>> {
        let inside = self.ipc.map(|_| Inside::enter(root)).transpose()?;
        self.limits.as_ref().map_or(Ok(()), ipc::set_limits)?;
        Ok(inside)
    }

    /// What the root, which has them, does in them first.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn begin(&self, root: &mut Remote) -> Result<()> {
        let Some(names) = &self.names else {
            return Ok(());
        };
        for (what, nr, name) in [
            ("sethostname", libc::SYS_sethostname, &names.nodename),
            ("setdomainname", libc::SYS_setdomainname, &names.domainname),
        ] {
            let text = root.put(0, name.as_bytes())?;
            root.call(what, nr, &[text, name.len() as u64])?;
        }
        Ok(())
    }

    /// What it does when the whole tree is there, and nobody of us is in its mount namespace.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn complete(&self, root: &mut Remote) -> Result<()> {
        self.mounts
            .map_or(Ok(()), |procs| mounts::mount_procs(root, procs))
    }
}

/// What shall be made again for processes that had the namespaces `ids`, by their pids, the root
/// first, and what cannot; `dumpers` are those of whoever made the layer.
///
/// # Errors
/// When an image cannot be read.
pub fn wanted(
    images: &Images,
    ids: &[(u32, TaskKobjIdsEntry)],
    dumpers: &TaskKobjIdsEntry,
) -> Result<(Anew, Vec<Obstacle>)> {
    let mut anew = Anew::default();
    let mut found = Vec::new();
    let Some((_, root)) = ids.first() else {
        return Ok((anew, found));
    };
    for (pid, own) in ids {
        let (reference, is_root) = match own == root {
            true => (dumpers, true),
            false => (root, false),
        };
        for kind in apart(own, reference) {
            let can = match kind {
                _ if !is_root => false,
                "pid" => true,
                "uts" | "time" | "ipc" => true,
                "mnt" => own.proc_mounts.is_some(),
                _ => false,
            };
            // What the root has for itself is said once.
            if !can && (!is_root || Some(pid) == ids.first().map(|(root, _)| root)) {
                found.push(Obstacle::unsupported(
                    format!("Process {pid} was in a {kind} namespace of its own"),
                    "such namespaces cannot be made again yet; use criu restore",
                ));
            }
        }
    }
    let own: Vec<&str> = apart(root, dumpers).collect();
    anew.pids = own.contains(&"pid");
    if own.contains(&"uts") {
        let number = root.uts_ns_id.unwrap_or_default();
        anew.names = Some(images.one(&format!("utsns-{number}.img"))?);
    }
    if own.contains(&"ipc") {
        let number = root.ipc_ns_id.unwrap_or_default();
        anew.limits = images.optional(&format!("ipcns-var-{number}.img"))?;
        anew.ipc = Some(number);
    }
    let number = match own.contains(&"time") {
        true => root.time_ns_id.unwrap_or_default(),
        false => 0,
    };
    let then: Option<TimensEntry> = images.optional(&format!("timens-{number}.img"))?;
    if let Some(then) = then
        && clocks::would_go_back(&then)?
    {
        anew.time = Some(then);
    }
    if own.contains(&"mnt") {
        anew.mounts = root.proc_mounts;
    }
    Ok((anew, found))
}

/// The kinds in which two processes differ.
fn apart<'a>(
    one: &TaskKobjIdsEntry,
    other: &TaskKobjIdsEntry,
) -> impl Iterator<Item = &'static str> + use<'a> {
    [
        ("pid", one.pid_ns_id, other.pid_ns_id),
        ("net", one.net_ns_id, other.net_ns_id),
        ("ipc", one.ipc_ns_id, other.ipc_ns_id),
        ("uts", one.uts_ns_id, other.uts_ns_id),
        ("mnt", one.mnt_ns_id, other.mnt_ns_id),
        ("user", one.user_ns_id, other.user_ns_id),
        ("cgroup", one.cgroup_ns_id, other.cgroup_ns_id),
        ("time", one.time_ns_id, other.time_ns_id),
    ]
    .into_iter()
    .filter(|(_, one, other)| one != other)
    .map(|(kind, ..)| kind)
}

fn alive(processes: &[Process]) -> impl Iterator<Item = &Process> {
    let ended = |p: &&Process| matches!(p.life, Life::Zombie(_));
    processes.iter().filter(move |p| !ended(p))
}

fn name(process: &Process, tid: Pid) -> String {
    if tid == process.pid {
        format!("Process {tid} ({})", process.comm)
    } else {
        format!("Thread {tid} of process {} ({})", process.pid, process.comm)
    }
}

/// The namespaces of a thread; `None` when not all of them can be read.
fn of(tid: Pid) -> Option<Namespaces> {
    let read = |kind: &&'static str| {
        let link = fs::read_link(format!("/proc/{tid}/ns/{kind}")).ok()?;
        Some((*kind, link))
    };
    kinds().iter().map(read).collect()
}

/// The names in `/proc/PID/ns` on this kernel.
fn kinds() -> &'static [&'static str] {
    const ALL: [&str; 10] = [
        "cgroup",
        "ipc",
        "mnt",
        "net",
        "pid",
        "pid_for_children",
        "time",
        "time_for_children",
        "user",
        "uts",
    ];
    static KINDS: OnceLock<Vec<&str>> = OnceLock::new();
    let here = |kind: &&str| fs::read_link(format!("/proc/self/ns/{kind}")).is_ok();
    KINDS.get_or_init(|| ALL.into_iter().filter(here).collect())
}

/// The kinds that differ. Where the next child will be is a difference of its own only when it is not
/// where its parent is.
fn differences<'a>(
    known: &'a Namespaces,
    own: &'a Namespaces,
) -> impl Iterator<Item = &'static str> + 'a {
    let differs = |kind: &str| known.get(kind) != own.get(kind);
    own.keys().copied().filter(move |kind| {
        let parents = kind.strip_suffix("_for_children");
        differs(kind) && parents.is_none_or(|parents| own.get(parents) != own.get(*kind))
    })
}

/// The first process of the pid namespace that `process` is in.
fn first_inside(process: &Process, ours: &Namespaces) -> Option<Pid> {
    let inside = pids_of(process.pid).filter(|inside| Some(inside) != ours.get("pid"))?;
    let mut first = process.pid;
    loop {
        let status = proc::status(first, first).ok()?;
        if status.nspid.iter().flatten().last() == Some(&1) {
            return Some(first);
        }
        first = Pid::from_raw(status.ppid);
        if pids_of(first).as_ref() != Some(&inside) {
            return None;
        }
    }
}

/// The pid namespace of a process.
fn pids_of(pid: Pid) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok()
}

fn refuse(whose: &str, kind: &str, tid: Pid) -> Obstacle {
    if let Some(kind) = kind.strip_suffix("_for_children") {
        return Obstacle::unsupported(
            format!("{whose} starts its children in another {kind} namespace"),
            "dump one of these children instead, by itself",
        );
    }
    let hint = match kind {
        "pid" | "mnt" | "uts" | "time" | "ipc" => {
            format!("only a whole tree can be in one: icecore dump -t {tid} if all of it is there")
        }
        "user" => "the program has to be started without one (no rootless container)".to_owned(),
        _ => format!("run icecore inside: nsenter -t {tid} --{kind} icecore …"),
    };
    Obstacle::unsupported(format!("{whose} is in a {kind} namespace of its own"), hint)
}

/// The names in the uts namespace of a process: seen by a thread that enters it and ends.
fn names_of(root: Pid) -> Result<UtsnsEntry> {
    use nix::sched::{CloneFlags, setns};
    let path = format!("/proc/{root}/ns/uts");
    let there = fs::File::open(&path).map_err(|e| Error::path("open", &path, e))?;
    let look = move || {
        setns(there, CloneFlags::CLONE_NEWUTS)?;
        nix::sys::utsname::uname()
    };
    let cannot = |e| Error::os(format!("Cannot read the host names of process {root}"), e);
    let names = std::thread::spawn(look)
        .join()
        .map_err(|_panic| cannot(nix::errno::Errno::EIO))?
        .map_err(cannot)?;
    let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
    Ok(UtsnsEntry {
        nodename: text(names.nodename()),
        domainname: text(names.domainname()),
    })
}

/// A thread without namespaces is on its way out.
fn is_ending(tid: Pid) -> bool {
    fs::read_link(format!("/proc/{tid}/ns/net")).is_err_and(|e| {
        e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH)
    })
}

/// Processes of the pid namespace of `root` that are not in its tree: they would end with it.
///
/// # Errors
/// When /proc cannot be read.
pub fn strangers(own: &Own, processes: &[Process]) -> Result<Vec<Obstacle>> {
    let (Some(root), true) = (processes.first(), own.pids) else {
        return Ok(Vec::new());
    };
    let inside = pids_of(root.pid);
    let all = procfs::process::all_processes().map_err(|e| proc::unreadable("/proc", e))?;
    let mut found = Vec::new();
    for other in all.flatten() {
        let pid = Pid::from_raw(other.pid);
        let Ok(status) = other.status() else { continue };
        let member = processes.iter().any(|p| p.pid == pid);
        if is_inside(&status) && !member && pids_of(pid) == inside {
            found.push(Obstacle::unsupported(
                format!(
                    "Process {pid} ({}) has entered the pid namespace of process {}",
                    status.name, root.pid
                ),
                "it would end with the tree: end it first, or dump with --leave-running",
            ));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(all: &[(&'static str, u64)]) -> Namespaces {
        let link = |n: &u64| PathBuf::from(n.to_string());
        all.iter().map(|(kind, n)| (*kind, link(n))).collect()
    }

    #[test]
    fn each_namespace_of_its_own_is_named_once() {
        let known = namespaces(&[("net", 1), ("pid", 2), ("pid_for_children", 2)]);
        let of = |all| {
            let own = namespaces(all);
            let found: Vec<&str> = differences(&known, &own).collect();
            found
        };
        assert!(of(&[("net", 1), ("pid", 2), ("pid_for_children", 2)]).is_empty());
        assert_eq!(
            of(&[("net", 9), ("pid", 2), ("pid_for_children", 2)]),
            ["net"]
        );
        assert_eq!(
            of(&[("net", 1), ("pid", 3), ("pid_for_children", 3)]),
            ["pid"]
        );
        let waiting = of(&[("net", 1), ("pid", 2), ("pid_for_children", 3)]);
        assert_eq!(waiting, ["pid_for_children"]);
    }

    #[test]
    fn our_own_are_no_obstacle() {
        let me = crate::task::process(Pid::this()).unwrap();
        assert!(survey(std::slice::from_ref(&me)).1.is_empty());
    }

    #[test]
    fn what_the_dumper_shared_is_not_made_anew() {
        let shared = Own::default().ids(1);
        let own = Own {
            pids: true,
            names: true,
            time: true,
            ipc: true,
            mounts: Some(1),
        };
        assert_eq!(apart(&shared, &Own::default().ids(7)).count(), 0);
        let kinds: Vec<_> = apart(&own.ids(7), &shared).collect();
        assert_eq!(kinds, ["pid", "ipc", "uts", "mnt", "time"]);
    }
}
