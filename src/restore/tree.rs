//! New processes with chosen pids, sessions and groups: the skeleton of a restored tree.
//!
//! Sources: clone(2) (`clone3`, `set_tid`), setsid(2), setpgid(2), credentials(7). A process is
//! forked by its parent, before or after that leads its session, or by a go-between where the parent
//! never was in its session (see [`sessions`]).

mod root;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};

use super::heirs::Heirs;
use crate::error::{Error, Kind, Obstacle, Result, TargetState};
use crate::files::Session;
use crate::image::proto::PstreeEntry;
use crate::inject::{Call, Foothold, Ground, Remote};
use crate::memory::inherit::Estate;
use crate::state::namespaces::Anew;
use crate::sys::clone::{CLONE_ARGS_SIZE, clone_args, fork_idle};
use crate::sys::ptrace::{self, Stop};
use crate::task::sessions::{self, Birth, Kin};
use crate::task::sharing::{self, Shares};
use crate::task::{self, Life};
use crate::units::Pid;

/// A process to be made.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// pid, parent, group, session and threads (the leader first).
    pub(super) entry: PstreeEntry,
    /// The raw wait status with which it ends at once: a zombie.
    pub(super) zombie: Option<i32>,
    /// The signal that its parent gets at its end.
    pub(super) exit_signal: u32,
    /// What it shares with its parent: flags of clone(2).
    pub(super) shares: u64,
}

impl Wanted {
    /// Its descriptors are its parent's.
    pub(super) fn shares_descriptors(&self) -> bool {
        self.shares & u64::from(libc::CLONE_FILES.cast_unsigned()) != 0
    }
}

/// Processes of our own making, all stopped. Dropping it kills them all.
#[derive(Debug)]
pub(super) struct Newborn<'p> {
    foothold: Option<Foothold>,
    remotes: BTreeMap<Pid, Remote>,
    /// As we see them.
    pids: Vec<Pid>,
    /// As we see them.
    tids: Vec<Pid>,
    /// From the ids of the tree to those that we see.
    seen: BTreeMap<Pid, Pid>,
    /// Nobody else has ids there.
    alone: bool,
    released: bool,
    sessions: Vec<Session>,
    heirs: Heirs<'p>,
}

/// How each process is born.
type Births = BTreeMap<Pid, Birth>;

const TIOCSCTTY: u64 = libc::TIOCSCTTY;
const TIOCSPGRP: u64 = libc::TIOCSPGRP;

/// The signal at the end of a process that was made by fork(2).
pub(super) const USUAL_END: u32 = libc::SIGCHLD as u32;

const OPTIONS: i32 = libc::PTRACE_O_EXITKILL
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK;

/// The processes as far as their sessions go.
fn kin(tree: &[Wanted]) -> Vec<Kin> {
    let of = |wanted: &Wanted| Kin {
        pid: pid_of(wanted.entry.pid),
        parent: pid_of(wanted.entry.ppid),
        session: pid_of(wanted.entry.sid),
    };
    tree.iter().map(of).collect()
}

/// Relations that cannot be made: sessions in which no parent of a process ever was.
/// Things that some of them would have to share without being born with them.
pub(super) fn obstacles(tree: &[Wanted], shares: &[Shares]) -> Vec<Obstacle> {
    let kin = kin(tree);
    let (_, impossible) = sessions::strays(&kin);
    let refuse = |kin: Kin| {
        Obstacle::unsupported(
            format!(
                "Process {} is in session {}, of which no process is below its parent {}",
                kin.pid, kin.session, kin.parent
            ),
            "such a relation cannot be made again yet",
        )
    };
    let impossible = impossible.into_iter().map(refuse);
    impossible.chain(sharing::obstacles(shares, &kin)).collect()
}

/// Ids that are needed only for a while: of sessions and groups whose leaders have ended.
pub(super) fn passing_ids(tree: &[Wanted]) -> impl Iterator<Item = Pid> {
    let (strays, _) = sessions::strays(&kin(tree));
    let sessions = strays.into_iter().filter(|s| s.from.is_none());
    let groups = orphaned_groups(tree).into_keys().map(pid_of);
    sessions.map(|stray| stray.session).chain(groups)
}

/// True when the session of a process is one that we make, rather than the one that we were born into.
fn is_made(tree: &[Wanted], wanted: &Wanted) -> bool {
    let root = tree.first().map(|root| &root.entry);
    root.is_some_and(|root| root.sid == root.pid || root.sid != wanted.entry.sid)
}

