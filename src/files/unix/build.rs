//! Restore half: all unix sockets of a layer at once, since they refer to each other.
//!
//! Names that were deleted come first and go again, so that others can have them; likewise those whose files were
//! moved, which move there. Accepted connections
//! are made through their listener, other connected sockets as pairs; where the other end was closed,
//! it is kept until the queue is filled. Queues, then the ends of directions, come last: the senders
//! of credentials must exist.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, UnixAddr, bind, connect, getsockopt,
    listen, shutdown, socket, socketpair, sockopt,
};
use prost::Message as _;

use super::super::socket::set_options;
use super::address::Address;
use super::{ESTABLISHED, EXTERNAL, LISTEN, queue};
use crate::error::{Error, Result};
use crate::image::proto::{FileEntry, SkOptsEntry, SkPacketEntry, UnixSkEntry};
use crate::image::{Images, Record};
use crate::sys::socket::{accept, set_int};
use crate::units::Pid;

/// The unix sockets of a layer.
#[derive(Debug, Default)]
pub(in crate::files) struct Made {
    sockets: HashMap<u32, OwnedFd>,
    /// Ends outside of the image, by the socket at this end.
    far: HashMap<u32, OwnedFd>,
    entries: Vec<UnixSkEntry>,
    packets: Vec<(SkPacketEntry, Vec<u8>)>,
}

impl Made {
    /// Makes them all, without what was queued.
    pub(in crate::files) fn make(images: &Images, files: &[FileEntry]) -> Result<Self> {
        let mut made = Self {
            entries: files.iter().filter_map(|file| file.usk.clone()).collect(),
            ..Self::default()
        };
        for Record { bytes, extra } in images.records("sk-queues.img")? {
            let entry = SkPacketEntry::decode(&*bytes)
                .map_err(|e| Error::corrupt("Cannot decode sk-queues.img").because(e))?;
            made.packets.push((entry, extra));
        }
        let entries = made.entries.clone();
        let queued = made
            .packets
            .iter()
            .map(|(packet, _)| packet.id_for)
            .collect();
        let mut builder = Builder {
            own: entries
                .iter()
                .filter(|e| e.uflags & EXTERNAL == 0)
                .collect(),
            all: entries.iter().map(|e| (e.ino, e)).collect(),
            queued,
            made: &mut made,
        };
        builder.build()?;
        Ok(made)
    }

    /// Takes a socket out.
    pub(in crate::files) fn take(&mut self, ino: u32) -> Option<OwnedFd> {
        self.sockets.remove(&ino)
    }

    /// Moves the ends outside of the image to numbers that no process uses.
    pub(in crate::files) fn lift(
        &mut self,
        lift: impl Fn(OwnedFd) -> Result<OwnedFd>,
    ) -> Result<()> {
        for (ino, far) in std::mem::take(&mut self.far) {
            self.far.insert(ino, lift(far)?);
        }
        Ok(())
    }

    /// Number of ends outside of the image.
    pub(in crate::files) fn ends(&self) -> usize {
        self.far.len()
    }

    /// Fills the queues, when all processes are there. `open` gives the descriptor of a file id, `seen`
    /// the id that we see of a process of the layer.
    pub(in crate::files) fn complete(
        &self,
        open: &dyn Fn(u32) -> Option<RawFd>,
        seen: &dyn Fn(Pid) -> Pid,
    ) -> Result<()> {
        let by_id: HashMap<u32, &UnixSkEntry> = self.entries.iter().map(|e| (e.id, e)).collect();
        for (packet, bytes) in &self.packets {
            let owner = by_id.get(&packet.id_for).copied().ok_or_else(|| {
                Error::corrupt(format!("sk-queues.img: no socket {}", packet.id_for))
            })?;
            let cannot = |e| Error::os(format!("Cannot fill the queue of {}", shown(owner)), e);
            let missing = || Error::corrupt(format!("Nobody can send to {}", shown(owner)));
            let sender = self.sender(owner, packet, open).ok_or_else(missing)?;
            set_int(&sender, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, ROOM).map_err(cannot)?;
            let rights = packet.scm.iter().flat_map(|scm| &scm.rights);
            let numbers: Option<Vec<RawFd>> = rights.map(|id| open(*id)).collect();
            let lost = || Error::corrupt(format!("{} has lost files under way", shown(owner)));
            let sender_id = |id: u32| seen(Pid::from_raw(id.cast_signed())).as_raw();
            let who = packet.pid.filter(|pid| *pid != 0).map(sender_id);
            queue::fill(&sender, packet, who, bytes, &numbers.ok_or_else(lost)?).map_err(cannot)?;
        }
        for entry in self.entries.iter().filter(|e| e.uflags & EXTERNAL == 0) {
            let Some(socket) = open(entry.id).map(copy).transpose()? else {
                continue;
            };
            let cannot = |e| Error::os(format!("Cannot finish {}", shown(entry)), e);
            let ended = match entry.shutdown.unwrap_or(0) {
                0 => None,
                1 => Some(Shutdown::Read),
                2 => Some(Shutdown::Write),
                _ => Some(Shutdown::Both),
            };
            if let Some(ended) = ended {
                shutdown(socket.as_raw_fd(), ended).map_err(cannot)?;
            }
            set_options(&socket, &entry.opts).map_err(cannot)?;
            // Now that all has arrived: some forbid what is under way, or would add to it.
            for option in &entry.options {
                set_int(&socket, option.level, option.name, option.value).map_err(cannot)?;
            }
        }
        Ok(())
    }

