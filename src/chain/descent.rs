//! The search for owners: down the stack, and up the addresses.
//!
//! All pagemaps are read side by side, each once. Where a stretch of addresses is alike in every layer, one
//! look at each is enough. Elsewhere the pages of a window are painted, layer by layer from the tip down,
//! with the layer that was found or the last one that said "in my parent", until nothing is
//! left to find; a layer that is not needed is not opened. With every tenth page of 10⁷ changed at random
//! by each of 100 layers, this is several times faster than sets of ranges, and takes no memory but for
//! the result.

use super::owner::{Missing, Owned, Ownership, Why};
use crate::error::Result;
use crate::image::{Place, Run};
use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// Pages that are painted at a time: what is noted of them fits a second-level cache.
const WINDOW: usize = if cfg!(test) { 16 } else { 1 << 15 };
/// Pages without an entry that end a window, and pages alike that need none.
const ALIKE: u64 = if cfg!(test) { 4 } else { 64 };

/// Bit of a painted page: its layer has sent the search on. The others are the layer's number.
const WANTED: u32 = 1;
/// A page that the tip does not cover.
const NOBODY: u32 = u32::MAX;

/// The runs of one pagemap, ascending.
pub(super) struct Source<'s> {
    /// N of `pages-N.img`.
    pub(super) pages_id: u32,
    /// The runs.
    pub(super) runs: Box<dyn Iterator<Item = Result<Run>> + 's>,
}

/// A pagemap that has been read up to some address.
struct Cursor<'s> {
    source: Source<'s>,
    /// The run that is looked at.
    run: Option<Run>,
    /// Its place in the pages file, in pages.
    place: u64,
}

impl<'s> Cursor<'s> {
    fn new(mut source: Source<'s>) -> Result<Self> {
        let run = source.runs.next().transpose()?;
        Ok(Self {
            source,
            run,
            place: 0,
        })
    }

    fn advance(&mut self) -> Result<()> {
        if let Some(run) = self.run.filter(|run| run.place == Place::Present) {
            self.place += run.pages;
        }
        self.run = self.source.runs.next().transpose()?;
        Ok(())
    }

    /// The first run that ends after `at`.
    fn seek(&mut self, at: Vaddr) -> Result<Option<Run>> {
        while let Some(run) = self.run
            && run.range().end <= at
        {
            self.advance()?;
        }
        Ok(self.run)
    }
}

/// What became of the search for a page.
#[derive(Clone, Copy)]
enum End {
    /// Layer, place in its pages file.
    Found(usize, u64),
    /// The last layer that sent the search on, and why it ended.
    Lost(usize, Why),
}

/// The search.
struct Descent<'s, F> {
    /// Layers that were needed so far, the tip first.
    cursors: Vec<Cursor<'s>>,
    /// Opens another one below, or tells why there is none.
    open: F,
    bottom: Option<Why>,
    found: Ownership,
    /// Number of the tip in the stack.
    tip: usize,
}

/// Who owns each page of a pagemap. `open` gives that of a layer, counted from the tip, whose number in the
/// stack is `tip`.
///
/// # Errors
/// When a pagemap is damaged.
pub(super) fn ownership<'s, F>(tip: usize, open: F) -> Result<Ownership>
where
    F: FnMut(usize) -> Result<std::result::Result<Source<'s>, Why>>,
{
    let mut descent = Descent {
        cursors: Vec::new(),
        open,
        bottom: None,
        found: Ownership::default(),
        tip,
    };
    let mut painted = Painted::default();
    let mut at = 0;
    while let Some(run) = descent.run(0, at)? {
        at = at.max(run.start);
        let (end, until) = descent.look(at)?;
        if (until - at) / PAGE_SIZE >= ALIKE {
            descent.note(PageRange::new(at, until), end);
            at = until;
        } else {
            at = descent.paint(at, &mut painted)?;
        }
    }
    // What nobody needed may be damaged as well, and then offsets are not to be trusted.
    for cursor in &mut descent.cursors {
        while cursor.run.is_some() {
            cursor.advance()?;
        }
    }
    Ok(descent.found)
}

/// A window: for each page its layer, and its place in that layer's pages file.
#[derive(Default)]
struct Painted {
    layers: Vec<u32>,
    places: Vec<u64>,
}

