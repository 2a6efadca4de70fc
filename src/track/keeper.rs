//! The keeper: a small process of ours that holds what must not end with a command: the userfaultfds
//! of tracked processes, so that tracking goes on and nothing stays in the targets; and connections of
//! trees that were dumped and ended ([`super::connections`]).
//!
//! One for each user, started on demand, gone with the last thing that it holds. Its death harms
//! nobody: the kernel stops tracking, and the next layer is compared or full; connections can be
//! made again from their layer, unless the other end has spoken meanwhile.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
};

use super::connections::Connection;
use super::record::{Answer, MESSAGE, Record, Request, check_dir, dial, runtime_dir, socket_path};
use crate::error::{Error, Kind, Result};
use crate::sys::{pidfd, rights};
use crate::task;
use crate::units::Pid;

/// A tracked process as the keeper holds it.
#[derive(Debug)]
struct Kept {
    record: Record,
    /// The userfaultfd, for trackers that have one.
    fd: Option<OwnedFd>,
    /// Tells when the process ends.
    pidfd: OwnedFd,
}

/// All that a keeper holds.
#[derive(Debug, Default)]
struct Holdings {
    processes: BTreeMap<i32, Kept>,
    connections: Vec<(Connection, OwnedFd)>,
}

impl Holdings {
    fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.connections.is_empty()
    }
}

/// Milliseconds that a keeper without targets waits for its first one.
const IDLE: u16 = 10_000;

/// Starts a keeper in the background, unless there is one; returns when it listens. `program` is this
/// program.
///
/// # Errors
/// When it cannot be started.
pub fn start(program: &Path) -> Result<()> {
    // A keeper lives long: it must not hold anything open that happened to be open here.
    crate::sys::descriptor::close_on_exec_from(3)
        .map_err(|e| Error::os("Cannot keep descriptors from the keeper", e))?;
    let _lock = lock()?;
    if dial()?.is_some() {
        return Ok(());
    }
    let listener = listen_here()?;
    let cannot = |e| Error::path("start", program, e);
    // The listener is the new keeper's standard input.
    let mut keeper = Command::new(program)
        .args(["keeper", "--serve"])
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(cannot)?;
    // Who outlives it (the terminal UI) has to wait for it, or it stays in the list of processes. A command
    // ends first, and init does it.
    let waiting = thread::Builder::new().name("keeper".into());
    let _if_there_can_be_a_thread = waiting.spawn(move || keeper.wait());
    Ok(())
}

/// Serves on the listener at standard input until the last target is gone.
///
/// # Errors
/// When the listener is not one.
pub fn serve() -> Result<()> {
    let socket =
        std::path::absolute(socket_path()).map_err(|e| Error::io("Cannot find the socket", e))?;
    // Not in anybody's terminal or job any more.
    let _leader_already = nix::unistd::setsid();
    let _root = std::env::set_current_dir("/");
    let stdin = std::io::stdin();
    let mut kept = Holdings::default();
    let mut clients: Vec<OwnedFd> = Vec::new();
    loop {
        let (ready, idle) = wait(stdin.as_fd(), &kept, &clients)?;
        if idle && leave(stdin.as_fd(), &socket)? {
            return Ok(());
        }
        kept.processes.retain(|pid, _| !ready.ended.contains(pid));
        if ready.listener
            && let Ok(fd) = accept(stdin.as_fd())
        {
            clients.push(fd);
        }
        let mut index = 0;
        clients.retain(|client| {
            let is_ready = ready.clients.contains(&index);
            index += 1;
            !is_ready || answer(client, &mut kept)
        });
        let was_last = kept.is_empty() && clients.is_empty() && !ready.ended.is_empty();
        if was_last && leave(stdin.as_fd(), &socket)? {
            return Ok(());
        }
    }
}

/// Takes the socket away, so that whoever comes finds nobody and starts another keeper; false when
/// somebody has just come.
fn leave(listener: BorrowedFd<'_>, socket: &Path) -> Result<bool> {
    let _lock = lock_in(socket.parent().unwrap_or(Path::new("/")))?;
    let mut fds = [PollFd::new(listener, PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::ZERO).map_err(|e| Error::os("The keeper cannot wait", e))? > 0 {
        return Ok(false);
    }
    let _gone = fs::remove_file(socket);
    Ok(true)
}

/// Held while a keeper comes or goes, so that there is never a second one.
fn lock() -> Result<Flock<File>> {
    let dir = runtime_dir();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|e| {
            Error::path("create", &dir, e)
                .hint("set ICECORE_RUNTIME_DIR to a directory of your own")
        })?;
    check_dir(&dir)?;
    lock_in(&dir)
}

fn lock_in(dir: &Path) -> Result<Flock<File>> {
    let path = dir.join("keeper.lock");
    let file = File::create(&path).map_err(|e| Error::path("open", &path, e))?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| Error::os(format!("Cannot lock {}", path.display()), e))
}

#[derive(Debug, Default)]
struct Ready {
    listener: bool,
    clients: Vec<usize>,
    ended: Vec<i32>,
}

