//! The private pages of a task: which ones a layer must hold, and getting them in and out.
//!
//! A page is stored when it is in memory (or swapped), not the shared zero page and not clean file
//! content: then its bytes are nowhere else. It is left to the parent only when the tracker proves
//! that it was not written since the parent was made, or its bytes are equal to what the parent
//! gives. An address that no entry covers holds what its mapping gives: zeros, or the file.

use crate::chain::Ranges;
use crate::error::{Error, Result};
use crate::image::{Pagemap, PagesFile, Place, Run};
use crate::memory::mappings::{Backing, Mapping};
use crate::memory::pump;
use crate::sys::pagemap::{Category, Pagemap as KernelPagemap, Query};
use crate::sys::vm::Memory;
use crate::units::{PAGE_SIZE, PageRange, Pid, Vaddr};

/// Bytes moved at once: fits the second-level cache (measured: larger is slower).
pub(super) const CHUNK: usize = 256 * 1024;

/// How it is known that a page did not change since the parent layer was made.
pub enum Unchanged<'a> {
    /// Nothing is known: every page is stored.
    Unknown,
    /// Pages that the kernel has not seen written since the tracker was armed for the parent.
    Tracked {
        /// The parent's pagemap.
        parent: &'a Pagemap,
        /// What the kernel says of a written page.
        written: Category,
        /// Whether that can be believed of a mapping.
        vouched: &'a dyn Fn(&KernelPagemap, PageRange) -> bool,
    },
    /// Pages whose bytes equal the parent's: the function fills the buffer with the parent's page and
    /// tells whether it has one.
    Compared(&'a mut dyn FnMut(Vaddr, &mut [u8]) -> Result<bool>),
}

impl std::fmt::Debug for Unchanged<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unknown",
            Self::Tracked { .. } => "Tracked",
            Self::Compared(_) => "Compared",
        })
    }
}

/// Pages whose bytes are the task's own.
const OWN: Query = Query {
    all: Category::PFNZERO.union(Category::FILE),
    inverted: Category::PFNZERO.union(Category::FILE),
    any: Category::PRESENT.union(Category::SWAPPED),
    report: Category::empty(),
    protect: false,
    tracked_only: false,
};

/// Guard pages.
const GUARDS: Query = Query {
    all: Category::GUARD,
    inverted: Category::empty(),
    any: Category::empty(),
    report: Category::empty(),
    protect: false,
    tracked_only: false,
};

/// Chooses the pages of `pid` that a layer must cover, ascending. Content comparison happens in
/// [`store`], not here.
///
/// # Errors
/// When the pagemap cannot be read.
pub fn select(pid: Pid, mappings: &[Mapping], unchanged: &Unchanged<'_>) -> Result<Vec<Run>> {
    let kernel = KernelPagemap::open(pid)
        .map_err(|e| Error::io(format!("Cannot open the pagemap of process {pid}"), e))?;
    let cannot = |e| Error::os(format!("Cannot scan the pages of process {pid}"), e);
    let own = own(&kernel, mappings);
    let mut chosen = Pagemap::default();
    for mapping in mappings {
        if matches!(mapping.backing, Backing::Vdso | Backing::AioRing) {
            // The kernel's, but CRIU reads it from the image.
            chosen.push(run(mapping.range, Place::Present));
            continue;
        }
        if !mapping.is_private_memory() {
            continue;
        }
        let parent = match unchanged {
            Unchanged::Tracked {
                parent,
                written,
                vouched,
            } if vouched(&kernel, mapping.range) => Some((*parent, *written)),
            _ => None,
        };
        let query = Query {
            report: parent.map_or(Category::empty(), |(_, w)| w),
            ..own
        };
        kernel
            .scan(mapping.range, &query, |range, category| match parent {
                Some((parent, written)) if !category.contains(written) => {
                    split_by_cover(range, parent, &mut chosen);
                }
                _ => chosen.push(run(range, Place::Present)),
            })
            .map_err(cannot)?;
    }
    Ok(chosen.runs)
}

/// What matches the pages whose bytes are the task's own, without guard pages: those count as swapped
/// but cannot be read. Kernels before Linux 6.15 do not tell them apart.
pub(crate) fn own(kernel: &KernelPagemap, mappings: &[Mapping]) -> Query {
    let knows = mappings.first().is_some_and(|mapping| {
        let page = PageRange::new(mapping.range.start, mapping.range.start + PAGE_SIZE);
        kernel.scan(page, &GUARDS, |_, _| {}).is_ok()
    });
    let guard = if knows {
        Category::GUARD
    } else {
        Category::empty()
    };
    Query {
        all: OWN.all | guard,
        inverted: OWN.inverted | guard,
        ..OWN
    }
}

fn run(range: PageRange, place: Place) -> Run {
    Run {
        start: range.start,
        pages: range.pages(),
        place,
        lazy: false,
    }
}

/// Unwritten pages go to the parent where it covers them, and are stored where it does not.
fn split_by_cover(range: PageRange, parent: &Pagemap, chosen: &mut Pagemap) {
    let mut at = range.start;
    let first = parent
        .runs
        .partition_point(|r| r.range().end <= range.start);
    for cover in parent.runs[first..]
        .iter()
        .map(Run::range)
        .take_while(|r| r.start < range.end)
    {
        let shared = cover.intersect(range);
        chosen.push(run(PageRange::new(at, shared.start), Place::Present));
        chosen.push(run(shared, Place::Parent));
        at = shared.end;
    }
    chosen.push(run(PageRange::new(at, range.end), Place::Present));
}

