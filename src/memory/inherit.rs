//! Pages that processes share since fork(2): equal ones stay one page, as they were.
//!
//! Nothing but a fork makes two processes share a private page, so before a new process forks for the first
//! time, those of its mappings that a child has too are made and filled; the child finds them in its address
//! space, and only what differs is written. A mapping goes on in the child when it begins inside of one of
//! the parent with the same file, protection and flags: the parent's may have been joined with what it mapped
//! below since, the child may have unmapped its beginning or the middle, a heap may have grown. What cannot be placed yet, because the new process still runs in our address space, is not
//! shared.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use super::{pump, space};
use crate::chain::{Ranges, Resolved};
use crate::error::Result;
use crate::image::proto::VmaEntry;
use crate::image::status;
use crate::inject::{Call, Remote};
use crate::units::{PageRange, Pid};

/// What a new process has at its place already.
#[derive(Clone, Debug, Default)]
pub struct Estate {
    /// Mappings, as the process that made them has them.
    mapped: Vec<VmaEntry>,
    /// The pages of them that were written.
    filled: Ranges,
    /// It is the process's own: mappings and pages are as its image has them.
    own: bool,
    /// How many pages of the image are in place.
    pages: u64,
}

impl Estate {
    /// The mappings.
    pub fn mapped(&self) -> &[VmaEntry] {
        &self.mapped
    }

    /// How many pages of the image are in place.
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

/// A process to come.
#[derive(Debug)]
struct Member<'p> {
    vmas: &'p [VmaEntry],
    children: Vec<Pid>,
}

/// What all processes to come inherit from each other.
#[derive(Debug, Default)]
pub struct Inheritance<'p> {
    members: BTreeMap<Pid, Member<'p>>,
    estates: BTreeMap<Pid, Estate>,
    /// Numbers of the files that mappings are of.
    files: BTreeMap<u32, RawFd>,
}

impl<'p> Inheritance<'p> {
    /// Among `processes`: id, parent, mappings; `file` gives the number of a file in all of them.
    pub fn new(
        processes: impl IntoIterator<Item = (Pid, Pid, &'p [VmaEntry])>,
        file: &dyn Fn(u32) -> Option<RawFd>,
    ) -> Self {
        let mut all = Self::default();
        let mut parents = Vec::new();
        for (id, parent, vmas) in processes {
            let ids = vmas.iter().filter_map(|vma| u32::try_from(vma.shmid).ok());
            all.files.extend(ids.filter_map(|id| Some((id, file(id)?))));
            let children = Vec::new();
            all.members.insert(id, Member { vmas, children });
            parents.push((id, parent));
        }
        for (id, parent) in parents {
            if let Some(parent) = all.members.get_mut(&parent) {
                parent.children.push(id);
            }
        }
        all
    }

    /// `forker` has just forked `born`.
    pub fn forked(&mut self, forker: Pid, born: Pid) {
        if let Some(estate) = self.estates.get(&forker) {
            let estate = Estate {
                own: false,
                ..estate.clone()
            };
            self.estates.insert(born, estate);
        }
    }

    /// Makes what process `id` has in common with its parent and its children as its image, `pages`, has
    /// it. Does nothing when that is done.
    ///
    /// # Errors
    /// When the process died or a page cannot be read.
    pub fn settle<'r>(
        &mut self,
        id: Pid,
        remote: &mut Remote,
        pages: impl FnOnce() -> Result<Resolved<'r>>,
    ) -> Result<&Estate> {
        let inherited = self.estates.remove(&id).unwrap_or_default();
        let settled = match self.members.get(&id) {
            Some(member) if !inherited.own => self.settled(member, &inherited, remote, pages)?,
            _ => inherited,
        };
        Ok(self.estates.entry(id).or_insert(settled))
    }

