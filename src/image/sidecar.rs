//! The sidecar `icecore.img`: what we note beside CRIU's images about a layer of ours.
//!
//! CRIU ignores the file. A layer made by CRIU has none until it is marked as consumed; such a
//! sidecar holds only the mark, so no field may be relied on. The format is a normal image with one
//! protobuf record; fields of later versions survive a mark byte for byte.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use prost::Message;
use serde::Serialize;

use super::{Images, frame};
use crate::error::{Error, Result};

/// Name of the sidecar inside a layer.
pub const SIDECAR: &str = "icecore.img";

/// The one record of the sidecar.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Sidecar {
    /// Identity of the layer: 16 random bytes; empty in a layer that this engine did not make.
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
    /// The kernel's boot id: pids and start times mean something only within one boot.
    #[prost(string, optional, tag = "7")]
    pub boot_id: Option<String>,
    /// Host name.
    #[prost(string, optional, tag = "8")]
    pub host: Option<String>,
    /// Kernel release.
    #[prost(string, optional, tag = "9")]
    pub kernel: Option<String>,
    /// The dirty tracker that was used.
    #[prost(string, optional, tag = "10")]
    pub tracker: Option<String>,
    /// Why that one.
    #[prost(string, optional, tag = "11")]
    pub tracker_reason: Option<String>,
    /// Pid of the root task.
    #[prost(uint32, optional, tag = "12")]
    pub root_pid: Option<u32>,
    /// Command line of the root task.
    #[prost(string, repeated, tag = "13")]
    pub cmdline: Vec<String>,
    /// Every task with what tells it from another process with the same pid.
    #[prost(message, repeated, tag = "14")]
    pub tasks: Vec<Task>,
    /// Shared segments: which kernel object each pagemap belongs to.
    #[prost(message, repeated, tag = "15")]
    pub segments: Vec<Segment>,
    /// Pages stored in this layer.
    #[prost(uint64, optional, tag = "16")]
    pub pages_stored: Option<u64>,
    /// Pages left to the parent.
    #[prost(uint64, optional, tag = "17")]
    pub pages_in_parent: Option<u64>,
    /// Bytes of all files.
    #[prost(uint64, optional, tag = "18")]
    pub bytes: Option<u64>,
    /// How long the whole dump took, in nanoseconds.
    #[prost(uint64, optional, tag = "19")]
    pub total_ns: Option<u64>,
    /// The user wants to keep the layer restorable: dedup may not free what it needs.
    #[prost(bool, optional, tag = "20")]
    pub pinned: Option<bool>,
}

/// A task of the tree at the time of the dump.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Task {
    /// Its pid.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    #[prost(uint64, tag = "2")]
    pub start_time: u64,
}

/// A shared segment at the time of the dump.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Segment {
    /// Inode number of the memfd or shared mapping.
    #[prost(uint64, tag = "1")]
    pub inode: u64,
    /// SHMID of `pagemap-shmem-SHMID.img`.
    #[prost(uint64, tag = "2")]
    pub shmid: u64,
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
        // In protobuf, a message appended to another one adds its fields.
        let mut bytes = images
            .records(SIDECAR)?
            .into_iter()
            .next()
            .unwrap_or_default()
            .bytes;
        bytes.extend(mark.encode_to_vec());
        let mut data = frame::header(SIDECAR)?;
        data.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        data.extend(bytes);
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
