//! The sidecar `icecore.img`: what we note beside CRIU's images about a layer of ours.
//!
//! CRIU ignores the file. A layer made by CRIU has none until it is adopted or marked as consumed; a
//! sidecar may hold only such a mark, so no field may be relied on. The format is a normal image with
//! one protobuf record (`proto/icecore.proto`), and a second one that seals it: a digest of all bytes
//! before, so that a flipped bit in the digests of other files is found too. Fields of later versions
//! survive a change byte for byte.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::path::Path;
use std::time::SystemTime;

use prost::Message as _;

use super::digest::pages_id;
pub use super::proto::icecore::{
    Consumed, ExtendedAttribute, ExtendedAttributes, Extent, FileDigest, OpenFile, PagesDigest,
    Prediction, SavedFile, Segment, Sidecar, Task,
};
use super::{Images, frame};
use crate::error::{Error, Result};
use crate::store::FRESH;

/// Name of the sidecar inside a layer.
pub const SIDECAR: &str = "icecore.img";

/// Fields that this version knows.
const KNOWN: std::ops::RangeInclusive<u32> = 1..=20;
const KNOWN_LATER: [u32; 8] = [40, 41, 42, 43, 44, 50, 51, 52];

/// True for the files that make up a layer, besides the sidecar: what CRIU would read, and the
/// figures of the dump. Logs and what a restore leaves behind are no part of it.
pub fn is_content(name: &str) -> bool {
    (name.ends_with(".img") && name != SIDECAR) || name == "stats-dump"
}

impl Sidecar {
    /// Reads the sidecar of a layer, if it has one.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn read(images: &Images) -> Result<Option<Self>> {
        let Some(data) = images.bytes(SIDECAR)? else {
            return Ok(None);
        };
        let damaged = |error: Error| {
            let what = format!("{} is damaged", images.dir().join(SIDECAR).display());
            Error::new(error.kind(), what).because(error)
                .hint("Take it from a copy of the layer; without one, remove it, and icecore adopt makes another")
        };
        Self::unseal(&data).map(Some).map_err(damaged)
    }

    fn unseal(data: &[u8]) -> Result<Self> {
        let frames = frame::frames(SIDECAR, data)?.collect::<Result<Vec<_>>>()?;
        let decode = |bytes: &[u8]| {
            Self::decode(bytes).map_err(|e| Error::corrupt("It is no sidecar").because(e))
        };
        let [(first, _), rest @ ..] = frames.as_slice() else {
            return Err(Error::corrupt("It has no record"));
        };
        let sidecar = decode(first)?;
        match rest {
            [] if sidecar.files.is_empty() && sidecar.pages.is_empty() => {}
            [] => return Err(Error::corrupt("Its seal is missing")),
            [.., (last, _)] => {
                let before = data.len().saturating_sub(last.len() + 4);
                let seal = blake3::hash(data.get(..before).unwrap_or_default());
                if decode(last)?.seal != seal.as_bytes() {
                    return Err(Error::corrupt("Its seal does not fit"));
                }
            }
        }
        Ok(sidecar)
    }

    /// The bytes of a sealed sidecar whose record is `record`.
    fn seal(record: &[u8]) -> Result<Vec<u8>> {
        let mut data = frame::header(SIDECAR)?;
        frame::put_raw(&mut data, record)?;
        let seal = Self {
            seal: blake3::hash(&data).as_bytes().to_vec(),
            ..Self::default()
        };
        frame::put(&mut data, &seal)?;
        Ok(data)
    }

    /// The sidecar as a file.
    pub(super) fn to_file(&self) -> Result<Vec<u8>> {
        Self::seal(&self.encode_to_vec())
    }

    /// Changes the sidecar of a finished layer, durably and in one step; makes one where there is
    /// none. When `change` says that nothing changed, nothing is written, and this is false.
    ///
    /// # Errors
    /// When the old one is damaged, or the new one cannot be written.
    pub fn update(images: &Images, change: impl FnOnce(&mut Self) -> Result<bool>) -> Result<bool> {
        let mut sidecar = Self::read(images)?.unwrap_or_default();
        if !change(&mut sidecar)? {
            return Ok(false);
        }
        let known: Vec<u32> = KNOWN.chain(KNOWN_LATER).collect();
        let mut record = sidecar.encode_to_vec();
        if let Some(old) = images.records(SIDECAR)?.first() {
            record.extend(frame::unknown_fields(&old.bytes, &known));
        }
        replace(images.dir(), &Self::seal(&record)?)?;
        Ok(true)
    }

    /// Marks a finished layer as consumed by the layer in `by`, durably, and notes which bytes of
    /// which pages files are about to be freed. False if all of it was noted already.
    ///
    /// # Errors
    /// When the sidecar cannot be written, or a page beside a freed one is damaged.
    pub fn mark_consumed(images: &Images, by: &Path, freed: &[(u32, Vec<Extent>)]) -> Result<bool> {
        Self::update(images, |sidecar| {
            let before = sidecar.clone();
            if sidecar.consumed.is_none() {
                let by = by.display().to_string();
                sidecar.consumed = Some(Consumed { by, at: now_ns() });
            }
            for (id, extents) in freed {
                let file = images.pages_file(*id)?;
                sidecar.pages_of(*id).free(&file, extents).map_err(|e| {
                    let what = format!("Cannot free pages of layer {}", images.dir().display());
                    Error::new(e.kind(), what).because(e)
                })?;
            }
            Ok(*sidecar != before)
        })
    }

    /// What is known of `pages-ID.img`; begins to know something of it.
    pub fn pages_of(&mut self, id: u32) -> &mut PagesDigest {
        let at = self.pages.iter().position(|p| p.pages_id == id);
        let at = at.unwrap_or_else(|| {
            self.pages.push(PagesDigest {
                pages_id: id,
                ..PagesDigest::default()
            });
            self.pages.len() - 1
        });
        &mut self.pages[at]
    }

    /// What is known of `pages-ID.img`, if anything is.
    pub fn known_pages(&self, id: u32) -> Option<&PagesDigest> {
        self.pages.iter().find(|p| p.pages_id == id)
    }

    /// True when the content of the files of the layer is known.
    pub fn has_digests(&self) -> bool {
        !self.files.is_empty()
    }

    /// Digests all files of the layer in `dir` that `kept` does not know already.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn digest(&mut self, dir: &Path, kept: &Self) -> Result<()> {
        self.files.clear();
        self.pages.clear();
        for name in Images::open(dir)?.names()? {
            if !is_content(&name) || !dir.join(&name).is_file() {
                continue;
            }
            if let Some(id) = pages_id(&name) {
                let known = kept.known_pages(id).cloned().unwrap_or_default();
                self.pages.push(if known.is_known() {
                    known
                } else {
                    let mut new = PagesDigest::of(&dir.join(&name), id)?;
                    new.zero(&known.zeros);
                    new
                });
                continue;
            }
            self.files
                .push(match kept.files.iter().find(|f| f.name == name) {
                    Some(known) => known.clone(),
                    None => FileDigest::of(dir, &name)?,
                });
        }
        Ok(())
    }

    /// A new identity: sixteen random bytes.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn new_id() -> Result<Vec<u8>> {
        let mut id = vec![0; 16];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut id))
            .map_err(|e| Error::path("read", "/dev/urandom", e))?;
        Ok(id)
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

