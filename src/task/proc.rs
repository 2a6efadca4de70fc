//! What /proc tells about a thread (proc(5)). Names of threads need not be UTF-8, so the files are
//! read as bytes first.

use std::fs;
use std::io::{Cursor, Read as _};

use procfs::process::{Stat, Status};
use procfs::{FromBufRead as _, FromRead as _};

use crate::error::{Error, Kind, Result};
use crate::units::Pid;

/// Bytes that most files of /proc fit in.
const ROOM: usize = 2048;

/// `/proc/PID/task/TID/status`.
pub(crate) fn status(pid: Pid, tid: Pid) -> Result<Status> {
    let path = format!("/proc/{pid}/task/{tid}/status");
    let text = text(&path)?;
    Status::from_buf_read(Cursor::new(text)).map_err(|e| unreadable(&path, e))
}

/// `/proc/PID/task/TID/stat`.
pub(crate) fn stat(pid: Pid, tid: Pid) -> Result<Stat> {
    let path = format!("/proc/{pid}/task/{tid}/stat");
    let text = text(&path)?;
    Stat::from_read(Cursor::new(text)).map_err(|e| unreadable(&path, e))
}

/// `/proc/PID/stat`, of the process as a whole.
pub(crate) fn stat_of_process(pid: Pid) -> Result<Stat> {
    let path = format!("/proc/{pid}/stat");
    let text = text(&path)?;
    Stat::from_read(Cursor::new(text)).map_err(|e| unreadable(&path, e))
}

/// A file below `/proc/PID`, without the newline at its end.
pub(crate) fn line(pid: Pid, name: &str) -> Result<String> {
    text(&format!("/proc/{pid}/{name}")).map(|t| t.trim_end_matches('\n').to_owned())
}

/// All threads of a process, the leader first.
pub(crate) fn threads(pid: Pid) -> Result<Vec<Pid>> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).map_err(|e| gone_or("list", &path, e))?;
    let mut tids: Vec<Pid> = entries
        .filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect();
    tids.sort_by_key(|t| (*t != pid, *t));
    Ok(tids)
}

/// What `read` tells of each thread of a process, the leader first. A thread that ends meanwhile is
/// left out.
pub(crate) fn of_threads<T>(
    pid: Pid,
    read: impl Fn(Pid, Pid) -> Result<T>,
) -> Result<Vec<(Pid, T)>> {
    let mut all = Vec::new();
    for tid in threads(pid)? {
        match read(pid, tid) {
            Ok(told) => all.push((tid, told)),
            Err(e) if tid != pid && e.kind() == Kind::TargetGone => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

fn text(path: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(ROOM);
    // Without a limit it asks for the size, which /proc does not tell, and begins with small pieces.
    let read = fs::File::open(path).and_then(|file| file.take(u64::MAX).read_to_end(&mut bytes));
    read.map_err(|e| gone_or("read", path, e))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A failure; where the directory, or the task behind the open file, is gone, that is said.
fn gone_or(action: &str, path: &str, cause: std::io::Error) -> Error {
    let gone = matches!(cause.raw_os_error(), Some(libc::ENOENT | libc::ESRCH));
    let error = Error::path(action, path, cause);
    if gone {
        return error.kinded(Kind::TargetGone);
    }
    error
}

/// A file of /proc that does not look as proc(5) says.
pub(crate) fn unreadable(
    path: &str,
    cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> Error {
    Error::new(Kind::Unsupported, format!("Cannot make sense of {path}")).because(cause)
}
