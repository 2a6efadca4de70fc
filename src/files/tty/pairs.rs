//! Restore half: pairs are made with the numbers that they had, as far as nobody has them by now.
//!
//! The kernel gives the lowest free number, so more pairs than needed may be made for a moment. Settings
//! are given last, when the unread bytes, put back with settings that change nothing, have arrived.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use nix::fcntl::{OFlag, open as open_path};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown, getpgrp, isatty, tcgetpgrp, tcsetpgrp};

use super::queue::Halt;
use super::recorded::{Recorded, is_hung_up, is_master};
use super::{queue, settings};
use crate::error::{Error, Result};
use crate::files::Opening;
use crate::image::proto::{FileEntry, TtyFileEntry, TtyInfoEntry, TtyType};
use crate::sys::tty::{self, Switch};
use crate::units::Pid;

/// A session that has a controlling terminal.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Its leader.
    pub leader: Pid,
    /// The terminal, a descriptor of this process and of those forked from it.
    pub terminal: RawFd,
    /// The foreground group.
    pub group: Option<Pid>,
}

/// A pair that was made.
#[derive(Debug)]
struct Pair {
    master: OwnedFd,
    slave: OwnedFd,
    info: TtyInfoEntry,
    /// What the slave's entry has, or else the master's.
    own: TtyInfoEntry,
    written: Vec<u8>,
}

/// Terminals while files are being opened.
#[derive(Debug, Default)]
pub(in crate::files) struct Terminals {
    recorded: Recorded,
    /// By the number of the pair in the images; none before the first terminal is asked for.
    open: Option<Open>,
}

/// Terminals that are open.
#[derive(Debug, Default)]
pub(in crate::files) struct Open {
    pairs: BTreeMap<u32, Pair>,
    /// Our own terminal, when it stands for that of a shell job.
    lent: Option<(OwnedFd, TtyInfoEntry)>,
    foreground: Option<Pid>,
}

impl Terminals {
    pub(in crate::files) fn new(recorded: Recorded) -> Self {
        Self {
            recorded,
            open: None,
        }
    }

    /// When all are open: what would have kept them from being opened.
    pub(in crate::files) fn finish(self) -> Result<Open> {
        let open = self.open.unwrap_or_default();
        for pair in open.pairs.values() {
            let cannot = |e| Error::os("Cannot give a terminal its state", e);
            let info = &pair.info;
            tty::turn(&pair.master, Switch::Packet, info.packet_mode).map_err(cannot)?;
            tty::turn(&pair.master, Switch::Exclusive, info.exclusive).map_err(cannot)?;
            if !is_master(&pair.own) {
                tty::turn(&pair.slave, Switch::Exclusive, pair.own.exclusive).map_err(cannot)?;
            }
            tty::turn(&pair.master, Switch::Locked, info.locked).map_err(cannot)?;
        }
        Ok(open)
    }
}