    fn settled<'r>(
        &self,
        member: &Member<'_>,
        inherited: &Estate,
        remote: &mut Remote,
        pages: impl FnOnce() -> Result<Resolved<'r>>,
    ) -> Result<Estate> {
        let mut mapped = keep(remote, &inherited.mapped, member.vmas)?;
        let children = member.children.iter();
        let theirs: Vec<&[VmaEntry]> = children
            .filter_map(|child| Some(self.members.get(child)?.vmas))
            .collect();
        let has = |vma: &VmaEntry| {
            theirs
                .iter()
                .any(|vmas| next_in(vma, vmas).next().is_some())
        };
        for vma in member
            .vmas
            .iter()
            .filter(|vma| is_shareable(vma) && has(vma))
        {
            let kept = mapped.iter().any(|kept| kept.start == vma.start);
            let file = |id| self.files.get(&id).copied();
            if !kept && space::map(remote, [vma], &file, &|_| true).is_ok() {
                mapped.push(vma.clone());
            }
        }
        let mut estate = Estate {
            own: true,
            ..Estate::default()
        };
        if mapped.is_empty() {
            return Ok(estate);
        }
        let resolved = pages()?.checked();
        let places: Ranges = mapped.iter().map(space::range).collect();
        let runs: Vec<PageRange> = resolved
            .runs()
            .iter()
            .flat_map(|run| {
                let inside = Ranges::from(run.range).intersect(&places);
                inside.iter().collect::<Vec<_>>()
            })
            .collect();
        let filled: Ranges = runs.iter().copied().collect();
        forget(remote, &inherited.filled.intersect(&places).minus(&filled))?;
        let (old, new) = split(&runs, &inherited.filled);
        let pid = remote.tid();
        let read = |at: u64, part: &mut [u8]| resolved.read_at(at, part);
        estate.pages += pump::update(pid, remote.memory(), old, read)?;
        estate.pages += pump::fill(pid, remote.memory(), new, read)?;
        Ok(Estate {
            mapped,
            filled,
            ..estate
        })
    }
}

/// Parts of `runs` inside and outside of `known`.
fn split(runs: &[PageRange], known: &Ranges) -> (Vec<PageRange>, Vec<PageRange>) {
    let part = |of: &dyn Fn(Ranges) -> Ranges| {
        let parts = runs
            .iter()
            .flat_map(|run| of(Ranges::from(*run)).iter().collect::<Vec<_>>());
        parts.collect()
    };
    (
        part(&|run| run.intersect(known)),
        part(&|run| run.minus(known)),
    )
}

/// True for private memory that fork(2) passes on as it is.
fn is_shareable(vma: &VmaEntry) -> bool {
    let flag = |flag: i32| vma.flags & flag.cast_unsigned() != 0;
    let others = status::GUARD | status::VDSO | status::VVAR | status::VSYSCALL;
    vma.status & status::REGULAR != 0
        && vma.status & others == 0
        && flag(libc::MAP_PRIVATE)
        // A growing stack keeps its distance, locks are not passed on.
        && !flag(libc::MAP_GROWSDOWN | libc::MAP_LOCKED | libc::MAP_HUGETLB)
        && vma.droppable != Some(true)
        && vma.memory_policy.is_none()
}

/// The mappings in `vmas` that begin inside of `old` and are of the same memory.
fn next_in<'v>(old: &VmaEntry, vmas: &'v [VmaEntry]) -> impl Iterator<Item = &'v VmaEntry> {
    let from = vmas.partition_point(|vma| vma.start < old.start);
    let to = vmas.partition_point(|vma| vma.start < old.end);
    let sort = |vma: &VmaEntry| (vma.shmid, vma.prot, vma.flags, vma.status);
    // Anonymous memory has no place in a file.
    let offset = |vma: &VmaEntry| match vma.status & status::FILE_PRIVATE {
        0 => 0,
        _ => vma.pgoff.wrapping_sub(vma.start),
    };
    let alike = (sort(old), offset(old));
    let inside = vmas.get(from..to).unwrap_or_default().iter();
    inside.filter(move |new| is_shareable(new) && (sort(new), offset(new)) == alike)
}

