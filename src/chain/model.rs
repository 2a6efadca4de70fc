//! Random chains of pagemaps, and what they mean, computed page by page in the most naive way.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use crate::image::proto::{InventoryEntry, MmEntry, PstreeEntry, VmaEntry};
use crate::image::{LayerWriter, Pagemap, PagemapId, Place, Run, SIDECAR, Sidecar};
use crate::units::PAGE_SIZE;

/// Pages that a random pagemap may cover.
pub(crate) const SPACE: usize = 64;

/// One layer's view of memory, page by page.
pub(crate) type Cells = Vec<Option<Place>>;

/// A chain, tip first, with the answers.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) pagemaps: Vec<Pagemap>,
    /// page → (layer, page in that layer's pages file)
    pub(crate) owners: BTreeMap<u64, (usize, u64)>,
    /// Pages without an owner.
    pub(crate) lost: Vec<u64>,
}

/// Random cells in runs of a few pages.
pub(crate) fn cells() -> impl Strategy<Value = Cells> {
    let run = (
        0usize..9,
        prop_oneof![
            Just(None),
            Just(Some(Place::Present)),
            Just(Some(Place::Parent))
        ],
    );
    prop::collection::vec(run, 1..24).prop_map(|runs| {
        let mut cells: Cells = runs
            .into_iter()
            .flat_map(|(n, cell)| vec![cell; n])
            .collect();
        cells.resize(SPACE, None);
        cells
    })
}

/// The pagemap of `cells`.
pub(crate) fn pagemap(cells: &Cells) -> Pagemap {
    let mut map = Pagemap {
        pages_id: 1,
        runs: Vec::new(),
    };
    for (page, cell) in cells.iter().enumerate() {
        if let Some(place) = *cell {
            map.push(Run {
                start: page as u64 * PAGE_SIZE,
                pages: 1,
                place,
                lazy: false,
            });
        }
    }
    map
}

/// Where page `page` of layer `layer` is: the owner, or nothing.
pub(crate) fn owner(chain: &[&Cells], layer: usize, page: usize) -> Option<(usize, u64)> {
    match (*chain.get(layer)?)[page]? {
        Place::Parent => owner(chain, layer + 1, page),
        Place::Present => {
            let before = chain[layer][..page]
                .iter()
                .filter(|c| **c == Some(Place::Present))
                .count();
            Some((layer, before as u64))
        }
    }
}

/// Chains of `depth` layers.
pub(crate) fn chain(depth: Range<usize>) -> impl Strategy<Value = Model> {
    prop::collection::vec(cells(), depth).prop_map(|layers| {
        let chain: Vec<&Cells> = layers.iter().collect();
        let mut owners = BTreeMap::new();
        let mut lost = Vec::new();
        for page in (0..SPACE).filter(|page| layers[0][*page].is_some()) {
            match owner(&chain, 0, page) {
                Some(found) => drop(owners.insert(page as u64, found)),
                None => lost.push(page as u64),
            }
        }
        Model {
            pagemaps: layers.iter().map(pagemap).collect(),
            owners,
            lost,
        }
    })
}

/// A tree of layers as pages: layer `n` has parent `parents[n] < n`.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    pub(crate) parents: Vec<Option<usize>>,
    pub(crate) layers: Vec<Cells>,
}

/// Trees in which every in-parent page can be found.
pub(crate) fn tree(size: Range<usize>) -> impl Strategy<Value = Tree> {
    prop::collection::vec((any::<prop::sample::Index>(), cells()), size).prop_map(|layers| {
        let mut tree = Tree {
            parents: Vec::new(),
            layers: Vec::new(),
        };
        for (n, (parent, mut cells)) in layers.into_iter().enumerate() {
            // The later layers are likelier parents, so that chains get long.
            let parent = (n > 0).then(|| n - 1 - parent.index(n) / 2);
            for (page, cell) in cells.iter_mut().enumerate() {
                if *cell == Some(Place::Parent)
                    && parent.is_none_or(|p| tree.layers[p][page].is_none())
                {
                    *cell = None;
                }
            }
            tree.parents.push(parent);
            tree.layers.push(cells);
        }
        tree
    })
}

impl Tree {
    /// The layer with its ancestors, tip first.
    pub(crate) fn line(&self, tip: usize) -> Vec<usize> {
        std::iter::successors(Some(tip), |layer| self.parents[*layer]).collect()
    }

    /// Which layer holds `page` as of `tip`.
    pub(crate) fn owner(&self, tip: usize, page: usize) -> Option<usize> {
        let line = self.line(tip);
        let chain: Vec<&Cells> = line.iter().map(|layer| &self.layers[*layer]).collect();
        owner(&chain, 0, page).map(|(up, _)| line[up])
    }

