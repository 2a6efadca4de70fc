//! What a dump would do, and what is in its way; nothing is stopped or written here.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use procfs::process::Process as Proc;

use super::predict::{Mode, Past, Prediction, Present, predictions};
use super::sidecar::hex;
use super::{After, Options};
use crate::chain::{self, Held, Stack};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::{Images, Sidecar};
use crate::memory::{Backing, Mapping, aio, mappings, sysv};
use crate::state::namespaces;
use crate::sys::kcmp;
use crate::task::numbers::{self, Members};
use crate::task::sessions::{self, Kin, Stray};
use crate::task::sharing;
use crate::task::{self, Life, Process, members, proc, vfork};
use crate::track::{self, DirtyTracker, Watch};
use crate::units::{PAGE_SIZE, Pid};
use crate::{files, inject, state};

/// The layer below.
#[derive(Clone, Debug)]
pub struct Parent {
    /// As given: relative to the new layer.
    pub link: PathBuf,
    /// Where that is.
    pub dir: PathBuf,
}

/// What a dump would do.
#[derive(Debug)]
pub struct Plan {
    /// The wish.
    pub options: Options,
    /// What prevents it.
    pub obstacles: Vec<Obstacle>,
    /// What will not be as it was after a restore.
    pub warnings: Vec<Obstacle>,
    /// The processes, parents before children.
    pub processes: Vec<Process>,
    /// Number of processes.
    pub tasks: usize,
    /// Number of threads.
    pub threads: usize,
    /// What the processes have open, judged.
    pub files: Vec<files::Judged>,
    /// Pages in memory.
    pub resident_pages: u64,
    /// Pages written since the tracker was armed for the parent, when it was.
    pub dirty_pages: Option<u64>,
    /// What it will be, as far as that can be told.
    pub prediction: Option<Prediction>,
    /// The layer below.
    pub parent: Option<Parent>,
    /// How unchanged pages will be found.
    pub tracker: &'static str,
    /// Why that way.
    pub tracker_reason: String,
    /// What earlier dumps teach.
    past: Vec<Past>,
    /// What the next layer's tracking will be armed with, when it is wished.
    pub(super) arm: Option<&'static dyn DirtyTracker>,
    /// The parent's identity, hexadecimal, when it has one.
    pub(super) parent_id: Option<String>,
    /// Mappings of each process, in the order of `processes`, with all kernel flags.
    pub(super) mappings: Vec<Vec<Mapping>>,
    /// Semaphores and message queues that the tree uses: kind and name.
    pub(super) held: Vec<(&'static str, String)>,
    /// The namespaces that the tree has for itself.
    pub(super) namespaces: namespaces::Own,
}

/// Plans a dump.
///
/// # Errors
/// When there is no such process, or the parent cannot be read. What merely prevents the dump is in
/// [`Plan::obstacles`].
pub fn plan(options: &Options) -> Result<Plan> {
    let mut plan = look(options)?;
    plan.prediction = prediction(&mut plan);
    Ok(plan)
}

/// The same without counting pages.
pub(super) fn look(options: &Options) -> Result<Plan> {
    let until = Instant::now() + PATIENCE;
    loop {
        while vfork::waiting(&members(options.root)?).next().is_some() && Instant::now() < until {
            let _timed_out = poll(&mut [], PollTimeout::from(2u8));
        }
        let plan = look_once(options)?;
        // A shell that starts one program after the other is in the next vfork by now.
        let passes = |o: &Obstacle| [VFORK, files::PASSING].contains(&o.hint.as_str());
        let only_passing = !plan.obstacles.is_empty() && plan.obstacles.iter().all(passes);
        if !only_passing || Instant::now() >= until {
            return Ok(plan);
        }
        let _timed_out = poll(&mut [], PollTimeout::from(2u8));
    }
}

/// What to try where a child is about to start a program.
const VFORK: &str = "try again when the child has started its program";

/// The plan for the processes that are there now.
fn look_once(options: &Options) -> Result<Plan> {
    let until = Instant::now() + GONE;
    loop {
        let processes = members(options.root)?;
        let result = plan_for(options, processes.clone());
        let fine = result.as_ref().is_ok_and(|plan| plan.obstacles.is_empty());
        // What was in the way of a process that has ended meanwhile is not in ours.
        if fine || processes.iter().all(is_still_there) || Instant::now() >= until {
            return result;
        }
    }
}

/// True when a process is neither gone nor has ended since it was read.
pub(super) fn is_still_there(process: &Process) -> bool {
    let zombie = |p: &Process| matches!(p.life, Life::Zombie(_));
    task::process(process.pid)
        .is_ok_and(|now| now.start_time == process.start_time && zombie(&now) == zombie(process))
}

/// How long to wait for what passes by itself: children of the tree that are about to start a program, files of
/// other processes that it just looks into.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long to look again at a tree whose processes end while one looks; on a busy machine most looks are
/// longer than the life of a short program.
const GONE: Duration = Duration::from_secs(3);

fn plan_for(options: &Options, processes: Vec<Process>) -> Result<Plan> {
    let mut plan = Plan {
        options: options.clone(),
        obstacles: Vec::new(),
        warnings: Vec::new(),
        tasks: processes.len(),
        threads: processes.iter().map(|p| p.threads.len()).sum(),
        files: Vec::new(),
        resident_pages: 0,
        dirty_pages: None,
        prediction: None,
        past: Vec::new(),
        parent: None,
        tracker: "full",
        tracker_reason: "no parent layer: every page is stored".into(),
        arm: None,
        parent_id: None,
        mappings: Vec::new(),
        held: Vec::new(),
        namespaces: namespaces::Own::default(),
        processes,
    };
    if options.root == Pid::this() || plan.processes.iter().any(|p| p.pid == Pid::this()) {
        plan.obstacles.push(Obstacle::new(
            Kind::Usage,
            format!(
                "The tree of process {} contains icecore itself",
                options.root
            ),
            "choose a process that is no ancestor of this command",
        ));
        return Ok(plan);
    }
    directory(options, &mut plan.obstacles);
    plan.parent = parent(options)?;
    if let Some(parent) = &plan.parent {
        let _held = Held::shared(&parent.dir)?;
        let stack = Stack::open(&parent.dir)?;
        let sidecars = stack.levels().iter().filter_map(chain::Level::sidecar);
        plan.past.extend(sidecars.filter_map(Past::of));
        for obstacle in chain::check_memory(&stack).obstacles {
            plan.warnings.push(obstacle);
        }
        if !plan.warnings.is_empty() {
            plan.obstacles.push(Obstacle::new(
                Kind::Corrupt,
                format!("Parent layer {} is damaged", parent.dir.display()),
                "make a full layer instead (without --prev-images-dir)",
            ));
        }
    }
    choose_tracker(&mut plan)?;
    let alive: Vec<Process> = plan
        .processes
        .iter()
        .filter(|p| !matches!(p.life, Life::Zombie(_)))
        .cloned()
        .collect();
    if alive.is_empty() && !runs_on(&plan.processes[0]) {
        plan.obstacles.push(Obstacle::new(
            Kind::TargetGone,
            format!("Process {} has ended (zombie)", options.root),
            "its parent has to wait for it",
        ));
    }
    let pids: Vec<Pid> = alive.iter().map(|p| p.pid).collect();
    let all = plan.processes.iter().map(|p| p.pid);
    let zombies: Vec<Pid> = all.filter(|pid| !pids.contains(pid)).collect();
    let mut links = Vec::new();
    for process in &plan.processes {
        let mapped = match process.life {
            Life::Zombie(_) => Vec::new(),
            _ => mappings::read(process.pid)?,
        };
        links.extend(mapped_files(process.pid, &mapped));
        plan.mappings.push(mapped);
    }
    let survey = files::survey(&pids, &zombies, &links, &options.allow)?;
    plan.obstacles.extend(survey.obstacles);
    plan.warnings.extend(survey.losses);
    if !options.allow.snapshot_files {
        for (process, mapped) in plan.processes.iter().zip(&plan.mappings) {
            plan.warnings.extend(shared_by_name(process, mapped));
        }
    }
    plan.files = survey.judged;
    relations(&plan.processes, &mut plan.obstacles);
    let mut settled: Vec<&Process> = alive.iter().collect();
    for (parent, child) in vfork::waiting(&alive) {
        settled.retain(|process| process.pid != child.pid);
        plan.obstacles.push(Obstacle::unsupported(
            format!(
                "Process {} ({}) waits for its child {} (vfork)",
                parent.pid, parent.comm, child.pid
            ),
            VFORK,
        ));
    }
    // Who has not the right to compare has not the right to dump; the dump itself asks again.
    let shares = sharing::read(&settled, |p| p.pid.as_raw().cast_unsigned()).unwrap_or_default();
    let refused = sharing::obstacles(&shares, &kin(&plan.processes));
    plan.obstacles.extend(refused);
    let root = settled
        .first()
        .filter(|process| process.pid == options.root);
    plan.obstacles
        .extend(root.map_or_else(Vec::new, |root| sharing::outside(root)));
    let (own, refused) = namespaces::survey(&plan.processes);
    plan.obstacles.extend(refused);
    if options.after == After::Kill {
        let strangers = namespaces::strangers(&own, &plan.processes)?;
        plan.obstacles.extend(strangers);
        plan.warnings.extend(left_behind(
            own,
            &plan.processes.iter().map(|p| p.pid).collect(),
        ));
    }
    plan.namespaces = own;
    for (process, mapped) in plan.processes.iter().zip(&plan.mappings) {
        if matches!(process.life, Life::Zombie(_)) {
            plan.warnings.extend(super::process::lost(process));
            continue;
        }
        left_apart(process, &mut plan.obstacles);
        let tracers = tracers(process, &plan.processes);
        plan.obstacles.extend(tracers);
        plan.obstacles.extend(inject::obstacle(process.pid)?);
        plan.obstacles.extend(state::check(process.pid)?);
        plan.obstacles
            .extend(mappings::obstacles(process.pid, mapped));
        plan.warnings.extend(aio::warnings(process.pid, mapped));
        program(process, &mut plan.obstacles);
        plan.resident_pages += resident(process.pid);
    }
    let pids = plan.processes.iter().map(|process| process.pid);
    let mapped = plan.mappings.iter().map(Vec::as_slice);
    let inside = plan.namespaces.inside_ipc(options.root)?;
    plan.obstacles.extend(sysv::survey(pids.zip(mapped))?);
    plan.obstacles.extend(state::sysv::survey(&plan.processes)?);
    let (_, whole) = plan.namespaces.ipc();
    plan.held = state::sysv::used_by(&plan.processes, whole)?;
    if whole {
        plan.obstacles.extend(namespaces::ipc::posix_queues());
    }
    drop(inside);
    Ok(plan)
}

impl Plan {
    /// Fails when the target would be stopped for longer than `budget`, as far as that can be told.
    ///
    /// # Errors
    /// [`Kind::FreezeBudget`] with what is expected.
    pub fn within(&self, budget: Duration) -> Result<()> {
        let Some((prediction, freeze)) = self.prediction.and_then(|p| Some((p, p.freeze?))) else {
            return Ok(());
        };
        if !prediction.exceeds(budget) {
            return Ok(());
        }
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let what = format!(
            "A dump would freeze process {} for {:.1} ms, the budget is {:.1} ms",
            self.options.root,
            ms(freeze.expected),
            ms(budget)
        );
        let hint = match prediction.mode {
            Mode::Tracked => "dump more often, so that less is written meanwhile, or allow more",
            Mode::Full | Mode::Compared => {
                "allow more once: dumps on top of that one, while tracked, take less"
            }
        };
        Err(Error::new(Kind::FreezeBudget, what).hint(hint))
    }