    /// The socket that sends to `owner`.
    fn sender(
        &self,
        owner: &UnixSkEntry,
        packet: &SkPacketEntry,
        open: &dyn Fn(u32) -> Option<RawFd>,
    ) -> Option<OwnedFd> {
        let named = |e: &&UnixSkEntry| {
            e.peer == owner.ino
                && packet
                    .sender
                    .as_ref()
                    .is_some_and(|name| same_name(name, &e.name))
        };
        let peer = |e: &&UnixSkEntry| e.ino == owner.peer && e.peer == owner.ino;
        let far = self.far.get(&owner.ino);
        let inside = self
            .entries
            .iter()
            .find(named)
            .or_else(|| self.entries.iter().find(|e| peer(e) && far.is_none()));
        match inside {
            Some(entry) => copy(open(entry.id)?).ok(),
            None => far?.try_clone().ok(),
        }
    }
}

/// Room for whatever is put into a queue at once.
const ROOM: i32 = 1 << 28;

fn same_name(one: &[u8], other: &[u8]) -> bool {
    Address::of(one).is_some() && Address::of(one) == Address::of(other)
}

fn copy(number: RawFd) -> Result<OwnedFd> {
    crate::sys::descriptor::copy(number).map_err(|e| Error::os("Cannot copy a socket", e))
}

fn shown(entry: &UnixSkEntry) -> String {
    match Address::of(&entry.name) {
        Some(address) => format!("unix socket {} ({address})", entry.id),
        None => format!("unix socket {}", entry.id),
    }
}

/// Makes the sockets of a layer.
struct Builder<'a> {
    own: Vec<&'a UnixSkEntry>,
    all: HashMap<u32, &'a UnixSkEntry>,
    /// File ids of sockets with something queued.
    queued: HashSet<u32>,
    made: &'a mut Made,
}

impl<'a> Builder<'a> {
    fn build(&mut self) -> Result<()> {
        for gone in [true, false] {
            self.round(gone)?;
        }
        for entry in self.own.clone() {
            if self.is_made(entry) {
                continue;
            }
            let orphan = entry.state == ESTABLISHED && entry.peer == 0;
            if let Some(peer) = self.partner(entry) {
                let (one, other) = pair(entry)?;
                self.keep(entry, one)?;
                self.keep(peer, other)?;
                self.name(entry, true)?;
                self.name(peer, true)?;
            } else if orphan && (!is_packets(entry) || entry.name.is_empty()) {
                let (one, other) = pair(entry)?;
                self.keep(entry, one)?;
                self.name(entry, true)?;
                self.made.far.insert(entry.ino, other);
            } else {
                self.plain(entry)?;
            }
        }
        for entry in self.own.clone() {
            let listener = self
                .all
                .get(&entry.peer)
                .filter(|peer| peer.state == LISTEN);
            if let Some(listener) = listener.copied() {
                self.connect(entry, listener)?;
            }
        }
        Ok(())
    }

