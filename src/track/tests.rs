//! Live, on memory of our own: whatever happens to it between two layers, the pages that are left to
//! the parent have the bytes that the parent gives.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use proptest::prelude::*;

use super::uffd_wp::UffdWp;
use super::{DirtyTracker as _, TRACKERS};
use crate::image::{Pagemap as Layer, Place};
use crate::memory::pages::{Unchanged, select};
use crate::memory::{Backing, Mapping, mappings};
use crate::sys::pagemap::Pagemap;
use crate::sys::scratch::Scratch;
use crate::sys::vm::{self, Memory};
use crate::sys::{clone, uffd};
use crate::units::{PAGE_SIZE, Pid, Vaddr};

/// Something that happens to a piece of memory (by number) or a page in it.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Write(usize, usize),
    /// read(2) into the page.
    Read(usize, usize),
    /// Somebody writes through /proc/PID/mem.
    Poke(usize, usize),
    /// MADV_DONTNEED.
    GiveBack(usize, usize),
    /// mremap(2) to another place.
    Move(usize),
    Grow(usize),
    Shrink(usize),
    /// Unmapped, and mapped anew at the same place.
    Anew(usize),
    /// Read-only for a while.
    Protect(usize),
    /// A child that shares all pages.
    Fork,
    /// Somebody else tracks the piece, if it can be had, and has just renewed that.
    Rival(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let place = (0..PIECES, 0..LARGE);
    prop_oneof![
        8 => place.clone().prop_map(|(piece, page)| Happening::Write(piece, page)),
        2 => place.clone().prop_map(|(piece, page)| Happening::Read(piece, page)),
        2 => place.clone().prop_map(|(piece, page)| Happening::Poke(piece, page)),
        3 => place.prop_map(|(piece, page)| Happening::GiveBack(piece, page)),
        1 => (0..PIECES).prop_map(Happening::Move),
        1 => (0..PIECES).prop_map(Happening::Grow),
        1 => (0..PIECES).prop_map(Happening::Shrink),
        1 => (0..PIECES).prop_map(Happening::Anew),
        1 => (0..PIECES).prop_map(Happening::Protect),
        1 => Just(Happening::Fork),
        1 => (0..PIECES).prop_map(Happening::Rival),
    ]
}

const PIECES: usize = 3;
/// Pages of the first piece, which asks for huge pages.
const LARGE: usize = 1024;
/// Pages of the others.
const SMALL: usize = 12;

/// A child that shares our pages as they were; killed when dropped.
struct Shared(Pid);

impl Drop for Shared {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGKILL).unwrap();
        waitpid(self.0, None).unwrap();
    }
}

struct World {
    pieces: Vec<Scratch>,
    ours: OwnedFd,
    rival: OwnedFd,
    children: Vec<Shared>,
    /// Pages that were ever touched, by piece.
    touched: Vec<(usize, usize)>,
    /// Differs from write to write.
    next: u8,
    /// The newest layer, and the byte that it and those below give for each page.
    layer: Option<Layer>,
    bytes: BTreeMap<Vaddr, u8>,
}

impl World {
    fn new() -> Self {
        let pieces: Vec<_> = [LARGE, SMALL, SMALL]
            .map(|pages| Scratch::map(pages).unwrap())
            .into();
        pieces[0].advise(0, LARGE, libc::MADV_HUGEPAGE).unwrap();
        Self {
            pieces,
            ours: uffd::create().unwrap(),
            rival: uffd::create().unwrap(),
            children: Vec::new(),
            touched: Vec::new(),
            next: 0,
            layer: None,
            bytes: BTreeMap::new(),
        }
    }

    fn pages(&self, piece: usize) -> usize {
        usize::try_from(self.pieces[piece].range().pages()).unwrap()
    }

    fn happen(&mut self, happening: Happening) {
        self.next = self.next.checked_add(1).unwrap_or(1);
        let byte = self.next;
        match happening {
            Happening::Write(piece, page) => {
                let page = self.touch(piece, page);
                self.pieces[piece].write(page, byte);
            }
            Happening::Read(piece, page) => {
                let page = self.touch(piece, page);
                let (from, mut to) = std::io::pipe().unwrap();
                to.write_all(&[byte]).unwrap();
                self.pieces[piece].read_into(page, from.as_fd()).unwrap();
            }
            Happening::Poke(piece, page) => {
                let page = self.touch(piece, page) as u64;
                let place = self.pieces[piece].range().start + page * PAGE_SIZE;
                Memory::open(Pid::this())
                    .unwrap()
                    .write(place, &[byte])
                    .unwrap();
            }
            Happening::GiveBack(piece, page) => {
                let page = self.touch(piece, page);
                self.pieces[piece]
                    .advise(page, 1, libc::MADV_DONTNEED)
                    .unwrap();
            }
            Happening::Move(piece) => self.pieces[piece].move_away().unwrap(),
            Happening::Grow(piece) => {
                let pages = self.pages(piece);
                self.pieces[piece].resize(pages + 4).unwrap();
            }
            Happening::Shrink(piece) => {
                let pages = self.pages(piece);
                self.pieces[piece]
                    .resize(pages.saturating_sub(3).max(2))
                    .unwrap();
            }
            Happening::Anew(piece) => {
                let range = self.pieces[piece].range();
                drop(self.pieces.remove(piece));
                // Another thread of the tests may have taken the place.
                let anew = Scratch::map_at(range).or_else(|_| Scratch::map(SMALL));
                self.pieces.insert(piece, anew.unwrap());
            }
            Happening::Protect(piece) => {
                self.pieces[piece].protect(libc::PROT_READ).unwrap();
                let both = libc::PROT_READ | libc::PROT_WRITE;
                self.pieces[piece].protect(both).unwrap();
            }
            Happening::Fork => self.children.push(Shared(clone::fork_idle(None).unwrap())),
            Happening::Rival(piece) => self.arm(&self.rival, &self.mappings()[piece..=piece]),
        }
    }

