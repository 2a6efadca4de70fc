//! Contents of files that are open for writing: copies in the layer, and the way back.
//!
//! The file system is no part of a snapshot, neither CRIU's nor ours. On request (`--snapshot-files`)
//! the files that the target could write to, through a descriptor or a shared mapping, are copied into
//! the layer while it stands still: `saved-file-N.img`, the bytes as they are, where the file system can
//! share its blocks with the file. On request again (`--with-files`) a restore puts them back: each takes
//! the place of what is there in one step, and what was there is kept until the tree runs. CRIU has
//! nothing like it, and passes over the files.
//!
//! Sources: copy_file_range(2), rename(2), xattr(7).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use xattr::FileExt as _;

use super::descriptor::Descriptor;
use super::locks;
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::{
    ExtendedAttribute, ExtendedAttributes, FileDigest, Images, LayerWriter, SavedFile, Sidecar,
};
use crate::store::copy_with_holes;
use crate::sys::names;

/// The copy number `number` in a layer.
fn file_name(number: u32) -> String {
    format!("saved-file-{number}.img")
}

/// Files to be copied, in the order in which they were met.
#[derive(Debug, Default)]
pub(super) struct Saving {
    seen: HashSet<(u64, u64)>,
    open: Vec<(File, SavedFile)>,
}

impl Saving {
    /// Takes note of a file that is open for writing; why that cannot be, otherwise.
    pub(super) fn note(&mut self, file: &Descriptor, name: &str) -> Option<Obstacle> {
        if !self.seen.insert((file.stat.dev, file.stat.ino)) {
            return None;
        }
        let refused = |why: String| {
            let what = format!("File {name} is not copied into the layer: {why}");
            Some(Obstacle::new(Kind::Failed, what, "copy it yourself"))
        };
        if locks::is_leased(file) {
            return refused("it is leased, and a lease does not survive that".into());
        }
        let opened = File::open(&file.link).and_then(|open| Ok((open.metadata()?, open)));
        let (meta, open) = match opened {
            Ok(both) => both,
            Err(e) => return refused(e.to_string()),
        };
        let saved = SavedFile {
            number: u32::try_from(self.open.len() + 1).unwrap_or(u32::MAX),
            path: name.to_owned(),
            bytes: meta.len(),
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            written: written(&meta),
            attributes: Some(attributes(&open)),
        };
        self.open.push((open, saved));
        None
    }

    /// Copies them; the target must stand still.
    pub(super) fn copy(&mut self, writer: &LayerWriter) -> Result<Vec<SavedFile>> {
        let mut all = Vec::new();
        for (open, saved) in std::mem::take(&mut self.open) {
            writer.copy_of(&file_name(saved.number), &open, saved.bytes)?;
            all.push(saved);
        }
        Ok(all)
    }
}

/// The extended attributes of an open file, as far as we may read them.
fn attributes(file: &File) -> ExtendedAttributes {
    let names = file.list_xattr().into_iter().flatten();
    let all = names.filter_map(|name| {
        let value = file.get_xattr(&name).ok().flatten()?;
        Some(ExtendedAttribute {
            name: name.into_vec(),
            value,
        })
    });
    ExtendedAttributes { all: all.collect() }
}

/// When a file was written to, in nanoseconds (Unix time).
pub(super) fn written(meta: &fs::Metadata) -> i64 {
    meta.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.mtime_nsec())
}

/// A file that a restore puts back.
#[derive(Clone, Debug)]
pub struct PutBack {
    /// Where it goes.
    pub path: PathBuf,
    /// Its size in the layer.
    pub bytes: u64,
    /// The size of what is there now, if anything is.
    pub now: Option<u64>,
    copy: PathBuf,
    saved: SavedFile,
}

impl PutBack {
    /// What will not be as it was when it is put back.
    pub fn warning(&self) -> Option<Obstacle> {
        let names = fs::metadata(&self.path).map_or(1, |meta| meta.nlink());
        let path = self.path.display();
        (names > 1).then(|| {
            Obstacle::new(
                Kind::Differs,
                format!(
                    "File {path} has another name (a hard link), which keeps what is there now"
                ),
                format!("link it anew after the restore (ln -f {path} OTHER)"),
            )
        })
    }
}

/// The files of a layer whose contents are other ones now.
///
/// # Errors
/// When the layer cannot be read, or a copy in it is damaged.
pub fn changed(images: &Images) -> Result<Vec<PutBack>> {
    let Some(sidecar) = Sidecar::read(images)? else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for saved in sidecar.saved {
        let name = file_name(saved.number);
        let digest = sidecar.files.iter().find(|digest| digest.name == name);
        if let Some(digest) = digest
            && !digest.matches(images.dir())?
        {
            let what = format!("{} is damaged", images.dir().join(name).display());
            return Err(Error::corrupt(what).hint("restore without --with-files"));
        }
        let path = PathBuf::from(&saved.path);
        let now = fs::metadata(&path).ok().map(|meta| meta.len());
        let same = now == Some(saved.bytes) && digest.is_some_and(|d| is_as(&path, d));
        if !same {
            all.push(PutBack {
                copy: images.dir().join(&name),
                bytes: saved.bytes,
                path,
                now,
                saved,
            });
        }
    }
    Ok(all)
}