/// Waits for a client, a message or the end of a target; true when nothing came for long and there
/// is nothing to keep.
fn wait(listener: BorrowedFd<'_>, kept: &Holdings, clients: &[OwnedFd]) -> Result<(Ready, bool)> {
    let mut fds = vec![PollFd::new(listener, PollFlags::POLLIN)];
    fds.extend(
        clients
            .iter()
            .map(|c| PollFd::new(c.as_fd(), PollFlags::POLLIN)),
    );
    fds.extend(
        kept.processes
            .values()
            .map(|k| PollFd::new(k.pidfd.as_fd(), PollFlags::POLLIN)),
    );
    let timeout = if kept.is_empty() {
        PollTimeout::from(IDLE)
    } else {
        PollTimeout::NONE
    };
    let count = loop {
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            other => break other.map_err(|e| Error::os("The keeper cannot wait", e))?,
        }
    };
    let is_ready = |i: usize| fds[i].revents().is_some_and(|r| !r.is_empty());
    let first_target = 1 + clients.len();
    let ready = Ready {
        listener: is_ready(0),
        clients: (0..clients.len()).filter(|i| is_ready(1 + i)).collect(),
        ended: kept
            .processes
            .keys()
            .enumerate()
            .filter(|(i, _)| is_ready(first_target + i))
            .map(|(_, pid)| *pid)
            .collect(),
    };
    Ok((ready, count == 0 && kept.is_empty()))
}

/// Accepts a client of our own user; root may ask anybody's keeper.
fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    let cannot = |e| Error::os("The keeper cannot accept", e);
    let client = rights::accept(listener).map_err(cannot)?;
    let peer = getsockopt(&client, PeerCredentials).map_err(cannot)?;
    if peer.uid() != nix::unistd::geteuid().as_raw() && peer.uid() != 0 {
        return Err(Error::new(Kind::Permission, "A stranger asked the keeper"));
    }
    Ok(client)
}

/// Answers one message; false when the client is gone.
fn answer(client: &OwnedFd, kept: &mut Holdings) -> bool {
    let Ok((bytes, fd)) = rights::receive(client.as_fd(), MESSAGE) else {
        return false;
    };
    if bytes.is_empty() {
        return false;
    }
    let mut send_fd = None;
    let answer = match serde_json::from_slice(&bytes) {
        Ok(Request::Put(record)) => match keep(record, fd, &mut kept.processes) {
            Ok(()) => Answer::Records(Vec::new()),
            Err(e) => Answer::Refused(e.one_line()),
        },
        Ok(Request::Get(pid)) => {
            let found = kept.processes.get(&pid);
            send_fd = found.and_then(|k| k.fd.as_ref());
            Answer::Records(found.map(|k| k.record.clone()).into_iter().collect())
        }
        Ok(Request::List) => {
            let all = kept.processes.values();
            Answer::Records(all.map(|k| k.record.clone()).collect())
        }
        Ok(Request::Drop(pid)) => {
            kept.processes.remove(&pid);
            Answer::Records(Vec::new())
        }
        Ok(Request::Hold(connection)) => match fd {
            Some(socket) => {
                let others = |(held, _): &(Connection, _)| held.ends != connection.ends;
                kept.connections.retain(others);
                kept.connections.push((connection, socket));
                Answer::Connections(Vec::new())
            }
            None => Answer::Refused("The keeper got no socket".to_owned()),
        },
        Ok(Request::Held(wanted)) => {
            let found = kept.connections.iter().find(|(held, _)| *held == wanted);
            send_fd = found.map(|(_, socket)| socket);
            Answer::Connections(found.map(|(held, _)| held.clone()).into_iter().collect())
        }
        Ok(Request::Connections) => {
            let all = kept.connections.iter();
            Answer::Connections(all.map(|(held, _)| held.clone()).collect())
        }
        Ok(Request::LetGo(ends)) => {
            let stays = |held: &Connection| ends.as_ref().is_some_and(|ends| *ends != held.ends);
            kept.connections.retain(|(held, _)| stays(held));
            Answer::Connections(Vec::new())
        }
        Err(e) => Answer::Refused(format!("The keeper does not understand: {e}")),
    };
    let Ok(bytes) = serde_json::to_vec(&answer) else {
        return false;
    };
    rights::send(client.as_fd(), &bytes, send_fd.map(|fd| fd.as_fd())).is_ok()
}

fn keep(record: Record, fd: Option<OwnedFd>, kept: &mut BTreeMap<i32, Kept>) -> Result<()> {
    let pid = Pid::from_raw(record.pid);
    let same = kept
        .remove(&record.pid)
        .filter(|k| k.record.start_time == record.start_time);
    let (pidfd, old) = match same {
        Some(kept) => (kept.pidfd, kept.fd),
        None => (
            pidfd::open(pid).map_err(|e| Error::os(format!("Cannot watch process {pid}"), e))?,
            None,
        ),
    };
    // The pid could have been given to somebody else before the pidfd was opened.
    if task::process(pid)?.start_time != record.start_time {
        return Err(Error::new(
            Kind::TargetGone,
            format!("Process {pid} is another one by now"),
        ));
    }
    kept.insert(
        record.pid,
        Kept {
            record,
            fd: fd.or(old),
            pidfd,
        },
    );
    Ok(())
}

/// Makes the socket.
fn listen_here() -> Result<OwnedFd> {
    let path = socket_path();
    let cannot = |e| Error::os(format!("Cannot listen at {}", path.display()), e);
    // Left behind by a keeper that was killed; a living one would have answered.
    let _absent = fs::remove_file(&path);
    let flags = SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(cannot)?;
    let address = UnixAddr::new(&path).map_err(cannot)?;
    bind(listener.as_raw_fd(), &address).map_err(cannot)?;
    listen(&listener, Backlog::new(16).map_err(cannot)?).map_err(cannot)?;
    Ok(listener)
}
