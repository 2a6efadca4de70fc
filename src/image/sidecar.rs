//! The sidecar `icecore.img`: what we note beside CRIU's images about a layer of ours.
//!
//! CRIU ignores the file. A layer made by CRIU has none until it is marked as consumed; such a
//! sidecar holds only the mark, so no field may be relied on. The format is a normal image with one
//! protobuf record (`proto/icecore.proto`); fields of later versions survive a mark byte for byte.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use prost::Message as _;

pub use super::proto::icecore::{Consumed, Segment, Sidecar, Task};
use super::{Images, Record, frame};
use crate::error::{Error, Result};

/// Name of the sidecar inside a layer.
pub const SIDECAR: &str = "icecore.img";

impl Sidecar {
    /// Reads the sidecar of a layer, if it has one.
    pub fn read(images: &Images) -> Result<Option<Self>> {
        images.optional(SIDECAR)
    }

    /// Marks a finished layer as consumed by the layer in `by`, durably. False if it was marked
    /// already.
    pub fn mark_consumed(images: &Images, by: &Path) -> Result<bool> {
        if Self::read(images)?.is_some_and(|sidecar| sidecar.consumed.is_some()) {
            return Ok(false);
        }
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let at = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let by = by.display().to_string();
        let mark = Self {
            consumed: Some(Consumed { by, at }),
            ..Self::default()
        };
        let mut records = images.records(SIDECAR)?;
        if records.is_empty() {
            records.push(Record::default());
        }
        // In protobuf, a message appended to another one adds its fields.
        records[0].bytes.extend(mark.encode_to_vec());
        let data = frame::join(SIDECAR, &records)?;
        replace(images.dir(), &data)?;
        Ok(true)
    }

    /// An identity as people read it: the first eight digits.
    pub fn short(id: &[u8]) -> String {
        Self::hex(id.get(..4).unwrap_or(id))
    }

    /// An identity in full.
    pub fn hex(id: &[u8]) -> String {
        id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_keeps_all_other_fields_even_unknown_ones() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        let before = Sidecar {
            id: vec![7; 16],
            label: Some("x".into()),
            ..Sidecar::default()
        };
        let mut bytes = before.encode_to_vec();
        let unknown = [0xf8, 0x7f, 0x2a]; // field 2047, varint 42
        bytes.extend(unknown);
        let mut data = frame::header(SIDECAR).unwrap();
        data.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
        data.extend(&bytes);
        fs::write(dir.path().join(SIDECAR), data).unwrap();

        assert!(Sidecar::mark_consumed(&images, Path::new("/up")).unwrap());
        assert!(!Sidecar::mark_consumed(&images, Path::new("/other")).unwrap());

        let after = Sidecar::read(&images).unwrap().unwrap();
        assert_eq!(after.consumed.as_ref().unwrap().by, "/up");
        assert_eq!(
            Sidecar {
                consumed: None,
                ..after
            },
            before
        );
        let raw = &images.records(SIDECAR).unwrap()[0].bytes;
        assert!(raw.windows(3).any(|w| w == unknown));
    }

    #[test]
    fn a_layer_without_sidecar_gets_one_that_holds_only_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        assert!(Sidecar::mark_consumed(&images, Path::new("/up")).unwrap());
        let sidecar = Sidecar::read(&images).unwrap().unwrap();
        assert_eq!(
            Sidecar {
                consumed: None,
                ..sidecar
            },
            Sidecar::default()
        );
    }
}
