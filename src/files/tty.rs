//! Terminals: pseudo-terminals made by the target (both ends), `/dev/tty`, terminals that were hung
//! up, and with `--shell-job` the terminal that the target was started from.
//!
//! CRIU: `tty_file_entry` with a `reg_file_entry` of its own (`regf_id`); settings, size, session and
//! foreground group once per end in `tty-info.img`; unread bytes in `tty-data.img`. CRIU numbers the
//! ends of pair N 2N (slave) and 2N+1 (master). A slave that was hung up has an end of its own without
//! settings; CRIU knows no such thing. Sources: pty(7), pts(4), ioctl_tty(2), termios(3),
//! credentials(7).
//!
//! A slave whose master is in no image is the terminal of a shell job: whoever restores it lends his.

mod pairs;
mod queue;
mod recorded;
mod settings;

use std::collections::{HashMap, HashSet};

use nix::errno::Errno;

pub use pairs::Session;
pub(super) use pairs::{Open, Terminals};
pub(super) use recorded::Recorded;

use super::descriptor::Descriptor;
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened, ghost};
use crate::error::{Error, Kind, Result};
use crate::image::LayerWriter;
use crate::image::proto::{
    FdTypes, FileEntry, RegFileEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry, TtyPtyEntry,
    TtyType,
};
use crate::sys::tty::{self, Switch};
use crate::task::{Ids, proc};
use crate::units::Pid;

/// Major numbers of slaves; all numbers fit under the first.
const SLAVES: std::ops::RangeInclusive<u32> = 136..=143;
/// Major and minor number of `/dev/tty`.
const CONTROLLING: (u32, u32) = (5, 0);
/// Major and minor number of `/dev/ptmx`.
const MASTERS: (u32, u32) = (5, 2);

/// What a description of a terminal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Master(u32),
    Slave(u32),
    /// `/dev/tty`, which is this slave.
    Controlling(u32),
    /// Nothing is at the other end any more.
    HungUp(u32),
}

impl End {
    /// CRIU's number of the end, or one of ours that cannot be a number of CRIU's.
    fn number(self) -> u32 {
        match self {
            Self::Slave(index) => index << 1,
            Self::Master(index) => index << 1 | 1,
            Self::Controlling(index) => index << 1 | 1 << 31,
            Self::HungUp(index) => index << 1 | 1 << 30,
        }
    }

    fn index(self) -> u32 {
        match self {
            Self::Slave(index)
            | Self::Master(index)
            | Self::Controlling(index)
            | Self::HungUp(index) => index,
        }
    }
}

/// Terminals.
#[derive(Debug)]
pub(super) struct Terminal;