fn is_as(path: &Path, digest: &FileDigest) -> bool {
    let mut hasher = blake3::Hasher::new();
    let read = File::open(path).and_then(|file| hasher.update_reader(file).map(drop));
    read.is_ok() && hasher.finalize().as_bytes()[..] == digest.blake3
}

/// Files that were put back; without [`Replaced::keep`] what was there before returns.
#[derive(Debug, Default)]
pub struct Replaced(Vec<Place>);

/// A file that was put back, and what was there.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    /// What was there is under this name now.
    before: Option<PathBuf>,
}

impl Replaced {
    /// Puts files back, each in one step.
    ///
    /// # Errors
    /// When one cannot be written; then none is put back.
    pub fn put(files: &[PutBack]) -> Result<Self> {
        let mut done = Self::default();
        for file in files {
            let aside = aside(&file.path);
            let cannot = |e| Error::path("put back", &file.path, e);
            let before = file.now.is_some();
            make(file, &aside)
                .and_then(|()| {
                    let change = if before {
                        names::exchange(&aside, &file.path).map_err(io::Error::from)
                    } else {
                        fs::rename(&aside, &file.path)
                    };
                    change.inspect_err(|_| drop(fs::remove_file(&aside)))
                })
                .map_err(cannot)?;
            done.0.push(Place {
                path: file.path.clone(),
                before: before.then_some(aside),
            });
        }
        Ok(done)
    }

    /// What was there before goes.
    pub fn keep(mut self) {
        for place in std::mem::take(&mut self.0) {
            if let Some(before) = place.before
                && let Err(e) = fs::remove_file(&before)
            {
                tracing::warn!("cannot remove {}: {e}", before.display());
            }
        }
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        for place in self.0.iter().rev() {
            let undone = match &place.before {
                Some(before) => fs::rename(before, &place.path),
                None => fs::remove_file(&place.path),
            };
            if let Err(e) = undone {
                tracing::warn!("{} is not what it was: {e}", place.path.display());
            }
        }
    }
}

/// Where a file is made, and what was there before is kept.
fn aside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".icecore-{}", std::process::id()));
    path.with_file_name(name)
}

/// Makes the file as it was, durably, beside its place.
fn make(file: &PutBack, at: &Path) -> io::Result<()> {
    let new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(at)?;
    let made = (|| {
        copy_with_holes(&File::open(&file.copy)?, &new, file.bytes)?;
        fchown(&new, Some(file.saved.uid), Some(file.saved.gid))?;
        // Layers of earlier versions do not tell: those of the file that it takes the place of.
        let recorded = file.saved.attributes.clone();
        let there = || {
            File::open(&file.path)
                .as_ref()
                .map(attributes)
                .unwrap_or_default()
        };
        for attribute in recorded.unwrap_or_else(there).all {
            // What needs more rights than we have (`trusted.`, `security.`) is not for us to give.
            drop(new.set_xattr(OsStr::from_bytes(&attribute.name), &attribute.value));
        }
        new.set_permissions(fs::Permissions::from_mode(file.saved.mode & 0o7777))?;
        let since = Duration::from_nanos(file.saved.written.unsigned_abs());
        let written = match file.saved.written {
            0.. => SystemTime::UNIX_EPOCH + since,
            _ => SystemTime::UNIX_EPOCH - since,
        };
        new.set_times(FileTimes::new().set_modified(written))?;
        new.sync_all()
    })();
    made.inspect_err(|e| {
        if e.kind() != ErrorKind::AlreadyExists {
            drop(fs::remove_file(at));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_back(dir: &Path, name: &str, content: &str, now: Option<u64>) -> PutBack {
        let copy = dir.join(format!("{name}.copy"));
        fs::write(&copy, content).unwrap();
        PutBack {
            path: dir.join(name),
            bytes: content.len() as u64,
            now,
            copy,
            saved: SavedFile {
                mode: libc::S_IFREG | 0o640,
                uid: nix::unistd::getuid().as_raw(),
                gid: nix::unistd::getgid().as_raw(),
                written: 1_700_000_000_000_000_007,
                ..SavedFile::default()
            },
        }
    }

    #[test]
    fn what_was_there_returns_unless_the_new_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "now").unwrap();
        let list = [
            put_back(dir.path(), "a", "then", Some(3)),
            put_back(dir.path(), "b", "gone since", None),
        ];
        let names = || fs::read_dir(dir.path()).unwrap().count();
        let before = names();
        let replaced = Replaced::put(&list).unwrap();
        assert_eq!(fs::read_to_string(&a).unwrap(), "then");
        assert_eq!(fs::read_to_string(&b).unwrap(), "gone since");
        drop(replaced);
        assert_eq!(fs::read_to_string(&a).unwrap(), "now");
        assert!(!b.exists());
        assert_eq!(names(), before);
        Replaced::put(&list).unwrap().keep();
        let meta = fs::metadata(&a).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o640);
        assert_eq!(written(&meta), 1_700_000_000_000_000_007);
        assert_eq!(names(), before + 1);
    }

    #[test]
    fn one_that_cannot_be_written_leaves_all_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "now").unwrap();
        let mut list = [
            put_back(dir.path(), "a", "then", Some(3)),
            put_back(dir.path(), "b", "then", None),
        ];
        list[1].path = dir.path().join("nowhere/b");
        let error = Replaced::put(&list).unwrap_err();
        assert!(error.one_line().contains("nowhere/b"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "now");
    }
}
