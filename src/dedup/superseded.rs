//! Superseded pages: stored again by the tip, at the same address, whatever they hold. This is the
//! meaning of `criu dedup`: the layers below stop being restorable.

use super::Strategy;
use crate::chain::{Ranges, Stack, superseded};
use crate::error::Result;
use crate::image::{Pagemap, PagemapId};

/// CRIU's meaning of dedup.
#[derive(Clone, Copy, Debug)]
pub struct Superseded;

impl Strategy for Superseded {
    fn name(&self) -> &'static str {
        "superseded"
    }

    fn summary(&self) -> &'static str {
        "frees what the layer stores again (as criu does); the layers below can't be restored then"
    }

    fn decide(&self, _: &Stack, _: PagemapId, pagemaps: &[Pagemap]) -> Result<Vec<Ranges>> {
        let Some((tip, ancestors)) = pagemaps.split_first() else {
            return Ok(Vec::new());
        };
        let below = ancestors.iter().map(|ancestor| superseded(ancestor, tip));
        Ok(std::iter::once(Ranges::new()).chain(below).collect())
    }
}
