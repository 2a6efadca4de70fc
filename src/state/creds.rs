//! Credentials of a thread: user and group ids, groups, capabilities, securebits, no_new_privs
//! (credentials(7), capabilities(7); `thread_core.creds`).
//!
//! Restoring is a plan, a list of steps from the present credentials to the wanted ones, holding
//! only what differs, so that without any right a process with our own credentials can be restored.
//! The order follows from what each step needs: changing users must not take capabilities away
//! (SECBIT_NO_SETUID_FIXUP); inheritable capabilities before the bounding set, which limits them;
//! ambient ones while the permitted set is still large; the permitted and effective sets last,
//! because everything else needs them.

mod mapped;
mod plan;

use std::fs;

use nix::unistd::{getegid, geteuid};
use procfs::process::Status;

use self::plan::{Step, plan};
use super::words::{high, low};
use super::{Answers, DumpThread, Questions, Resource, RestoreThread, caps};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{CoreEntry, CredsEntry};
use crate::task::proc;
use crate::units::Pid;

const PR_GET_SECUREBITS: u64 = 27;

/// Most groups that fit in the scratch area with room to spare.
const MOST_GROUPS: usize = 3000;

/// See the module.
#[derive(Debug)]
pub(super) struct Credentials;

/// Real, effective, saved and file system id.
type Ids = [u32; 4];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Creds {
    uids: Ids,
    gids: Ids,
    /// Sorted, as the kernel keeps them.
    groups: Vec<u32>,
    inheritable: u64,
    permitted: u64,
    effective: u64,
    bounding: u64,
    ambient: u64,
    securebits: u32,
    no_new_privs: bool,
}

impl Creds {
    fn new(status: &Status, securebits: u64) -> Self {
        let mut groups = status.groups.clone();
        groups.sort_unstable();
        Self {
            uids: [status.ruid, status.euid, status.suid, status.fuid],
            gids: [status.rgid, status.egid, status.sgid, status.fgid],
            groups,
            inheritable: status.capinh,
            permitted: status.capprm,
            effective: status.capeff,
            bounding: status.capbnd.unwrap_or(0),
            ambient: status.capamb.unwrap_or(0),
            securebits: low(securebits),
            no_new_privs: status.nonewprivs.unwrap_or(0) != 0,
        }
    }
}

impl From<&Creds> for CredsEntry {
    fn from(creds: &Creds) -> Self {
        let set = |set: u64| vec![low(set), high(set)];
        let [uid, euid, suid, fsuid] = creds.uids;
        let [gid, egid, sgid, fsgid] = creds.gids;
        Self {
            uid,
            gid,
            euid,
            egid,
            suid,
            sgid,
            fsuid,
            fsgid,
            cap_inh: set(creds.inheritable),
            cap_prm: set(creds.permitted),
            cap_eff: set(creds.effective),
            cap_bnd: set(creds.bounding),
            cap_amb: set(creds.ambient),
            secbits: creds.securebits,
            groups: creds.groups.clone(),
            no_new_privs: creds.no_new_privs.then_some(1),
            ..Self::default()
        }
    }
}

impl From<&CredsEntry> for Creds {
    fn from(entry: &CredsEntry) -> Self {
        let set = |set: &[u32]| match *set {
            [] => 0,
            [low] => u64::from(low),
            [low, high, ..] => super::words::pair(low, high),
        };
        let mut groups = entry.groups.clone();
        groups.sort_unstable();
        Self {
            uids: [entry.uid, entry.euid, entry.suid, entry.fsuid],
            gids: [entry.gid, entry.egid, entry.sgid, entry.fsgid],
            groups,
            inheritable: set(&entry.cap_inh),
            permitted: set(&entry.cap_prm),
            effective: set(&entry.cap_eff),
            bounding: set(&entry.cap_bnd),
            ambient: set(&entry.cap_amb),
            securebits: entry.secbits,
            no_new_privs: entry.no_new_privs.unwrap_or(0) != 0,
        }
    }
}

