//! Unix sockets: pairs, listeners, connections, names, what is queued in them.
//!
//! CRIU: `unix_sk_entry` per description (`ino` and `peer` are inode numbers), queued messages in
//! `sk-queues.img`. A client whose connection was not accepted yet has the listener as peer. A peer
//! outside of the tree (`--ext-unix-sk`) has an entry of its own, marked as external, with its name.
//! Sources: unix(7), sock_diag(7), socket(7).

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::sys::socket::{UnixAddr, getsockname};

pub(in crate::files) mod build;
pub(in crate::files) mod diag;
pub(in crate::files) mod queue;

mod address;

use super::descriptor::Descriptor;
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened, socket};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, FownEntry, SkOptsEntry, SkShutdown, UnixSkEntry};
use crate::sys::pidfd;
use crate::sys::socket::{bound_file, make};
use address::Address;
use diag::{Info, Table};

/// States of a socket, as the kernel and the images number them.
const ESTABLISHED: u32 = 1;
const LISTEN: u32 = 10;

/// CRIU's mark of an entry for a socket outside of the tree.
const EXTERNAL: u32 = 1;

/// `AF_UNIX`.
#[derive(Debug)]
pub(super) struct Unix;

impl FileKind for Unix {
    fn name(&self) -> &'static str {
        "unix socket"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.socket
            .is_some_and(|nature| nature.domain == libc::AF_UNIX)
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, allow: &Allow) -> Option<Refusal> {
        if let Some(refusal) = socket::opaque_filter(file, "a unix socket") {
            return Some(refusal);
        }
        let table = outside.unix.as_ref()?;
        let info = table.get(file.stat.ino)?;
        if let Some(holder) = outside.holder(&file.stat)
            && info.peer != 0
        {
            return Some(Refusal {
                what: format!("a unix socket ({}) shared with {holder}", file.shown()),
                hint: APART.to_owned(),
            });
        }
        if is_unaccepted(file.stat.ino, info, table) {
            return Some(Refusal {
                what: format!("a unix socket {UNACCEPTED} ({})", file.shown()),
                hint: ACCEPT.to_owned(),
            });
        }
        let closed = |client: &u32| table.get(u64::from(*client)).is_none();
        if info.pending.iter().any(closed) {
            return Some(Refusal {
                what: format!(
                    "a unix socket with a connection to be accepted whose client has closed it ({})",
                    file.shown()
                ),
                hint: ACCEPT.to_owned(),
            });
        }
        let others = table.others(file.stat.ino);
        let foreign = others
            .into_iter()
            .find(|other| !outside.held.contains(&u64::from(*other)))?;
        if info.peer == foreign && allow.ext_unix_sk.allows(file.stat.ino) && is_external(info) {
            return None;
        }
        let whose = outside.holder_of(file.stat.dev, foreign.into());
        let whose = whose.map_or_else(|| "nobody that can be seen".to_owned(), ToString::to_string);
        let names = [Some(info), table.get(foreign.into())];
        let name = names
            .into_iter()
            .flatten()
            .find_map(|info| Address::of(&info.name));
        let named = name.map_or_else(String::new, |name| format!(" at {name}"));
        Some(Refusal {
            what: format!(
                "a unix socket ({}{named}) connected with {whose}",
                file.shown()
            ),
            hint: if is_external(info) {
                "dump with --ext-unix-sk: after a restore it is connected again by name".to_owned()
            } else {
                APART.to_owned()
            },
        })
    }

    fn loss(&self, file: &Descriptor) -> Option<Refusal> {
        let process = pidfd::open(file.pid).ok()?;
        let copy = pidfd::get_fd(process, file.number?).ok()?;
        let name = getsockname::<UnixAddr>(copy.as_raw_fd()).ok()?;
        let name = name.path()?.as_os_str().as_bytes();
        let place = address::Place::of(name, bound_file(&copy).ok().as_ref(), file.pid);
        let (what, hint) = astray(&file.shown());
        place.astray.then_some(Refusal { what, hint })
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Unixsk
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        enter(&held, id, dumper)
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        check(part(entry)?, findings)
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        if entry.uflags & EXTERNAL != 0 {
            return Ok(None);
        }
        let missing = || Error::corrupt(format!("files.img: unix socket {} twice", entry.ino));
        Ok(Some(Reopened {
            file: opening.unix_socket(entry.ino).ok_or_else(missing)?,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

/// Hint for connections that a dump would tear.
const APART: &str = "dump from a common ancestor of both processes, or have the program close the \
                     connection before the dump";

fn part(entry: &FileEntry) -> Result<&UnixSkEntry> {
    let missing = || Error::corrupt(format!("files.img: entry {} is no unix socket", entry.id));
    entry.usk.as_ref().ok_or_else(missing)
}

/// That the socket `shown` will not be found at its path: what, and the hint.
fn astray(shown: &str) -> (String, String) {
    let what = format!("a unix socket ({shown}) whose file was moved to where it is not found");
    let hint = "after a restore no path leads to it: have the program bind it anew".to_owned();
    (what, hint)
}

/// True when only this end knows of the connection, so that it can be made again by name.
fn is_external(info: &Info) -> bool {
    i32::from(info.kind) == libc::SOCK_DGRAM
}

/// What a dump knows of unix sockets beside their entries.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    table: Option<Table>,
    pub(super) queues: queue::Queues,
    /// Inode numbers of those that have an entry.
    known: HashSet<u32>,
    /// Other ends that must have one, by what refers to them.
    wanted: HashMap<u32, String>,
}

impl Sockets {
    /// Fails when a connection leads out of what was collected.
    pub(super) fn check(&self) -> Result<()> {
        let outside = self
            .wanted
            .iter()
            .find(|(ino, _)| !self.known.contains(ino));
        match outside {
            None => Ok(()),
            Some((_, what)) => Err(Error::refused(
                "The target changed since the plan was made",
                vec![Obstacle::unsupported(
                    format!("{what} is connected with a process outside of the tree"),
                    APART,
                )],
            )),
        }
    }
}

/// What nobody can look at: it waits in a socket that no process has.
const UNACCEPTED: &str = "that has sent something to a server that has not accepted it yet";
const ACCEPT: &str = "try again when the server has accepted the connection";

fn is_unaccepted(ino: u64, info: &Info, table: &Table) -> bool {
    table.listener_of(ino).is_some() && info.queues.1 != 0
}

fn enter(held: &Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
    let file = held.file;
    let number = |ino: u64| {
        u32::try_from(ino).map_err(|e| {
            Error::new(
                Kind::Unsupported,
                format!("{} has too large a number", file.shown()),
            )
            .because(e)
        })
    };
    let (ino, Some(copy)) = (number(file.stat.ino)?, &held.copy) else {
        return Err(Error::corrupt(format!(
            "{} has no descriptor",
            file.shown()
        )));
    };
    let cannot = |e| Error::os(format!("Cannot look into {}", file.shown()), e);
    let table = match dumper.unix.table.take() {
        Some(table) => table,
        None => Table::read()?,
    };
    let gone = || Error::corrupt(format!("The kernel does not list {}", file.shown()));
    let info = table.get(ino.into()).cloned().ok_or_else(gone)?;
    let state = u32::from(info.state);
    let (listener, unaccepted) = (
        table.listener_of(ino.into()),
        is_unaccepted(ino.into(), &info, &table),
    );
    let peers_name = table.get(info.peer.into()).map(|peer| peer.name.clone());
    dumper.unix.table = Some(table);
    let shown = format!("{} (pid {}) {}", file.comm, file.pid, file.shown());
    if unaccepted {
        return Err(Error::refused(
            format!("Cannot dump process {}", file.pid),
            vec![Obstacle::unsupported(
                format!("{shown} {UNACCEPTED}"),
                ACCEPT,
            )],
        ));
    }
    let peer = match listener {
        Some(listener) if info.peer == 0 => listener,
        _ => info.peer,
    };
    let place = address::Place::of(&info.name, bound_file(copy).ok().as_ref(), file.pid);
    let entry = UnixSkEntry {
        id,
        ino,
        r#type: info.kind.into(),
        state,
        flags: file.flags,
        uflags: 0,
        backlog: if state == LISTEN { info.queues.1 } else { 0 },
        peer,
        fown: held.fown,
        opts: socket::options(copy).map_err(cannot)?,
        name: info.name.clone(),
        shutdown: SkShutdown::try_from(i32::from(info.shutdown))
            .ok()
            .filter(|shutdown| *shutdown != SkShutdown::None)
            .map(Into::into),
        file_perms: place.permissions,
        name_dir: place.directory,
        deleted: place.deleted.then_some(true),
        moved_to: place.moved_to,
        options: socket::unusual(
            copy,
            make(libc::AF_UNIX, info.kind.into(), 0).ok().as_ref(),
            socket::FURTHER,
        ),
        ..UnixSkEntry::default()
    };
    if place.astray {
        let (what, hint) = astray(&shown);
        dumper.warn(Obstacle::unsupported(what, hint));
    }
    dumper.unix.known.insert(ino);
    let allowed = dumper.allow().ext_unix_sk.allows(file.stat.ino) && is_external(&info);
    if let (true, Some(name), true) = (
        peer != 0 && !dumper.unix.known.contains(&peer),
        peers_name.filter(|name| !name.is_empty()),
        allowed,
    ) {
        external(dumper, &info, peer, name);
    } else if peer != 0 {
        dumper.unix.wanted.insert(peer, shown.clone());
    }
    for client in &info.pending {
        dumper.unix.wanted.insert(*client, shown.clone());
    }
    dumper.push(FileEntry {
        r#type: FdTypes::Unixsk.into(),
        id,
        usk: Some(entry),
        ..FileEntry::default()
    });
    if state != LISTEN {
        queue::dump(dumper, id, copy, &shown)?;
    }
    Ok(())
}

/// Enters the socket at the other end, in case that it turns out to be outside of the tree.
fn external(dumper: &mut Dumper, info: &Info, ino: u32, name: Vec<u8>) {
    dumper.unix.known.insert(ino);
    let id = dumper.new_id();
    let entry = UnixSkEntry {
        id,
        ino,
        r#type: info.kind.into(),
        state: 7,
        uflags: EXTERNAL,
        name,
        fown: FownEntry::default(),
        opts: SkOptsEntry::default(),
        ..UnixSkEntry::default()
    };
    dumper.push(FileEntry {
        r#type: FdTypes::Unixsk.into(),
        id,
        usk: Some(entry),
        ..FileEntry::default()
    });
}

/// Is the name free?
fn check(entry: &UnixSkEntry, findings: &mut Findings<'_>) -> Result<()> {
    let Some(address) = Address::of(&entry.name) else {
        return Ok(());
    };
    if entry.uflags & EXTERNAL != 0 {
        return Ok(());
    }
    let path = address.path(entry.name_dir.as_deref());
    let table = Table::read()?;
    let Some(path) = path else {
        if table.bound(&entry.name, None) {
            findings.obstacle(taken(format!("The socket name {address} is in use")));
        }
        return Ok(());
    };
    let moved_to = entry.moved_to.as_ref().map(PathBuf::from);
    for path in [Some(path), moved_to].into_iter().flatten() {
        free(&path, entry, &table, findings);
    }
    Ok(())
}

fn taken(what: String) -> Obstacle {
    Obstacle::new(
        Kind::Busy,
        what,
        "end the program that has it, or move its file away",
    )
}

/// Can a socket be made at this path?
fn free(path: &Path, entry: &UnixSkEntry, table: &Table, findings: &mut Findings<'_>) {
    if !path.parent().is_some_and(Path::is_dir) {
        findings.obstacle(Obstacle::new(
            Kind::NotFound,
            format!(
                "The directory of the socket {} is not there",
                path.display()
            ),
            "make it, with its owner and permissions",
        ));
    }
    if let Ok(meta) = fs::symlink_metadata(path) {
        use std::os::unix::fs::MetadataExt as _;
        let stat = super::descriptor::Stat::from(&meta);
        let file = u32::try_from(meta.ino())
            .ok()
            .map(|ino| (ino, address::kernels_device(meta.dev())));
        if stat.file_type() != libc::S_IFSOCK {
            findings.obstacle(taken(format!(
                "{} is no socket, but a socket has to be there",
                path.display()
            )));
        } else if table.bound(&entry.name, file) {
            findings.obstacle(taken(format!("The socket {} is in use", path.display())));
        }
    }
}
