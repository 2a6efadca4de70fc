//! Carrying out a restore: phases and their order, nothing else.

use std::collections::HashSet;
use std::time::Instant;

use super::heirs::Heirs;
use super::process;
use super::tree::{Newborn, Wanted};
use super::{Outcome, Plan};
use crate::error::{Error, Kind, Obstacle, Result, TargetState};
use crate::event::{Cancel, Event, Reporter};
use crate::files::{self, Newcomers, Opened};
use crate::image::PagemapId;
use crate::inject::{Foothold, Ground, Remote};
use crate::memory::{huge, mappings, segments, space, sysv};
use crate::state::namespaces::mounts::Aside;
use crate::track::{self, Arming};
use crate::units::{PageRange, Pid};
use crate::{state, task};

/// Makes the tree run again.
///
/// # Errors
/// When an obstacle stands in the way or something fails; no process stays behind.
pub fn run(plan: &Plan, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Outcome> {
    let started = Instant::now();
    plan.check()?;
    cancel.check()?;
    reporter.report(Event::Phase("files"));
    let replaced = files::Replaced::put(&plan.put_back)?;
    let images = plan.stack.tip().images();
    // Files are opened where the tree will be.
    let aside = plan.anew.mounts.map(|_| Aside::enter()).transpose()?;
    let mut opened = files::open_all(images, 0, &plan.options.allow)?;
    let mut pages = fill_segments(plan, &opened)?;
    reporter.report(Event::Phase("fork"));
    let ground = ground(plan)?;
    let wanted: Vec<Wanted> = plan.processes.iter().map(|p| p.wanted.clone()).collect();
    let mut born = Newborn::fork(
        &wanted,
        &ground,
        &plan.anew,
        plan.options.detach,
        opened.sessions().collect(),
        Heirs::new(plan, &opened),
    )?;
    drop(aside);
    plan.anew.complete(born.remote(plan.root)?)?;
    let root = born.seen(plan.root);
    opened.meet(&Newcomers {
        seen: &|id| born.seen(id),
        root: plan.root,
    })?;
    reporter.report(Event::Phase("pages"));
    let alone = plan.anew.ipc.is_some();
    let inside = plan.anew.inside_ipc(root)?;
    let mut made = sysv::Made::new(alone);
    pages += make_segments(plan, &mut born, &mut made)?;
    let mut queues = state::sysv::Made::new(alone);
    queues.make(&plan.queues, &mut |pid, act| {
        act(born.remote(in_tree(plan, Some(pid)))?)
    })?;
    drop(inside);
    let mut warnings = Vec::new();
    let foreground = opened.foreground();
    let built = build(plan, &mut born, &opened, cancel, &mut warnings);
    let finish = |filled| {
        {
            let _inside = plan.anew.inside_ipc(root)?;
            made.complete(&plan.segments)?;
        }
        queues.keep();
        opened.finish().map(|()| filled)
    };
    match built.and_then(finish) {
        Ok(filled) => pages += filled,
        Err(error) => {
            drop(born);
            return Err(error.target(TargetState::Killed));
        }
    }
    if let Some(path) = &plan.options.pidfile {
        std::fs::write(path, format!("{root}\n")).map_err(|e| Error::path("write", path, e))?;
    }
    let stopped: Vec<(Pid, i32)> = plan
        .processes
        .iter()
        .filter_map(|p| Some((Pid::from_raw(p.wanted.entry.pid.cast_signed()), p.stopped?)))
        .collect();
    born.release(&stopped)?;
    replaced.keep();
    // What holds for every process is said once.
    let mut said = HashSet::new();
    warnings.retain(|warning| said.insert(warning.to_string()));
    Ok(Outcome {
        root,
        tasks: plan.tasks,
        threads: plan.threads,
        pages,
        elapsed: started.elapsed(),
        foreground,
        warnings,
    })
}

/// Builds every process. State comes last and in one go: timers run from then on.
fn build(
    plan: &Plan,
    born: &mut Newborn<'_>,
    opened: &Opened,
    cancel: &Cancel,
    warnings: &mut Vec<Obstacle>,
) -> Result<u64> {
    let foothold = born.foothold()?;
    let mut pages = 0;
    for recorded in &plan.processes {
        cancel.check()?;
        let Some(body) = &recorded.body else { continue };
        let id = Pid::from_raw(recorded.wanted.entry.pid.cast_signed());
        let estate = born.estate(id)?;
        let remote = born.remote(id)?;
        let memory = plan
            .stack
            .resolved(PagemapId::Task(recorded.wanted.entry.pid))?;
        pages += process::build_memory(
            body,
            remote,
            &foothold,
            (memory, &estate),
            opened,
            &plan.segments,
            warnings,
        )?;
        process::build_names(body, remote, opened, warnings)?;
    }
    // Who shares descriptors loses those of ours with the others: nobody needs them any more.
    for recorded in &plan.processes {
        cancel.check()?;
        let Some(body) = &recorded.body else { continue };
        let id = Pid::from_raw(recorded.wanted.entry.pid.cast_signed());
        let pid = born.seen(id);
        let remote = born.remote(id)?;
        if !recorded.wanted.shares_descriptors() {
            files::install(remote, &body.descriptors, opened)?;
        }
        opened.take_locks(id, remote)?;
        if let Err(error) = arm(plan, pid, remote, opened) {
            warnings.push(Obstacle::new(
                error.kind(),
                format!("Process {pid} is not tracked: {}", error.one_line()),
                "the next layer is compared page by page; see icecore doctor",
            ));
        }
    }
    opened.complete(&|id| born.seen(id))?;
    for recorded in &plan.processes {
        let Some(body) = &recorded.body else { continue };
        let pid = born.seen(Pid::from_raw(recorded.wanted.entry.pid.cast_signed()));
        let mut remotes = born.make_threads(&recorded.wanted)?;
        warnings.extend(process::build_state(
            pid,
            recorded,
            body,
            &plan.filters,
            &mut remotes,
        )?);
        process::finish(recorded, body, &mut remotes, &foothold)?;
    }
    Ok(pages)
}

/// Tracks the new process from here on: its memory is the layer's. What the state of its threads
/// still writes is noted like any other write.
fn arm(plan: &Plan, pid: Pid, remote: &mut Remote, opened: &Opened) -> Result<()> {
    let (tracker, _) = track::best();
    let sidecar = plan.stack.tip().sidecar().filter(|s| !s.id.is_empty());
    let (Some(sidecar), true, true) = (sidecar, plan.options.track, tracker.written().is_some())
    else {
        return Ok(());
    };
    let keeper = &plan.options.keeper;
    let process = task::process(pid)?;
    let arming = Arming::begin(&process, remote, tracker, keeper)?;
    let mut segments = Vec::new();
    for segment in opened.segments() {
        let inode = nix::sys::stat::fstat(&segment.file)
            .map_err(|e| Error::os("Cannot look at a shared segment", e))?
            .st_ino;
        segments.push((inode, segment.entry.shmid));
    }
    let id = crate::dump::hex(&sidecar.id);
    let layout = mappings::layout(pid)?;
    arming.finish(&layout, Some(id), segments, keeper).map(drop)
}

fn fill_segments(plan: &Plan, opened: &Opened) -> Result<u64> {
    let mut pages = 0;
    for segment in opened.segments() {
        let id = PagemapId::Shared(u64::from(segment.entry.shmid));
        if plan.stack.tip().images().pagemap(id)?.is_none() {
            continue;
        }
        let resolved = plan.stack.resolved(id)?.checked();
        let huge = huge::of_segment(&segment.entry);
        pages += segments::fill(&segment.file, segment.entry.size, huge, &resolved)?;
    }
    Ok(pages)
}

/// The process `pid` if it lives in the tree, otherwise its root.
fn in_tree(plan: &Plan, pid: Option<u32>) -> Pid {
    let alive = |pid: &u32| {
        let mut alive = plan.processes.iter().filter(|p| p.body.is_some());
        alive.any(|p| p.wanted.entry.pid == *pid)
    };
    let found = pid.filter(alive).map(u32::cast_signed);
    found.map_or(plan.root, Pid::from_raw)
}

/// Makes the segments of System V shared memory, each in the process that made it if that is here.
fn make_segments(plan: &Plan, born: &mut Newborn<'_>, made: &mut sysv::Made) -> Result<u64> {
    let mut pages = 0;
    for sysv::Wanted { entry, bytes } in &plan.segments {
        let memory = made.make(entry, born.remote(in_tree(plan, entry.cpid))?)?;
        if entry.in_pagemaps != Some(true) {
            pages += segments::write(&memory, bytes)?;
            continue;
        }
        let id = PagemapId::Shared(entry.desc.id.into());
        let resolved = plan.stack.resolved(id)?.checked();
        pages += segments::fill(&memory, entry.size, huge::of_system_v(entry), &resolved)?;
    }
    Ok(pages)
}

/// A place for our region that no process of the image needs and that is free here: the new
/// processes begin as copies of this one.
fn ground(plan: &Plan) -> Result<Ground> {
    let threads = plan
        .processes
        .iter()
        .map(|p| p.wanted.entry.threads.len() as u64)
        .max();
    let threads = threads.unwrap_or(1);
    let kernels = space::kernels_now(Pid::this())?;
    let spare = kernels.iter().map(|r| r.bytes()).sum();
    let here = mappings::layout(Pid::this())?;
    let there = plan
        .processes
        .iter()
        .filter_map(|p| p.body.as_ref())
        .flat_map(|b| &b.mm.vmas);
    let taken = here
        .iter()
        .map(|m| m.range)
        .chain(there.map(|v| PageRange::new(v.start, v.end)));
    let bytes = Foothold::bytes(threads, spare).next_multiple_of(crate::PAGE_SIZE);
    let region = space::hole(taken, bytes)
        .ok_or_else(|| Error::new(Kind::Unsupported, "The address spaces leave no room for us"))?;
    let pending = plan
        .processes
        .iter()
        .flat_map(|p| &p.cores)
        .fold(0, |set, (_, core)| set | state::pending_signals(core));
    let signal = Foothold::free_signal(pending).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            "Every signal is pending in some process of the image",
        )
    })?;
    Ok(Ground {
        region,
        threads,
        signal,
    })
}