    /// Fails when something prevents the dump.
    ///
    /// # Errors
    /// With all obstacles.
    pub fn check(&self) -> Result<()> {
        if self.obstacles.is_empty() {
            return Ok(());
        }
        Err(Error::refused(
            format!("Process {} cannot be dumped", self.options.root),
            self.obstacles.clone(),
        ))
    }
}

/// The links to the mapped files, each file once.
fn mapped_files(pid: Pid, mapped: &[Mapping]) -> Vec<(Pid, PathBuf)> {
    let mut seen = HashSet::new();
    let of_files = mapped.iter().filter(|mapping| {
        matches!(mapping.backing, Backing::File(_))
            && mapping.obstacle(pid).is_none()
            && seen.insert((mapping.device, mapping.inode))
    });
    of_files.map(|mapping| (pid, mapping.link(pid))).collect()
}

/// Shared memory that has a name (shm_open(3), sem_open(3)) is a file: what is in it then stays there.
fn shared_by_name(process: &Process, mapped: &[Mapping]) -> Option<Obstacle> {
    let mut seen = HashSet::new();
    let mut names = mapped.iter().filter_map(|mapping| {
        let Backing::File(_) = &mapping.backing else {
            return None;
        };
        let written = mapping.shared && mapping.prot & libc::PROT_WRITE.cast_unsigned() != 0;
        let name = mapping.name.strip_prefix("/dev/shm/")?;
        (written && !name.ends_with(" (deleted)") && seen.insert(name)).then_some(name)
    });
    let first = names.next()?;
    let more = match names.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let what = format!(
        "{} (pid {}) shares memory by name (/dev/shm/{first}{more}): a restore finds in it what is there then",
        process.comm, process.pid
    );
    let hint = "with --snapshot-files the layer has it, and restore --with-files puts it back";
    Some(Obstacle::new(Kind::Differs, what, hint))
}

/// Which tracker will be armed, and which one vouches for the pages left to the parent.
fn choose_tracker(plan: &mut Plan) -> Result<()> {
    let (best, why_not_better) = track::best();
    if plan.options.track && plan.options.after != After::Kill && best.written().is_some() {
        plan.arm = Some(best);
    }
    let Some(parent) = &plan.parent else {
        return Ok(());
    };
    let sidecar = Sidecar::read(&Images::open(&parent.dir)?)?;
    plan.parent_id = sidecar.filter(|s| !s.id.is_empty()).map(|s| hex(&s.id));
    let believed = |process: &Process| {
        track::of_process(process).is_ok_and(|known| {
            known.is_some_and(|(r, _)| r.layer.is_some() && r.layer == plan.parent_id)
        })
    };
    if plan.processes.iter().any(believed) {
        plan.tracker = best.name();
        plan.tracker_reason = "armed when the parent layer was made".into();
    } else {
        plan.tracker = "content";
        plan.tracker_reason = if best.written().is_none() {
            format!("pages are compared with the parent's ({why_not_better})")
        } else {
            "this process was not tracked since the parent layer was made: pages are compared"
                .into()
        };
    }
    Ok(())
}

/// Counts, and asks the past. A tree whose pages cannot be counted now is dumped nevertheless.
fn prediction(plan: &mut Plan) -> Option<Prediction> {
    let sample = Watch::look(plan.options.root).and_then(|watch| watch.sample());
    let sample = sample.ok()?;
    let mut present = Present::of(&sample, plan.parent.is_some());
    let believed = plan.parent.is_some() && Mode::of(plan.tracker) == Mode::Tracked;
    plan.dirty_pages = believed.then_some(sample.dirty_pages);
    if !believed {
        present.dirty = None;
    }
    predictions(&present, &plan.past).into_iter().next()
}

fn directory(options: &Options, obstacles: &mut Vec<Obstacle>) {
    let dir = &options.images_dir;
    if std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        obstacles.push(Obstacle::new(
            Kind::Failed,
            format!("Directory {} is not empty", dir.display()),
            "choose another directory for the new layer",
        ));
    }
}

