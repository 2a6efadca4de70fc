//! What a layer's sidecar (`icecore.img`) says that the chain must know: identities and marks.
//!
//! CRIU ignores the file. A layer made by CRIU has none, until it is marked as consumed; such a
//! sidecar holds only the mark.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use prost::Message;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::image::{Images, frame};

/// Name of the sidecar inside a layer.
const SIDECAR: &str = "icecore.img";

/// What the chain reads of a sidecar.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sidecar {
    /// Identity of the layer; empty in a layer that was not made by this engine.
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Identity of the parent at the time of the dump; empty without one.
    #[prost(bytes = "vec", tag = "2")]
    pub parent_id: Vec<u8>,
    /// When the dump was made (Unix time, nanoseconds).
    #[prost(uint64, optional, tag = "3")]
    pub created: Option<u64>,
    /// What the user called it.
    #[prost(string, optional, tag = "4")]
    pub label: Option<String>,
    /// How long the processes were frozen, in nanoseconds.
    #[prost(uint64, optional, tag = "5")]
    pub freeze_ns: Option<u64>,
    /// Set when dedup made the layer unrestorable.
    #[prost(message, optional, tag = "6")]
    pub consumed: Option<Consumed>,
}

/// The mark of a layer whose pages were freed for the benefit of a layer above.
#[derive(Clone, PartialEq, Eq, Message, Serialize)]
pub struct Consumed {
    /// Directory of the layer above.
    #[prost(string, tag = "1")]
    pub by: String,
    /// When (Unix time, nanoseconds).
    #[prost(uint64, tag = "2")]
    pub at: u64,
}

impl Sidecar {
    /// Reads the sidecar of a layer, if it has one.
    pub fn read(images: &Images) -> Result<Option<Self>> {
        images.optional(SIDECAR)
    }
}

/// An identity as people read it: the first eight digits.
pub fn short_id(id: &[u8]) -> String {
    id.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Marks the layer as consumed by the layer in `by`, durably, unless it is marked already.
///
/// Everything else in the sidecar, fields of later versions included, stays byte for byte: in
/// protobuf, a message appended to another one adds its fields.
pub fn mark_consumed(images: &Images, by: &Path) -> Result<bool> {
    if Sidecar::read(images)?.is_some_and(|sidecar| sidecar.consumed.is_some()) {
        return Ok(false);
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mark = Sidecar {
        consumed: Some(Consumed {
            by: by.display().to_string(),
            at: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }),
        ..Sidecar::default()
    };
    let mut bytes = images.records(SIDECAR)?.into_iter().next().unwrap_or_default().bytes;
    mark.encode(&mut bytes).map_err(|e| Error::corrupt("Cannot encode the mark").because(e))?;
    let mut data = frame::header(SIDECAR)?;
    data.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    data.extend(bytes);
    replace(images.dir(), &data)?;
    Ok(true)
}

/// Replaces the sidecar in one step: after a crash there is the old one or the new one.
fn replace(dir: &Path, data: &[u8]) -> Result<()> {
    let fresh = dir.join("icecore.img.new");
    let write = || {
        let mut file = File::create(&fresh)?;
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&fresh, dir.join(SIDECAR))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| Error::path("mark the layer", dir, e))
}
