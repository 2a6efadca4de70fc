//! Pagemaps: which pages of a task (or shared segment) are stored here, stored below, or neither.
//!
//! A pagemap image is one head record (`pages_id`, naming `pages-N.img`) followed by entries in
//! ascending, disjoint order. Only present runs advance the offset in the pages file.

use crate::units::{PAGE_SIZE, PageRange, Vaddr};

/// Names a pagemap image of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PagemapId {
    /// `pagemap-PID.img`: private memory of a task; runs are virtual addresses.
    Task(u32),
    /// `pagemap-shmem-SHMID.img`: a shared segment; runs are offsets inside the segment.
    Shared(u64),
}

/// In JSON a pagemap is its file name.
impl serde::Serialize for PagemapId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.file_name())
    }
}

impl PagemapId {
    /// The file name inside the layer directory.
    pub fn file_name(self) -> String {
        match self {
            Self::Task(pid) => format!("pagemap-{pid}.img"),
            Self::Shared(id) => format!("pagemap-shmem-{id}.img"),
        }
    }
}

/// Where the bytes of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this layer's pages file.
    Present,
    /// In the nearest ancestor that covers the address.
    Parent,
}

/// One run of pages that are in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First address (or offset in a shared segment), page-aligned.
    pub start: Vaddr,
    /// Number of pages, never 0.
    pub pages: u64,
    /// Where the bytes are.
    pub place: Place,
    /// CRIU's PE_LAZY: the page may be filled later by a lazy restore. Kept for byte-exact rewrite.
    pub lazy: bool,
}

impl Run {
    /// The addresses of the run.
    pub fn range(&self) -> PageRange {
        PageRange::of_pages(self.start, self.pages)
    }
}

/// A pagemap after normalisation of legacy entries: ascending, disjoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// N of `pages-N.img`.
    pub pages_id: u32,
    /// Ascending, disjoint runs.
    pub runs: Vec<Run>,
}

impl Pagemap {
    /// Bytes that the pages file must have: the sum of the present runs.
    pub fn stored_bytes(&self) -> u64 {
        self.runs
            .iter()
            .filter(|r| r.place == Place::Present)
            .map(|r| r.pages * PAGE_SIZE)
            .sum()
    }

    /// Appends a run, merging it with the last one where they touch and agree.
    pub fn push(&mut self, run: Run) {
        if let Some(last) = self.runs.last_mut()
            && last.range().end == run.start
            && last.place == run.place
            && last.lazy == run.lazy
        {
            last.pages += run.pages;
        } else if run.pages > 0 {
            self.runs.push(run);
        }
    }
}
