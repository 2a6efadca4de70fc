//! The write side of one layer: complete or not there.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use prost::Message;

use super::frame;
use super::pagemap::{Pagemap, PagemapId, Place};
use super::proto::{PagemapEntry, PagemapHead};
use crate::error::{Error, Kind, Result};

/// A layer being written into `NAME.partial`; [`LayerWriter::commit`] gives it its name.
#[derive(Debug)]
pub struct LayerWriter {
    dir: PathBuf,
    partial: PathBuf,
    done: bool,
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
}

impl LayerWriter {
    /// Begins a layer that will be `dir`, which must be absent or empty.
    pub fn create(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref().to_path_buf();
        match fs::read_dir(&dir) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(Error::new(
                        Kind::Failed,
                        format!("Directory {} is not empty", dir.display()),
                    )
                    .hint("choose another directory for the new layer"));
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::path("open", &dir, e)),
        }
        let mut name = dir.file_name().unwrap_or_default().to_os_string();
        name.push(".partial");
        let partial = dir.with_file_name(name);
        fs::create_dir_all(&partial).map_err(|e| Error::path("create", &partial, e))?;
        Ok(Self {
            dir,
            partial,
            done: false,
        })
    }

    /// Where the files are until the commit.
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let path = self.partial.join(name);
        fs::write(&path, data).map_err(|e| Error::path("write", &path, e))
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
        let mut data = frame::header(name)?;
        let head = data.len();
        for message in messages {
            data.extend(frame::record(message));
        }
        if data.len() == head {
            Ok(())
        } else {
            self.write(name, &data)
        }
    }

    /// Writes an image whose records are followed by raw bytes; none makes no file.
    pub fn with_extra<'a, M: Message + 'a>(
        &self,
        name: &str,
        messages: impl IntoIterator<Item = (&'a M, &'a [u8])>,
    ) -> Result<()> {
        let mut data = frame::header(name)?;
        let head = data.len();
        for (message, extra) in messages {
            data.extend(frame::record(message));
            data.extend(extra);
        }
        if data.len() == head {
            Ok(())
        } else {
            self.write(name, &data)
        }
    }

    /// Begins `pages-N.img`.
    pub fn pages(&self, pages_id: u32) -> Result<PagesFile> {
        let path = self.partial.join(format!("pages-{pages_id}.img"));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::path("create", &path, e))?;
        Ok(PagesFile { file, path })
    }

    /// Writes a pagemap.
    pub fn pagemap(&self, id: PagemapId, map: &Pagemap) -> Result<()> {
        let name = id.file_name();
        let mut data = frame::header(&name)?;
        data.extend(frame::record(&PagemapHead {
            pages_id: map.pages_id,
        }));
        for run in &map.runs {
            data.extend(frame::record(&PagemapEntry {
                vaddr: run.start,
                // CRIU before 4.2 knows only this one and would restore nothing without it.
                compat_nr_pages: u32::try_from(run.pages).unwrap_or(0),
                in_parent: None,
                flags: Some(match run.place {
                    Place::Parent => 1,
                    Place::Present => 4 | if run.lazy { 2 } else { 0 },
                }),
                nr_pages: Some(run.pages),
            }));
        }
        self.write(&name, &data)
    }

    /// Makes the `parent` link.
    pub fn link_parent(&self, target: &Path) -> Result<()> {
        let path = self.partial.join("parent");
        std::os::unix::fs::symlink(target, &path).map_err(|e| Error::path("link", &path, e))
    }

    /// Makes the layer durable and visible under its name.
    pub fn commit(mut self) -> Result<()> {
        let cannot = |e| Error::path("sync", &self.partial, e);
        for entry in fs::read_dir(&self.partial).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            if entry.file_type().map_err(cannot)?.is_file() {
                File::open(entry.path())
                    .and_then(|f| f.sync_all())
                    .map_err(cannot)?;
            }
        }
        File::open(&self.partial)
            .and_then(|f| f.sync_all())
            .map_err(cannot)?;
        fs::rename(&self.partial, &self.dir).map_err(|e| Error::path("rename to", &self.dir, e))?;
        self.done = true;
        if let Some(above) = self.dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(above)
                .and_then(|f| f.sync_all())
                .map_err(|e| Error::path("sync", above, e))?;
        }
        Ok(())
    }
}

impl Drop for LayerWriter {
    fn drop(&mut self) {
        if !self.done
            && let Err(e) = fs::remove_dir_all(&self.partial)
        {
            tracing::warn!("cannot remove {}: {e}", self.partial.display());
        }
    }
}