/// Now (Unix time, nanoseconds).
fn now_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Replaces the sidecar in one step: after a crash there is the old one or the new one.
fn replace(dir: &Path, data: &[u8]) -> Result<()> {
    let fresh = dir.join(FRESH);
    let write = || {
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        if let Ok(old) = fs::metadata(dir) {
            chown(&fresh, Some(old.uid()), Some(old.gid()))?;
        }
        file.write_all(data)?;
        file.sync_all()?;
        fs::rename(&fresh, dir.join(SIDECAR))?;
        File::open(dir)?.sync_all()
    };
    write().map_err(|e| {
        drop(fs::remove_file(&fresh));
        Error::path("write the sidecar of", dir, e)
    })
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

        assert!(Sidecar::mark_consumed(&images, Path::new("/up"), &[]).unwrap());
        assert!(!Sidecar::mark_consumed(&images, Path::new("/other"), &[]).unwrap());

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
    fn every_flipped_bit_of_a_sealed_sidecar_is_found() {
        let mut sidecar = Sidecar {
            id: vec![7; 16],
            ..Sidecar::default()
        };
        sidecar.files.push(FileDigest {
            name: "x.img".into(),
            bytes: 3,
            blake3: vec![9; 32],
        });
        let data = sidecar.to_file().unwrap();
        assert_eq!(Sidecar::unseal(&data).unwrap(), sidecar);
        for bit in 0..data.len() * 8 {
            let mut data = data.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            assert!(Sidecar::unseal(&data).is_err(), "bit {bit}");
        }
        for len in 1..data.len() {
            assert!(Sidecar::unseal(&data[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn a_layer_without_sidecar_gets_one_that_holds_only_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path()).unwrap();
        assert!(Sidecar::mark_consumed(&images, Path::new("/up"), &[]).unwrap());
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