/// Groups whose leader has ended, each with one of its members. The group of a session's leader is not
/// among them: everyone in a session is born into it.
fn orphaned_groups(tree: &[Wanted]) -> BTreeMap<u32, u32> {
    let root_group = tree.first().map(|w| w.entry.pgid);
    tree.iter()
        .filter(|w| w.entry.pgid != w.entry.sid || !is_made(tree, w))
        .map(|w| (w.entry.pgid, w.entry.pid))
        .filter(|(group, _)| Some(*group) != root_group)
        .filter(|(group, _)| !tree.iter().any(|w| w.entry.pid == *group))
        .collect()
}

impl<'p> Newborn<'p> {
    /// Forks the tree. `taken` are all ranges that no process may lose to our working region;
    /// What they inherit of their memory is made as they are. `detach` makes init the parent of the root instead of us; `anew` are the namespaces that it gets.
    /// Leaders of `sessions` get their terminals.
    ///
    /// # Errors
    /// [`Kind::Busy`] when a pid is taken, [`Kind::Permission`] without the right to choose pids.
    /// Nothing is left behind.
    pub(super) fn fork(
        tree: &[Wanted],
        ground: &Ground,
        anew: &Anew,
        detach: bool,
        sessions: Vec<Session>,
        heirs: Heirs<'p>,
    ) -> Result<Self> {
        let mut born = Self {
            foothold: None,
            remotes: BTreeMap::new(),
            pids: Vec::new(),
            tids: Vec::new(),
            seen: BTreeMap::new(),
            alone: anew.pids,
            released: false,
            sessions,
            heirs,
        };
        let root = tree
            .first()
            .ok_or_else(|| Error::corrupt("The image has no process"))?;
        let root_pid = pid_of(root.entry.pid);
        let foothold = if detach || anew.is_something() {
            born.fork_root_by_another(root_pid, ground, anew, detach)?
        } else {
            once_free(root_pid, false, || fork_idle(Some(root_pid)))?;
            born.pids.push(root_pid);
            born.seen.insert(root_pid, root_pid);
            adopt(root_pid)?;
            Foothold::establish(root_pid, ground)?
        };
        born.foothold = Some(foothold);
        born.enlist(root_pid)?;
        crate::state::forget_merging(born.remote(root_pid)?)?;
        anew.begin(born.remote(root_pid)?)?;
        let births = sessions::births(&kin(tree));
        born.grow(tree, &births, root)?;
        born.fork_strays(tree, &births)?;
        born.join_groups(tree)?;
        born.choose_foregrounds()?;
        born.end_zombies(tree)?;
        born.check_relations(tree)?;
        Ok(born)
    }

    /// Lets `remote` clone a task with the chosen id; the new one is stopped and traced.
    fn clone(&mut self, remote: &mut Remote, id: Pid, flags: u64, exit_signal: u32) -> Result<()> {
        let set_tid = remote.put(0, &id.as_raw().to_le_bytes())?;
        let args: Vec<u8> = clone_args(flags, exit_signal.into(), set_tid)
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let address = remote.put(64, &args)?;
        let _older = remote.take_born();
        let got = once_free(id, self.alone, || {
            let mut calls = [Call::new(libc::SYS_clone3, &[address, CLONE_ARGS_SIZE])];
            match remote.run(&mut calls) {
                Ok(()) => calls[0].value().map(Ok),
                Err(e) => Ok(Err(e)),
            }
        })??;
        // Whoever makes a pid namespace is told the id outside of it.
        let anew = flags & root::NEW_PIDS != 0;
        if !anew && got != u64::from(id.as_raw().unsigned_abs()) {
            return Err(Error::new(
                Kind::Failed,
                format!("Wanted task {id}, got {got}"),
            ));
        }
        let seen = remote.take_born().unwrap_or(id);
        self.seen.insert(id, seen);
        await_birth(seen)
    }

    /// The id that we see of the task `id` of the tree; of one that is not in the tree, an id that
    /// nobody has.
    pub(super) fn seen(&self, id: Pid) -> Pid {
        let stranger = if self.alone {
            Pid::from_raw(i32::MAX)
        } else {
            id
        };
        self.seen.get(&id).copied().unwrap_or(stranger)
    }

