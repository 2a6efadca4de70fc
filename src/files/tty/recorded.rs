//! The terminals of a layer as its images have them, and what is in the way of making them again.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use super::pairs;
use crate::error::{Error, Kind, Obstacle, Result};
use crate::files::Findings;
use crate::image::Images;
use crate::image::proto::{
    PstreeEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry, TtyType,
};

/// Device number of `/dev/ptmx`, as CRIU stores it.
const MASTER: u32 = 5 << 8 | 2;

/// Terminals of a layer.
#[derive(Debug, Default)]
pub(in crate::files) struct Recorded {
    infos: BTreeMap<u32, TtyInfoEntry>,
    data: Vec<TtyDataEntry>,
    pids: HashSet<u32>,
    groups: HashSet<u32>,
}

impl Recorded {
    /// Reads the images.
    pub(in crate::files) fn read(images: &Images) -> Result<Self> {
        let infos: Vec<TtyInfoEntry> = images.all("tty-info.img")?;
        let tree: Vec<PstreeEntry> = images.all("pstree.img")?;
        Ok(Self {
            infos: infos.into_iter().map(|info| (info.id, info)).collect(),
            data: images.all("tty-data.img")?,
            pids: tree.iter().map(|process| process.pid).collect(),
            groups: tree.iter().map(|process| process.pgid).collect(),
        })
    }

    /// What an open terminal is an end of.
    pub(super) fn info(&self, entry: &TtyFileEntry) -> Result<&TtyInfoEntry> {
        let id = entry.tty_info_id;
        let missing = || Error::corrupt(format!("tty-info.img has no terminal {id}"));
        self.infos.get(&id).ok_or_else(missing)
    }

    /// The master of the pair that `info` is an end of; none for the terminal of a shell job.
    pub(super) fn master_of(&self, info: &TtyInfoEntry) -> Option<&TtyInfoEntry> {
        let mut masters = self.masters();
        match info.r#type() {
            TtyType::Pty => masters.find(|master| master.pty == info.pty),
            TtyType::Ctty => masters.find(|master| master.sid == info.sid && info.sid != 0),
            _ => None,
        }
    }

    /// All masters, by ascending number of the pair.
    pub(super) fn masters(&self) -> impl Iterator<Item = &TtyInfoEntry> {
        self.infos.values().filter(|info| is_master(info))
    }

    /// The other end of a pair, when it was open.
    pub(super) fn slave_of(&self, master: &TtyInfoEntry) -> Option<&TtyInfoEntry> {
        let same = |info: &&TtyInfoEntry| {
            info.pty == master.pty && !is_master(info) && info.termios.is_some()
        };
        self.infos.values().find(same)
    }

    /// Unread bytes of an end.
    pub(super) fn unread(&self, end: u32) -> &[u8] {
        let found = self.data.iter().find(|data| data.tty_id == end);
        found.map_or(&[], |data| &data.data)
    }

    /// True when the layer has the process.
    pub(super) fn has_process(&self, pid: u32) -> bool {
        self.pids.contains(&pid)
    }

    /// True when the layer has a process of the group.
    pub(super) fn has_group(&self, group: u32) -> bool {
        self.groups.contains(&group)
    }
}

pub(super) fn is_master(info: &TtyInfoEntry) -> bool {
    info.r#type() == TtyType::Pty && info.rdev == MASTER
}

/// True when nothing is at its other end.
pub(super) fn is_hung_up(info: &TtyInfoEntry) -> bool {
    info.termios.is_none()
}

/// What prevents the terminal from being opened again.
pub(super) fn check(entry: &TtyFileEntry, findings: &mut Findings<'_>) -> Result<()> {
    let recorded = &findings.terminals;
    let info = recorded.info(entry)?;
    let regular = entry.regf_id.and_then(|id| findings.entry(id));
    let path = regular.and_then(|entry| entry.reg.as_ref());
    let name = path
        .map_or("a terminal", |path| path.name.as_str())
        .to_owned();
    let obstacle = if !matches!(info.r#type(), TtyType::Pty | TtyType::Ctty) {
        Obstacle::unsupported(
            format!("{name} is a console or a serial line"),
            "restore this layer with criu",
        )
    } else if is_master(info) {
        let index = info.pty.map_or(0, |TtyPtyEntry { index }| index);
        if Path::new(&format!("/dev/pts/{index}")).exists() {
            let warning = Obstacle::new(
                Kind::Differs,
                format!("Terminal /dev/pts/{index} is in use: the program's gets another number"),
                "nothing to do unless the program remembers the name",
            );
            findings.warning(warning);
        }
        return Ok(());
    } else if is_hung_up(info) || recorded.master_of(info).is_some() {
        return Ok(());
    } else if info.sid != 0 && recorded.has_process(info.sid) {
        Obstacle::unsupported(
            format!(
                "{name} was the terminal of session {}, whose other end the layer lacks",
                info.sid
            ),
            "restore a layer that has the program at the other end",
        )
    } else if !findings.allow.shell_job {
        Obstacle::new(
            Kind::Usage,
            format!("{name} was the terminal that the program was started from"),
            "restore with --shell-job, from a terminal",
        )
    } else if pairs::lent(libc::O_RDWR).is_err() {
        Obstacle::new(
            Kind::NotFound,
            format!("There is no terminal here to stand for {name}"),
            "run the restore in a terminal",
        )
    } else {
        return Ok(());
    };
    findings.obstacle(obstacle);
    Ok(())
}
