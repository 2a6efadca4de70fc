//! What a dump of some processes would meet, found while they run.
//!
//! Nothing here stops or changes a process. What opens between the survey and the freeze is met
//! again by the dump half, which refuses by the same rules.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use super::descriptor::{self, Descriptor};
use super::tty::Surveyed;
use super::unix::diag::Table;
use super::{Allow, Outside, Refusal, epoll, inet, kind_of, locks, packet, refusal};
use crate::error::{Obstacle, Result};
use crate::units::Pid;

/// The open files of some processes, judged.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// What cannot be dumped: one obstacle per process and thing, wherever the process has it.
    pub obstacles: Vec<Obstacle>,
    /// What can be dumped, but not all of it.
    pub losses: Vec<Obstacle>,
    /// Every open one of them.
    pub judged: Vec<Judged>,
}

/// One open file of a process.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The process.
    pub pid: Pid,
    /// What it is, by the kind that is responsible.
    pub kind: &'static str,
    /// Its descriptor, or what else leads to it, and where it leads.
    pub place: String,
    /// True when it is in the way of the dump.
    pub refused: bool,
}

/// Looks through the descriptors, exe, cwd and root of `pids`, which together with `zombies` are the
/// target, and through `mapped`, the links to their mapped files (`/proc/PID/map_files/…`).
/// What `allow` has is no obstacle.
///
/// # Errors
/// When a process may not be looked into.
pub fn survey(
    pids: &[Pid],
    zombies: &[Pid],
    mapped: &[(Pid, PathBuf)],
    allow: &Allow,
) -> Result<Survey> {
    let target: HashSet<Pid> = pids.iter().copied().collect();
    let mut files = Vec::new();
    for &pid in pids {
        let comm = descriptor::comm(pid);
        for number in descriptor::numbers(pid)? {
            files.extend(Descriptor::read(pid, &comm, number)?);
        }
        for name in ["exe", "cwd", "root"] {
            let link = PathBuf::from(format!("/proc/{pid}/{name}"));
            files.extend(Descriptor::of_link(pid, &comm, &link, 0)?);
        }
    }
    let asked = files
        .iter()
        .filter(|f| kind_of(f).is_some_and(super::FileKind::asks_outside));
    let mut texts: HashSet<OsString> = asked.map(|f| f.text.clone()).collect();
    let sockets = files.iter().filter(|f| f.socket.is_some());
    let held: HashSet<u64> = sockets.map(|f| f.stat.ino).collect();
    let is_unix = |f: &Descriptor| f.socket.is_some_and(|s| s.domain == libc::AF_UNIX);
    let unix = files.iter().any(is_unix).then(Table::read).transpose()?;
    for other in unix
        .iter()
        .flat_map(|table| held.iter().flat_map(|ino| table.others(*ino)))
    {
        if !held.contains(&other.into()) {
            texts.insert(format!("socket:[{other}]").into());
        }
    }
    let mut outside = Outside::scan(&target, &texts);
    outside.held = held;
    outside.root = pids.first().copied();
    outside.members = Some(pids.iter().chain(zombies).copied().collect());
    outside.unix = unix;
    let is_packet = |f: &Descriptor| f.socket.is_some_and(|s| s.domain == libc::AF_PACKET);
    let packets = files.iter().any(is_packet);
    outside.packets = packets.then(packet::diag::Table::read).transpose()?;
    let is_tcp = |f: &Descriptor| f.socket.is_some_and(super::Nature::is_tcp);
    if files.iter().any(is_tcp) {
        outside.signed = inet::signed::sockets();
    }
    outside.terminals = Some(Surveyed::new(&files, pids));
    let (mut found, mut lost) = (Found::default(), Found::default());
    let mut judged = Vec::new();
    for file in &files {
        let refusal = refusal(file, &outside, allow);
        let place = file.number.map_or_else(
            || {
                file.link
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            },
            |number| number.to_string(),
        );
        judged.push(Judged {
            pid: file.pid,
            kind: kind_of(file).map_or("file of an unknown kind", super::FileKind::name),
            place: format!("{place} ({})", file.shown()),
            refused: refusal.is_some(),
        });
        let loss = kind_of(file).and_then(|kind| kind.loss(file));
        match (refusal, loss) {
            (Some(refusal), _) => found.add(file, refusal),
            (None, Some(loss)) => lost.add(file, loss),
            (None, None) => {}
        }
    }
    let closed = epoll::unnamed(&files);
    for (file, refusal) in locks::shared(&files, &target).into_iter().chain(closed) {
        found.add(file, refusal);
    }
    for (pid, link) in mapped {
        let file = Descriptor::of_link(*pid, &descriptor::comm(*pid), link, 0)?;
        let refused = file.and_then(|file| {
            let refusal = refusal(&file, &Outside::of(pids.first().copied()), allow)?;
            Some((file, refusal))
        });
        if let Some((file, refusal)) = refused {
            found.add(&file, refusal);
        }
    }
    Ok(Survey {
        obstacles: found.into_obstacles(),
        losses: lost.into_obstacles(),
        judged,
    })
}

