//! CRIU's image format, `img_version` 2: framing, the table of kinds, records, pagemaps.

mod blobs;
mod digest;
mod frame;
mod images;
pub(crate) mod json;
mod kinds;
mod pagemap;
pub mod proto;
mod sidecar;
pub mod status;
#[cfg(test)]
mod tests;
pub mod text;
mod values;
mod writer;

pub use digest::pages_id;
pub use frame::Record;
pub use images::Images;
pub use kinds::{ImageKind, KINDS};
pub use pagemap::{Pagemap, PagemapId, Place, Run, Runs};
pub use sidecar::{
    Consumed, ExtendedAttribute, ExtendedAttributes, Extent, FileDigest, OpenFile, PagesDigest,
    Prediction, SIDECAR, SavedFile, Segment, Sidecar, Task, is_content,
};
pub use writer::{LayerWriter, PagesFile};