/// Of the mappings that a process has inherited, those that it shall have, as large as it shall have them; the
/// rest goes.
fn keep(remote: &mut Remote, inherited: &[VmaEntry], vmas: &[VmaEntry]) -> Result<Vec<VmaEntry>> {
    let unmap = |start: u64, end: u64| Call::new(libc::SYS_munmap, &[start, end - start]);
    let mut calls = Vec::new();
    for old in inherited {
        let mut at = old.start;
        for new in next_in(old, vmas) {
            if new.start > at {
                calls.push(unmap(at, new.start));
            }
            at = new.end;
        }
        if at < old.end {
            calls.push(unmap(at, old.end));
        }
    }
    remote.run(&mut calls)?;
    let mut kept = Vec::new();
    let both = inherited
        .iter()
        .flat_map(|old| next_in(old, vmas).map(move |new| (old, new)));
    for (old, new) in both {
        if new.end > old.end {
            let args = [new.start, old.end - new.start, new.end - new.start, 0];
            let mut grow = [Call::new(libc::SYS_mremap, &args)];
            remote.run(&mut grow)?;
            if grow[0].value().is_err() {
                remote.run(&mut [unmap(new.start, old.end)])?;
                continue;
            }
        }
        kept.push(new.clone());
    }
    Ok(kept)
}

/// Makes pages what their mappings give.
fn forget(remote: &mut Remote, pages: &Ranges) -> Result<()> {
    let advice = u64::from(libc::MADV_DONTNEED.cast_unsigned());
    let drop =
        |range: PageRange| Call::new(libc::SYS_madvise, &[range.start, range.bytes(), advice]);
    let mut calls: Vec<Call> = pages.iter().map(drop).collect();
    remote.run(&mut calls)?;
    let failed = calls.iter().find_map(|call| call.value().err());
    match failed {
        None => Ok(()),
        Some(errno) => {
            let what = format!("Cannot drop pages of new process {}", remote.tid());
            Err(crate::error::Error::os(what, errno))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vma(start: u64, end: u64) -> VmaEntry {
        VmaEntry {
            start,
            end,
            prot: 3,
            flags: (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).cast_unsigned(),
            status: status::REGULAR | status::ANON_PRIVATE,
            ..VmaEntry::default()
        }
    }

    #[test]
    fn a_mapping_goes_on_where_one_alike_begins_inside_of_it() {
        let starts = |old: &VmaEntry, vmas: &[VmaEntry]| -> Vec<u64> {
            next_in(old, vmas).map(|vma| vma.start).collect()
        };
        let theirs = [vma(0x1000, 0x3000), vma(0x5000, 0x9000)];
        assert_eq!(starts(&vma(0x5000, 0x7000), &theirs), [0x5000]);
        assert_eq!(starts(&vma(0x4000, 0x7000), &theirs), [0x5000]);
        assert_eq!(starts(&vma(0x1000, 0x7000), &theirs), [0x1000, 0x5000]);
        assert!(starts(&vma(0x6000, 0x7000), &theirs).is_empty());
        assert!(starts(&vma(0x3000, 0x5000), &theirs).is_empty());
        let other = VmaEntry {
            prot: 1,
            ..vma(0x1000, 0x3000)
        };
        assert!(starts(&other, &theirs).is_empty());
        let shared = VmaEntry {
            flags: libc::MAP_SHARED.cast_unsigned(),
            ..vma(0x1000, 0x3000)
        };
        assert!(starts(&shared, std::slice::from_ref(&shared)).is_empty());
    }

    #[test]
    fn a_mapping_of_a_file_goes_on_where_it_has_the_same_bytes() {
        let of = |start: u64, pgoff: u64| VmaEntry {
            pgoff,
            status: status::REGULAR | status::FILE_PRIVATE,
            ..vma(start, 0x9000)
        };
        let same = [of(0x3000, 0x2000)];
        assert_eq!(next_in(&of(0x1000, 0), &same).count(), 1);
        assert_eq!(next_in(&of(0x1000, 0x1000), &same).count(), 0);
    }

    #[test]
    fn runs_are_split_at_what_is_known() {
        let known: Ranges = [PageRange::new(0x2000, 0x4000)].into_iter().collect();
        let (old, new) = split(&[PageRange::new(0x1000, 0x6000)], &known);
        assert_eq!(old, [PageRange::new(0x2000, 0x4000)]);
        assert_eq!(
            new,
            [
                PageRange::new(0x1000, 0x2000),
                PageRange::new(0x4000, 0x6000)
            ]
        );
    }
}
