//! CRIU's image format, `img_version` 2: framing, the table of kinds, records, pagemaps.

mod pagemap;

pub use pagemap::{Pagemap, PagemapId, Place, Run};
