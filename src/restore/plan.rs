//! What a restore would do, and what is in its way; nothing is created here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};

use super::Options;
use super::rights;
use super::tree::{self, Wanted};
use crate::chain::{self, Held, Stack};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{
    CoreEntry, FdinfoEntry, FsEntry, InventoryEntry, MemfdInodeEntry, MmEntry, PstreeEntry,
    TaskKobjIdsEntry,
};
use crate::image::{Images, PagemapId};
use crate::memory::{huge, space, sysv};
use crate::state::namespaces::{self, Anew};
use crate::state::seccomp::Filters;
use crate::task::numbers::{self, Members};
use crate::task::sharing::{self, Shares};
use crate::task::{self, Life};
use crate::units::Pid;
use crate::{arch, files, state};

/// CRIU's `task_state`.
const DEAD: u32 = 2;
const STOPPED: u32 = 3;
const ZOMBIE: u32 = 6;

/// Everything of one process that the images hold but its pages.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) wanted: Wanted,
    /// Cores of all threads, the leader first.
    pub(super) cores: Vec<(Pid, CoreEntry)>,
    /// Stopped by this signal.
    pub(super) stopped: Option<i32>,
    /// The rest, none for a zombie.
    pub(super) body: Option<Body>,
}

/// What only a live process has.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) mm: MmEntry,
    pub(super) fs: FsEntry,
    pub(super) descriptors: Vec<FdinfoEntry>,
}

/// What a restore would do.
#[derive(Debug)]
pub struct Plan {
    /// The wish.
    pub options: Options,
    /// What prevents it.
    pub obstacles: Vec<Obstacle>,
    /// What will not be as it was.
    pub warnings: Vec<Obstacle>,
    /// The root.
    pub root: Pid,
    /// Number of processes, zombies included.
    pub tasks: usize,
    /// Number of threads.
    pub threads: usize,
    /// Pages to be filled in.
    pub pages: u64,
    /// Layers that are read.
    pub layers: usize,
    /// Files that are put back first (`--with-files`): those that are other ones now.
    pub put_back: Vec<files::PutBack>,
    pub(super) stack: Stack,
    /// As long as there is the plan, nobody changes what it is about.
    pub(super) _held: Held,
    pub(super) processes: Vec<Recorded>,
    pub(super) filters: Filters,
    /// The namespaces that the tree gets for itself.
    pub(super) anew: Anew,
    /// Segments of System V shared memory.
    pub(super) segments: Vec<sysv::Wanted>,
    /// Its semaphores and message queues.
    pub(super) queues: state::sysv::Wanted,
}

impl Plan {
    /// Fails when something prevents the restore.
    ///
    /// # Errors
    /// With all obstacles.
    pub fn check(&self) -> Result<()> {
        if self.obstacles.is_empty() {
            return Ok(());
        }
        Err(Error::refused(
            format!(
                "Layer {} cannot be restored",
                self.options.images_dir.display()
            ),
            self.obstacles.clone(),
        ))
    }

    /// The pids and tids that must be free.
    pub fn ids(&self) -> impl Iterator<Item = Pid> + '_ {
        self.processes
            .iter()
            .flat_map(|p| p.wanted.entry.threads.iter())
            .map(|tid| Pid::from_raw(tid.cast_signed()))
    }
}