    /// Those whose names are gone (deleted, or moved), or not: sockets with names, then what is connected to
    /// them.
    fn round(&mut self, gone: bool) -> Result<()> {
        let left = |e: &UnixSkEntry| e.deleted.unwrap_or(false) || e.moved_to.is_some();
        let here = |e: &&UnixSkEntry| !e.name.is_empty() && left(e) == gone;
        let own = self.own.clone();
        let bound: Vec<&UnixSkEntry> = own
            .iter()
            .copied()
            .filter(here)
            .filter(|e| e.state == LISTEN || self.partner(e).is_none() && !is_connected_stream(e))
            .collect();
        for &entry in &bound {
            if !self.is_made(entry) {
                self.plain(entry)?;
            }
            self.name(entry, false)?;
            if entry.state == LISTEN {
                self.listen(entry)?;
            }
        }
        for &entry in &own {
            let through = bound.iter().find(|listener| {
                listener.state == LISTEN
                    && listener.r#type == entry.r#type
                    && same_name(&listener.name, &entry.name)
                    && listener.name_dir == entry.name_dir
                    && listener.moved_to == entry.moved_to
            });
            if let (Some(listener), Some(client), false) =
                (through, self.partner(entry), self.is_made(entry))
                && !is_packets(entry)
                && entry.ino != listener.ino
            {
                self.accepted(listener, client, entry)?;
            }
        }
        for &entry in &own {
            let Some(peer) = self.all.get(&entry.peer).copied() else {
                continue;
            };
            if is_packets(entry) && self.partner(entry).is_none() && here(&peer) {
                if !self.is_made(entry) {
                    self.plain(entry)?;
                }
                self.connect(entry, peer)?;
            }
        }
        for entry in bound {
            if is_packets(entry) && self.queued.contains(&entry.id) {
                let far = new(entry)?;
                to(&far, entry)?;
                self.made.far.insert(entry.ino, far);
            }
            let address = Address::of(&entry.name);
            let path = address.and_then(|a| a.path(entry.name_dir.as_deref()));
            if let (true, Some(path)) = (entry.deleted.unwrap_or(false), path) {
                fs::remove_file(&path).map_err(|e| Error::path("remove", &path, e))?;
            }
        }
        Ok(())
    }

    fn is_made(&self, entry: &UnixSkEntry) -> bool {
        self.made.sockets.contains_key(&entry.ino)
    }

    /// The socket of the layer at the other end, when both ends know each other.
    fn partner(&self, entry: &UnixSkEntry) -> Option<&'a UnixSkEntry> {
        let peer = *self.all.get(&entry.peer)?;
        let mutual = peer.peer == entry.ino && peer.ino != entry.ino;
        (mutual && peer.uflags & EXTERNAL == 0).then_some(peer)
    }

    fn keep(&mut self, entry: &UnixSkEntry, socket: OwnedFd) -> Result<()> {
        // Who asks for credentials gets a name with what it sends, and a filter drops what was there
        // before it: that must wait.
        let options = SkOptsEntry {
            so_passcred: None,
            so_filter: Vec::new(),
            so_lock_filter: None,
            ..entry.opts.clone()
        };
        set_options(&socket, &options)
            .map_err(|e| Error::os(format!("Cannot set options of {}", shown(entry)), e))?;
        self.made.sockets.insert(entry.ino, socket);
        Ok(())
    }

    fn plain(&mut self, entry: &UnixSkEntry) -> Result<()> {
        self.keep(entry, new(entry)?)
    }

    fn socket(&self, entry: &UnixSkEntry) -> Result<&OwnedFd> {
        let missing = || Error::corrupt(format!("{} was not made", shown(entry)));
        self.made.sockets.get(&entry.ino).ok_or_else(missing)
    }

    /// Binds a socket to its name. One of a connection may share it with others: then it stays
    /// without.
    fn name(&self, entry: &UnixSkEntry, shared: bool) -> Result<()> {
        let Some(address) = Address::of(&entry.name) else {
            return Ok(());
        };
        let socket = self.socket(entry)?;
        let path = address.path(entry.name_dir.as_deref());
        let stale = path.as_ref().filter(|path| {
            !shared && fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
        });
        if let Some(path) = stale {
            fs::remove_file(path).map_err(|e| Error::path("replace", path, e))?;
        }
        let raw = address.raw();
        let bound = at(address.directory(entry.name_dir.as_deref()), || {
            bind(socket.as_raw_fd(), &raw?)
        });
        match bound {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) if shared => return Ok(()),
            Err(e) => return Err(Error::os(format!("Cannot bind {}", shown(entry)), e)),
        }
        if let (Some(path), Some(permissions)) = (&path, &entry.file_perms) {
            let set = chown(path, Some(permissions.uid), Some(permissions.gid)).and_then(|()| {
                fs::set_permissions(path, fs::Permissions::from_mode(permissions.mode & 0o7777))
            });
            set.map_err(|e| Error::path("set the permissions of", path, e))?;
        }
        if let (Some(path), Some(to)) = (&path, &entry.moved_to) {
            fs::rename(path, to).map_err(|e| Error::path("move", path, e))?;
        }
        if let (true, Some(path)) = (shared && entry.deleted.unwrap_or(false), &path) {
            fs::remove_file(path).map_err(|e| Error::path("remove", path, e))?;
        }
        Ok(())
    }

    fn listen(&self, entry: &UnixSkEntry) -> Result<()> {
        let backlog = i32::try_from(entry.backlog).unwrap_or(i32::MAX);
        Backlog::new(backlog)
            .or(Ok(Backlog::MAXCONN))
            .and_then(|backlog| listen(self.socket_ref(entry)?, backlog))
            .map_err(|e: Errno| Error::os(format!("Cannot listen on {}", shown(entry)), e))
    }

    fn socket_ref(&self, entry: &UnixSkEntry) -> nix::Result<&OwnedFd> {
        self.made.sockets.get(&entry.ino).ok_or(Errno::EBADF)
    }

    /// Connects `entry` with the name of `peer`, without waiting for anybody.
    fn connect(&self, entry: &UnixSkEntry, peer: &UnixSkEntry) -> Result<()> {
        to(self.socket(entry)?, peer)
            .map_err(|e| e.hint(format!("start the program that {} belongs to", shown(peer))))
    }

    /// Makes a connection as it was made: `client` to `listener`, which gives `server`.
    fn accepted(
        &mut self,
        listener: &UnixSkEntry,
        client: &UnixSkEntry,
        server: &UnixSkEntry,
    ) -> Result<()> {
        self.plain(client)?;
        self.name(client, true)?;
        self.connect(client, listener)?;
        let cannot = |e| Error::os(format!("Cannot accept {}", shown(server)), e);
        let me = nix::unistd::getpid().as_raw();
        // The listener can be reached by others, too.
        let socket = loop {
            let socket = accept(self.socket(listener)?).map_err(cannot)?;
            let peer = getsockopt(&socket, sockopt::PeerCredentials).map_err(cannot)?;
            if peer.pid() == me {
                break socket;
            }
        };
        self.keep(server, socket)
    }
}