/// The parent directory: relative to the images directory, which need not exist yet.
fn parent(options: &Options) -> Result<Option<Parent>> {
    let Some(link) = &options.prev_images_dir else {
        return Ok(None);
    };
    let dir = lexical(&options.images_dir.join(link));
    if !dir.is_dir() {
        return Err(Error::new(
            Kind::NotFound,
            format!("There is no parent layer at {}", dir.display()),
        )
        .hint(format!(
            "--prev-images-dir is relative to the images directory {}",
            options.images_dir.display()
        )));
    }
    Ok(Some(Parent {
        link: link.clone(),
        dir,
    }))
}

/// `a/b/../c` as `a/c`: `a/b` need not exist.
fn lexical(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if out.file_name().is_some_and(|name| name != "..") => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        out
    }
}

/// Programs for another architecture: the class in the header of an ELF file (elf(5)).
fn program(process: &Process, obstacles: &mut Vec<Obstacle>) {
    const ELFCLASS32: u8 = 1;
    let mut header = [0; 5];
    let exe = std::fs::File::open(format!("/proc/{}/exe", process.pid));
    // A program that cannot be opened is somebody else's obstacle.
    let read = exe.and_then(|mut file| std::io::Read::read_exact(&mut file, &mut header));
    if read.is_ok() && header == [0x7f, b'E', b'L', b'F', ELFCLASS32] {
        obstacles.push(Obstacle::unsupported(
            format!(
                "Process {} ({}) is a 32-bit program",
                process.pid, process.comm
            ),
            "only 64-bit programs can be dumped",
        ));
    }
}