/// One file's refusal as an obstacle.
pub(super) fn obstacle(file: &Descriptor, refusal: Refusal) -> Obstacle {
    let mut found = Found::default();
    found.add(file, refusal);
    let Found(mut all) = found;
    all.pop_first().map_or_else(
        || Obstacle::unsupported(String::new(), String::new()),
        |(key, holding)| holding.obstacle(key),
    )
}

/// Refusals by process and thing, so that a terminal on descriptors 0, 1 and 2 is told once.
#[derive(Debug, Default)]
struct Found(BTreeMap<(i32, Refusal), Holding>);

/// How a process holds the thing.
#[derive(Debug)]
struct Holding {
    comm: String,
    numbers: Vec<RawFd>,
    /// Last part of the links that are not descriptors: `exe`, `cwd`, an address range.
    links: Vec<String>,
}

impl Found {
    fn add(&mut self, file: &Descriptor, refusal: Refusal) {
        let holding = self
            .0
            .entry((file.pid.as_raw(), refusal))
            .or_insert_with(|| Holding {
                comm: file.comm.clone(),
                numbers: Vec::new(),
                links: Vec::new(),
            });
        match file.number {
            Some(number) => holding.numbers.push(number),
            None => holding.links.extend(
                file.link
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned()),
            ),
        }
    }

    fn into_obstacles(self) -> Vec<Obstacle> {
        self.0
            .into_iter()
            .map(|(key, holding)| holding.obstacle(key))
            .collect()
    }
}

impl Holding {
    fn obstacle(self, (pid, refusal): (i32, Refusal)) -> Obstacle {
        let mut places = Vec::new();
        if !self.numbers.is_empty() {
            let word = if self.numbers.len() == 1 {
                "descriptor"
            } else {
                "descriptors"
            };
            let numbers: Vec<String> = self.numbers.iter().map(ToString::to_string).collect();
            places.push(format!("{word} {}", numbers.join(", ")));
        }
        places.extend(self.links.into_iter().map(|name| match name.as_str() {
            "exe" => "its program".to_owned(),
            "cwd" => "its working directory".to_owned(),
            "root" => "its root directory".to_owned(),
            _ => format!("a mapping at {name}"),
        }));
        let what = format!(
            "{} (pid {pid}) has {} as {}",
            self.comm,
            refusal.what,
            places.join(" and ")
        );
        Obstacle::unsupported(what, refusal.hint)
    }
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::Stat;
    use super::super::testing::descriptor;
    use super::*;

    #[test]
    fn one_thing_on_several_descriptors_is_one_obstacle() {
        let mut found = Found::default();
        let mut file = descriptor("/dev/pts/3", Stat::default());
        let refusal = Refusal {
            what: "the terminal /dev/pts/3".into(),
            hint: "no".into(),
        };
        for number in [0, 1, 2] {
            file.number = Some(number);
            found.add(&file, refusal.clone());
        }
        let obstacles = found.into_obstacles();
        assert_eq!(obstacles.len(), 1);
        assert_eq!(
            obstacles[0].to_string(),
            "prog (pid 7) has the terminal /dev/pts/3 as descriptors 0, 1, 2: no"
        );
    }

    #[test]
    fn a_deleted_program_is_named_as_such() {
        let mut file = descriptor("/bin/x (deleted)", Stat::default());
        file.number = None;
        file.link = "/proc/7/exe".into();
        let refusal = Refusal {
            what: "the deleted file /bin/x".into(),
            hint: "h".into(),
        };
        assert_eq!(
            obstacle(&file, refusal.clone()).what,
            "prog (pid 7) has the deleted file /bin/x as its program"
        );
        let mut found = Found::default();
        found.add(&file, refusal.clone());
        file.link = "/proc/7/map_files/1000-2000".into();
        found.add(&file, refusal);
        let obstacles = found.into_obstacles();
        assert_eq!(obstacles.len(), 1);
        assert_eq!(
            obstacles[0].what,
            "prog (pid 7) has the deleted file /bin/x as its program and a mapping at 1000-2000"
        );
    }
}
