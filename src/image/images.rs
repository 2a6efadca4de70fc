//! The read side of one layer: its images by name.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use prost::Message;

use super::frame::{self, Record};
use super::pagemap::{Pagemap, PagemapId, Place, Run};
use super::proto::{PagemapEntry, PagemapHead, PipeDataEntry};
use crate::error::{Error, Result};

/// One images directory, opened for reading.
#[derive(Clone, Debug)]
pub struct Images {
    dir: PathBuf,
}

impl Images {
    /// Opens a directory of images.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        fs::read_dir(&dir).map_err(|e| Error::path("open layer", &dir, e))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The records of an image; a missing file has none.
    pub fn records(&self, name: &str) -> Result<Vec<Record>> {
        let path = self.dir.join(name);
        let data = match fs::read(&path) {
            Ok(data) => data,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::path("read", &path, e)),
        };
        let blob = name.starts_with("pipes-data") || name.starts_with("fifo-data");
        frame::split(name, &data, |bytes| {
            if blob {
                PipeDataEntry::decode(bytes).map_or(0, |e| e.bytes as usize)
            } else {
                0
            }
        })
        .map_err(|e| e.because(std::io::Error::other(path.display().to_string())))
    }

    /// All messages of an image; a missing file has none.
    pub fn all<M: Message + Default>(&self, name: &str) -> Result<Vec<M>> {
        self.records(name)?
            .iter()
            .map(|r| self.decode(name, r))
            .collect()
    }

    /// The first message of an image, if there is one.
    pub fn optional<M: Message + Default>(&self, name: &str) -> Result<Option<M>> {
        self.records(name)?
            .first()
            .map(|r| self.decode(name, r))
            .transpose()
    }

    /// The first message of an image.
    pub fn one<M: Message + Default>(&self, name: &str) -> Result<M> {
        self.optional(name)?
            .ok_or_else(|| Error::corrupt(format!("Layer {} has no {name}", self.dir.display())))
    }

    fn decode<M: Message + Default>(&self, name: &str, record: &Record) -> Result<M> {
        M::decode(&record.bytes[..]).map_err(|e| {
            Error::corrupt(format!("Cannot decode {}", self.dir.join(name).display())).because(e)
        })
    }

    /// A pagemap, if the layer has it.
    pub fn pagemap(&self, id: PagemapId) -> Result<Option<Pagemap>> {
        let name = id.file_name();
        let records = self.records(&name)?;
        let Some((head, entries)) = records.split_first() else {
            return Ok(None);
        };
        let mut map = Pagemap {
            pages_id: self.decode::<PagemapHead>(&name, head)?.pages_id,
            runs: Vec::new(),
        };
        for record in entries {
            let e: PagemapEntry = self.decode(&name, record)?;
            let flags = e.flags.unwrap_or(4);
            let parent = e.in_parent == Some(true) || flags & 1 != 0;
            map.runs.push(Run {
                start: e.vaddr,
                pages: e.nr_pages.unwrap_or(u64::from(e.compat_nr_pages)),
                place: if parent {
                    Place::Parent
                } else {
                    Place::Present
                },
                lazy: flags & 2 != 0,
            });
        }
        Ok(Some(map))
    }

    /// All pagemaps of the layer.
    pub fn pagemaps(&self) -> Result<Vec<PagemapId>> {
        let mut out = Vec::new();
        let cannot = |e| Error::path("read", &self.dir, e);
        for entry in fs::read_dir(&self.dir).map_err(cannot)? {
            let name = entry.map_err(cannot)?.file_name();
            let Some(stem) = name.to_str().and_then(|n| n.strip_suffix(".img")) else {
                continue;
            };
            if let Some(id) = stem
                .strip_prefix("pagemap-shmem-")
                .and_then(|n| n.parse().ok())
            {
                out.push(PagemapId::Shared(id));
            } else if let Some(id) = stem.strip_prefix("pagemap-").and_then(|n| n.parse().ok()) {
                out.push(PagemapId::Task(id));
            }
        }
        out.sort_unstable();
        Ok(out)
    }

    /// The pages file of a pagemap.
    pub fn pages_file(&self, pages_id: u32) -> Result<File> {
        let path = self.dir.join(format!("pages-{pages_id}.img"));
        File::open(&path).map_err(|e| Error::path("open", &path, e))
    }

    /// The raw target of the `parent` link, if any.
    pub fn parent_link(&self) -> Result<Option<PathBuf>> {
        let path = self.dir.join("parent");
        match fs::read_link(&path) {
            Ok(target) => Ok(Some(target)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::path("read link", &path, e)),
        }
    }
}
