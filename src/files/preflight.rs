//! Before a restore: are the files of the layer there, and as they were?

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::RawFd;
use std::time::{Duration, SystemTime};

use nix::sys::resource::{Resource, getrlimit};

use super::ghost::Remaps;
use super::opened::{needed_limit, serving, serving_terminals};
use super::{Allow, kind_of_entry, locks, tty};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{
    FdTypes, FdinfoEntry, FileEntry, MemfdInodeEntry, PstreeEntry, RemapFilePathEntry, RemapType,
    TaskKobjIdsEntry,
};
use crate::image::{Images, OpenFile, Sidecar};

/// What speaks against a restore, collected by the kinds.
#[derive(Debug, Default)]
pub struct Findings<'a> {
    entries: HashMap<u32, &'a FileEntry>,
    pub(super) allow: Allow,
    remaps: Remaps,
    pub(super) terminals: tty::Recorded,
    /// Names of all files of the layer.
    images: HashSet<String>,
    /// Its processes.
    pids: HashSet<u32>,
    /// The numbers of the namespaces in which they are.
    pub(super) namespaces: TaskKobjIdsEntry,
    /// Files as they were, by id; unknown for layers of CRIU.
    open_files: HashMap<u32, OpenFile>,
    /// Paths of files whose contents are in the layer.
    saved: HashSet<String>,
    /// When the layer was made; unknown for layers of CRIU.
    made: Option<SystemTime>,
    inodes: HashMap<u32, MemfdInodeEntry>,
    /// Files that may be there: we may not look.
    out_of_sight: Vec<String>,
    obstacles: Vec<Obstacle>,
    warnings: Vec<Obstacle>,
}

impl<'a> Findings<'a> {
    /// Adds an obstacle, once.
    pub(super) fn obstacle(&mut self, obstacle: Obstacle) {
        if !self.obstacles.contains(&obstacle) {
            self.obstacles.push(obstacle);
        }
    }

    /// Adds that `file` (`File /a/b`) cannot be looked at. What we have no right to see may well be there:
    /// that is one obstacle for all such files, with another remedy than `hint`.
    pub(super) fn cannot_find(&mut self, file: String, error: &io::Error, hint: &str) {
        if error.kind() == io::ErrorKind::PermissionDenied {
            if !self.out_of_sight.contains(&file) {
                self.out_of_sight.push(file);
            }
            return;
        }
        let what = format!("{file} cannot be found ({error})");
        self.obstacle(Obstacle::new(Kind::NotFound, what, hint));
    }

    /// The obstacle for all files that we may not see.
    fn out_of_sight(&self) -> Option<Obstacle> {
        let first = self.out_of_sight.first()?;
        let what = match self.out_of_sight.len() - 1 {
            0 => format!("{first} is in a directory that we may not look into"),
            1 => format!("{first} and another file are in directories that we may not look into"),
            more => {
                format!(
                    "{first} and {more} other files are in directories that we may not look into"
                )
            }
        };
        let hint =
            "that takes CAP_DAC_READ_SEARCH: restore as root, or as the user who can see them";
        Some(Obstacle::new(Kind::Permission, what, hint))
    }

    /// Adds a warning, once.
    pub(super) fn warning(&mut self, warning: Obstacle) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The entry with this id.
    pub(super) fn entry(&self, id: u32) -> Option<&'a FileEntry> {
        self.entries.get(&id).copied()
    }

    /// What stands for a file that had lost its name.
    pub(super) fn remap(&self, id: u32) -> Option<(RemapType, u32)> {
        self.remaps.of(id)
    }

    /// True when the layer has a file of this name.
    pub(super) fn has_image(&self, name: &str) -> bool {
        self.images.contains(name)
    }

    /// True when the layer has this process.
    pub(super) fn has_process(&self, pid: i32) -> bool {
        self.pids.contains(&pid.cast_unsigned())
    }

    /// True when the layer is one of CRIU's.
    pub(super) fn is_of_criu(&self) -> bool {
        self.made.is_none()
    }

    /// True when something of this time is newer than the layer.
    pub(super) fn is_later(&self, time: SystemTime) -> bool {
        self.made.is_some_and(|made| time > made)
    }

    /// How the file of an entry was, if that is known.
    pub(super) fn as_it_was(&self, id: u32) -> Option<OpenFile> {
        self.open_files.get(&id).cloned()
    }

    /// True when the contents of the file are in the layer.
    pub(super) fn is_saved(&self, path: &str) -> bool {
        self.saved.contains(path)
    }

    /// True when the file will be as it was.
    pub(super) fn will_be_put_back(&self, path: &str) -> bool {
        self.allow.with_files && self.is_saved(path)
    }

    /// The record of a shared segment.
    pub(super) fn segment(&self, number: u32) -> Result<MemfdInodeEntry> {
        let missing = || Error::corrupt(format!("memfd.img has no memfd {number}"));
        self.inodes.get(&number).cloned().ok_or_else(missing)
    }
}