    /// Makes the new process `id` one that works for us.
    fn enlist(&mut self, id: Pid) -> Result<()> {
        let seen = self.seen(id);
        if !self.pids.contains(&seen) {
            self.pids.push(seen);
        }
        self.tids.push(seen);
        let remote = self.foothold()?.remote(seen, seen, (id, id), 0)?;
        self.remotes.insert(id, remote);
        Ok(())
    }

    /// Forks the descendants of `parent`, which exists, and starts its session at the right moment.
    fn grow(&mut self, tree: &[Wanted], births: &Births, parent: &Wanted) -> Result<()> {
        let me = parent.entry.pid;
        let born = |birth: Birth| {
            let children = tree.iter().filter(move |w| w.entry.ppid == me);
            children.filter(move |w| births.get(&pid_of(w.entry.pid)) == Some(&birth))
        };
        for child in born(Birth::Before) {
            self.fork_child(pid_of(me), child)?;
            self.grow(tree, births, child)?;
        }
        if parent.entry.sid == me {
            self.remote(pid_of(me))?
                .call("setsid", libc::SYS_setsid, &[])?;
            // One that has ended gave it back; its end now would hang up whoever has it by then.
            if parent.zombie.is_none() {
                self.take_terminal(pid_of(me))?;
            }
        }
        for child in born(Birth::After) {
            self.fork_child(pid_of(me), child)?;
            self.grow(tree, births, child)?;
        }
        Ok(())
    }

    /// Gives a session leader its controlling terminal; its children will have it by birth.
    fn take_terminal(&mut self, leader: Pid) -> Result<()> {
        let own = |session: &&Session| session.leader == leader;
        let Some(terminal) = self.sessions.iter().find(own).map(|s| s.terminal) else {
            return Ok(());
        };
        let args = [u64::from(terminal.cast_unsigned()), TIOCSCTTY, 0];
        let remote = self.remote(leader)?;
        remote.call("taking the terminal", libc::SYS_ioctl, &args)?;
        Ok(())
    }

    /// Makes the foreground groups of terminals what they were. Terminals of sessions that are led
    /// outside are not ours.
    fn choose_foregrounds(&mut self) -> Result<()> {
        for session in self.sessions.clone() {
            let (Some(remote), Some(group)) =
                (self.remotes.get_mut(&session.leader), session.group)
            else {
                continue;
            };
            let address = remote.put(0, &group.as_raw().to_le_bytes())?;
            let terminal = u64::from(session.terminal.cast_unsigned());
            let mut calls = [Call::new(libc::SYS_ioctl, &[terminal, TIOCSPGRP, address])];
            remote.run(&mut calls)?;
            match calls[0].value() {
                // Its last process has ended; whoever comes next takes the foreground.
                Ok(_) | Err(Errno::ESRCH) => {}
                Err(e) => {
                    let what = format!("Cannot make {group} the foreground group of its terminal");
                    return Err(Error::os(what, e));
                }
            }
        }
        Ok(())
    }

    fn fork_child(&mut self, parent: Pid, child: &Wanted) -> Result<()> {
        let pid = pid_of(child.entry.pid);
        self.fork_by(parent, pid, child.shares, child.exit_signal)
    }

    fn fork_by(&mut self, parent: Pid, pid: Pid, shares: u64, exit_signal: u32) -> Result<()> {
        let mut remote = self.take(parent)?;
        let settled = self.heirs.settle(parent, &mut remote).map(drop);
        let result = settled.and_then(|()| self.clone(&mut remote, pid, shares, exit_signal));
        self.remotes.insert(parent, remote);
        result?;
        self.heirs.forked(parent, pid);
        self.enlist(pid)
    }

    /// Strays are forked by go-betweens that end; meanwhile their parents adopt orphans.
    fn fork_strays(&mut self, tree: &[Wanted], births: &Births) -> Result<()> {
        let adopting = |on: u64| [libc::PR_SET_CHILD_SUBREAPER.cast_unsigned().into(), on];
        for stray in sessions::strays(&kin(tree)).0 {
            let forker = stray.from.unwrap_or(stray.parent);
            let go_between = match stray.from {
                Some(_) => spare_id(tree)?,
                None => stray.session,
            };
            self.clone_for_a_while(go_between, forker)?;
            if stray.from.is_none() {
                self.remote(go_between)?
                    .call("setsid", libc::SYS_setsid, &[])?;
            }
            // Who is adopted ends with SIGCHLD.
            self.fork_by(go_between, stray.pid, 0, USUAL_END)?;
            let adopts = |born: &mut Self, on| {
                let parent = born.remote(stray.parent)?;
                parent.call("adopting orphans", libc::SYS_prctl, &adopting(on))
            };
            adopts(self, 1)?;
            self.dismiss(go_between, forker)?;
            // Whether it shall adopt from now on is part of its state.
            adopts(self, 0)?;
            for wanted in tree.iter().filter(|w| pid_of(w.entry.pid) == stray.pid) {
                self.grow(tree, births, wanted)?;
            }
        }
        Ok(())
    }

