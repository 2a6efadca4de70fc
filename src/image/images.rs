//! The read side of one layer: its images by name.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use prost::Message;

use super::frame::{self, Record};
use super::pagemap::{Pagemap, PagemapId, Runs, refuse_excess};
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

    /// Names of all files in the layer, in order.
    pub fn names(&self) -> Result<Vec<String>> {
        let cannot = |e| Error::path("read", &self.dir, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(cannot)? {
            names.extend(entry.map_err(cannot)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The bytes of an image, if it is there.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(data) => Ok(Some(data)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::path("read", &path, e)),
        }
    }

    /// The records of an image; a missing file has none.
    pub fn records(&self, name: &str) -> Result<Vec<Record>> {
        let Some(data) = self.bytes(name)? else {
            return Ok(Vec::new());
        };
        frame::split(name, &data).map_err(|e| self.inside(&e))
    }

    /// Says in which layer `error`, which names only a file, was found.
    fn inside(&self, error: &Error) -> Error {
        let what = format!(
            "Cannot read layer {}: {}",
            self.dir.display(),
            error.one_line()
        );
        let outer = Error::new(error.kind(), what);
        match error.next_step() {
            Some(hint) => outer.hint(hint),
            None => outer,
        }
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
    ///
    /// # Errors
    /// When it is damaged, or has pages in a form that this version does not know.
    pub fn pagemap(&self, id: PagemapId) -> Result<Option<Pagemap>> {
        let name = id.file_name();
        let Some(data) = self.bytes(&name)? else {
            return Ok(None);
        };
        let map = Pagemap::decode(&name, &data).map_err(|e| self.inside(&e))?;
        let pages = self.dir.join(format!("pages-{}.img", map.pages_id));
        refuse_excess(&pages, map.stored_bytes())?;
        Ok(Some(map))
    }

    /// The runs of a pagemap one after the other, if the layer has it: for stacks whose pagemaps are
    /// too large to hold.
    ///
    /// # Errors
    /// When it cannot be opened, or is no pagemap. A damaged entry is an error of the iterator.
    pub fn runs(&self, id: PagemapId) -> Result<Option<Runs>> {
        let path = self.dir.join(id.file_name());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::path("open", &path, e)),
        };
        let runs = Runs::new(&self.dir, id.file_name(), file).map_err(|e| self.inside(&e))?;
        Ok(Some(runs))
    }

    /// All pagemaps of the layer.
    pub fn pagemaps(&self) -> Result<Vec<PagemapId>> {
        let mut out: Vec<_> = self
            .names()?
            .iter()
            .filter_map(|name| PagemapId::from_file_name(name))
            .collect();
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
