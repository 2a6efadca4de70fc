//! Everything of one frozen process but its pages.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::arch::{core as registers, restart};
use crate::error::{Error, Obstacle, Result};
use crate::files;
use crate::image::proto::{CoreEntry, FsEntry, MmEntry, TaskCoreEntry};
use crate::inject::{Infected, Remote, abort_sequence};
use crate::memory::{Backing, Mapping, aio, keys, pages, policy, vmas};
use crate::state::seccomp::Filters;
use crate::state::{self, DumpThread};
use crate::sys::ptrace;
use crate::sys::vm::Memory;
use crate::task::{Life, Process, Restarting};
use crate::units::Pid;

/// CRIU's `task_state`.
mod task_state {
    pub(super) const ALIVE: u32 = 1;
    pub(super) const DEAD: u32 = 2;
    pub(super) const STOPPED: u32 = 3;
}

/// Control group set of every thread: the one of the dumper, nothing to move.
pub(super) const CGROUP_SET: u32 = 1;

/// The images of one process, not yet written.
#[derive(Debug)]
pub(super) struct Captured {
    /// `core-TID.img` by thread id.
    pub(super) cores: Vec<(Pid, CoreEntry)>,
    /// `mm-PID.img`, none for a zombie.
    pub(super) mm: Option<MmEntry>,
    /// `fs-PID.img`, none for a zombie.
    pub(super) fs: Option<FsEntry>,
    /// Its mappings at this instant.
    pub(super) mappings: Vec<Mapping>,
}

/// What is lost of a zombie.
pub(super) fn lost(process: &Process) -> Option<Obstacle> {
    /// Of a wait status: memory was dumped (wait(2), `WCOREDUMP`).
    const CORE: i32 = 0x80;
    let Life::Zombie(status) = process.life else {
        return None;
    };
    (status & CORE != 0).then(|| {
        Obstacle::unsupported(
            format!(
                "Process {} ({}) has ended with a core file",
                process.pid, process.comm
            ),
            "its parent is told the signal, but not that (WCOREDUMP)",
        )
    })
}

/// A zombie's only record.
pub(super) fn zombie(process: &Process, status: i32) -> Captured {
    let core = CoreEntry {
        mtype: crate::arch::MARCH,
        tc: Some(TaskCoreEntry {
            task_state: task_state::DEAD,
            exit_code: status.cast_unsigned(),
            comm: process.comm.clone(),
            flags: process.flags,
            exit_signal: exit_signal(process),
            ..TaskCoreEntry::default()
        }),
        ..CoreEntry::default()
    };
    Captured {
        cores: vec![(process.pid, core)],
        mm: None,
        fs: None,
        mappings: Vec::new(),
    }
}

/// The signal at its end, when it is another one than usual.
fn exit_signal(process: &Process) -> Option<u32> {
    let signal = process.exit_signal;
    (signal != libc::SIGCHLD).then_some(signal.cast_unsigned())
}

/// What the processes of a tree have in common.
#[derive(Debug)]
pub(super) struct Common<'a> {
    pub(super) restarting: &'a Restarting,
    pub(super) files: &'a mut files::Dumper,
    pub(super) filters: &'a mut Filters,
    pub(super) warnings: &'a mut Vec<Obstacle>,
}