    /// The bytes of `page` as stored in `layer`: every byte is set, none is zero.
    pub(crate) fn bytes(layer: usize, page: usize) -> Vec<u8> {
        vec![u8::try_from(1 + (layer * SPACE + page) % 251).unwrap(); PAGE_SIZE as usize]
    }

    pub(crate) fn dir(root: &Path, layer: usize) -> PathBuf {
        root.join(layer.to_string())
    }

    /// Writes all layers below `root`.
    pub(crate) fn write(&self, root: &Path) {
        for (n, cells) in self.layers.iter().enumerate() {
            let writer = LayerWriter::create(Self::dir(root, n)).unwrap();
            let mut pages = writer.pages(1).unwrap();
            for page in (0..SPACE).filter(|page| cells[*page] == Some(Place::Present)) {
                pages.append(&Self::bytes(n, page)).unwrap();
            }
            writer
                .pagemap(PagemapId::Task(TASK), &pagemap(cells))
                .unwrap();
            if let Some(parent) = self.parents[n] {
                writer
                    .link_parent(&PathBuf::from(format!("../{parent}")))
                    .unwrap();
            }
            write_task(&writer);
            let inventory = InventoryEntry {
                img_version: 2,
                ..InventoryEntry::default()
            };
            writer.one("inventory.img", &inventory).unwrap();
            writer.commit().unwrap();
        }
    }
}

/// The task of all layers.
pub(crate) const TASK: u32 = 7;

/// The task with one mapping of all pages.
fn write_task(writer: &LayerWriter) {
    let task = PstreeEntry {
        pid: TASK,
        threads: vec![7, 8],
        ..PstreeEntry::default()
    };
    writer.one("pstree.img", &task).unwrap();
    let vma = VmaEntry {
        start: 0,
        end: SPACE as u64 * PAGE_SIZE,
        ..VmaEntry::default()
    };
    let mm = MmEntry {
        vmas: vec![vma],
        ..MmEntry::default()
    };
    writer.one(&format!("mm-{TASK}.img"), &mm).unwrap();
}

/// A directory on a file system where making many files durable is quick.
pub(crate) fn scratch() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        tempfile::tempdir_in(shm).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// The pagemap of a [`Made`] layer.
pub(crate) const MADE: PagemapId = PagemapId::Task(TASK);

/// A layer with one task: `runs` are (first page, pages, place).
pub(crate) struct Made<'a> {
    pub(crate) name: &'a str,
    pub(crate) parent: Option<&'a str>,
    pub(crate) runs: &'a [(u64, u64, Place)],
    pub(crate) sidecar: Option<Sidecar>,
    pub(crate) version: Option<u32>,
}

impl<'a> Made<'a> {
    pub(crate) fn new(
        name: &'a str,
        parent: Option<&'a str>,
        runs: &'a [(u64, u64, Place)],
    ) -> Self {
        Self {
            name,
            parent,
            runs,
            sidecar: None,
            version: Some(2),
        }
    }

    pub(crate) fn id(mut self, id: u8, parent: Option<u8>) -> Self {
        self.sidecar = Some(Sidecar {
            id: vec![id; 16],
            parent_id: parent.map(|p| vec![p; 16]).unwrap_or_default(),
            ..Sidecar::default()
        });
        self
    }

    pub(crate) fn write(self, root: &Path) -> PathBuf {
        let dir = root.join(self.name);
        let writer = LayerWriter::create(&dir).unwrap();
        let mut map = Pagemap {
            pages_id: 1,
            runs: Vec::new(),
        };
        let mut pages = writer.pages(1).unwrap();
        for (first, count, place) in self.runs {
            let start = first * PAGE_SIZE;
            map.runs.push(Run {
                start,
                pages: *count,
                place: *place,
                lazy: false,
            });
            if *place == Place::Present {
                let bytes = usize::try_from(count * PAGE_SIZE).unwrap();
                pages.append(&vec![0xAA; bytes]).unwrap();
            }
        }
        writer.pagemap(MADE, &map).unwrap();
        if let Some(parent) = self.parent {
            writer.link_parent(Path::new(parent)).unwrap();
        }
        if let Some(sidecar) = &self.sidecar {
            writer.one(SIDECAR, sidecar).unwrap();
        }
        write_task(&writer);
        if let Some(img_version) = self.version {
            let inventory = InventoryEntry {
                img_version,
                ..InventoryEntry::default()
            };
            writer.one("inventory.img", &inventory).unwrap();
        }
        writer.commit().unwrap();
        dir
    }
}
