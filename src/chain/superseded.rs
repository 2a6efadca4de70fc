//! Superseded pages: stored in a layer although a layer above stores them again, so that no stack
//! through that upper layer ever reads them. And the price of freeing pages: which layers read
//! them nevertheless.

use super::Ranges;
use crate::image::{Pagemap, Place};

/// The pages that `ancestor` stores and `child` stores again.
#[must_use]
pub fn superseded(ancestor: &Pagemap, child: &Pagemap) -> Ranges {
    Ranges::of(ancestor, Place::Present).intersect(&Ranges::of(child, Place::Present))
}

/// Follows freed pages upwards through the layers that read them.
///
/// Freed pages are gone as of the layer that stored them, and as of every layer above that finds
/// them through an unbroken line of in-parent entries.
#[derive(Clone, Debug, Default)]
pub struct Affected(Ranges);

impl Affected {
    /// Freed pages as seen from a layer: those freed in the layer itself, and those of its
    /// `parent` that it keeps in-parent.
    #[must_use]
    pub fn above(parent: Option<&Self>, pagemap: &Pagemap, freed_here: &Ranges) -> Self {
        let own = Ranges::of(pagemap, Place::Present).intersect(freed_here);
        match parent {
            Some(parent) if !parent.0.is_empty() => {
                Self(own.union(&Ranges::of(pagemap, Place::Parent).intersect(&parent.0)))
            }
            _ => Self(own),
        }
    }

    /// The pages that are lost as of this layer; none means that it stays as restorable as it was.
    pub fn pages(&self) -> &Ranges {
        &self.0
    }
}