/// Records a live process: registers and state of each thread, its mappings, its descriptors.
/// Returns the signals to be sent again when it runs.
///
/// # Errors
/// When something cannot be read or recorded; the process is cured.
pub(super) fn capture(
    process: &Process,
    mappings: Vec<Mapping>,
    files_id: u32,
    common: Common<'_>,
    in_leader: impl FnOnce(&mut Remote) -> Result<()>,
) -> Result<(Captured, Vec<i32>)> {
    let Common {
        restarting,
        files,
        filters,
        warnings,
    } = common;
    let pid = process.pid;
    let link = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let exe = files.register_path(pid, &link("exe"), 0)?;
    let cwd = files.register_path(pid, &link("cwd"), 0)?;
    let root = files.register_path(pid, &link("root"), 0)?;
    let memory = Memory::open(pid)
        .map_err(|e| Error::io(format!("Cannot open the memory of process {pid}"), e))?;

    let mut cores = Vec::with_capacity(process.threads.len());
    for tid in &process.threads {
        cores.push((*tid, thread_registers(pid, *tid, &memory, restarting)?));
    }
    let masks: Vec<u64> = process
        .threads
        .iter()
        .map(|tid| {
            ptrace::sigmask(*tid)
                .map_err(|e| Error::os(format!("Cannot read the signal mask of thread {tid}"), e))
        })
        .collect::<Result<_>>()?;

    let mut infected = Infected::new(pid, &process.threads)?;
    let mut mm = None;
    let mut policies = policy::Policies::new();
    let mut allocated = None;
    for ((tid, core), sigmask) in cores.iter_mut().zip(masks) {
        let leader = *tid == pid;
        infected.with(*tid, |remote| {
            let mut thread = DumpThread {
                pid,
                tid: *tid,
                leader,
                remote,
                core,
                sigmask,
                warnings: vec![],
            };
            state::dump(&mut thread)?;
            warnings.append(&mut thread.warnings);
            if leader {
                mm = Some(state::mm::dump(pid, remote, exe)?);
                policies = policy::dump(remote, &mappings)?;
                allocated = keys::dump(remote)?;
            }
            Ok(())
        })?;
        filters.dump(pid, *tid, core)?;
        state::dispatch::dump(*tid, core);
        core.thread_core.get_or_insert_default().cg_set = Some(CGROUP_SET);
        if let Some(task) = core.tc.as_mut() {
            task.exit_signal = exit_signal(process);
            match process.life {
                Life::Stopped(signal) => {
                    task.task_state = task_state::STOPPED;
                    task.stop_signo = Some(signal.cast_unsigned());
                }
                Life::Alive | Life::Zombie(_) => task.task_state = task_state::ALIVE,
            }
        }
    }
    infected.with(pid, in_leader)?;
    let held = infected.cure()?;

    files.dump_task(pid, files_id)?;
    let mut mm =
        mm.ok_or_else(|| Error::corrupt(format!("Process {pid} has no leading thread")))?;
    mm.aios = aio::dump(pid, &memory, &mappings)?;
    mm.protection_keys = allocated;
    mm.vmas = entries(pid, &mappings, &policies, files)?;
    let fs = state::fs::dump(pid, cwd, root)?;
    Ok((
        Captured {
            cores,
            mm: Some(mm),
            fs: Some(fs),
            mappings,
        },
        held,
    ))
}

/// Registers as the image wants them: an interrupted call is to be issued again.
fn thread_registers(
    pid: Pid,
    tid: Pid,
    memory: &Memory,
    restarting: &Restarting,
) -> Result<CoreEntry> {
    let cannot = |e| Error::os(format!("Cannot read the registers of thread {tid}"), e);
    let mut regs = ptrace::regs(tid).map_err(cannot)?;
    let area = ptrace::xstate(tid).map_err(cannot)?;
    let lost = registers::not_in_image(&area);
    if lost != 0 {
        return Err(Error::new(
            crate::Kind::Unsupported,
            format!("Thread {tid} of process {pid} uses CPU state {lost:#x} that no image holds"),
        )
        .hint("dump while the program does not use it"));
    }
    restart::hide_stop(&mut regs);
    abort_sequence(tid, memory, &mut regs);
    let loaded = || {
        let mut code = [0; restart::CODE_BEFORE];
        let start = regs.rip.checked_sub(code.len() as u64)?;
        memory.read(start, &mut code).ok()?;
        restart::number_loaded(&code)
    };
    let regs = restart::for_image(&regs, || restarting.number(tid, &regs).or_else(loaded));
    Ok(registers::to_image(&regs, &area))
}

/// The mappings of the image, with the files behind them.
fn entries(
    pid: Pid,
    mappings: &[Mapping],
    policies: &policy::Policies,
    files: &mut files::Dumper,
) -> Result<Vec<crate::image::proto::VmaEntry>> {
    let mut out = Vec::with_capacity(mappings.len());
    let guards = pages::guards(pid, mappings);
    // A library has several mappings: it is looked at once.
    let mut known = HashMap::new();
    for mapping in mappings {
        let file = match &mapping.backing {
            Backing::File(_) | Backing::Segment(_) => {
                let flags = mapping.open_flags();
                let key = (&mapping.backing, mapping.device, mapping.inode, flags);
                let id = match known.get(&key) {
                    Some(id) => *id,
                    None => files.register_path(pid, &mapping.link(pid), flags)?,
                };
                known.insert(key, id);
                Some((id, flags))
            }
            _ => None,
        };
        vmas::push(
            &mut out,
            vmas::to_image(mapping, file, policies.get(&mapping.range.start)),
        );
        let inside = guards.iter().filter(|g| mapping.range.contains(g.start));
        out.extend(inside.map(|g| vmas::guard(*g)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_zombie_only_that_it_had_a_core_file_is_lost() {
        let mut process = crate::task::process(Pid::this()).unwrap();
        let mut lost_of = |life| {
            process.life = life;
            lost(&process).is_some()
        };
        assert!(lost_of(Life::Zombie(libc::SIGABRT | 0x80)));
        for life in [
            Life::Alive,
            Life::Zombie(libc::SIGKILL),
            Life::Zombie(42 << 8),
        ] {
            assert!(!lost_of(life));
        }
    }
}
