//! The demo without root: the same program again, as root of a user and pid namespace of its own
//! (user_namespaces(7), pid_namespaces(7)). There it may do everything to the demo's tree and nothing
//! to anybody else. The pids that it restores are free there, too.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use icecore::kernel::privileges::Privileges;
use icecore::{Error, Kind, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{getegid, geteuid, mkdtemp};

use crate::cli::ourselves;

/// Set for the program inside.
const INSIDE: &str = "ICECORE_DEMO_INSIDE";
/// CAP_CHECKPOINT_RESTORE and CAP_SYS_ADMIN: either is enough to restore.
const ENOUGH: [u8; 2] = [40, 21];

/// The exit code of the demo in namespaces of its own, when it has to be there; `None` when it can
/// run here, or is there already.
///
/// # Errors
/// When this kernel does not let us have them.
pub(super) fn run() -> Result<Option<ExitCode>> {
    if std::env::var_os(INSIDE).is_some() {
        return settle().map(|()| None);
    }
    let rights = Privileges::read()?;
    if ENOUGH.iter().any(|right| rights.has(*right)) {
        return Ok(None);
    }
    let program = ourselves()?;
    let keepers = keepers_place()?;
    enter()?;
    let mut command = Command::new(&program);
    // As it was called: with its looks.
    command.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    if let Some(dir) = &keepers {
        command.env("ICECORE_RUNTIME_DIR", dir);
    }
    let ended = command.status();
    if let Some(dir) = keepers {
        let _removed = fs::remove_dir_all(dir);
    }
    let status = ended.map_err(|e| Error::path("start", &program, e))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(Some(ExitCode::from(code.unwrap_or(1))))
}

/// A directory for the keeper of in there: that of root is not ours.
fn keepers_place() -> Result<Option<PathBuf>> {
    if std::env::var_os("ICECORE_RUNTIME_DIR").is_some() {
        return Ok(None);
    }
    let template = std::env::temp_dir().join("icecore-keeper-XXXXXX");
    mkdtemp(&template)
        .map(Some)
        .map_err(|e| Error::path("create", &template, e.into()))
}

/// Namespaces for what we start from now on, in which we are root.
fn enter() -> Result<()> {
    let refused = |e| {
        let text = "Without root the demo needs a user namespace, which this system does not allow";
        Error::os(text, e)
            .kinded(Kind::Permission)
            .hint("run it as root: sudo icecore demo")
    };
    let (user, group) = (geteuid(), getegid());
    let spaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    unshare(spaces).map_err(refused)?;
    for (name, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {user} 1")),
        ("gid_map", format!("0 {group} 1")),
    ] {
        let path = format!("/proc/self/{name}");
        fs::write(&path, text).map_err(|e| {
            Error::path("write", &path, e)
                .kinded(Kind::Permission)
                .hint("run it as root: sudo icecore demo")
        })?;
    }
    Ok(())
}

/// What the program inside does first.
fn settle() -> Result<()> {
    // Whoever waits for us outside may be killed: nothing in here is to stay behind then.
    set_pdeathsig(Signal::SIGKILL)
        .map_err(|e| Error::os("Cannot ask to end with whoever started us", e))?;
    let none: Option<&str> = None;
    let ours = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let proc = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, "/", none, ours, none)
        .and_then(|()| mount(Some("proc"), "/proc", Some("proc"), proc, none))
        .map_err(|e| {
            Error::os("Cannot mount a /proc for the demo's pid namespace", e)
                .kinded(Kind::Permission)
                .hint("some containers forbid that; run it as root: sudo icecore demo")
        })
}