/// The guard pages inside the mappings of `pid`, ascending; none on kernels without them.
pub fn guards(pid: Pid, mappings: &[Mapping]) -> Vec<PageRange> {
    let Ok(kernel) = KernelPagemap::open(pid) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    // Where only what is shared has them, the kernel can tell that it has (Linux 6.18).
    let may_have = |m: &&Mapping| m.is_private_memory() || m.shared && m.guarded;
    for mapping in mappings.iter().filter(may_have) {
        if kernel
            .scan(mapping.range, &GUARDS, |range, _| found.push(range))
            .is_err()
        {
            return Vec::new();
        }
    }
    found
}

/// What [`store`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Pages written to the pages file.
    pub present: u64,
    /// Pages left to the parent.
    pub in_parent: u64,
}

/// Writes the chosen pages of the stopped process `pid`, which has these mappings, and returns its pagemap.
///
/// # Errors
/// When a page cannot be read or written.
pub fn store(
    pid: Pid,
    mappings: &[Mapping],
    chosen: &[Run],
    unchanged: &mut Unchanged<'_>,
    pages_id: u32,
    out: &mut PagesFile,
) -> Result<(Pagemap, Stored)> {
    let memory = Memory::open(pid)
        .map_err(|e| Error::io(format!("Cannot open the memory of process {pid}"), e))?;
    let cow = mappings.iter().filter(|mapping| mapping.cow);
    let cow: Ranges = cow.map(|mapping| mapping.range).collect();
    let mut pagemap = Pagemap {
        pages_id,
        runs: Vec::new(),
    };
    let mut stored = Stored::default();
    if !matches!(unchanged, Unchanged::Compared(_)) {
        for run in chosen {
            pagemap.push(*run);
            match run.place {
                Place::Present => stored.present += run.pages,
                Place::Parent => stored.in_parent += run.pages,
            }
        }
        pump::copy(pid, &memory, chosen, &cow, out)?;
        return Ok((pagemap, stored));
    }
    let mut buffer = vec![0; CHUNK];
    for run in chosen {
        let range = run.range();
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(range.end - at).unwrap_or(CHUNK).min(CHUNK);
            let part = &mut buffer[..len];
            let here = Ranges::from(PageRange::new(at, at + len as u64));
            let shared = !cow.intersect(&here).is_empty();
            pump::read(pid, &memory, &[(at, len)], shared, part)?;
            unchanged.write(at, part, &mut pagemap, &mut stored, out)?;
            at += len as u64;
        }
    }
    Ok((pagemap, stored))
}

impl Unchanged<'_> {
    /// Writes the pages `bytes` at `start`, but for those that equal the parent's.
    pub(super) fn write(
        &mut self,
        start: Vaddr,
        bytes: &[u8],
        pagemap: &mut Pagemap,
        stored: &mut Stored,
        out: &mut PagesFile,
    ) -> Result<()> {
        if let Self::Compared(parent) = self {
            return compare(start, bytes, parent, pagemap, stored, out);
        }
        out.append(bytes)?;
        let pages = bytes.len() as u64 / PAGE_SIZE;
        stored.present += pages;
        pagemap.push(Run {
            start,
            pages,
            place: Place::Present,
            lazy: false,
        });
        Ok(())
    }
}

impl Stored {
    /// Adds the figures of another pagemap.
    pub fn add(&mut self, other: Self) {
        self.present += other.present;
        self.in_parent += other.in_parent;
    }
}

/// Stores of `bytes` at `start` the pages that differ from the parent's.
fn compare(
    start: Vaddr,
    bytes: &[u8],
    parent: &mut dyn FnMut(Vaddr, &mut [u8]) -> Result<bool>,
    pagemap: &mut Pagemap,
    stored: &mut Stored,
    out: &mut PagesFile,
) -> Result<()> {
    let page = PAGE_SIZE as usize;
    let mut below = vec![0u8; page];
    for (i, mine) in bytes.chunks_exact(page).enumerate() {
        let at = start + i as u64 * PAGE_SIZE;
        let equal = parent(at, &mut below)? && below == mine;
        if equal {
            stored.in_parent += 1;
        } else {
            out.append(mine)?;
            stored.present += 1;
        }
        let place = if equal { Place::Parent } else { Place::Present };
        pagemap.push(Run {
            start: at,
            pages: 1,
            place,
            lazy: false,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pagemap(runs: &[(u64, u64)]) -> Pagemap {
        let mut map = Pagemap::default();
        let mut at = 0x10;
        for (gap, pages) in runs {
            at += gap;
            map.runs.push(Run {
                start: at * PAGE_SIZE,
                pages: *pages,
                place: Place::Present,
                lazy: false,
            });
            at += pages;
        }
        map
    }

    proptest! {
        #[test]
        fn unwritten_pages_go_to_the_parent_exactly_where_it_covers_them(
            runs in proptest::collection::vec((0u64..4, 1u64..5), 0..12),
            start in 0u64..40, pages in 1u64..40,
        ) {
            let parent = pagemap(&runs);
            let range = PageRange::of_pages(start * PAGE_SIZE, pages);
            let mut chosen = Pagemap::default();
            split_by_cover(range, &parent, &mut chosen);
            for page in start..start + pages {
                let addr = page * PAGE_SIZE;
                let covered = parent.runs.iter().any(|r| r.range().contains(addr));
                let places: Vec<_> =
                    chosen.runs.iter().filter(|r| r.range().contains(addr)).collect();
                prop_assert_eq!(places.len(), 1);
                let expected = if covered { Place::Parent } else { Place::Present };
                prop_assert_eq!(places[0].place, expected);
            }
            prop_assert_eq!(chosen.runs.iter().map(|r| r.pages).sum::<u64>(), pages);
        }
    }
}
