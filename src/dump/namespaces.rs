//! The namespaces of the target (namespaces(7)): which of them are its own, and which of these cannot
//! be made again. Every thread is looked at, because each has namespaces of its own.
//!
//! The leader of the root is compared with us, everybody else with the leader of the root: a layer
//! has one of each kind. `pid_for_children` and `time_for_children` are where the next child will be.

use std::collections::BTreeMap;

use procfs::process::Process as Proc;

use crate::error::{Error, Kind, Obstacle, Result};
use crate::task::{Life, Process};
use crate::units::Pid;

/// Identity of each namespace of a thread, by the name in `/proc/PID/ns`.
type Namespaces = BTreeMap<String, u64>;

/// What is in the way, by name: kind of namespace, whose, and what to do.
pub(super) fn obstacles(processes: &[Process]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut known = of(Pid::this());
    let mut reference = "icecore";
    for process in alive(processes) {
        for tid in &process.threads {
            let own = of(*tid);
            let whose = name(process, *tid);
            match (&known, &own) {
                (Some(known), Some(own)) => {
                    found.extend(differences(known, own).map(|kind| refuse(&whose, kind, *tid)));
                }
                (_, None) if is_ending(*tid) => continue,
                // So it is after unshare(CLONE_NEWPID), until there is a child.
                _ => found.push(Obstacle::unsupported(
                    format!("{whose} may be in a namespace of its own: not all of them can be read"),
                    "try again when it has started its child, from a shell that has none of its own",
                )),
            }
            if reference == "icecore" {
                reference = "root";
                known = own;
            }
        }
    }
    found
}

/// Fails when a thread has left the namespaces of the root since the plan was made.
///
/// # Errors
/// [`Kind::TargetGone`]: what was planned is not what is there.
pub(super) fn still_one(processes: &[Process]) -> Result<()> {
    let mut known = None;
    for process in alive(processes) {
        for tid in &process.threads {
            let own = of(*tid);
            if *known.get_or_insert_with(|| own.clone()) != own {
                let what = format!("{} has entered another namespace", name(process, *tid));
                return Err(Error::new(Kind::TargetGone, what).hint("plan the dump again"));
            }
        }
    }
    Ok(())
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
    let found = Proc::new(tid.as_raw()).and_then(|p| p.namespaces()).ok()?;
    let named = |(kind, namespace): (std::ffi::OsString, procfs::process::Namespace)| {
        (kind.to_string_lossy().into_owned(), namespace.identifier)
    };
    Some(found.0.into_iter().map(named).collect())
}

/// The kinds that differ. Where the next child will be is a difference of its own only when it is not
/// where its parent is.
fn differences<'a>(known: &'a Namespaces, own: &'a Namespaces) -> impl Iterator<Item = &'a str> {
    let differs = |kind: &str| known.get(kind) != own.get(kind);
    own.keys().map(String::as_str).filter(move |kind| {
        let parents = kind.strip_suffix("_for_children");
        differs(kind) && parents.is_none_or(|parents| own.get(parents) != own.get(*kind))
    })
}

fn refuse(whose: &str, kind: &str, tid: Pid) -> Obstacle {
    if let Some(kind) = kind.strip_suffix("_for_children") {
        return Obstacle::unsupported(
            format!("{whose} starts its children in another {kind} namespace"),
            "dump one of these children instead, by itself",
        );
    }
    let option = match kind {
        "mnt" => "mount".to_owned(),
        other => other.to_owned(),
    };
    let hint = match kind {
        "pid" => {
            "run icecore inside, with a /proc of its own: nsenter -t PID --pid --mount icecore …"
                .replace("PID", &tid.to_string())
        }
        "user" => "the program has to be started without one (no rootless container)".to_owned(),
        _ => format!("run icecore inside: nsenter -t {tid} --{option} icecore …"),
    };
    Obstacle::unsupported(format!("{whose} is in a {kind} namespace of its own"), hint)
}

/// A thread without namespaces is on its way out.
fn is_ending(tid: Pid) -> bool {
    std::fs::read_link(format!("/proc/{tid}/ns/net")).is_err_and(|e| {
        e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(all: &[(&str, u64)]) -> Namespaces {
        all.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect()
    }

    #[test]
    fn each_namespace_of_its_own_is_named_once() {
        let known = namespaces(&[("net", 1), ("pid", 2), ("pid_for_children", 2)]);
        let of = |all| {
            let own = namespaces(all);
            let found: Vec<String> = differences(&known, &own).map(str::to_owned).collect();
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
        assert!(obstacles(std::slice::from_ref(&me)).is_empty());
        still_one(&[me]).unwrap();
    }
}