/// Compares the files of a layer with those that are there now: (obstacles, warnings).
///
/// # Errors
/// When an image is missing or damaged.
pub fn preflight(images: &Images, allow: &Allow) -> Result<(Vec<Obstacle>, Vec<Obstacle>)> {
    let entries: Vec<FileEntry> = images.all("files.img")?;
    let remapped: Vec<RemapFilePathEntry> = images.all("remap-fpath.img")?;
    let inodes: Vec<MemfdInodeEntry> = images.all("memfd.img")?;
    let inodes = inodes.into_iter();
    let sidecar = Sidecar::read(images)?.unwrap_or_default();
    let mut findings = Findings {
        namespaces: namespaces(images)?,
        open_files: sidecar.open_files.into_iter().map(|f| (f.id, f)).collect(),
        saved: sidecar.saved.into_iter().map(|file| file.path).collect(),
        entries: entries.iter().map(|entry| (entry.id, entry)).collect(),
        images: images.names()?.into_iter().collect(),
        pids: images
            .all("pstree.img")?
            .iter()
            .map(|p: &PstreeEntry| p.pid)
            .collect(),
        remaps: Remaps::new(&remapped),
        allow: allow.clone(),
        terminals: tty::Recorded::read(images)?,
        made: sidecar
            .created
            .map(|created| SystemTime::UNIX_EPOCH + Duration::from_nanos(created)),
        inodes: inodes
            .filter_map(|i| Some((u32::try_from(i.inode_id).ok()?, i)))
            .collect(),
        ..Findings::default()
    };
    let serving = serving(&entries);
    let terminals = serving_terminals(&entries);
    for entry in &entries {
        match kind_of_entry(entry) {
            // The path of a terminal may be another's by now.
            Some(_) if terminals.contains(&entry.id) => {}
            Some(kind) => kind.check(entry, &mut findings)?,
            None if serving.contains(&entry.id) => {}
            None => findings.obstacle(Obstacle::unsupported(
                format!("File {} of the layer is {}", entry.id, kind_name(entry)),
                "this kind cannot be restored yet: restore this layer with criu",
            )),
        }
    }
    locks::check(images, &mut findings)?;
    let mut highest = 0;
    for (files_id, table) in tables(images)? {
        for descriptor in table {
            highest = highest.max(descriptor.fd.cast_signed());
            if findings.entry(descriptor.id).is_none() {
                let what = format!(
                    "fdinfo-{files_id}.img: descriptor {} is of file {}, which files.img does not \
                     have",
                    descriptor.fd, descriptor.id
                );
                findings.obstacle(Obstacle::new(Kind::Corrupt, what, "restore another layer"));
            }
        }
    }
    let needed = needed_limit(highest + 1, entries.len());
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && needed > hard
    {
        findings.obstacle(Obstacle::new(
            Kind::Permission,
            format!("The restore needs {needed} descriptors, the limit is {hard}"),
            format!("raise it before starting icecore: ulimit -Hn {needed}"),
        ));
    }
    findings.obstacles.extend(findings.out_of_sight());
    Ok((findings.obstacles, findings.warnings))
}

/// The numbers of the namespaces of the root.
fn namespaces(images: &Images) -> Result<TaskKobjIdsEntry> {
    let processes: Vec<PstreeEntry> = images.all("pstree.img")?;
    let Some(root) = processes.first() else {
        return Ok(TaskKobjIdsEntry::default());
    };
    let ids: Option<TaskKobjIdsEntry> = images.optional(&format!("ids-{}.img", root.pid))?;
    Ok(ids.unwrap_or_default())
}

/// The highest descriptor number of any process of the layer; -1 when there is none.
///
/// # Errors
/// When an image cannot be read.
pub fn highest_descriptor(images: &Images) -> Result<RawFd> {
    let tables = tables(images)?;
    let numbers = tables
        .iter()
        .flat_map(|(_, table)| table)
        .map(|d| d.fd.cast_signed());
    Ok(numbers.max().unwrap_or(-1))
}

/// The descriptor tables of the layer, by `files_id`.
fn tables(images: &Images) -> Result<Vec<(u32, Vec<FdinfoEntry>)>> {
    let processes: Vec<PstreeEntry> = images.all("pstree.img")?;
    let mut seen = HashSet::new();
    let mut tables = Vec::new();
    for process in processes {
        // Zombies have none.
        let ids: Option<TaskKobjIdsEntry> = images.optional(&format!("ids-{}.img", process.pid))?;
        let Some(files_id) = ids.map(|ids| ids.files_id).filter(|id| seen.insert(*id)) else {
            continue;
        };
        tables.push((files_id, images.all(&format!("fdinfo-{files_id}.img"))?));
    }
    Ok(tables)
}

/// The kind of an entry that no kind of ours is responsible for, in words.
fn kind_name(entry: &FileEntry) -> String {
    match FdTypes::try_from(entry.r#type) {
        Ok(FdTypes::Fanotify) => "a fanotify group".to_owned(),
        Ok(FdTypes::Bpfmap) => "a BPF map".to_owned(),
        Ok(FdTypes::Tunf) => "a tun device".to_owned(),
        Ok(kind) => format!("of CRIU's kind {}", kind.as_str_name()),
        Err(_) => format!("of an unknown kind ({})", entry.r#type),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_may_not_be_looked_at_are_one_obstacle_of_rights_and_missing_ones_one_each() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let gone = io::Error::from(io::ErrorKind::NotFound);
        let mut findings = Findings::default();
        for file in ["File /a/b", "File /a/c", "File /a/b", "File /a/d"] {
            findings.cannot_find(file.to_owned(), &denied, "put it back");
        }
        findings.cannot_find("File /e".to_owned(), &gone, "put it back");
        assert_eq!(findings.obstacles.len(), 1);
        assert!(
            findings.obstacles[0]
                .what
                .starts_with("File /e cannot be found")
        );
        let one = findings.out_of_sight().unwrap();
        assert_eq!(one.kind, Kind::Permission);
        assert!(
            one.what.starts_with("File /a/b and 2 other files "),
            "{}",
            one.what
        );
        assert!(one.hint.contains("CAP_DAC_READ_SEARCH"), "{}", one.hint);
    }
}