    /// Process groups, leaders first. The leader may be a zombie: it still lives now. A group whose
    /// leader has ended gets a stand-in that leads it until all have joined. The root's group, when it
    /// is not in the tree, is the one we were born into.
    fn join_groups(&mut self, tree: &[Wanted]) -> Result<()> {
        let leads = |w: &&Wanted| w.entry.pgid == w.entry.pid;
        let present = |id: u32| tree.iter().any(|w| w.entry.pid == id);
        let orphaned = orphaned_groups(tree);
        for (group, member) in &orphaned {
            self.stand_in(pid_of(*group), pid_of(*member))?;
        }
        let (leaders, members): (Vec<_>, Vec<_>) = tree
            .iter()
            .filter(|w| present(w.entry.pgid) || orphaned.contains_key(&w.entry.pgid))
            .partition(leads);
        for wanted in leaders.into_iter().chain(members) {
            // A session leader has led its own group since setsid(2), and the others were born into it.
            if wanted.entry.pgid == wanted.entry.sid && is_made(tree, wanted) {
                continue;
            }
            let group = u64::from(wanted.entry.pgid);
            self.remote(pid_of(wanted.entry.pid))?.call(
                "setpgid",
                libc::SYS_setpgid,
                &[0, group],
            )?;
        }
        for (group, member) in &orphaned {
            self.dismiss(pid_of(*group), pid_of(*member))?;
        }
        Ok(())
    }

    /// Makes a child of `member` that leads the group `group`.
    fn stand_in(&mut self, group: Pid, member: Pid) -> Result<()> {
        self.clone_for_a_while(group, member)?;
        self.remote(group)?
            .call("setpgid", libc::SYS_setpgid, &[0, 0])?;
        Ok(())
    }

    /// Makes a child of `parent` that is to be [dismissed](Self::dismiss). Its end will send no signal.
    fn clone_for_a_while(&mut self, pid: Pid, parent: Pid) -> Result<()> {
        self.fork_by(parent, pid, 0, 0)
    }

    /// What process `id` has in its memory already: what it shares with others.
    ///
    /// # Errors
    /// When it died or a page cannot be read.
    pub(super) fn estate(&mut self, id: Pid) -> Result<Estate> {
        let mut remote = self.take(id)?;
        let estate = self.heirs.settle(id, &mut remote).cloned();
        self.remotes.insert(id, remote);
        estate
    }

    /// Ends a stand-in or go-between; its parent waits for it, so that nothing is left.
    fn dismiss(&mut self, gone: Pid, parent: Pid) -> Result<()> {
        let remote = self.take(gone)?;
        let seen = self.seen(gone);
        end(&remote, seen, libc::SIGKILL)?;
        self.pids.retain(|pid| *pid != seen);
        self.tids.retain(|tid| *tid != seen);
        let pid = u64::from(gone.as_raw().unsigned_abs());
        let any = u64::from(libc::__WALL.cast_unsigned());
        self.remote(parent)?
            .call("wait4", libc::SYS_wait4, &[pid, 0, any, 0])?;
        Ok(())
    }

    fn end_zombies(&mut self, tree: &[Wanted]) -> Result<()> {
        for wanted in tree {
            let Some(status) = wanted.zombie else {
                continue;
            };
            let pid = pid_of(wanted.entry.pid);
            let remote = self.take(pid)?;
            let seen = self.seen(pid);
            end(&remote, seen, status)?;
            self.tids.retain(|tid| *tid != seen);
        }
        Ok(())
    }

    /// Makes the other threads of a process; returns the remotes of all, the leader first.
    ///
    /// # Errors
    /// As [`Newborn::fork`].
    pub(super) fn make_threads(&mut self, wanted: &Wanted) -> Result<Vec<Remote>> {
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let pid = pid_of(wanted.entry.pid);
        let foothold = self.foothold()?;
        let mut leader = self.take(pid)?;
        let mut others = Vec::new();
        for (slot, tid) in (1..).zip(
            wanted
                .entry
                .threads
                .iter()
                .filter(|t| **t != wanted.entry.pid),
        ) {
            let tid = pid_of(*tid);
            self.clone(&mut leader, tid, u64::from(flags.cast_unsigned()), 0)?;
            let seen = self.seen(tid);
            self.tids.push(seen);
            others.push(foothold.remote(self.seen(pid), seen, (pid, tid), slot)?);
        }
        others.insert(0, leader);
        Ok(others)
    }

