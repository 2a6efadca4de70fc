//! What is remembered of a tracked process from one command to the next, and how the keeper is asked.
//!
//! The keeper (see `keeper`) holds the records; a request is one JSON message on its socket, with the
//! userfaultfd beside it where there is one.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{ReceiveTimeout, SendTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;
use serde::{Deserialize, Serialize};

use super::connections::Connection;
use crate::error::{Error, Kind, Result};
use crate::sys::rights;
use crate::units::Pid;

/// Longest message, in bytes.
pub(super) const MESSAGE: usize = 64 * 1024;

/// How often somebody is asked who may just be leaving.
const ATTEMPTS: u32 = 3;

/// How long a keeper may take: targets are frozen meanwhile.
const PATIENCE: TimeVal = TimeVal::new(1, 0);

/// A tracked process: who it is, and since when its writes are noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its pid.
    pub pid: i32,
    /// Its start time, ticks after boot: tells it from a later process with the same pid.
    pub start_time: u64,
    /// Name of the tracker.
    pub tracker: String,
    /// The layer (identity, hexadecimal) that was made when tracking was last armed; `None` when it
    /// was armed without a layer, or when arming is under way.
    pub layer: Option<String>,
    /// Shared segments by inode, with their numbers in the layer's images.
    #[serde(default)]
    pub segments: Vec<(u64, u32)>,
}

/// A request to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Keep this record and the descriptor that comes with it (if one does); replaces an older one.
    Put(Record),
    /// Give the record and the descriptor of a process.
    Get(i32),
    /// Give all records.
    List,
    /// Forget a process.
    Drop(i32),
    /// Keep this connection, whose socket comes with it; replaces one with the same ends.
    Hold(Connection),
    /// Give the socket of a connection.
    Held(Connection),
    /// Give all connections.
    Connections,
    /// Close the connections with these ends, or all.
    LetGo(Option<String>),
}

/// The keeper's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The records asked for; the descriptor of a single one comes with it.
    Records(Vec<Record>),
    /// The connections asked for; the socket of a single one comes with it.
    Connections(Vec<Connection>),
    /// Why not.
    Refused(String),
}

/// Where the keeper's socket is: `$ICECORE_RUNTIME_DIR`, `/run/icecore` for root, or
/// `$XDG_RUNTIME_DIR/icecore`. Not the latter for root: `sudo` may leave it pointing to a directory of
/// another user, and two keepers cannot track the same process. In a pid namespace of its own (a
/// container that shares these directories) ids mean other processes: the name has its number then.
pub(super) fn runtime_dir() -> PathBuf {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let root = nix::unistd::geteuid().is_root();
    let name = match foreign_pids() {
        Some(number) => format!("icecore-pids-{number}"),
        None => "icecore".to_owned(),
    };
    of("ICECORE_RUNTIME_DIR")
        .or_else(|| root.then(|| Path::new("/run").join(&name)))
        .or_else(|| of("XDG_RUNTIME_DIR").map(|dir| dir.join(&name)))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("{name}-{}", nix::unistd::geteuid())))
}

/// The number of our pid namespace, unless it is the first one (`PROC_PID_INIT_INO` of
/// `include/linux/proc_ns.h`).
fn foreign_pids() -> Option<u64> {
    const FIRST: u64 = 0xefff_fffc;
    let number = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    (number != FIRST).then_some(number)
}

pub(super) fn socket_path() -> PathBuf {
    runtime_dir().join("keeper.sock")
}

/// Refuses a runtime directory in which somebody else could put a keeper of his own: he would be given
/// our userfaultfds and could claim written pages to be unchanged. False when there is no directory.
pub(super) fn check_dir(dir: &Path) -> Result<bool> {
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(Error::path("look at", dir, e)),
    };
    let ours = [0, nix::unistd::geteuid().as_raw()].contains(&meta.uid());
    if meta.is_dir() && ours && meta.mode() & 0o022 == 0 {
        return Ok(true);
    }
    let what = format!(
        "{} is not a directory that only you can write to",
        dir.display()
    );
    Err(Error::new(Kind::Permission, what)
        .hint("remove it, or set ICECORE_RUNTIME_DIR to a directory of your own"))
}

