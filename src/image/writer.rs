//! The write side of one layer: complete or not there (see [`PartialDir`]).

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use prost::Message;

use super::Images;
use super::digest::pages_id;
use super::frame::{self, Record};
use super::pagemap::{Pagemap, PagemapId};
use super::sidecar::{Extent, SIDECAR, Sidecar};
use crate::error::{Error, Kind, Result};
use crate::store::{PartialDir, copy_with_holes};

/// A layer being written into `NAME.partial`; [`LayerWriter::commit`] gives it its name, and a drop
/// without it removes everything. `inventory.img` is written last,
/// as CRIU does, but for our sidecar.
#[derive(Debug)]
pub struct LayerWriter {
    dir: PartialDir,
    /// Digests of files that were taken over: their content is not looked at again.
    kept: RefCell<Sidecar>,
    /// A layer that exists is given new contents.
    replaces: bool,
}

/// A pages file being written.
#[derive(Debug)]
pub struct PagesFile {
    file: File,
    path: PathBuf,
}

impl PagesFile {
    /// Appends raw pages.
    pub fn append(&mut self, pages: &[u8]) -> Result<()> {
        self.file
            .write_all(pages)
            .map_err(|e| Error::path("write", &self.path, e))
    }

    /// The open file, for calls that move pages without a copy.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl LayerWriter {
    /// Begins a layer that will be `dir`, which must be absent or empty.
    ///
    /// # Errors
    /// When it is neither, or when another process is writing it.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        PartialDir::create(dir).map(|dir| Self::of(dir, false))
    }

    /// Begins new contents for the layer in `dir`; the commit puts them in its place in one step.
    ///
    /// # Errors
    /// When it is not there, or when another process is replacing it.
    pub fn replace(dir: impl AsRef<Path>) -> Result<Self> {
        PartialDir::replace(dir).map(|dir| Self::of(dir, true))
    }

    fn of(dir: PartialDir, replaces: bool) -> Self {
        let kept = RefCell::default();
        Self {
            dir,
            kept,
            replaces,
        }
    }

    /// Where the files are until the commit.
    pub fn partial(&self) -> &Path {
        self.dir.path()
    }

    /// Creates a file; one that is there already is a mistake of ours.
    fn create_file(&self, name: &str) -> Result<(File, PathBuf)> {
        let path = self.dir.path().join(name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| self.give_to_owner(&path).map(|()| file));
        Ok((file.map_err(|e| Error::path("create", &path, e))?, path))
    }

    /// New contents belong to whom the old ones belonged.
    fn give_to_owner(&self, path: &Path) -> io::Result<()> {
        if !self.replaces {
            return Ok(());
        }
        let dir = fs::metadata(self.dir.path())?;
        let file = fs::metadata(path)?;
        if (dir.uid(), dir.gid()) == (file.uid(), file.gid()) {
            return Ok(());
        }
        chown(path, Some(dir.uid()), Some(dir.gid()))
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let (mut file, path) = self.create_file(name)?;
        file.write_all(data)
            .map_err(|e| Error::path("write", &path, e))
    }

    /// Writes an image of one record.
    pub fn one(&self, name: &str, message: &impl Message) -> Result<()> {
        self.all(name, [message])
    }

    /// Writes an image of many records; none makes no file.
    pub fn all<'a, M: Message + 'a>(
        &self,
        name: &str,
        messages: impl IntoIterator<Item = &'a M>,
    ) -> Result<()> {
        self.with_extra(name, messages.into_iter().map(|message| (message, &[][..])))
    }

    /// Writes an image whose records are followed by raw bytes; none makes no file.
    pub fn with_extra<'a, M: Message + 'a>(
        &self,
        name: &str,
        messages: impl IntoIterator<Item = (&'a M, &'a [u8])>,
    ) -> Result<()> {
        let mut data = frame::header(name)?;
        let mut empty = true;
        for (message, extra) in messages {
            frame::put(&mut data, message)?;
            data.extend(extra);
            empty = false;
        }
        if empty {
            Ok(())
        } else {
            self.write(name, &data)
        }
    }

    /// Writes an image of records as they are, with fields that this version does not know.
    pub fn records(&self, name: &str, records: &[Record]) -> Result<()> {
        self.write(name, &frame::join(name, records)?)
    }

    /// Takes a file over from another layer as it is, known or not.
    pub fn copy(&self, from: &Images, name: &str) -> Result<()> {
        let source = from.dir().join(name);
        let meta = fs::symlink_metadata(&source).map_err(|e| Error::path("read", &source, e))?;
        if !meta.is_file() {
            let what = format!("{} is no file", source.display());
            return Err(Error::new(Kind::Unsupported, what));
        }
        let (mut file, path) = self.create_file(name)?;
        File::open(&source)
            .and_then(|mut source| io::copy(&mut source, &mut file))
            .map_err(|e| Error::path("copy to", &path, e))?;
        Ok(())
    }

    /// Writes a copy of the first `bytes` bytes of `source`, with its holes, and sharing its blocks
    /// where the file system can (copy_file_range(2)).
    pub fn copy_of(&self, name: &str, source: &File, bytes: u64) -> Result<()> {
        let (file, path) = self.create_file(name)?;
        copy_with_holes(source, &file, bytes).map_err(|e| Error::path("copy to", &path, e))
    }

    /// Takes over a file under its name, without copying its bytes where the file system can link
    /// it, and with the digest that `sidecar` (that of the layer `from`) has of it: damage that it
    /// may have stays damage.
    pub fn keep(&self, from: &Images, sidecar: Option<&Sidecar>, name: &str) -> Result<()> {
        let source = from.dir().join(name);
        match fs::hard_link(&source, self.dir.path().join(name)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::path("link", source, e));
            }
            Err(_) => self.copy(from, name)?,
        }
        let mut kept = self.kept.borrow_mut();
        let Some(sidecar) = sidecar else {
            return Ok(());
        };
        match pages_id(name) {
            Some(id) => kept.pages.extend(sidecar.known_pages(id).cloned()),
            None => {
                let known = sidecar.files.iter().find(|file| file.name == name);
                kept.files.extend(known.cloned());
            }
        }
        Ok(())
    }

    /// Writes a sidecar without digests of files, where there are none yet: of the pages files it
    /// holds what was taken over or noted. None is written when there is nothing to note.
    pub fn marks(&self, mut sidecar: Sidecar) -> Result<()> {
        sidecar.pages.clone_from(&self.kept.borrow().pages);
        sidecar
            .pages
            .retain(|pages| !pages.zeros.is_empty() || !pages.freed.is_empty());
        if sidecar == Sidecar::default() {
            return Ok(());
        }
        self.write(SIDECAR, &sidecar.to_file()?)
    }

    /// Begins `pages-N.img`.
    pub fn pages(&self, pages_id: u32) -> Result<PagesFile> {
        let (file, path) = self.create_file(&format!("pages-{pages_id}.img"))?;
        Ok(PagesFile { file, path })
    }

    /// Writes a pagemap.
    pub fn pagemap(&self, id: PagemapId, map: &Pagemap) -> Result<()> {
        let name = id.file_name();
        self.write(&name, &map.encode(&name)?)
    }

    /// Writes the sidecar with the digests of all files that are there: the last thing to write.
    pub fn sidecar(&self, mut sidecar: Sidecar) -> Result<()> {
        sidecar.digest(self.dir.path(), &self.kept.borrow())?;
        self.write(SIDECAR, &sidecar.to_file()?)
    }

    /// Notes that parts of `pages-N.img` that were left out (holes) are zeros.
    pub fn zeros(&self, pages_id: u32, extents: &[Extent]) {
        self.kept.borrow_mut().pages_of(pages_id).zero(extents);
    }

    /// Makes the `parent` link.
    pub fn link_parent(&self, target: &Path) -> Result<()> {
        let path = self.dir.path().join("parent");
        symlink(target, &path).map_err(|e| Error::path("link", &path, e))
    }

    /// Makes the layer durable and visible under its name.
    pub fn commit(self) -> Result<()> {
        self.dir.commit()
    }
}