impl Resource for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn check(&self, pid: Pid) -> Result<Vec<Obstacle>> {
        let mut obstacles = Vec::new();
        for (tid, status) in proc::of_threads(pid, proc::status)? {
            let who = super::who(pid, tid);
            let groups = status.groups.len();
            if groups > MOST_GROUPS {
                obstacles.push(Obstacle::unsupported(
                    format!("{who} is in {groups} groups"),
                    format!("no more than {MOST_GROUPS} can be saved"),
                ));
            }
            // Not there without the security module, EINVAL without any.
            let profile = proc::line(pid, &format!("task/{tid}/attr/current")).unwrap_or_default();
            let profile = profile.trim_end_matches(['\0', '\n']);
            if !["", "unconfined", "kernel"].contains(&profile) {
                obstacles.push(Obstacle::unsupported(
                    format!("{who} is confined by the security module as {profile:?}"),
                    "start it unconfined; such profiles cannot be saved yet",
                ));
            }
        }
        Ok(obstacles)
    }

    fn check_image(&self, tid: Pid, core: &CoreEntry) -> Vec<Obstacle> {
        let creds = core.thread_core.as_ref().and_then(|t| t.creds.as_ref());
        let profile = creds.and_then(|c| c.lsm_profile.as_ref());
        let profile = profile.map(|profile| {
            Obstacle::unsupported(
                format!("Thread {tid} was confined by the security module as {profile:?}"),
                "such profiles cannot be restored yet; use criu restore",
            )
        });
        let maps =
            ["uid_map", "gid_map"].map(|map| fs::read_to_string(format!("/proc/self/{map}")));
        let [Ok(uids), Ok(gids)] = maps else {
            return profile.into_iter().collect();
        };
        let own = [geteuid().as_raw(), getegid().as_raw()];
        let unknown = creds.map_or_else(Vec::new, |creds| {
            mapped::unknown(&Creds::from(creds), [&uids, &gids], own)
        });
        let unknown = unknown.into_iter().map(|(what, id)| {
            Obstacle::new(
                Kind::Permission,
                format!(
                    "Thread {tid} has the {what} id {id}, which this user namespace does not know"
                ),
                "restore outside of it as root; processes of your own keep their ids with unshare \
                 --map-current-user --keep-caps",
            )
        });
        profile.into_iter().chain(unknown).collect()
    }

    fn ask(&self, questions: &mut Questions) {
        questions.call(libc::SYS_prctl, &[PR_GET_SECUREBITS]);
    }

    fn dump(&self, task: &mut DumpThread<'_>, answers: &Answers<'_>) -> Result<()> {
        let securebits = answers.value(0, "prctl(PR_GET_SECUREBITS)")?;
        let creds = Creds::new(answers.status, securebits);
        task.thread().creds = Some(CredsEntry::from(&creds));
        Ok(())
    }

    fn restore(&self, task: &mut RestoreThread<'_>) -> Result<()> {
        let Some(entry) = task.thread().and_then(|t| t.creds.as_ref()) else {
            return Ok(());
        };
        let mut wanted = Creds::from(entry);
        let get = [PR_GET_SECUREBITS];
        let securebits = task
            .remote
            .call("prctl(PR_GET_SECUREBITS)", libc::SYS_prctl, &get)?;
        let present = Creds::new(&proc::status(task.pid, task.tid)?, securebits);
        if wanted.groups != present.groups && mapped::groups_are_fixed() {
            task.warnings.push(Obstacle::new(
                Kind::Permission,
                format!(
                    "The supplementary groups of {} are those of this user",
                    task.who()
                ),
                "a user namespace without root outside forbids setgroups(2)",
            ));
            wanted.groups.clone_from(&present.groups);
        }
        let (steps, lost) = plan(&present, &wanted);
        if present.no_new_privs && !wanted.no_new_privs {
            task.warnings.push(Obstacle::new(
                Kind::Permission,
                format!("{} becomes no_new_privs", task.who()),
                "icecore itself runs with no_new_privs, which is inherited for good",
            ));
        }
        for (kind, set) in lost {
            task.warnings.push(Obstacle::new(
                Kind::Permission,
                format!(
                    "The {kind} set of {} lacks {}",
                    task.who(),
                    caps::names(set)
                ),
                "run icecore with all capabilities to restore it in full",
            ));
        }
        let mut calls = Vec::new();
        let mut slot = 0;
        for step in &steps {
            calls.push(step.call(task.remote, slot)?);
            if matches!(step, Step::Caps(..)) {
                slot += 64;
            }
        }
        task.remote.run(&mut calls)?;
        for (step, call) in steps.iter().zip(&calls) {
            // setfsuid and setfsgid return the previous id, whatever it is.
            if !matches!(step, Step::FsUid(_) | Step::FsGid(_))
                && let Err(e) = call.value()
            {
                let what = format!("{} failed while restoring {}", step.name(), task.who());
                return Err(Error::os(what, e).hint("run icecore as root"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