impl Open {
    /// Sessions whose leaders are to get a controlling terminal.
    pub(in crate::files) fn sessions(&self) -> impl Iterator<Item = Session> + '_ {
        let pid = |id: u32| (id != 0).then(|| Pid::from_raw(id.cast_signed()));
        self.pairs.values().filter_map(move |pair| {
            let info = if pair.own.sid == 0 {
                &pair.info
            } else {
                &pair.own
            };
            Some(Session {
                leader: pid(info.sid)?,
                terminal: pair.slave.as_raw_fd(),
                group: pid(info.pgrp),
            })
        })
    }

    /// The group of the layer that had the terminal which ours stands for.
    pub(in crate::files) fn foreground(&self) -> Option<Pid> {
        self.foreground
    }

    /// Gives all terminals their settings: the last step.
    pub(in crate::files) fn complete(&self) -> Result<()> {
        let cannot = |e| Error::os("Cannot give a terminal its settings", e);
        let pairs = self.pairs.values();
        let all = pairs.map(|pair| {
            let halt = pair.info.halted.and_then(Halt::from_image);
            let halt = halt.map(|halt| (&pair.master, halt));
            (&pair.slave, &pair.own, &*pair.written, halt)
        });
        let lent = self.lent.iter().filter(|_| self.foreground.is_some());
        let lent = lent.map(|(tty, info)| (tty, info, &[][..], None));
        for (slave, own, written, halt) in all.chain(lent) {
            let Some(entry) = &own.termios else { continue };
            let wanted = settings::from_image(entry);
            queue::settled(slave, &wanted, written);
            tty::set_termios(slave, &wanted).map_err(cannot)?;
            if let Some((master, halt)) = halt {
                halt.apply(master, slave, &wanted).map_err(cannot)?;
            }
            let locked = own.termios_locked.as_ref().map(settings::from_image);
            // Locks are rare, and need a right of their own.
            if let Some(locked) =
                locked.filter(|l| l.c_iflag | l.c_oflag | l.c_cflag | l.c_lflag != 0)
            {
                tty::set_locked_termios(slave, &locked).map_err(cannot)?;
            }
        }
        // From here on we are in the background, and may not change it.
        if let (Some((terminal, _)), Some(group)) = (&self.lent, self.foreground)
            && tcgetpgrp(terminal) == Ok(getpgrp())
        {
            tcsetpgrp(terminal, group).map_err(cannot)?;
        }
        Ok(())
    }
}

/// Opens the terminal of an entry.
pub(super) fn open(entry: &TtyFileEntry, opening: &mut Opening<'_>) -> Result<OwnedFd> {
    if opening.terminals.open.is_none() {
        opening.terminals.open = Some(make_all(opening)?);
    }
    let terminals = &mut opening.terminals;
    let cannot = |e| Error::os(format!("Cannot open terminal {}", entry.tty_info_id), e);
    let info = terminals.recorded.info(entry)?.clone();
    let master = terminals.recorded.master_of(&info).map(index);
    let open = terminals.open.get_or_insert_default();
    let flags = entry.flags.cast_signed() & (libc::O_ACCMODE | libc::O_NONBLOCK);
    if is_hung_up(&info) && !is_master(&info) {
        let master = new_master("/dev/ptmx").map_err(cannot)?;
        return tty::peer(&master, flags).map_err(cannot);
    }
    match master.and_then(|index| open.pairs.get(&index)) {
        Some(pair) if is_master(&info) => pair
            .master
            .try_clone()
            .map_err(|e| Error::io("Cannot copy a descriptor", e)),
        Some(pair) if info.r#type() == TtyType::Ctty => {
            tty::open_as_controlling(&pair.slave, flags).map_err(cannot)
        }
        Some(pair) => tty::peer(&pair.master, flags).map_err(cannot),
        None => {
            let file = if info.r#type() == TtyType::Ctty {
                open_path(
                    "/dev/tty",
                    OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )
            } else {
                lent(flags)
            };
            if open.lent.is_none() {
                open.lent = Some((lent(libc::O_RDWR).map_err(cannot)?, info.clone()));
                if terminals.recorded.has_group(info.pgrp) {
                    open.foreground = Some(Pid::from_raw(info.pgrp.cast_signed()));
                }
            }
            file.map_err(cannot)
        }
    }
}

/// The terminal that this process was started from.
pub(super) fn lent(flags: i32) -> nix::Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let stdio = [std::io::stdin().as_raw_fd(), 1, 2].into_iter();
    for number in stdio {
        let path = format!("/proc/self/fd/{number}");
        let Ok(file) = open_path(&*path, flags | OFlag::O_NONBLOCK, Mode::empty()) else {
            continue;
        };
        if isatty(&file).unwrap_or(false) {
            return open_path(&*path, flags, Mode::empty());
        }
    }
    open_path("/dev/tty", flags, Mode::empty())
}

fn index(info: &TtyInfoEntry) -> u32 {
    info.pty.map_or(0, |pty| pty.index)
}

