//! Sets of semaphores and message queues of System V (sysvipc(7)), which no process has open. What a
//! tree uses is told by who used it last: a set of which it changed a semaphore last, a queue that it
//! sent to or received from last. What it made and never used cannot be told, nor which adjustments wait for the
//! end of a process (SEM_UNDO).
//!
//! They are in `ipcns-sem-0.img` and `ipcns-msg-0.img` (of a tree with a namespace for them, all: with another
//! number, as CRIU has them) and come back as segments of shared memory do (see
//! [`crate::memory::sysv`]): with their ids, made anew or taken over.

mod queues;
mod semaphores;

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{IpcDescEntry, IpcMsgEntry, IpcSemEntry};
use crate::image::{Images, LayerWriter};
use crate::inject::Remote;
use crate::task::sysv::{self, Object, taken};
use crate::task::{self, Ids, Life, Process};
use crate::units::Pid;

/// Runs something in the new process with the id given, or in the root of the tree when it is not there.
pub type In<'a> = dyn FnMut(u32, &mut dyn FnMut(&mut Remote) -> Result<()>) -> Result<()> + 'a;

/// A kind of object, for messages and commands.
#[derive(Clone, Copy, Debug)]
struct Sort {
    /// What one is called.
    name: &'static str,
    /// The option of ipcrm(1).
    option: &'static str,
    remove: fn(i32) -> nix::Result<()>,
}

impl Sort {
    fn called(&self, id: u32) -> String {
        format!("{} {id} of System V", self.name)
    }
}

/// What a tree uses.
#[derive(Debug, Default)]
pub struct Found {
    sets: Vec<(IpcSemEntry, Vec<u8>)>,
    queues: Vec<(IpcMsgEntry, Vec<u8>)>,
}

impl Found {
    /// Writes the images.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, (number, whole): (u32, bool), writer: &LayerWriter) -> Result<()> {
        // CRIU looks for the images of a namespace in any case.
        if whole || !self.sets.is_empty() {
            let records = self.sets.iter().map(|(entry, values)| (entry, &**values));
            writer.with_extra(&semaphores::image(number), records)?;
        }
        if whole || !self.queues.is_empty() {
            let records = self.queues.iter().map(|(entry, texts)| (entry, &**texts));
            writer.with_extra(&queues::image(number), records)?;
        }
        Ok(())
    }
}

/// What the tree and somebody else use, before the freeze.
///
/// # Errors
/// When /proc cannot be read.
pub fn survey(tree: &[Process]) -> Result<Vec<Obstacle>> {
    let mut obstacles = Vec::new();
    for (id, object) in &sysv::semaphores()? {
        obstacles.extend(semaphores::users(*id, object, tree).err());
    }
    for (id, object) in &sysv::queues()? {
        obstacles.extend(queues::users(*id, object, tree).err());
    }
    Ok(obstacles)
}

/// What the tree uses, each as its kind and its name; the `whole` of its namespace when it has one for
/// itself.
///
/// # Errors
/// When /proc cannot be read.
pub fn used_by(tree: &[Process], whole: bool) -> Result<Vec<(&'static str, String)>> {
    let mut named = Vec::new();
    for (id, object) in &sysv::semaphores()? {
        if whole || semaphores::users(*id, object, tree) == Ok(true) {
            named.push(("set of System V semaphores", semaphores::SORT.called(*id)));
        }
    }
    for (id, object) in &sysv::queues()? {
        if whole || queues::users(*id, object, tree) == Ok(true) {
            named.push(("System V message queue", queues::SORT.called(*id)));
        }
    }
    named.sort();
    Ok(named)
}

/// What the tree uses, which stands still; the `whole` of its namespace when it has one for itself.
///
/// # Errors
/// When somebody else uses it too, or it cannot be read.
pub fn collect(tree: &[Process], ids: &Ids, whole: bool) -> Result<Found> {
    let refused =
        |obstacle| Error::refused("The target changed since the plan was made", vec![obstacle]);
    let mut found = Found::default();
    for (id, object) in &sysv::semaphores()? {
        if semaphores::users(*id, object, tree).map_err(refused)? || whole {
            found.sets.push(semaphores::dump(*id, object, ids)?);
        }
    }
    for (id, object) in &sysv::queues()? {
        if queues::users(*id, object, tree).map_err(refused)? || whole {
            found.queues.push(queues::dump(*id, object, ids)?);
        }
    }
    found.sets.sort_by_key(|(entry, _)| entry.desc.id);
    found.queues.sort_by_key(|(entry, _)| entry.desc.id);
    Ok(found)
}

/// True when a process of the tree is among the last users `pids` of an object that was last changed at
/// `changed`; an obstacle when somebody else is, too. Processes that began later only have the pid of one.
fn used(
    what: &str,
    pids: &[u32],
    changed: u64,
    tree: &[Process],
) -> std::result::Result<bool, Obstacle> {
    let pids: HashSet<Pid> = pids
        .iter()
        .map(|pid| Pid::from_raw(pid.cast_signed()))
        .collect();
    let was_there = |process: &Process| process.started().is_some_and(|at| at <= changed + 1);
    let member = |pid: &Pid| tree.iter().find(|process| process.pid == *pid);
    if !pids.iter().filter_map(member).any(was_there) {
        return Ok(false);
    }
    let outsider = pids
        .iter()
        .filter(|pid| member(pid).is_none())
        .find_map(|pid| {
            let process = task::process(*pid).ok()?;
            let lives = !matches!(process.life, Life::Zombie(_)) && was_there(&process);
            let is_new = tree.iter().any(|member| member.pid == process.ppid);
            (lives && !is_new).then_some(process)
        });
    match outsider {
        None => Ok(true),
        Some(process) => Err(Obstacle::unsupported(
            format!(
                "{what} is also used by {} (pid {}), not in the tree",
                process.comm, process.pid
            ),
            "end the other process, or dump from a common ancestor of both",
        )),
    }
}