/// Datagrams: connected one way.
fn is_packets(entry: &UnixSkEntry) -> bool {
    entry.r#type == libc::SOCK_DGRAM.cast_unsigned()
}

fn is_connected_stream(entry: &UnixSkEntry) -> bool {
    !is_packets(entry) && entry.state == ESTABLISHED
}

fn kind(entry: &UnixSkEntry) -> Result<SockType> {
    SockType::try_from(entry.r#type.cast_signed())
        .map_err(|e| Error::os(format!("{} is of no known type", shown(entry)), e))
}

fn new(entry: &UnixSkEntry) -> Result<OwnedFd> {
    socket(
        AddressFamily::Unix,
        kind(entry)?,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|e| Error::os(format!("Cannot make {}", shown(entry)), e))
}

fn pair(entry: &UnixSkEntry) -> Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::Unix,
        kind(entry)?,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|e| Error::os(format!("Cannot make {}", shown(entry)), e))
}

/// Connects a socket with the name of `peer`.
fn to(socket: &OwnedFd, peer: &UnixSkEntry) -> Result<()> {
    let cannot = |e| Error::os(format!("Cannot connect with {}", shown(peer)), e);
    let moved_to = peer.moved_to.as_ref().map(Path::new);
    let (directory, raw) = match moved_to.and_then(|path| path.parent().zip(path.file_name())) {
        // Whatever the length of the path.
        Some((directory, name)) => (Some(directory), UnixAddr::new(Path::new(name))),
        None => {
            let address = Address::of(&peer.name)
                .ok_or(Errno::EDESTADDRREQ)
                .map_err(cannot)?;
            (address.directory(peer.name_dir.as_deref()), address.raw())
        }
    };
    at(directory, || connect(socket.as_raw_fd(), &raw?)).map_err(cannot)
}

/// Does something with `directory` as working directory, for this alone.
fn at(
    directory: Option<&Path>,
    operation: impl FnOnce() -> nix::Result<()> + Send,
) -> nix::Result<()> {
    let Some(directory) = directory else {
        return operation();
    };
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS)?;
            nix::unistd::chdir(directory)?;
            operation()
        });
        inside.join().unwrap_or(Err(Errno::ECANCELED))
    })
}