    /// Our region in all of them.
    ///
    /// # Errors
    /// Never after [`Newborn::fork`] succeeded.
    pub(super) fn foothold(&self) -> Result<Foothold> {
        self.foothold
            .ok_or_else(|| Error::new(Kind::Failed, "No process was made"))
    }

    /// The leader of a new process, ready for calls.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn remote(&mut self, pid: Pid) -> Result<&mut Remote> {
        self.remotes
            .get_mut(&pid)
            .ok_or_else(|| Error::new(Kind::Failed, format!("Process {pid} was not made")))
    }

    fn take(&mut self, pid: Pid) -> Result<Remote> {
        self.remotes
            .remove(&pid)
            .ok_or_else(|| Error::new(Kind::Failed, format!("Process {pid} was not made")))
    }

    /// Parents, groups and sessions are as they should be: a last look, because nothing else would notice.
    fn check_relations(&self, tree: &[Wanted]) -> Result<()> {
        let root = tree.first().map(|root| &root.entry);
        for wanted in tree {
            let (entry, is) = (
                &wanted.entry,
                task::process(self.seen(pid_of(wanted.entry.pid)))?,
            );
            let is_root = root.is_some_and(|root| root.pid == entry.pid);
            let in_roots_group = root.is_some_and(|root| root.pgid == entry.pgid);
            let led = |id: u32| tree.iter().any(|w| w.entry.pid == id);
            for (what, should, is, counts) in [
                ("parent", entry.ppid, is.ppid, !is_root),
                ("session", entry.sid, is.sid, is_made(tree, wanted)),
                // The root's, when its leader is not in the tree, is the one we were born into.
                (
                    "group",
                    entry.pgid,
                    is.pgid,
                    !in_roots_group || led(entry.pgid),
                ),
            ] {
                if counts && self.seen(pid_of(should)) != is {
                    return Err(Error::new(
                        Kind::Failed,
                        format!(
                            "New process {} has {what} {is} instead of {should}",
                            entry.pid
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Lets all threads go on with the registers they have; those of the processes `stopped` are
    /// stopped by the signal given first.
    ///
    /// # Errors
    /// When one of them died; all are killed then.
    pub(super) fn release(mut self, stopped: &[(Pid, i32)]) -> Result<()> {
        let lost = |tid: Pid| {
            move |e| {
                Error::os(format!("Cannot let go of thread {tid}"), e).target(TargetState::Killed)
            }
        };
        for tid in &self.tids {
            ptrace::set_options(*tid, 0).map_err(lost(*tid))?;
        }
        let stopped: Vec<(Pid, i32)> = stopped.iter().map(|(p, s)| (self.seen(*p), *s)).collect();
        for (pid, signal) in &stopped {
            if let Ok(signal) = Signal::try_from(*signal) {
                kill(*pid, signal).map_err(lost(*pid))?;
            }
        }
        // Those that are to stop first: nobody may see them run.
        let of = |pid: Pid, tid: Pid| Path::new(&format!("/proc/{pid}/task/{tid}")).exists();
        let stops = |tid: &&Pid| stopped.iter().any(|(pid, _)| of(*pid, **tid));
        let (first, then): (Vec<&Pid>, Vec<&Pid>) = self.tids.iter().partition(stops);
        for tid in first {
            ptrace::detach(*tid, 0).map_err(lost(*tid))?;
        }
        for (pid, _) in &stopped {
            await_stopped(*pid);
        }
        for tid in then {
            ptrace::detach(*tid, 0).map_err(lost(*tid))?;
        }
        self.released = true;
        Ok(())
    }
}

impl Drop for Newborn<'_> {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        for pid in &self.pids {
            let _gone = kill(*pid, Signal::SIGKILL);
        }
        task::await_ends(std::mem::take(&mut self.tids));
        for pid in &self.pids {
            // Ours to wait for only when they are our children.
            let _not_ours = waitpid(*pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
        }
    }
}

/// An id that neither the tree nor anybody else has.
fn spare_id(tree: &[Wanted]) -> Result<Pid> {
    let path = "/proc/sys/kernel/pid_max";
    let text = std::fs::read_to_string(path).map_err(|e| Error::path("read", path, e))?;
    let max: u32 = text.trim().parse().unwrap_or(1 << 15);
    let used = |id: u32| {
        tree.iter()
            .map(|w| &w.entry)
            .any(|e| e.pid == id || e.sid == id || e.pgid == id || e.threads.contains(&id))
    };
    let free = |id: &u32| !used(*id) && !Path::new(&format!("/proc/{id}")).exists();
    let found = (2..max).rev().find(free).map(pid_of);
    found.ok_or_else(|| Error::new(Kind::Busy, "All task ids are taken"))
}

/// Waits, a second at most, until a process has taken the signal that stops it.
fn await_stopped(pid: Pid) {
    let until = Instant::now() + Duration::from_secs(1);
    let runs = || task::process(pid).is_ok_and(|p| !matches!(p.life, Life::Stopped(_)));
    while runs() && Instant::now() < until {
        let _timed_out = poll(&mut [], PollTimeout::from(1u8));
    }
}

fn pid_of(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

/// Seizes a child that we forked ourselves and stops it.
fn adopt(pid: Pid) -> Result<()> {
    task::seize(pid, OPTIONS)
        .and_then(|()| ptrace::interrupt(pid))
        .map_err(|e| Error::os(format!("Cannot attach to our own child {pid}"), e))?;
    await_birth(pid)
}

fn await_birth(pid: Pid) -> Result<()> {
    loop {
        match ptrace::wait_a_minute(pid) {
            Ok(Stop::Interrupt) => return Ok(()),
            Ok(Stop::Gone(status)) => {
                return Err(Error::new(
                    Kind::Failed,
                    format!("New process {pid} ended at once (status {status:#x})"),
                ));
            }
            Ok(_) => {
                let _gone = ptrace::cont(pid, 0);
            }
            Err(e) => return Err(Error::os(format!("Cannot wait for new process {pid}"), e)),
        }
    }
}

/// Ends a process with a wait status: by exit, or by the signal that killed it.
fn end(remote: &Remote, pid: Pid, status: i32) -> Result<()> {
    let lost = |e| Error::os(format!("Cannot end zombie {pid}"), e);
    let signal = status & 0x7f;
    if signal == 0 {
        remote.start_exit((status >> 8) & 0xff)?;
    } else {
        // The default action of the signal, which our mask must let through.
        let signal = Signal::try_from(signal).map_err(lost)?;
        ptrace::set_sigmask(pid, 0).map_err(lost)?;
        kill(pid, signal).map_err(lost)?;
        // SIGKILL needs no help; the process may be gone already.
        match ptrace::cont(pid, 0) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(lost(errno)),
        }
    }
    loop {
        match ptrace::wait_a_minute(pid).map_err(lost)? {
            Stop::Gone(_) => return Ok(()),
            Stop::Signal(s) if s == signal => ptrace::cont(pid, s).map_err(lost)?,
            _ => ptrace::cont(pid, 0).map_err(lost)?,
        }
    }
}

/// Makes task `id`. A task that has just gone may keep its id for a moment longer: the kernel takes it
/// out of /proc first.
fn once_free<T>(id: Pid, alone: bool, mut make: impl FnMut() -> nix::Result<T>) -> Result<T> {
    let until = Instant::now() + Duration::from_millis(200);
    loop {
        match make() {
            Err(Errno::EEXIST) if Instant::now() < until => {
                // /proc shows the ids that we see.
                if !alone && Path::new(&format!("/proc/{id}")).exists() {
                    return Err(cannot_fork(id, Errno::EEXIST));
                }
                let _timed_out = poll(&mut [], PollTimeout::from(2u8));
            }
            result => return result.map_err(|e| cannot_fork(id, e)),
        }
    }
}

fn cannot_fork(id: Pid, errno: Errno) -> Error {
    match errno {
        Errno::EEXIST => Error::new(Kind::Busy, format!("Task id {id} is taken"))
            .because(errno)
            .hint("end the process that has it, or restore with --new-pid-namespace"),
        Errno::EPERM => Error::new(Kind::Permission, format!("Cannot choose the task id {id}"))
            .because(errno)
            .hint("restoring needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN: run it as root"),
        other => Error::os(format!("Cannot make task {id}"), other),
    }
}