/// Plans a restore.
///
/// # Errors
/// When the layer cannot be read or is damaged. What merely prevents the restore is in
/// [`Plan::obstacles`].
pub fn plan(options: &Options) -> Result<Plan> {
    let held = Held::shared(&options.images_dir)?;
    let stack = Stack::open(&options.images_dir)?;
    let images = stack.tip().images().clone();
    let report = chain::check(&stack);
    let inventory: InventoryEntry = images.one("inventory.img")?;
    let mut obstacles = report.obstacles;
    if inventory.img_version == 0 {
        obstacles.push(Obstacle::unsupported(
            format!(
                "Layer {} is a pre-dump: it holds memory only",
                images.dir().display()
            ),
            "restore a layer made by a dump on top of it",
        ));
    }
    let root_ids = inventory.root_ids.unwrap_or_default();
    let (mut processes, mut ids) = (Vec::new(), Vec::new());
    for entry in images.all::<PstreeEntry>("pstree.img")? {
        let (process, own) = recorded(&images, entry)?;
        ids.extend(own);
        processes.push(process);
    }
    let shares = shares(&processes, &ids);
    for process in &mut processes {
        let pid = Pid::from_raw(process.wanted.entry.pid.cast_signed());
        process.wanted.shares = sharing::by_birth(&shares, pid);
    }
    let (anew, refused) = namespaces::wanted(&images, &ids, &root_ids)?;
    obstacles.extend(refused);
    let root = processes
        .first()
        .map(|p| Pid::from_raw(p.wanted.entry.pid.cast_signed()))
        .ok_or_else(|| {
            Error::corrupt(format!("Layer {} has no process", images.dir().display()))
        })?;
    let (refused, mut warnings) = files::preflight(&images, &options.allow)?;
    obstacles.extend(refused);
    let wanted: Vec<Wanted> = processes.iter().map(|p| p.wanted.clone()).collect();
    obstacles.extend(tree::obstacles(&wanted, &shares));
    obstacles.extend(rights::missing(options.apart || anew.pids)?);
    let mut plan = Plan {
        options: options.clone(),
        tasks: processes.len(),
        threads: processes.iter().map(|p| p.wanted.entry.threads.len()).sum(),
        pages: 0,
        layers: stack.depth(),
        root,
        obstacles,
        warnings: Vec::new(),
        put_back: Vec::new(),
        stack,
        _held: held,
        processes,
        segments: sysv::read(&images, anew.ipc.unwrap_or(0))?,
        queues: state::sysv::Wanted::read(&images, anew.ipc.unwrap_or(0))?,
        anew,
        filters: Filters::of(images.optional("seccomp.img")?),
    };
    if options.allow.with_files {
        plan.put_back = files::changed(plan.stack.tip().images())?;
        warnings.extend(plan.put_back.iter().filter_map(files::PutBack::warning));
    }
    if !plan.anew.pids && !options.apart {
        let ids: Vec<Pid> = plan.ids().collect();
        let ended =
            |tid: &Pid| task::process(*tid).is_ok_and(|p| matches!(p.life, Life::Zombie(_)));
        let until = Instant::now() + PATIENCE;
        while ids.iter().any(ended) && Instant::now() < until {
            let _timed_out = poll(&mut [], PollTimeout::from(20u8));
        }
    }
    if !plan.anew.pids && !options.apart {
        let ids: BTreeSet<Pid> = plan.ids().chain(tree::passing_ids(&wanted)).collect();
        let (taken, free): (BTreeSet<Pid>, BTreeSet<Pid>) = ids
            .into_iter()
            .partition(|tid| Path::new(&format!("/proc/{tid}")).exists());
        plan.obstacles.extend(taken.into_iter().map(taken_by));
        let numbers = numbers::members(&free, &BTreeSet::new());
        let numbers = numbers.iter().map(|(id, members)| number_of(*id, members));
        plan.obstacles.extend(numbers);
    }
    if let Some(obstacle) = lesser_cpu(&plan)? {
        plan.obstacles.push(obstacle);
    }
    for process in &plan.processes {
        for (tid, core) in &process.cores {
            plan.obstacles.extend(state::check_image(*tid, core));
            plan.filters.chain(core)?;
            let missing = arch::core::missing_here(core);
            if !missing.is_empty() {
                plan.obstacles.push(Obstacle::unsupported(
                    format!(
                        "Registers of thread {tid} need what this CPU does not have: {}",
                        missing.join(", ")
                    ),
                    "restore on a machine with such a CPU",
                ));
            }
        }
        if let Some(body) = &process.body {
            plan.obstacles.extend(mapped(process, body));
            let id = PagemapId::Task(process.wanted.entry.pid);
            plan.pages += plan.stack.ownership(id)?.pages();
        }
    }
    let bodies = plan.processes.iter().filter_map(|p| p.body.as_ref());
    let vmas = bodies.flat_map(|body| &body.mm.vmas);
    let memfds: Vec<MemfdInodeEntry> = images.all("memfd.img")?;
    let system_v = plan.segments.iter().map(|segment| &segment.entry);
    let missing = huge::missing(vmas, &memfds, system_v);
    plan.obstacles.extend(missing);
    // Nobody is in a namespace that is made anew.
    if plan.anew.ipc.is_none() {
        let members = plan.ids().collect();
        plan.obstacles
            .extend(sysv::check(&plan.segments, &members)?);
        plan.obstacles.extend(plan.queues.check(&members)?);
    }
    plan.warnings.append(&mut warnings);
    // With the right that is missing, other things may be no obstacles at all.
    plan.obstacles
        .sort_by_key(|obstacle| obstacle.kind != Kind::Permission);
    Ok(plan)
}

/// What the layer's CPU could do and this one cannot, unless that does not matter to the user.
fn lesser_cpu(plan: &Plan) -> Result<Option<Obstacle>> {
    let Some(sidecar) = plan.stack.tip().sidecar() else {
        return Ok(None);
    };
    if plan.options.any_cpu {
        return Ok(None);
    }
    let here = arch::instruction_sets()?;
    let lacking = arch::lacking(&sidecar.instruction_sets, &here);
    Ok((!lacking.is_empty()).then(|| {
        Obstacle::unsupported(
            format!(
                "This CPU lacks instructions that the layer's had: {}",
                lacking.join(", ")
            ),
            "programs may have chosen code for them: restore on such a CPU, or with --cpu-cap none",
        )
    }))
}

/// How long to wait for processes that have ended to be waited for: those of a layer that has just been made, by
/// init, which takes its time.
const PATIENCE: Duration = Duration::from_secs(2);

