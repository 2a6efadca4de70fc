//! Task ids that are in use without a task: a session and a process group keep the id of their leader as
//! their number for as long as they have a member (setsid(2), setpgid(2)), so nobody can get it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::proc;
use crate::units::Pid;

/// Who is in a session or process group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// True when somebody is in the session of that number, not only in the process group.
    pub session: bool,
    /// Their pids and names, in ascending order.
    pub processes: Vec<(Pid, String)>,
}

impl Members {
    /// `the session of R (pid 12) and 1 other process`.
    pub fn named(&self) -> String {
        let what = match self.session {
            true => "session",
            false => "process group",
        };
        let first = self.processes.first();
        let (pid, comm) = first.map_or((0, ""), |(pid, comm)| (pid.as_raw(), comm));
        match self.processes.len().saturating_sub(1) {
            0 => format!("the {what} of {comm} (pid {pid})"),
            1 => format!("the {what} of {comm} (pid {pid}) and 1 other process"),
            n => format!("the {what} of {comm} (pid {pid}) and {n} other processes"),
        }
    }

    /// Their pids, as kill(1) takes them.
    pub fn pids(&self) -> String {
        let pids: Vec<String> = self
            .processes
            .iter()
            .map(|(pid, _)| pid.to_string())
            .collect();
        pids.join(" ")
    }
}

/// Who is in sessions or groups of these numbers, by the number; `tree` does not count.
pub fn members(numbers: &BTreeSet<Pid>, tree: &BTreeSet<Pid>) -> BTreeMap<Pid, Members> {
    let mut found: BTreeMap<Pid, Members> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: BTreeSet<Pid> = entries
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect();
    for pid in pids.difference(tree) {
        // Who has ended meanwhile is in nothing.
        let Ok(stat) = proc::stat_of_process(*pid) else {
            continue;
        };
        let (session, group) = (Pid::from_raw(stat.session), Pid::from_raw(stat.pgrp));
        for number in BTreeSet::from([session, group]).intersection(numbers) {
            let members = found.entry(*number).or_default();
            members.session |= *number == session;
            members.processes.push((*pid, stat.comm.clone()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_by_the_number_of_their_session_and_left_out_as_part_of_the_tree() {
        let me = Pid::this();
        let session = Pid::from_raw(proc::stat_of_process(me).unwrap().session);
        let found = members(&BTreeSet::from([session]), &BTreeSet::new());
        let mine = &found[&session];
        assert!(mine.session);
        assert!(mine.processes.iter().any(|(pid, _)| *pid == me));
        let others = members(&BTreeSet::from([session]), &BTreeSet::from([me]));
        let still = others.get(&session);
        assert!(still.is_none_or(|all| all.processes.iter().all(|(pid, _)| *pid != me)));
    }

    #[test]
    fn the_first_is_named_and_the_others_are_counted() {
        let process = |pid, comm: &str| (Pid::from_raw(pid), comm.to_owned());
        let mut members = Members {
            session: true,
            processes: vec![process(12, "R")],
        };
        assert_eq!(members.named(), "the session of R (pid 12)");
        members.processes.push(process(13, "R"));
        members.session = false;
        assert_eq!(
            members.named(),
            "the process group of R (pid 12) and 1 other process"
        );
        assert_eq!(members.pids(), "12 13");
    }
}