fn desc(id: u32, object: &Object) -> IpcDescEntry {
    IpcDescEntry {
        key: object.small("key"),
        uid: object.small("uid"),
        gid: object.small("gid"),
        cuid: object.small("cuid"),
        cgid: object.small("cgid"),
        mode: object.small("perms"),
        id,
    }
}

/// What a layer has.
#[derive(Debug, Default)]
pub struct Wanted {
    sets: Vec<semaphores::Wanted>,
    queues: Vec<queues::Wanted>,
}

impl Wanted {
    /// Reads the images.
    ///
    /// # Errors
    /// When one is damaged.
    pub fn read(images: &Images, number: u32) -> Result<Self> {
        Ok(Self {
            sets: semaphores::read(images, number)?,
            queues: queues::read(images, number)?,
        })
    }

    /// What is in the way of them, for processes with the ids `members`.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn check(&self, members: &HashSet<Pid>) -> Result<Vec<Obstacle>> {
        let mut found = Vec::new();
        let there = sysv::semaphores()?;
        for set in &self.sets {
            let users = semaphores::last_users;
            found.extend(set.obstacle(&there, members, users));
        }
        let there = sysv::queues()?;
        for queue in &self.queues {
            found.extend(queue.obstacle(&there, members, queues::last_users));
        }
        Ok(found)
    }
}

/// One object of a layer, with what makes it known again.
#[derive(Debug)]
struct Known<T> {
    sort: &'static Sort,
    desc: IpcDescEntry,
    /// A column that never changes, and its number.
    size: (&'static str, u64),
    contents: T,
}

impl<T> Known<T> {
    /// True for what looks like it: same key, size, creator.
    fn is_like(&self, object: &Object) -> bool {
        let desc = &self.desc;
        let of = |name| object.small(name);
        (of("key"), of("cuid"), of("cgid")) == (desc.key, desc.cuid, desc.cgid)
            && (self.size.0.is_empty() || object.number(self.size.0) == self.size.1)
    }

    /// What is in the way of making it or taking it over: `users` gives its last users.
    fn obstacle(
        &self,
        there: &HashMap<u32, Object>,
        members: &HashSet<Pid>,
        users: fn(u32, &Object) -> Vec<u32>,
    ) -> Option<Obstacle> {
        let id = self.desc.id;
        let what = self.sort.called(id);
        let remove = |id| {
            format!(
                "when nobody needs it any more: ipcrm {} {id}",
                self.sort.option
            )
        };
        let Some(object) = there.get(&id) else {
            let (why, other) = taken(id, self.desc.key, there)?;
            let text = format!("{what} cannot be made: {why} by {other}");
            return Some(Obstacle::new(Kind::Failed, text, remove(other)));
        };
        if !self.is_like(object) {
            let text = format!("{what} is there, but it is another one than the layer's");
            return Some(Obstacle::new(Kind::Failed, text, remove(id)));
        }
        let user = users(id, object).into_iter().find_map(|pid| {
            let process = task::process(Pid::from_raw(pid.cast_signed())).ok()?;
            (!matches!(process.life, Life::Zombie(_))).then_some(process)
        })?;
        let kind = match members.contains(&user.pid) {
            true => Kind::Busy,
            false => Kind::Failed,
        };
        let text = format!("{what} is used by {} (pid {})", user.comm, user.pid);
        Some(Obstacle::new(kind, text, "end that process first"))
    }
}

/// Objects made for a tree that is being restored: they go when this is dropped before it is complete.
#[derive(Debug, Default)]
pub struct Made {
    created: Vec<(&'static Sort, u32)>,
    alone: bool,
}

impl Made {
    /// None yet. `alone`: in a namespace for themselves, with which they go.
    pub fn new(alone: bool) -> Self {
        Self {
            created: Vec::new(),
            alone,
        }
    }

    /// Makes everything that a layer has, or takes it over.
    ///
    /// # Errors
    /// When the kernel refuses, or something is taken by now.
    pub fn make(&mut self, wanted: &Wanted, within: &mut In<'_>) -> Result<()> {
        let there = sysv::semaphores()?;
        for set in &wanted.sets {
            if !there.contains_key(&set.desc.id) {
                self.create(set, within, semaphores::create)?;
            }
            set.fill(within)?;
        }
        let there = sysv::queues()?;
        for queue in &wanted.queues {
            if !there.contains_key(&queue.desc.id) {
                self.create(queue, within, queues::create)?;
            }
            queue.fill(within)?;
        }
        Ok(())
    }

    fn create<T>(
        &mut self,
        known: &Known<T>,
        within: &mut In<'_>,
        create: fn(&Known<T>, &mut Remote) -> Result<()>,
    ) -> Result<()> {
        // Nobody knows who made it.
        within(0, &mut |remote| create(known, remote))?;
        if !self.alone {
            self.created.push((known.sort, known.desc.id));
        }
        Ok(())
    }

    /// The restore is complete.
    pub fn keep(mut self) {
        self.created.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (sort, id) in &self.created {
            let _gone = (sort.remove)(id.cast_signed());
        }
    }
}