/// The record of a process, with its userfaultfd; `None` when it is not tracked.
///
/// # Errors
/// When a keeper is there but does not answer.
pub fn get(pid: Pid) -> Result<Option<(Record, Option<OwnedFd>)>> {
    Ok(match request(&Request::Get(pid.as_raw()), None)? {
        Some((Answer::Records(records), fd)) => records.into_iter().next().map(|r| (r, fd)),
        _ => None,
    })
}

/// All records.
///
/// # Errors
/// As [`get`].
pub fn list() -> Result<Vec<Record>> {
    Ok(match request(&Request::List, None)? {
        Some((Answer::Records(records), _)) => records,
        _ => Vec::new(),
    })
}

/// Hands a record over, with its userfaultfd when that is new. Starts the keeper `program` when none
/// runs.
///
/// # Errors
/// When no keeper can be started or it refuses.
pub fn put(program: &Path, record: &Record, fd: Option<&OwnedFd>) -> Result<()> {
    deliver(program, &Request::Put(record.clone()), fd)
}

/// Makes a request that must reach a keeper: starts `program` when none runs.
pub(super) fn deliver(program: &Path, wish: &Request, fd: Option<&OwnedFd>) -> Result<()> {
    for _ in 0..ATTEMPTS {
        if request(wish, fd)?.is_some() {
            return Ok(());
        }
        start(program)?;
    }
    Err(Error::new(Kind::Failed, "The keeper does not stay"))
}

/// Forgets a process.
///
/// # Errors
/// As [`get`].
pub fn forget(pid: Pid) -> Result<()> {
    request(&Request::Drop(pid.as_raw()), None).map(drop)
}

/// Asks the keeper; `None` when there is none. One that was just about to leave does not answer: then
/// there is none, or a new one.
pub(super) fn request(
    request: &Request,
    fd: Option<&OwnedFd>,
) -> Result<Option<(Answer, Option<OwnedFd>)>> {
    let mut attempt = 1;
    loop {
        let Some(connection) = dial()? else {
            return Ok(None);
        };
        match ask(&connection, request, fd) {
            Err(e) if e.kind() == Kind::TargetGone && attempt < ATTEMPTS => attempt += 1,
            other => return other.map(Some),
        }
    }
}

/// Connects to the keeper; `None` when there is none.
pub(super) fn dial() -> Result<Option<OwnedFd>> {
    if !check_dir(&runtime_dir())? {
        return Ok(None);
    }
    let path = socket_path();
    let cannot = |e| Error::os(format!("Cannot reach the keeper at {}", path.display()), e);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(cannot)?;
    setsockopt(&socket, ReceiveTimeout, &PATIENCE).map_err(cannot)?;
    setsockopt(&socket, SendTimeout, &PATIENCE).map_err(cannot)?;
    let address = UnixAddr::new(&path).map_err(cannot)?;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        Err(e) => Err(cannot(e)),
    }
}

/// Starts a keeper; the starter ends once its child listens, or when there is one already.
fn start(program: &Path) -> Result<()> {
    let cannot = |e| Error::path("start the keeper", program, e);
    let output = Command::new(program)
        .arg("keeper")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(cannot)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().next().unwrap_or("it does not say why");
    Err(Error::new(
        Kind::Failed,
        format!("The keeper cannot start ({}): {why}", output.status),
    ))
}

fn ask(
    connection: &OwnedFd,
    request: &Request,
    fd: Option<&OwnedFd>,
) -> Result<(Answer, Option<OwnedFd>)> {
    let gone = |e: Errno| {
        let error = Error::os("The keeper does not answer", e);
        match e {
            Errno::EAGAIN => error.kinded(Kind::Busy),
            _ => error.kinded(Kind::TargetGone),
        }
    };
    let bytes = serde_json::to_vec(request)
        .map_err(|e| Error::new(Kind::Failed, "Cannot write a request").because(e))?;
    rights::send(connection.as_fd(), &bytes, fd.map(|fd| fd.as_fd())).map_err(gone)?;
    let (bytes, fd) = rights::receive(connection.as_fd(), MESSAGE).map_err(gone)?;
    if bytes.is_empty() {
        return Err(gone(Errno::ECONNRESET));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Answer::Refused(why)) => Err(Error::new(Kind::Failed, why)),
        Ok(answer) => Ok((answer, fd)),
        Err(e) => Err(Error::new(Kind::Failed, "Cannot read the keeper's answer").because(e)),
    }
}
