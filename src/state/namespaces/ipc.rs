//! An ipc namespace (ipc_namespaces(7)): all objects of System V in it are the tree's; its limits are in
//! `ipcns-var-N.img`. Message queues of POSIX cannot be
//! saved yet; those in it are looked for, even when no process has them open.

use std::fs::{self, File};

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Obstacle, Result};
use crate::image::proto::IpcVarEntry;
use crate::sys::mqueue;
use crate::units::Pid;

/// This thread in the ipc namespace of another process, until it is dropped.
#[derive(Debug)]
pub struct Inside(File);

impl Inside {
    /// Goes there.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter(pid: Pid) -> Result<Self> {
        let open = |path: &str| File::open(path).map_err(|e| Error::path("open", path, e));
        let home = open("/proc/thread-self/ns/ipc")?;
        let there = open(&format!("/proc/{pid}/ns/ipc"))?;
        setns(there, CloneFlags::CLONE_NEWIPC)
            .map_err(|e| Error::os(format!("Cannot enter the ipc namespace of {pid}"), e))?;
        Ok(Self(home))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0, CloneFlags::CLONE_NEWIPC) {
            tracing::warn!("cannot go back into our ipc namespace: {errno}");
        }
    }
}

/// The message queues of POSIX in the namespace that this thread is in (mq_overview(7)), as an obstacle.
pub fn posix_queues() -> Option<Obstacle> {
    let names = match mqueue::queues() {
        Ok(names) => names,
        // A kernel that has none.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return None,
        Err(error) => {
            let what = format!("POSIX message queues cannot be looked for: {error}");
            return Some(Obstacle::unsupported(what, "run icecore as root"));
        }
    };
    let names: Vec<String> = names
        .iter()
        .map(|name| format!("/{}", name.to_string_lossy()))
        .collect();
    (!names.is_empty()).then(|| {
        let one = names.len() == 1;
        let what = format!(
            "The ipc namespace of the tree has {} POSIX message queue{} ({})",
            if one { "a" } else { "" },
            if one { "" } else { "s" },
            names.join(", ")
        );
        let hint =
            "they cannot be saved yet: have the program remove them (mq_unlink) before the dump";
        Obstacle::unsupported(what.replace("  ", " "), hint)
    })
}

fn read(name: &str) -> Vec<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    let negative = |word: &str| word.parse::<i64>().map(i64::cast_unsigned);
    let number = |word: &str| word.parse::<u64>().or_else(|_| negative(word));
    text.split_whitespace().flat_map(number).collect()
}

fn one(name: &str) -> u64 {
    read(name).first().copied().unwrap_or(0)
}

fn small(name: &str) -> u32 {
    u32::try_from(one(name) & u64::from(u32::MAX)).unwrap_or(0)
}

/// The limits of the namespace that this thread is in.
pub(super) fn limits() -> IpcVarEntry {
    let sems = read("kernel/sem").into_iter();
    IpcVarEntry {
        sem_ctls: sems.map(|n| u32::try_from(n).unwrap_or(u32::MAX)).collect(),
        msg_ctlmax: small("kernel/msgmax"),
        msg_ctlmnb: small("kernel/msgmnb"),
        msg_ctlmni: small("kernel/msgmni"),
        auto_msgmni: small("kernel/auto_msgmni"),
        shm_ctlmax: one("kernel/shmmax"),
        shm_ctlall: one("kernel/shmall"),
        shm_ctlmni: small("kernel/shmmni"),
        shm_rmid_forced: small("kernel/shm_rmid_forced"),
        mq_queues_max: small("fs/mqueue/queues_max"),
        mq_msg_max: small("fs/mqueue/msg_max"),
        mq_msgsize_max: small("fs/mqueue/msgsize_max"),
        mq_msg_default: Some(small("fs/mqueue/msg_default")),
        mq_msgsize_default: Some(small("fs/mqueue/msgsize_default")),
        // Chosen by nobody.
        msg_next_id: None,
        sem_next_id: None,
        shm_next_id: None,
    }
}

/// Sets the limits of the namespace that this thread is in, as far as they are others.
///
/// # Errors
/// When one cannot be written.
pub(super) fn set_limits(wanted: &IpcVarEntry) -> Result<()> {
    let now = limits();
    let set = |name: &str, is: u64, wanted: u64| {
        let path = format!("/proc/sys/{name}");
        match is == wanted {
            true => Ok(()),
            false => {
                fs::write(&path, wanted.to_string()).map_err(|e| Error::path("write", &path, e))
            }
        }
    };
    if wanted.sem_ctls != now.sem_ctls && !wanted.sem_ctls.is_empty() {
        let words: Vec<String> = wanted.sem_ctls.iter().map(u32::to_string).collect();
        let path = "/proc/sys/kernel/sem";
        fs::write(path, words.join(" ")).map_err(|e| Error::path("write", path, e))?;
    }
    set("kernel/shmmax", now.shm_ctlmax, wanted.shm_ctlmax)?;
    set("kernel/shmall", now.shm_ctlall, wanted.shm_ctlall)?;
    for (name, is, wanted) in [
        ("kernel/msgmax", now.msg_ctlmax, wanted.msg_ctlmax),
        ("kernel/msgmnb", now.msg_ctlmnb, wanted.msg_ctlmnb),
        ("kernel/msgmni", now.msg_ctlmni, wanted.msg_ctlmni),
        ("kernel/shmmni", now.shm_ctlmni, wanted.shm_ctlmni),
        (
            "kernel/shm_rmid_forced",
            now.shm_rmid_forced,
            wanted.shm_rmid_forced,
        ),
        (
            "fs/mqueue/queues_max",
            now.mq_queues_max,
            wanted.mq_queues_max,
        ),
        ("fs/mqueue/msg_max", now.mq_msg_max, wanted.mq_msg_max),
        (
            "fs/mqueue/msgsize_max",
            now.mq_msgsize_max,
            wanted.mq_msgsize_max,
        ),
    ] {
        set(name, is.into(), wanted.into())?;
    }
    for (name, is, wanted) in [
        (
            "fs/mqueue/msg_default",
            now.mq_msg_default,
            wanted.mq_msg_default,
        ),
        (
            "fs/mqueue/msgsize_default",
            now.mq_msgsize_default,
            wanted.mq_msgsize_default,
        ),
    ] {
        if let (Some(is), Some(wanted)) = (is, wanted) {
            set(name, is.into(), wanted.into())?;
        }
    }
    Ok(())
}
