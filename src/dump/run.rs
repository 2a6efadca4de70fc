//! Carrying out a dump: phases and their order, nothing else.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::plan::{is_still_there, kin, left_behind};
use super::process::{self, CGROUP_SET, Captured};
use super::sidecar::{self, Figures};
use super::{After, Outcome, Plan};
use crate::chain::{Held, Resolved, Stack};
use crate::error::{Error, Kind, Obstacle, Result, TargetState};
use crate::event::{Cancel, Event, Reporter};
use crate::files::Connections;
use crate::image::proto::{DumpStatsEntry, InventoryEntry, PluginsEntry, PstreeEntry, StatsEntry};
use crate::image::{LayerWriter, Pagemap, PagemapId, Sidecar};
use crate::memory::{aio, huge, mappings, pages, segments, sysv};
use crate::state::namespaces::{self, Contents};
use crate::state::seccomp::Filters;
use crate::task::sharing::{self, Shares};
use crate::task::{Frozen, Ids, Life, Process, Restarting};
use crate::track::connections::{self, Connection};
use crate::track::{self, Armed, Arming, DirtyTracker, ONE_KEEPER};
use crate::units::PAGE_SIZE;
use crate::{dedup, files, state, sys};

/// What one freeze brought.
#[derive(Debug, Default)]
struct Snapshot {
    id: Vec<u8>,
    processes: Vec<(Process, Captured)>,
    files: files::Dumper,
    filters: Filters,
    /// Segments of System V shared memory.
    sysv: Vec<sysv::Segment>,
    /// Semaphores and message queues.
    queues: state::sysv::Found,
    stored: pages::Stored,
    scanned: u64,
    freezing: Duration,
    /// How long it took to find out which pages there are.
    selecting: Duration,
    /// How long it took to read, compare and write them.
    storing: Duration,
    warnings: Vec<Obstacle>,
    /// Files whose contents are in the layer.
    saved: usize,
    /// What the tree calls its members.
    ids: Ids,
    /// What those that live share.
    shares: Vec<Shares>,
    /// What is in the namespaces that it has for itself.
    namespaces: Contents,
    /// By index in `processes`.
    arming: Vec<(usize, Arming)>,
    /// The tracker that vouches for the pages of a process since the parent was made, with what the
    /// keeper holds for it.
    believed: Vec<Option<(&'static dyn DirtyTracker, Option<OwnedFd>)>>,
}

/// Makes the layer.
///
/// # Errors
/// When an obstacle stands in the way (before or after the freeze) or something fails; nothing
/// half-made stays behind, and the error tells how the target is left: as it was.
pub fn run(plan: &Plan, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Outcome> {
    attempts(plan, reporter, cancel).map_err(|error| match plan.processes.first() {
        // What failed then fails of that, in words that tell nothing.
        Some(root) if error.target_state() == TargetState::Running && !is_still_there(root) => {
            let what = format!("Process {} ({}) has ended meanwhile", root.pid, root.comm);
            Error::new(Kind::TargetGone, what)
                .because(error)
                .target(TargetState::Gone)
        }
        _ => error,
    })
}

fn attempts(plan: &Plan, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Outcome> {
    for _ in 0..ATTEMPTS {
        match once(plan, reporter, cancel) {
            // It was stopped in the moment in which it looked at another process.
            Err(error) if error.next_step() == Some(files::PASSING) => {
                let _timed_out = poll(&mut [], PollTimeout::from(5u8));
            }
            done => return done,
        }
    }
    once(plan, reporter, cancel)
}

/// How often to try again what passes by itself.
const ATTEMPTS: u32 = 10;

fn once(plan: &Plan, reporter: &dyn Reporter, cancel: &Cancel) -> Result<Outcome> {
    let started = Instant::now();
    plan.check()?;
    cancel.check()?;
    let writer = LayerWriter::create(&plan.options.images_dir)?;
    // Nobody changes the parent while pages are left to it.
    let held = plan
        .parent
        .as_ref()
        .map(|p| Held::shared(&p.dir))
        .transpose()?;
    if let Some(parent) = &plan.parent {
        writer.link_parent(&parent.link)?;
    }
    let below = Below::open(plan)?;
    reporter.report(Event::Phase("freeze"));
    let restarting = Restarting::look(&plan.processes);
    let mut frozen =
        Frozen::freeze(plan.options.root).map_err(|e| e.target(TargetState::Running))?;
    reporter.report(Event::Frozen {
        threads: frozen.threads(),
    });
    let result = snapshot(
        plan,
        below.as_ref(),
        &restarting,
        &mut frozen,
        &writer,
        reporter,
        cancel,
    );
    let mut snapshot = match result {
        Ok(snapshot) => snapshot,
        Err(error) => {
            frozen.thaw();
            return Err(error.target(TargetState::Running));
        }
    };
    let threads = frozen.threads();
    snapshot.warnings.extend(snapshot.files.warnings());
    let mut connections = Some(snapshot.files.connections());
    if plan.options.after != After::Kill {
        connections = None;
    }
    // A target that goes on does so now; one that ends must not before its layer is safe.
    let (mut frozen, mut freeze) = match plan.options.after {
        After::Run => (None, frozen.thaw()),
        After::Stop => (None, frozen.leave_stopped()),
        After::Kill => (Some(frozen), Duration::ZERO),
    };
    if frozen.is_none() {
        reporter.report(Event::Thawed { stopped: freeze });
    }
    reporter.report(Event::Phase("write"));
    let state = if frozen.is_some() || plan.options.after == After::Run {
        TargetState::Running
    } else {
        TargetState::Stopped
    };
    if let Some(held) = &frozen {
        freeze = held.since().elapsed();
    }
    write(plan, &writer, &mut snapshot, freeze, started.elapsed())
        .and_then(|()| writer.commit())
        .map_err(|e| e.target(state))?;
    let mut connections_held = 0;
    if let (Some(frozen), Some(connections)) = (frozen.take(), connections) {
        connections_held = hand_over(plan, &connections, &mut snapshot);
        if let Err(error) = frozen.kill() {
            for (ends, _) in connections.each() {
                connections::let_go(Some(ends))?;
            }
            return Err(error);
        }
        connections.end();
        let tree = snapshot.processes.iter().map(|(p, _)| p.pid).collect();
        let left = left_behind(plan.namespaces, &tree);
        snapshot.warnings.extend(left);
    }
    drop(held);
    if plan.options.auto_dedup && plan.parent.is_some() {
        reporter.report(Event::Phase("dedup"));
        let strategy = dedup::strategy("superseded")?;
        let freeing = dedup::plan(&plan.options.images_dir, strategy)?;
        if freeing.is_possible() {
            dedup::apply(&freeing, reporter, cancel)?;
        } else {
            // The layer is safe; that nothing could be freed must not look like a failed dump.
            snapshot.warnings.extend(freeing.obstacles);
        }
    }
    Ok(Outcome {
        dir: plan.options.images_dir.clone(),
        layer_id: sidecar::hex(&snapshot.id),
        tasks: snapshot.processes.len(),
        threads,
        pages_stored: snapshot.stored.present,
        pages_in_parent: snapshot.stored.in_parent,
        bytes: snapshot.stored.present * PAGE_SIZE,
        freeze,
        predicted: plan.prediction,
        total: started.elapsed(),
        tracker: plan.tracker,
        connections_held,
        files_saved: snapshot.saved,
        warnings: snapshot.warnings,
    })
}

/// The part that needs the target to stand still.
fn snapshot(
    plan: &Plan,
    below: Option<&Below>,
    restarting: &Restarting,
    frozen: &mut Frozen,
    writer: &LayerWriter,
    reporter: &dyn Reporter,
    cancel: &Cancel,
) -> Result<Snapshot> {
    let frozen_since = frozen.since();
    let mut snapshot = Snapshot {
        id: Sidecar::new_id()?,
        freezing: frozen.since().elapsed(),
        files: files::Dumper::new(&plan.options.allow),
        ..Snapshot::default()
    };
    let at = |what: &str| tracing::debug!("{what} after {:?}", frozen_since.elapsed());
    at("frozen");
    let processes = frozen.processes().to_vec();
    let root = |all: &[Process]| all.first().map(|p| (p.pid, p.start_time));
    if root(&processes) != root(&plan.processes) {
        let what = format!("Process {} is another one than planned", plan.options.root);
        return Err(Error::new(Kind::TargetGone, what).hint("plan the dump again"));
    }
    let (own, obstacles) = namespaces::survey(&processes);
    if own != plan.namespaces || !obstacles.is_empty() {
        let what = "The target has entered another namespace since the plan was made";
        return Err(Error::refused(what, obstacles).hint("plan the dump again"));
    }
    snapshot.namespaces = plan.namespaces.contents(plan.options.root)?;
    snapshot.ids = Ids::read(&processes)?;
    let alive = processes
        .iter()
        .filter(|p| !matches!(p.life, Life::Zombie(_)));
    let index = |process: &Process| processes.iter().position(|p| p.pid == process.pid);
    let number = |process: &Process| object_id(index(process).unwrap_or_default());
    snapshot.shares = sharing::read(&alive.collect::<Vec<_>>(), number)?;
    let obstacles = sharing::obstacles(&snapshot.shares, &kin(&processes));
    if !obstacles.is_empty() {
        let what = "The target changed since the plan was made";
        return Err(Error::refused(what, obstacles));
    }
    let members = processes.iter().map(|process| process.pid);
    let namespaces = plan.namespaces.ids(object_id(0));
    snapshot
        .files
        .call_members(members, &snapshot.ids, namespaces);
    let inside = || plan.namespaces.inside_ipc(plan.options.root);
    let (_, whole) = plan.namespaces.ipc();
    let taken = inside().and_then(|_inside| sysv::ids())?;
    snapshot.files.reserve_segments(taken);
    // What is known of the pages must be asked before any record is renewed.
    for process in &processes {
        let known = track::of_process(process).unwrap_or_else(|error| {
            snapshot.warnings.push(not_tracked(process, &error));
            None
        });
        for (inode, shmid) in known.iter().flat_map(|(r, _)| &r.segments) {
            snapshot.files.name_segment(*inode, *shmid);
        }
        snapshot.believed.push(known.and_then(|(record, kept)| {
            let parents = record.layer.is_some() && record.layer == plan.parent_id;
            let tracker = track::by_name(&record.tracker)?;
            parents.then_some((tracker, kept))
        }));
    }
    for (index, process) in processes.into_iter().enumerate() {
        cancel.check()?;
        if let Life::Zombie(status) = process.life {
            snapshot.warnings.extend(process::lost(&process));
            let captured = process::zombie(&process, status);
            snapshot.processes.push((process, captured));
            continue;
        }
        let known = plan
            .processes
            .iter()
            .position(|p| p.pid == process.pid && p.start_time == process.start_time)
            .map_or_else(Vec::new, |i| plan.mappings[i].clone());
        let mapped = mappings::refresh(process.pid, known)?;
        let obstacles = mappings::obstacles(process.pid, &mapped);
        if !obstacles.is_empty() {
            return Err(Error::refused(
                "The target changed since the plan was made",
                obstacles,
            ));
        }
        snapshot
            .warnings
            .extend(aio::warnings(process.pid, &mapped));
        let own = snapshot.shares.iter().find(|s| s.pid == process.pid);
        let files_id = own.map_or_else(|| object_id(index), |own| own.files);
        let (arm, keeper) = (plan.arm, &plan.options.keeper);
        let mut arming = None;
        let (captured, held) = process::capture(
            &process,
            mapped,
            files_id,
            process::Common {
                restarting,
                files: &mut snapshot.files,
                filters: &mut snapshot.filters,
                warnings: &mut snapshot.warnings,
            },
            |remote| {
                arming = arm.map(|tracker| Arming::begin(&process, remote, tracker, keeper));
                Ok(())
            },
        )?;
        match arming {
            Some(Ok(arming)) => snapshot.arming.push((snapshot.processes.len(), arming)),
            Some(Err(error)) => snapshot.warnings.push(not_tracked(&process, &error)),
            None => {}
        }
        frozen.hold(process.pid, held);
        at("process captured");
        snapshot.processes.push((process, captured));
    }
    let captured = snapshot.processes.iter();
    let mapped: Vec<_> = captured
        .map(|(process, captured)| (process, captured.mappings.as_slice()))
        .collect();
    {
        let _inside = inside()?;
        let queues = whole.then(namespaces::ipc::posix_queues).flatten();
        if let Some(obstacle) = queues {
            let changed = "The target changed since the plan was made";
            return Err(Error::refused(changed, vec![obstacle]));
        }
        snapshot.sysv = sysv::collect(&mapped, &snapshot.ids, whole)?;
        snapshot.queues = state::sysv::collect(frozen.processes(), &snapshot.ids, whole)?;
    }
    snapshot.files.save_contents(writer)?;
    reporter.report(Event::Phase("pages"));
    store_pages(below, &mut snapshot, writer, cancel)?;
    at("pages stored");
    let id = sidecar::hex(&snapshot.id);
    let segments: Vec<(u64, u32)> = snapshot
        .files
        .segments()
        .iter()
        .map(|s| (s.inode, s.entry.shmid))
        .collect();
    for (index, arming) in std::mem::take(&mut snapshot.arming) {
        let (process, captured) = &snapshot.processes[index];
        let keeper = &plan.options.keeper;
        let armed = arming.finish(
            &captured.mappings,
            Some(id.clone()),
            segments.clone(),
            keeper,
        );
        match armed {
            Ok(Armed { others: 0, .. }) => {}
            Ok(armed) => snapshot.warnings.push(tracked_by_others(process, armed)),
            Err(e) => snapshot.warnings.push(not_tracked(process, &e)),
        }
    }
    at("armed");
    Ok(snapshot)
}

/// The layer is good without tracking; only the next one takes longer.
fn not_tracked(process: &Process, error: &Error) -> Obstacle {
    Obstacle::new(
        error.kind(),
        format!(
            "Process {} is not tracked: {}",
            process.pid,
            error.one_line()
        ),
        "the next layer is compared page by page; see icecore doctor",
    )
}

fn tracked_by_others(process: &Process, armed: Armed) -> Obstacle {
    let percent = armed.others * 100 / (armed.ours + armed.others).max(1);
    let what = format!(
        "{percent} % of process {} ({}) cannot be tracked, as another userfaultfd has it: the next layer has \
         all of that",
        process.pid, process.comm
    );
    Obstacle::new(Kind::Busy, what, ONE_KEEPER)
}

/// Gives the connections of a target that is about to end to the keeper, until the layer is restored.
/// How many it holds.
fn hand_over(plan: &Plan, connections: &Connections, snapshot: &mut Snapshot) -> usize {
    let mut held = 0;
    for (ends, socket) in connections.each() {
        let connection = Connection {
            layer: sidecar::hex(&snapshot.id),
            ends: ends.to_owned(),
        };
        match connections::hold(&plan.options.keeper, &connection, socket) {
            Ok(()) => held += 1,
            Err(error) => snapshot.warnings.push(not_held(ends, &error)),
        }
    }
    held
}

/// The connection is in the layer; only its other end may not wait.
fn not_held(ends: &str, error: &Error) -> Obstacle {
    Obstacle::new(
        error.kind(),
        format!(
            "Nothing holds the connection of {ends} until the restore: {}",
            error.one_line()
        ),
        "restore before its other end sends anything, or block its packets by a rule of the firewall",
    )
}

/// Pages of shared segments first, then of each process, as CRIU numbers them.
fn store_pages(
    below: Option<&Below>,
    snapshot: &mut Snapshot,
    writer: &LayerWriter,
    cancel: &Cancel,
) -> Result<()> {
    let mut pages_id = 1;
    let files = snapshot.files.segments().iter();
    let files = files.map(|s| {
        (
            s.entry.shmid,
            &s.file,
            s.entry.size,
            huge::of_segment(&s.entry),
        )
    });
    let others = snapshot.sysv.iter();
    let others = others.map(|s| {
        let huge = huge::of_system_v(&s.entry);
        (s.id(), &s.file, s.entry.size, huge)
    });
    for (shmid, file, size, huge) in files.chain(others) {
        cancel.check()?;
        let id = PagemapId::Shared(shmid.into());
        let resolved = below.map_or(Ok(None), |b| b.resolve(id))?;
        let mut out = writer.pages(pages_id)?;
        let began = Instant::now();
        let (pagemap, stored) =
            segments::store(file, size, huge, resolved.as_ref(), pages_id, &mut out)?;
        snapshot.storing += began.elapsed();
        writer.pagemap(id, &pagemap)?;
        snapshot.stored.add(stored);
        pages_id += 1;
    }
    for ((process, captured), believed) in snapshot.processes.iter().zip(&snapshot.believed) {
        if captured.mm.is_none() {
            continue;
        }
        cancel.check()?;
        let id = PagemapId::Task(snapshot.ids.number(process.pid));
        let tracked = believed
            .as_ref()
            .and_then(|(tracker, kept)| Some((*tracker, kept.as_ref(), tracker.written()?)));
        let vouched = |pagemap: &sys::pagemap::Pagemap, range| {
            tracked.is_some_and(|(tracker, kept, _)| tracker.vouches(pagemap, range, kept))
        };
        let parent = below.and_then(|b| b.pagemaps.get(&id));
        let (resolved, mut compare);
        let mut unchanged = match (below, parent, tracked) {
            (Some(_), Some(parent), Some((_, _, written))) => pages::Unchanged::Tracked {
                parent,
                written,
                vouched: &vouched,
            },
            (Some(below), Some(_), None) => {
                resolved = below.stack.resolved(id)?;
                compare = segments::resolved_page(&resolved);
                pages::Unchanged::Compared(&mut compare)
            }
            _ => pages::Unchanged::Unknown,
        };
        let began = Instant::now();
        let chosen = pages::select(process.pid, &captured.mappings, &unchanged)?;
        snapshot.selecting += began.elapsed();
        snapshot.scanned += chosen.iter().map(|r| r.pages).sum::<u64>();
        let mut out = writer.pages(pages_id)?;
        let began = Instant::now();
        let (pagemap, stored) = pages::store(
            process.pid,
            &captured.mappings,
            &chosen,
            &mut unchanged,
            pages_id,
            &mut out,
        )?;
        snapshot.storing += began.elapsed();
        writer.pagemap(id, &pagemap)?;
        snapshot.stored.add(stored);
        pages_id += 1;
    }
    Ok(())
}

/// The parent, read before the freeze.
#[derive(Debug)]
struct Below {
    stack: Stack,
    pagemaps: BTreeMap<PagemapId, Pagemap>,
}

impl Below {
    fn open(plan: &Plan) -> Result<Option<Self>> {
        let Some(parent) = &plan.parent else {
            return Ok(None);
        };
        let stack = Stack::open(&parent.dir)?;
        let images = stack.tip().images();
        let mut pagemaps = BTreeMap::new();
        for id in images.pagemaps()? {
            pagemaps.extend(images.pagemap(id)?.map(|pagemap| (id, pagemap)));
        }
        Ok(Some(Self { stack, pagemaps }))
    }

    /// The parent's version of a pagemap, if it has one.
    fn resolve(&self, id: PagemapId) -> Result<Option<Resolved<'_>>> {
        self.pagemaps
            .contains_key(&id)
            .then(|| self.stack.resolved(id))
            .transpose()
    }
}

/// Identity of the kernel objects of process `index`; 1 is the dumper's own.
fn object_id(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX - 2) + 2
}

/// The images that can be written while the target runs; the inventory last but for the sidecar,
/// which digests them all.
fn write(
    plan: &Plan,
    writer: &LayerWriter,
    snapshot: &mut Snapshot,
    freeze: Duration,
    total: Duration,
) -> Result<()> {
    let mut tree = Vec::new();
    let ids = snapshot.ids.clone();
    let id = |seen| ids.number(seen);
    for (index, (process, captured)) in snapshot.processes.iter().enumerate() {
        let pid = id(process.pid);
        for (tid, core) in &captured.cores {
            writer.one(&format!("core-{}.img", id(*tid)), core)?;
        }
        if let (Some(mm), Some(fs)) = (&captured.mm, &captured.fs) {
            writer.one(&format!("mm-{pid}.img"), mm)?;
            writer.one(&format!("fs-{pid}.img"), fs)?;
            let mut ids = plan.namespaces.ids(object_id(index));
            if let Some(own) = snapshot.shares.iter().find(|s| s.pid == process.pid) {
                (ids.files_id, ids.fs_id) = (own.files, own.fs);
            }
            writer.one(&format!("ids-{pid}.img"), &ids)?;
        }
        tree.push(PstreeEntry {
            pid,
            ppid: if index == 0 { 0 } else { id(process.ppid) },
            pgid: id(process.pgid),
            sid: id(process.sid),
            threads: process.threads.iter().map(|t| id(*t)).collect(),
        });
    }
    writer.all("pstree.img", &tree)?;
    snapshot.namespaces.write(writer)?;
    let ipc = plan.namespaces.ipc();
    sysv::write(&snapshot.sysv, ipc, writer)?;
    snapshot.queues.write(ipc, writer)?;
    if let Some(filters) = snapshot.filters.image() {
        writer.one("seccomp.img", &filters)?;
    }
    writer.one("stats-dump", &stats(snapshot, freeze))?;
    let segments = sidecar::segments(snapshot.files.segments());
    let (open_files, saved) = snapshot.files.known_files();
    snapshot.saved = saved.len();
    std::mem::take(&mut snapshot.files).finish(writer)?;
    writer.one(
        "inventory.img",
        &InventoryEntry {
            img_version: 2,
            fdinfo_per_id: Some(true),
            root_ids: Some(namespaces::Own::default().ids(1)),
            ns_per_id: Some(true),
            root_cg_set: Some(CGROUP_SET),
            dump_uptime: Some(uptime_us()?),
            plugins_entry: Some(PluginsEntry::default()),
            ..InventoryEntry::default()
        },
    )?;
    sidecar::write(
        plan,
        writer,
        &Figures {
            id: &snapshot.id,
            processes: snapshot.processes.iter().map(|(p, _)| p).collect(),
            ids: &ids,
            segments,
            open_files,
            saved,
            stored: snapshot.stored,
            freeze,
            total,
        },
    )
}

fn stats(snapshot: &Snapshot, freeze: Duration) -> StatsEntry {
    let us = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
    StatsEntry {
        dump: Some(DumpStatsEntry {
            freezing_time: us(snapshot.freezing),
            frozen_time: us(freeze),
            memdump_time: us(snapshot.selecting),
            memwrite_time: us(snapshot.storing),
            pages_scanned: snapshot.scanned,
            pages_skipped_parent: snapshot.stored.in_parent,
            pages_written: snapshot.stored.present,
            ..DumpStatsEntry::default()
        }),
        restore: None,
    }
}

/// Microseconds since boot, suspended time included.
fn uptime_us() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_err(|e| Error::os("Cannot read the clock", e))?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000 + now.tv_nsec().cast_unsigned() / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_have_all_times_in_microseconds() {
        let snapshot = Snapshot {
            freezing: Duration::from_micros(3),
            selecting: Duration::from_micros(1500),
            storing: Duration::from_millis(20),
            ..Snapshot::default()
        };
        let dump = stats(&snapshot, Duration::from_secs(2)).dump.unwrap();
        assert_eq!((dump.freezing_time, dump.frozen_time), (3, 2_000_000));
        assert_eq!((dump.memdump_time, dump.memwrite_time), (1500, 20_000));
        // More than an hour does not become nothing.
        let long = stats(&snapshot, Duration::from_secs(100_000)).dump.unwrap();
        assert_eq!(long.frozen_time, u32::MAX);
    }
}