/// Processes whose first thread has ended while others run, and sessions that no restore could make
/// again: led by a process outside of the tree, or without a way into them.
fn relations(all: &[Process], obstacles: &mut Vec<Obstacle>) {
    let (strays, impossible) = sessions::strays(&kin(all));
    for process in all {
        if runs_on(process) {
            obstacles.push(Obstacle::unsupported(
                format!(
                    "The first thread of process {} ({}) has ended while others run",
                    process.pid, process.comm
                ),
                "such a process cannot be saved yet",
            ));
        }
        let led_outside = |s: &Stray| {
            s.pid == process.pid && s.from.is_none() && task::process(s.session).is_ok()
        };
        let what = if strays.iter().any(led_outside) {
            "whose leader is not in the tree"
        } else if impossible.iter().any(|kin| kin.pid == process.pid) {
            "in which its parent never was"
        } else {
            continue;
        };
        obstacles.push(Obstacle::unsupported(
            format!(
                "Process {} ({}) is in session {}, {what}",
                process.pid, process.comm, process.sid
            ),
            "dump from an ancestor of all processes of that session",
        ));
    }
}

/// Processes outside of the tree that keep ids of it in use when it ends: what it started and forgot. In a pid
/// namespace of its own, nobody does.
pub(super) fn left_behind(own: namespaces::Own, tree: &BTreeSet<Pid>) -> Vec<Obstacle> {
    if own.pids {
        return Vec::new();
    }
    let of = |(id, members): (&Pid, &Members)| {
        Obstacle::new(
            Kind::Busy,
            format!(
                "When the tree has ended, its id {id} stays the number of {}",
                members.named()
            ),
            format!(
                "before a restore end what is left of it (kill {}), or restore with --new-pid-namespace",
                members.pids()
            ),
        )
    };
    let found = numbers::members(tree, tree);
    found.iter().map(of).collect()
}

