//! What the colours of the map tell: the owner of each page, or something about its bytes. Reads every
//! page of the layer where it must; never on the drawing thread.
//!
//! A class of pages stands on the map as the "layer" of its number, so that everything that draws owners
//! draws classes.

use std::collections::HashMap;
use std::path::Path;

use icecore::chain::Held;
use icecore::image::PagemapId;
use icecore::inspect::{Space, View};
use icecore::{PAGE_SIZE, PageRange, Result};
use serde::{Deserialize, Serialize};

use super::map::{Map, Owner};

/// What the colours tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Coloring {
    /// The layer that holds the bytes.
    #[default]
    Owner,
    /// What differs from the layer below.
    Changed,
    /// Pages with the bytes of another one.
    Duplicates,
    /// Pages of zeros.
    Zero,
    /// How much there is in the bytes.
    Entropy,
}

/// Pages read at once.
const AT_ONCE: u64 = 64;

impl Coloring {
    /// The next one.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Owner => Self::Changed,
            Self::Changed => Self::Duplicates,
            Self::Duplicates => Self::Zero,
            Self::Zero => Self::Entropy,
            Self::Entropy => Self::Owner,
        }
    }

    /// What it asks, as the title of the map.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Owner => "Who owns each page of",
            Self::Changed => "What changed in",
            Self::Duplicates => "What is there twice in",
            Self::Zero => "What is zero in",
            Self::Entropy => "Bits a byte in",
        }
    }

    /// Letter and name of each class; the last one is the ordinary case.
    pub(crate) fn classes(self) -> &'static [(char, &'static str)] {
        match self {
            Self::Owner => &[],
            Self::Changed => &[
                ('c', "changed"),
                ('s', "rewritten, same"),
                ('u', "untouched"),
            ],
            Self::Duplicates => &[('d', "twice"), ('z', "zeros"), ('o', "once")],
            Self::Zero => &[('z', "zeros"), ('o', "others")],
            Self::Entropy => &[('r', "7.5-8"), ('d', "5-7.5"), ('t', "2-5"), ('s', "0-2")],
        }
    }
}

/// The map of the layer in `dir`, in other colours than its owners'.
///
/// # Errors
/// When the layer or one of its ancestors cannot be read.
pub(super) fn load(dir: &Path, coloring: Coloring) -> Result<Map> {
    let owners = Map::of_owners(dir)?;
    if coloring == Coloring::Owner {
        return Ok(owners);
    }
    let _held = Held::shared(dir)?;
    let view = View::open(dir)?;
    let below = match owners.dirs.get(1) {
        Some(dir) if coloring == Coloring::Changed => Some(View::open(dir)?),
        _ => None,
    };
    let classes = match coloring {
        Coloring::Duplicates => duplicates(&view, &owners)?,
        Coloring::Changed => each(&view, &owners, |id, addr, page, owner| {
            if owner != Owner::Layer(0) {
                return Ok(2);
            }
            let Some(below) = &below else { return Ok(0) };
            Ok(usize::from(same_below(below, id, addr, page)))
        })?,
        Coloring::Zero => each(&view, &owners, |_, _, page, _| {
            Ok(usize::from(!is_zero(page)))
        })?,
        Coloring::Entropy => each(&view, &owners, |_, _, page, _| {
            Ok(match entropy(page) {
                bits if bits >= 7.5 => 0,
                bits if bits >= 5.0 => 1,
                bits if bits >= 2.0 => 2,
                _ => 3,
            })
        })?,
        Coloring::Owner => Vec::new(),
    };
    Ok(owners.colored(coloring, &classes))
}