impl<'s, F> Descent<'s, F>
where
    F: FnMut(usize) -> Result<std::result::Result<Source<'s>, Why>>,
{
    /// The pagemap of `layer`, unless the stack ends before.
    fn cursor(&mut self, layer: usize) -> Result<Option<&mut Cursor<'s>>> {
        if layer == self.cursors.len() && self.bottom.is_none() {
            match (self.open)(layer)? {
                Ok(source) => self.cursors.push(Cursor::new(source)?),
                Err(why) => self.bottom = Some(why),
            }
        }
        Ok(self.cursors.get_mut(layer))
    }

    fn run(&mut self, layer: usize, at: Vaddr) -> Result<Option<Run>> {
        match self.cursor(layer)? {
            Some(cursor) => cursor.seek(at),
            None => Ok(None),
        }
    }

    /// Why a page that `layer` has sent on was not found.
    fn why(&self, layer: usize) -> Why {
        match self.bottom {
            Some(why) if layer + 1 == self.cursors.len() => why,
            _ => Why::NotCovered,
        }
    }

    /// What becomes of page `at`, which the tip covers, and up to where it is the same.
    fn look(&mut self, at: Vaddr) -> Result<(End, Vaddr)> {
        let mut until = Vaddr::MAX;
        let mut layer = 0;
        loop {
            let run = self.run(layer, at)?;
            match run {
                Some(run) if run.start <= at => {
                    until = until.min(run.range().end);
                    if run.place == Place::Present {
                        let place = self.cursors[layer].place + (at - run.start) / PAGE_SIZE;
                        return Ok((End::Found(layer, place), until));
                    }
                    layer += 1;
                }
                _ => {
                    let until = run.map_or(until, |run| until.min(run.start));
                    return Ok((End::Lost(layer - 1, self.why(layer - 1)), until));
                }
            }
        }
    }

    /// Finds the owners of a window of pages from `at` on; returns its end.
    fn paint(&mut self, at: Vaddr, painted: &mut Painted) -> Result<Vaddr> {
        let Painted { layers, places } = painted;
        layers.clear();
        let limit = at.saturating_add(WINDOW as u64 * PAGE_SIZE);
        let page = |addr: Vaddr| ((addr - at) / PAGE_SIZE) as usize;
        let mut wanted = 0;
        let Some(tip) = self.cursor(0)? else {
            return Ok(limit);
        };
        places.resize(WINDOW, 0);
        while let Some(run) = tip.seek(at)? {
            let part = run.range().intersect(PageRange::new(at, limit));
            let gap = part
                .start
                .saturating_sub(at + layers.len() as u64 * PAGE_SIZE);
            if part.is_empty() || gap / PAGE_SIZE >= ALIKE {
                break;
            }
            layers.resize(page(part.start), NOBODY);
            match run.place {
                Place::Present => {
                    let first = tip.place + (part.start - run.start) / PAGE_SIZE;
                    let part = page(part.start)..page(part.end);
                    layers.resize(part.end, 0);
                    (first..)
                        .zip(&mut places[part])
                        .for_each(|(n, place)| *place = n);
                }
                Place::Parent => {
                    layers.resize(page(part.end), WANTED);
                    wanted += part.pages();
                }
            }
            if run.range().end > limit {
                break;
            }
            tip.advance()?;
        }
        let end = at + layers.len() as u64 * PAGE_SIZE;
        let window = PageRange::new(at, end);
        let mut layer = 1;
        while wanted > 0 {
            let Some(cursor) = self.cursor(layer)? else {
                break;
            };
            let number = (layer as u32) << 1;
            let above = (number - 2) | WANTED;
            wanted = 0;
            while let Some(run) = cursor.seek(at)? {
                let part = run.range().intersect(window);
                if part.is_empty() {
                    break;
                }
                let first = cursor.place + part.start.saturating_sub(run.start) / PAGE_SIZE;
                let pages = page(part.start)..page(part.end);
                match run.place {
                    Place::Present => {
                        let places = &mut places[pages.clone()];
                        let pages = layers[pages].iter_mut().zip(places);
                        for (n, (layer, place)) in (first..).zip(pages) {
                            if *layer == above {
                                (*layer, *place) = (number, n);
                            }
                        }
                    }
                    Place::Parent => {
                        for layer in &mut layers[pages] {
                            let sent = *layer == above;
                            *layer = if sent { number | WANTED } else { *layer };
                            wanted += u64::from(sent);
                        }
                    }
                }
                if run.range().end > end {
                    break;
                }
                cursor.advance()?;
            }
            layer += 1;
        }
        self.collect(at, painted);
        Ok(end)
    }

    /// Notes the owners of a painted window.
    fn collect(&mut self, at: Vaddr, Painted { layers, places }: &Painted) {
        let mut page = 0;
        while let Some(&first) = layers.get(page) {
            let place = places[page];
            let is_found = first & WANTED == 0;
            let alike = layers[page..].iter().zip(&places[page..]).zip(place..);
            let alike = alike
                .take_while(|((layer, n), next)| **layer == first && (!is_found || *n == next));
            let pages = alike.count();
            let start = at + page as u64 * PAGE_SIZE;
            let range = PageRange::of_pages(start, pages as u64);
            let layer = (first >> 1) as usize;
            if is_found {
                self.note(range, End::Found(layer, place));
            } else if first != NOBODY {
                self.note(range, End::Lost(layer, self.why(layer)));
            }
            page += pages;
        }
    }

    fn note(&mut self, range: PageRange, end: End) {
        match end {
            End::Found(layer, place) => self.found.push(Owned {
                range,
                layer: self.tip + layer,
                pages_id: self.cursors[layer].source.pages_id,
                offset: place * PAGE_SIZE,
            }),
            End::Lost(layer, why) => self.found.lose(Missing {
                range,
                layer: self.tip + layer,
                why,
            }),
        }
    }
}