    /// Notes that a page (modulo the piece's size) has been somebody's.
    fn touch(&mut self, piece: usize, page: usize) -> usize {
        let page = page % self.pages(piece);
        self.touched.push((piece, page));
        page
    }

    /// The pieces as mappings. By hand: the kernel may show them as one with their neighbours.
    fn mappings(&self) -> Vec<Mapping> {
        let layout = mappings::layout(Pid::this()).unwrap();
        let like = layout
            .iter()
            .find(|m| m.backing == Backing::Anonymous && !m.shared)
            .unwrap();
        let ranges = self.pieces.iter().map(Scratch::range);
        ranges
            .map(|range| Mapping {
                range,
                ..like.clone()
            })
            .collect()
    }

    fn arm(&self, uffd: &OwnedFd, mappings: &[Mapping]) {
        UffdWp.arm(Pid::this(), mappings, Some(uffd)).unwrap();
    }

    /// Makes a layer; what it and those below give must be what is there.
    fn dump(&mut self) {
        let mut mappings = self.mappings();
        mappings.sort_by_key(|m| m.range.start);
        let vouched = |pagemap: &Pagemap, range| UffdWp.vouches(pagemap, range, Some(&self.ours));
        let parent = self.layer.take();
        let unchanged = match &parent {
            Some(parent) => Unchanged::Tracked {
                parent,
                written: UffdWp.written().unwrap(),
                vouched: &vouched,
            },
            None => Unchanged::Unknown,
        };
        let runs = select(Pid::this(), &mappings, &unchanged).unwrap();
        let mut bytes = BTreeMap::new();
        for run in &runs {
            for at in (0..run.pages).map(|n| run.start + n * PAGE_SIZE) {
                let byte = match run.place {
                    Place::Parent => self.bytes[&at],
                    _ => byte_at(at),
                };
                bytes.insert(at, byte);
            }
        }
        for (piece, page) in &self.touched {
            let at = self.pieces[*piece].range().start + *page as u64 * PAGE_SIZE;
            if self.pieces[*piece].range().contains(at) {
                let given = bytes.get(&at).copied().unwrap_or(0);
                assert_eq!(given, byte_at(at), "page {page} of piece {piece}, {at:x}");
            }
        }
        self.arm(&self.ours, &mappings);
        self.bytes = bytes;
        self.layer = Some(Layer { pages_id: 1, runs });
        self.children.clear();
    }
}

fn byte_at(at: Vaddr) -> u8 {
    let mut byte = [0];
    vm::read_many(Pid::this(), &[(at, 1)], &mut byte).unwrap();
    byte[0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pages_left_to_the_parent_are_as_the_parent_has_them(
        rounds in prop::collection::vec(prop::collection::vec(happening(), 0..25), 1..5),
    ) {
        if UffdWp.probe().is_err() {
            return Ok(());
        }
        let mut world = World::new();
        for happenings in rounds {
            for happening in happenings {
                world.happen(happening);
            }
            world.dump();
        }
    }
}

#[test]
fn what_is_not_written_is_left_to_the_parent() {
    if UffdWp.probe().is_err() {
        return;
    }
    let mut world = World::new();
    (0..LARGE).for_each(|page| world.happen(Happening::Write(0, page)));
    world.dump();
    for page in [3, 700, 701] {
        world.happen(Happening::Write(0, page));
    }
    world.dump();
    let runs = &world.layer.as_ref().unwrap().runs;
    let present = runs.iter().filter(|run| run.place == Place::Present);
    assert_eq!(present.map(|run| run.pages).sum::<u64>(), 3);
    let in_parent = runs.iter().filter(|run| run.place == Place::Parent);
    assert_eq!(
        in_parent.map(|run| run.pages).sum::<u64>(),
        LARGE as u64 - 3
    );
}

#[test]
fn memory_that_somebody_else_tracks_is_stored_in_full() {
    if UffdWp.probe().is_err() {
        return;
    }
    let mut world = World::new();
    (0..SMALL).for_each(|page| world.happen(Happening::Write(1, page)));
    world.happen(Happening::Rival(1));
    world.dump();
    world.happen(Happening::Write(1, 5));
    // Now the kernel says that nothing is written.
    world.happen(Happening::Rival(1));
    world.dump();
    let runs = &world.layer.as_ref().unwrap().runs;
    assert!(
        runs.iter().all(|run| run.place == Place::Present),
        "{runs:?}"
    );
}

#[test]
fn a_sparse_mapping_does_not_fill_up_when_it_is_armed() {
    if UffdWp.probe().is_err() {
        return;
    }
    let tables = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("VmPTE:"))
            .unwrap()
            .to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let sparse = Scratch::map(4 << 20 >> 2).unwrap(); // 4 GiB
    sparse.write(7, 1);
    let range = sparse.range();
    let mut world = World::new();
    world.pieces.push(sparse);
    let before = tables();
    world.dump();
    // Markers would take 8 bytes for each page, 8 MiB.
    assert!(tables() < before + 4096, "{} kB", tables() - before);
    assert_eq!(range.pages(), 1 << 20);
}

#[test]
fn the_last_tracker_always_works() {
    assert_eq!(TRACKERS.last().map(|t| t.probe()), Some(Ok(())));
    let names: std::collections::BTreeSet<_> = TRACKERS.iter().map(|t| t.name()).collect();
    assert_eq!(names.len(), TRACKERS.len());
}