impl FileKind for Terminal {
    fn name(&self) -> &'static str {
        "terminal"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        let device = file.stat.device();
        file.stat.file_type() == libc::S_IFCHR
            && file.number.is_some()
            && file.flags & libc::O_PATH.cast_unsigned() == 0
            && (SLAVES.contains(&device.0) || device == CONTROLLING || device == MASTERS)
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
        let (device, shown) = (file.stat.device(), file.shown());
        let hung_up = shown.ends_with(" (deleted)");
        if !hung_up && ghost::leads_elsewhere(file) {
            return Some(Refusal {
                what: format!("the terminal {shown} of another mount namespace"),
                hint: "run icecore inside that namespace (nsenter -m -t PID)".to_owned(),
            });
        }
        let terminals = outside.terminals.as_ref()?;
        let index = match device {
            CONTROLLING => terminals.of.get(&file.pid)?.0,
            (major, index) if SLAVES.contains(&major) && !hung_up => index,
            _ => return None,
        };
        if terminals.masters.contains(&index) {
            return None;
        }
        if terminals.of.values().any(|own| *own == (index, true)) {
            return Some(Refusal {
                what: format!(
                    "the terminal {shown} as that of its session, but not its other end,"
                ),
                hint: "dump the program that made the terminal as well (tmux, screen, script), or \
                       start the program as a job of a shell"
                    .to_owned(),
            });
        }
        (!allow.shell_job).then(|| Refusal {
            what: format!("the terminal {shown}"),
            hint: "dump with --shell-job, and restore from a terminal with --shell-job; or start \
                   the program apart from it: setsid PROGRAM < /dev/null > LOG 2>&1 &"
                .to_owned(),
        })
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Tty
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let cannot = |e| Error::os(format!("Cannot look at the terminal {}", file.shown()), e);
        let gone = || Error::corrupt(format!("{} is not open", file.link.display()));
        let copy = held.copy.as_ref().ok_or_else(gone)?;
        let device = file.stat.device();
        let settings = match tty::termios(copy) {
            Ok(settings) => Some(settings),
            Err(Errno::EIO) => None,
            Err(e) => return Err(cannot(e)),
        };
        let end = match device {
            MASTERS => End::Master(tty::index(copy).map_err(cannot)?),
            _ if settings.is_none() => End::HungUp(device.1),
            CONTROLLING => End::Controlling(tty::device(copy).map_err(cannot)?.1),
            (_, index) => End::Slave(index),
        };
        if let Some(line) = settings.map(|s| s.c_line).filter(|line| *line != 0) {
            let what = format!("{} has the line discipline {line}", file.shown());
            return Err(Error::new(Kind::Unsupported, what).hint("only the usual one can be saved"));
        }
        let mut halted = None;
        if let End::Master(index) = end {
            let found = queue::peek(copy).map_err(cannot)?;
            halted = found.halt.map(|halt| halt as u32);
            dumper.terminals.unread(End::Master(index), found.read);
            dumper.terminals.unread(End::Slave(index), found.written);
        }
        let path_id = dumper.new_id();
        let reg = RegFileEntry {
            id: path_id,
            flags: file.flags,
            pos: file.pos,
            fown: held.fown,
            name: ghost::bare(file),
            mode: Some(file.stat.mode),
            ..RegFileEntry::default()
        };
        dumper.push(FileEntry {
            r#type: FdTypes::Reg.into(),
            id: path_id,
            reg: Some(reg),
            ..FileEntry::default()
        });
        dumper.push(FileEntry {
            r#type: FdTypes::Tty.into(),
            id,
            tty: Some(TtyFileEntry {
                id,
                tty_info_id: end.number(),
                flags: file.flags,
                fown: held.fown,
                regf_id: Some(path_id),
            }),
            ..FileEntry::default()
        });
        if dumper.terminals.ends.contains_key(&end.number()) {
            return Ok(());
        }
        let is_on = |switch| tty::is_on(copy, switch).unwrap_or(false);
        let kind = match end {
            End::Controlling(_) => TtyType::Ctty,
            _ => TtyType::Pty,
        };
        let info = TtyInfoEntry {
            id: end.number(),
            r#type: kind.into(),
            locked: is_on(Switch::Locked),
            exclusive: is_on(Switch::Exclusive),
            packet_mode: is_on(Switch::Packet),
            rdev: number(file.stat.rdev),
            termios: settings.as_ref().map(settings::to_image),
            termios_locked: tty::locked_termios(copy)
                .ok()
                .as_ref()
                .map(settings::to_image),
            winsize: tty::winsize(copy).ok().map(settings::size_to_image),
            pty: (kind == TtyType::Pty).then_some(TtyPtyEntry { index: end.index() }),
            dev: Some(number(file.stat.dev)),
            uid: Some(file.stat.uid),
            gid: Some(file.stat.gid),
            halted,
            ..TtyInfoEntry::default()
        };
        dumper.terminals.ends.insert(end.number(), (end, info));
        Ok(())
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        recorded::check(part(entry)?, findings)
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        Ok(Some(Reopened {
            file: pairs::open(entry, opening)?,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

fn part(entry: &FileEntry) -> Result<&TtyFileEntry> {
    let missing = || Error::corrupt(format!("files.img: entry {} is no terminal", entry.id));
    entry.tty.as_ref().ok_or_else(missing)
}

/// A device number as CRIU stores it.
fn number(device: u64) -> u32 {
    u32::try_from(device & u64::from(u32::MAX)).unwrap_or(0)
}

/// What a dump has found of terminals.
#[derive(Debug, Default)]
pub(super) struct Found {
    ends: HashMap<u32, (End, TtyInfoEntry)>,
    data: Vec<TtyDataEntry>,
    /// Session and foreground group of a slave.
    sessions: HashMap<u32, (u32, u32)>,
}

impl Found {
    /// Notes the controlling terminal of `pid`.
    pub(super) fn note(&mut self, pid: Pid, ids: &Ids) -> Result<()> {
        let stat = proc::stat(pid, pid)?;
        if let Some(index) = slave(stat.tty_nr) {
            let id = |seen: i32| ids.number(Pid::from_raw(seen.max(0)));
            self.sessions
                .insert(index, (id(stat.session), id(stat.tpgid)));
        }
        Ok(())
    }

    fn unread(&mut self, end: End, data: Vec<u8>) {
        if !data.is_empty() {
            let tty_id = end.number();
            self.data.push(TtyDataEntry { tty_id, data });
        }
    }

    /// Writes `tty-info.img` and `tty-data.img`.
    pub(super) fn write(mut self, writer: &LayerWriter) -> Result<()> {
        for (end, info) in self.ends.values_mut() {
            if let (Some((session, group)), false) = (
                self.sessions.get(&end.index()),
                matches!(end, End::HungUp(_)),
            ) {
                (info.sid, info.pgrp) = (*session, *group);
            }
        }
        let mut infos: Vec<TtyInfoEntry> = self.ends.into_values().map(|(_, info)| info).collect();
        infos.sort_unstable_by_key(|info| info.id);
        writer.all("tty-info.img", &infos)?;
        writer.all("tty-data.img", &self.data)
    }
}

/// The slave that the `tty_nr` of a process means.
fn slave(tty_nr: i32) -> Option<u32> {
    let device = u64::from(tty_nr.cast_unsigned());
    SLAVES
        .contains(&libc::major(device))
        .then(|| libc::minor(device))
}

/// The terminals of a target that is being surveyed.
#[derive(Clone, Debug, Default)]
pub(super) struct Surveyed {
    /// Pairs whose master the target has.
    masters: HashSet<u32>,
    /// Controlling terminal of each process, and whether the target has the leader of its session.
    of: HashMap<Pid, (u32, bool)>,
}

impl Surveyed {
    /// Looks at `files` and at the processes that have them.
    pub(super) fn new(files: &[Descriptor], pids: &[Pid]) -> Self {
        let index = |file: &Descriptor| file.detail("tty-index")?.parse().ok();
        let own = |pid: &Pid| {
            let stat = proc::stat(*pid, *pid).ok()?;
            let leader = pids.contains(&Pid::from_raw(stat.session));
            Some((*pid, (slave(stat.tty_nr)?, leader)))
        };
        Self {
            masters: files.iter().filter_map(index).collect(),
            of: pids.iter().filter_map(own).collect(),
        }
    }
}
