//! Random chains of pagemaps, and what they mean, computed page by page in the most naive way.

use std::collections::BTreeMap;
use std::ops::Range;

use proptest::prelude::*;

use crate::image::{Pagemap, Place, Run};
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