/// What has a task id that is needed.
fn taken_by(tid: Pid) -> Obstacle {
    let there = task::process(tid);
    let (what, hint) = match &there {
        Ok(p) if matches!(p.life, Life::Zombie(_)) => (
            format!(
                "Task id {tid} belongs to {}, which has ended but was not waited for",
                p.comm
            ),
            format!("its parent {} has to wait for it, or end", p.ppid),
        ),
        Ok(p) => (
            format!("Task id {tid} is taken by {}", p.comm),
            format!("end it first (kill {tid}), or restore with --new-pid-namespace"),
        ),
        Err(_) => (
            format!("Task id {tid} is taken"),
            "end the program that has it, or restore with --new-pid-namespace".to_owned(),
        ),
    };
    Obstacle::new(Kind::Busy, what, hint)
}

/// A task id that nobody has, but a session or process group.
fn number_of(id: Pid, members: &Members) -> Obstacle {
    Obstacle::new(
        Kind::Busy,
        format!("Task id {id} is the number of {}", members.named()),
        format!(
            "end what is left of it first (kill {}), or restore with --new-pid-namespace",
            members.pids()
        ),
    )
}

fn recorded(
    images: &Images,
    mut entry: PstreeEntry,
) -> Result<(Recorded, Option<(u32, TaskKobjIdsEntry)>)> {
    let pid = entry.pid;
    entry.threads.retain(|tid| *tid != pid);
    entry.threads.sort_unstable();
    entry.threads.insert(0, pid);
    let mut cores: Vec<(Pid, CoreEntry)> = Vec::with_capacity(entry.threads.len());
    for tid in &entry.threads {
        let ended = |core: &CoreEntry| {
            let task = core.tc.as_ref();
            task.is_some_and(|t| matches!(t.task_state, DEAD | ZOMBIE))
        };
        if cores.first().is_some_and(|(_, leader)| ended(leader)) {
            // CRIU lists a thread of a zombie with a number without meaning.
            break;
        }
        let core: CoreEntry = images.one(&format!("core-{tid}.img"))?;
        if core.mtype != arch::MARCH {
            return Err(Error::new(
                Kind::Unsupported,
                format!("core-{tid}.img is of another architecture ({})", core.mtype),
            )
            .hint("restore on a machine of that architecture; everything else works here"));
        }
        cores.push((Pid::from_raw(tid.cast_signed()), core));
    }
    entry.threads.truncate(cores.len());
    let task = cores.first().and_then(|(_, core)| core.tc.as_ref());
    let task_state = task.map_or(0, |t| t.task_state);
    let zombie =
        matches!(task_state, DEAD | ZOMBIE).then(|| task.map_or(0, |t| t.exit_code.cast_signed()));
    let stopped = (task_state == STOPPED).then(|| {
        task.and_then(|t| t.stop_signo)
            .map_or(libc::SIGSTOP, u32::cast_signed)
    });
    let (body, ids) = if zombie.is_some() {
        (None, None)
    } else {
        let ids: TaskKobjIdsEntry = images.one(&format!("ids-{pid}.img"))?;
        let body = Body {
            mm: images.one(&format!("mm-{pid}.img"))?,
            fs: images.one(&format!("fs-{pid}.img"))?,
            descriptors: images.all(&format!("fdinfo-{}.img", ids.files_id))?,
        };
        (Some(body), Some((pid, ids)))
    };
    let recorded = Recorded {
        wanted: Wanted {
            entry,
            zombie,
            exit_signal: task.and_then(|t| t.exit_signal).unwrap_or(tree::USUAL_END),
            shares: 0,
        },
        cores,
        stopped,
        body,
    };
    Ok((recorded, ids))
}

/// What the processes share.
fn shares(processes: &[Recorded], ids: &[(u32, TaskKobjIdsEntry)]) -> Vec<Shares> {
    let id = |id: u32| Pid::from_raw(id.cast_signed());
    let of = |process: &Recorded| {
        let entry = &process.wanted.entry;
        let (_, own) = ids.iter().find(|(pid, _)| *pid == entry.pid)?;
        Some(Shares {
            pid: id(entry.pid),
            parent: id(entry.ppid),
            memory: own.vm_id,
            files: own.files_id,
            fs: own.fs_id,
        })
    };
    processes.iter().filter_map(of).collect()
}

/// Mappings that cannot be made, or not on this kernel.
fn mapped(process: &Recorded, body: &Body) -> Vec<Obstacle> {
    let pid = process.wanted.entry.pid;
    let mut found: Vec<Obstacle> = body
        .mm
        .vmas
        .iter()
        .filter_map(|vma| space::unsupported(vma).map(|what| (vma, what)))
        .map(|(vma, what)| {
            Obstacle::unsupported(
                format!("Process {pid} maps {what} at {:x}-{:x}", vma.start, vma.end),
                "such a mapping cannot be made again yet",
            )
        })
        .collect();
    if !space::is_sound(&body.mm.vmas) {
        found.push(Obstacle::new(
            Kind::Corrupt,
            format!("The mappings of process {pid} overlap or have no length"),
            "the image is damaged; use another layer",
        ));
        return found;
    }
    let then = space::kernels_then(&body.mm.vmas);
    if space::kernels_now(Pid::this()).is_ok_and(|now| space::kernels_differ(&now, &then)) {
        found.push(Obstacle::unsupported(
            format!("The vDSO of process {pid} is not of this kernel"),
            "restore on the kernel that the layer was made on",
        ));
    }
    found
}
