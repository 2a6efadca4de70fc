//! What is remembered of a tracked process from one command to the next, and how it is asked for.
//!
//! The keeper (see `keeper`) holds the records; a request is one JSON message on its socket, with the
//! userfaultfd beside it where there is one.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::sys::rights;
use crate::units::Pid;

/// Longest message, in bytes.
pub(super) const MESSAGE: usize = 64 * 1024;

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
}

/// The keeper's answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The records asked for; the descriptor of a single one comes with it.
    Records(Vec<Record>),
    /// Why not.
    Refused(String),
}

/// Where the keeper's socket is: `$ICECORE_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/icecore`, or
/// `/run/icecore` for root.
pub(super) fn runtime_dir() -> PathBuf {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let root = nix::unistd::geteuid().is_root();
    of("ICECORE_RUNTIME_DIR")
        .or_else(|| of("XDG_RUNTIME_DIR").map(|dir| dir.join("icecore")))
        .or_else(|| root.then(|| PathBuf::from("/run/icecore")))
        .unwrap_or_else(|| std::env::temp_dir().join(format!("icecore-{}", nix::unistd::geteuid())))
}

pub(super) fn socket_path() -> PathBuf {
    runtime_dir().join("keeper.sock")
}

/// The record of a process, with its userfaultfd; `None` when it is not tracked.
///
/// # Errors
/// When a keeper is there but does not answer.
pub fn get(pid: Pid) -> Result<Option<(Record, Option<OwnedFd>)>> {
    let Some(connection) = dial()? else {
        return Ok(None);
    };
    let (records, fd) = ask(&connection, &Request::Get(pid.as_raw()), None)?;
    Ok(records.into_iter().next().map(|record| (record, fd)))
}

/// All records.
///
/// # Errors
/// As [`get`].
pub fn list() -> Result<Vec<Record>> {
    match dial()? {
        Some(connection) => Ok(ask(&connection, &Request::List, None)?.0),
        None => Ok(Vec::new()),
    }
}

/// Hands a record over, with its userfaultfd when that is new. Starts the keeper `program` when none
/// runs.
///
/// # Errors
/// When no keeper can be started or it refuses.
pub fn put(program: &Path, record: &Record, fd: Option<&OwnedFd>) -> Result<()> {
    let request = Request::Put(record.clone());
    for attempt in 0..2 {
        let connection = match dial()? {
            Some(connection) => connection,
            None => start(program)?,
        };
        match ask(&connection, &request, fd) {
            // A keeper that was just about to leave: another one is started.
            Err(e) if attempt == 0 && e.kind() == Kind::TargetGone => {}
            other => return other.map(drop),
        }
    }
    Err(Error::new(Kind::Failed, "The keeper does not stay"))
}

/// Forgets a process.
///
/// # Errors
/// As [`get`].
pub fn forget(pid: Pid) -> Result<()> {
    match dial()? {
        Some(connection) => ask(&connection, &Request::Drop(pid.as_raw()), None).map(drop),
        None => Ok(()),
    }
}

/// Connects to the keeper; `None` when there is none.
fn dial() -> Result<Option<OwnedFd>> {
    let path = socket_path();
    let cannot = |e| Error::os(format!("Cannot reach the keeper at {}", path.display()), e);
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(cannot)?;
    let address = UnixAddr::new(&path).map_err(cannot)?;
    use std::os::fd::AsRawFd as _;
    match connect(socket.as_raw_fd(), &address) {
        Ok(()) => Ok(Some(socket)),
        Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => Ok(None),
        Err(e) => Err(cannot(e)),
    }
}

/// Starts a keeper and waits until it listens: the starter ends once its child does.
fn start(program: &Path) -> Result<OwnedFd> {
    let cannot = |e| Error::path("start the keeper", program, e);
    let status = Command::new(program)
        .arg("keeper")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(cannot)?;
    if !status.success() {
        return Err(Error::new(
            Kind::Failed,
            format!("The keeper ended with {status}"),
        ));
    }
    dial()?.ok_or_else(|| Error::new(Kind::Failed, "The keeper does not listen"))
}

fn ask(
    connection: &OwnedFd,
    request: &Request,
    fd: Option<&OwnedFd>,
) -> Result<(Vec<Record>, Option<OwnedFd>)> {
    let gone = |e: Errno| Error::os("The keeper does not answer", e).kinded(Kind::TargetGone);
    let bytes = serde_json::to_vec(request)
        .map_err(|e| Error::new(Kind::Failed, "Cannot write a request").because(e))?;
    rights::send(connection.as_fd(), &bytes, fd.map(|fd| fd.as_fd())).map_err(gone)?;
    let (bytes, fd) = rights::receive(connection.as_fd(), MESSAGE).map_err(gone)?;
    if bytes.is_empty() {
        return Err(gone(Errno::ECONNRESET));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Answer::Records(records)) => Ok((records, fd)),
        Ok(Answer::Refused(why)) => Err(Error::new(Kind::Failed, why)),
        Err(e) => Err(Error::new(Kind::Failed, "Cannot read the keeper's answer").because(e)),
    }
}