/// Asks for the class of each page with bytes, in the order of the map; the others have none.
fn each(
    view: &View,
    map: &Map,
    mut class: impl FnMut(PagemapId, u64, &[u8], Owner) -> Result<usize>,
) -> Result<Vec<Option<usize>>> {
    let mut classes = Vec::new();
    let mut bytes = vec![0; usize::try_from(AT_ONCE * PAGE_SIZE).unwrap_or(0)];
    for (index, id) in map.ids.iter().enumerate() {
        let space = space(view, *id)?;
        for run in map.runs.iter().filter(|run| run.space == index) {
            if run.owner == Owner::Missing {
                classes.extend((0..run.pages).map(|_| None));
                continue;
            }
            for part in space.parts(PageRange::of_pages(run.addr, run.pages)) {
                let mut at = part.range.start;
                while at < part.range.end {
                    let pages = ((part.range.end - at) / PAGE_SIZE).min(AT_ONCE);
                    let length = usize::try_from(pages * PAGE_SIZE).unwrap_or(0);
                    let Some(bytes) = bytes.get_mut(..length) else {
                        break;
                    };
                    let there = part.source.absence().is_none();
                    if there {
                        space.read(&part, at, bytes)?;
                    }
                    for (page, at) in bytes.chunks(4096).zip((at..).step_by(4096)) {
                        let found = there.then(|| class(*id, at, page, run.owner));
                        classes.push(found.transpose()?);
                    }
                    at += pages * PAGE_SIZE;
                }
            }
        }
    }
    Ok(classes)
}

fn duplicates(view: &View, map: &Map) -> Result<Vec<Option<usize>>> {
    let mut seen: HashMap<[u8; 16], u32> = HashMap::new();
    let mut digests = Vec::new();
    each(view, map, |_, _, page, _| {
        let mut digest = [0; 16];
        blake3::Hasher::new()
            .update(page)
            .finalize_xof()
            .fill(&mut digest);
        *seen.entry(digest).or_default() += 1;
        digests.push((digest, is_zero(page)));
        Ok(0)
    })
    .map(|mut classes| {
        let mut digests = digests.iter();
        for class in classes.iter_mut().flatten() {
            *class = match digests.next() {
                Some((_, true)) => 1,
                Some((digest, _)) if seen.get(digest).is_some_and(|count| *count > 1) => 0,
                _ => 2,
            };
        }
        classes
    })
}

fn space(view: &View, id: PagemapId) -> Result<Space<'_>> {
    match id {
        PagemapId::Task(pid) => view.space(pid),
        PagemapId::Shared(shmid) => view.segment(shmid),
    }
}

/// Whether the layer below has the same bytes at this place.
fn same_below(below: &View, id: PagemapId, addr: u64, page: &[u8]) -> bool {
    let mut bytes = vec![0; page.len()];
    // A process that is not below, or a page that cannot be read there, is another one.
    let mut read = || -> Result<bool> {
        let space = space(below, id)?;
        let part = space.parts(PageRange::of_pages(addr, 1)).into_iter().next();
        let Some(part) = part.filter(|part| part.source.absence().is_none()) else {
            return Ok(false);
        };
        space.read(&part, addr, &mut bytes)?;
        Ok(bytes == page)
    };
    read().unwrap_or(false)
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Shannon's entropy of the bytes of a page, in bits a byte.
fn entropy(page: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in page {
        counts[usize::from(*byte)] += 1;
    }
    let all = page.len().max(1) as f64;
    let share = |count: &u32| f64::from(*count) / all;
    let shares = counts.iter().filter(|count| **count > 0).map(share);
    shares.map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_nothing_for_one_byte_and_eight_bits_for_all() {
        assert_eq!(entropy(&[7; 4096]), 0.0);
        let all: Vec<u8> = (0..4096).map(|n| (n % 256) as u8).collect();
        assert!((entropy(&all) - 8.0).abs() < 1e-9);
        assert!(is_zero(&[0; 4096]) && !is_zero(&all));
    }

    #[test]
    fn the_colourings_go_around_and_their_letters_differ() {
        let mut coloring = Coloring::default();
        for _ in 0..5 {
            let letters: Vec<char> = coloring
                .classes()
                .iter()
                .map(|(letter, _)| *letter)
                .collect();
            let mut once = letters.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), letters.len());
            coloring = coloring.next();
        }
        assert_eq!(coloring, Coloring::Owner);
    }
}