/// Makes all pairs whose masters the layer has.
fn make_all(opening: &Opening<'_>) -> Result<Open> {
    let recorded = &opening.terminals.recorded;
    let mut open = Open::default();
    let mut wanted: Vec<&TtyInfoEntry> = recorded.masters().collect();
    wanted.sort_unstable_by_key(|info| index(info));
    let Some(highest) = wanted.last().map(|info| index(info)) else {
        return Ok(open);
    };
    let cannot = |e| Error::os("Cannot make a pseudo-terminal", e);
    let mut fresh: BTreeMap<u32, OwnedFd> = BTreeMap::new();
    while fresh.keys().next_back().is_none_or(|last| *last < highest) {
        let master = new_master(&path_of(opening, &wanted)).map_err(cannot)?;
        fresh.insert(tty::index(&master).map_err(cannot)?, master);
    }
    let (exact, others): (Vec<_>, Vec<_>) = wanted
        .iter()
        .partition(|info| fresh.contains_key(&index(info)));
    for info in exact {
        if let Some(master) = fresh.remove(&index(info)) {
            open.pairs.insert(index(info), pair(opening, info, master)?);
        }
    }
    for info in others {
        let master = match fresh.pop_first() {
            Some((_, master)) => master,
            None => new_master(&path_of(opening, &wanted)).map_err(cannot)?,
        };
        open.pairs.insert(index(info), pair(opening, info, master)?);
    }
    Ok(open)
}

/// Where masters are made.
fn path_of(opening: &Opening<'_>, masters: &[&TtyInfoEntry]) -> String {
    let of = |entry: &&FileEntry| {
        let tty = entry.tty.as_ref();
        tty.is_some_and(|tty| masters.iter().any(|info| info.id == tty.tty_info_id))
    };
    let path = opening.entries().find(of).and_then(|entry| {
        let regular = opening.entry(entry.tty.as_ref()?.regf_id?)?;
        Some(regular.reg.as_ref()?.name.clone())
    });
    path.unwrap_or_else(|| "/dev/ptmx".to_owned())
}

fn new_master(path: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let master = open_path(path, flags, Mode::empty())?;
    tty::turn(&master, Switch::Locked, false)?;
    Ok(master)
}

/// A pair with its size, owner and unread bytes.
fn pair(opening: &Opening<'_>, info: &TtyInfoEntry, master: OwnedFd) -> Result<Pair> {
    let recorded = &opening.terminals.recorded;
    let number = index(info);
    let cannot = |e| Error::os(format!("Cannot make pseudo-terminal {number}"), e);
    let slave = tty::peer(&master, libc::O_RDWR | libc::O_NONBLOCK).map_err(cannot)?;
    let other = recorded.slave_of(info);
    let own = other.unwrap_or(info);
    if let Some(size) = &own.winsize {
        tty::set_winsize(&slave, &settings::size_from_image(size)).map_err(cannot)?;
    }
    if let Some(other) = other {
        let (user, group) = (other.uid.map(Uid::from_raw), other.gid.map(Gid::from_raw));
        fchown(&slave, user, group).map_err(cannot)?;
        let entries = opening.entries();
        let of = |entry: &FileEntry| {
            let tty = entry
                .tty
                .as_ref()
                .filter(|tty| tty.tty_info_id == other.id)?;
            opening.entry(tty.regf_id?)?.reg.as_ref()?.mode
        };
        if let Some(mode) = entries.into_iter().find_map(of) {
            fchmod(&slave, Mode::from_bits_truncate(mode & 0o7777)).map_err(cannot)?;
        }
    }
    let read = recorded.unread(info.id);
    let written = recorded.unread(number << 1).to_vec();
    if let Some(entry) = &own.termios {
        let wanted = settings::from_image(entry);
        queue::put(&master, &slave, &wanted, (read, &written)).map_err(cannot)?;
    }
    Ok(Pair {
        master,
        slave,
        info: info.clone(),
        own: own.clone(),
        written,
    })
}