/// The processes as far as their sessions go.
pub(super) fn kin(all: &[Process]) -> Vec<Kin> {
    let of = |process: &Process| Kin {
        pid: process.pid,
        parent: process.ppid,
        session: process.sid,
    };
    all.iter().map(of).collect()
}

/// A tracer has its tracees for itself: a debugger, or a process of the tree that traces another one.
fn tracers(process: &Process, all: &[Process]) -> Vec<Obstacle> {
    let told = proc::of_threads(process.pid, proc::status).unwrap_or_default();
    let traced = told.iter().find(|(_, status)| status.tracerpid != 0);
    let Some((tid, tracer)) = traced.map(|(tid, status)| (tid, Pid::from_raw(status.tracerpid)))
    else {
        return Vec::new();
    };
    let name = task::process(tracer).map_or_else(|_| "gone".into(), |p| p.comm);
    let inside = all.iter().any(|p| p.pid == tracer);
    vec![Obstacle::new(
        Kind::Busy,
        format!(
            "Thread {tid} of process {} ({}) is traced by process {tracer} ({name})",
            process.pid, process.comm
        ),
        match inside {
            true => "a tree in which one traces another cannot be saved: end the tracing first",
            false => "detach the debugger or the other dump first",
        },
    )]
}

/// True for what looks like a zombie but has threads that run.
fn runs_on(process: &Process) -> bool {
    let threads = || {
        let tasks = Proc::new(process.pid.as_raw()).and_then(|p| p.tasks());
        tasks.map_or(0, Iterator::count)
    };
    matches!(process.life, Life::Zombie(_)) && threads() > 1
}

/// Threads that do not share with their leader what threads share.
fn left_apart(process: &Process, obstacles: &mut Vec<Obstacle>) {
    for tid in process.threads.iter().skip(1) {
        for (resource, name) in [
            (kcmp::Resource::Files, "descriptors"),
            (kcmp::Resource::Fs, "working directory"),
        ] {
            if !kcmp::same(process.pid, *tid, resource).unwrap_or(true) {
                obstacles.push(Obstacle::unsupported(
                    format!("Thread {tid} of process {} has its own {name}", process.pid),
                    "threads that have left their process (unshare) cannot be saved yet",
                ));
            }
        }
    }
}

fn resident(pid: Pid) -> u64 {
    Proc::new(pid.as_raw())
        .and_then(|p| p.statm())
        .map_or(0, |m| m.resident * (procfs::page_size() / PAGE_SIZE))
}
