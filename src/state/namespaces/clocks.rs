//! Clocks that must never go back (time_namespaces(7)): CLOCK_MONOTONIC and CLOCK_BOOTTIME of a tree as it
//! sees them, in `timens-N.img` of every layer.
//!
//! They begin anew with each boot. A tree that is restored while they show less than in its layer (after
//! a reboot, on another machine, from a time namespace) gets a time namespace in which they go on from
//! the layer's. Otherwise it shares ours, and has slept for a while.

use std::fs;

use nix::time::{ClockId, clock_gettime};

use crate::error::{Error, Kind, Result};
use crate::image::proto::{TimensEntry, Timespec};
use crate::inject::Remote;
use crate::task::proc;
use crate::units::Pid;

const CLONE_NEWTIME: u64 = 0x80;
const SECOND: i128 = 1_000_000_000;

/// Monotonic and boot time, in ns.
type Clocks = [i128; 2];

/// The clocks as process `root` sees them now.
///
/// # Errors
/// When they cannot be read.
pub(super) fn of(root: Pid) -> Result<TimensEntry> {
    let (ours, theirs) = (offsets(Pid::this())?, offsets(root)?);
    let here = here()?;
    let of = |n: usize| timespec(here[n] - ours[n] + theirs[n]);
    Ok(TimensEntry {
        monotonic: of(0),
        boottime: of(1),
    })
}

/// True when a clock shows less here than it did `then`.
///
/// # Errors
/// When the clocks cannot be read.
pub(super) fn would_go_back(then: &TimensEntry) -> Result<bool> {
    let here = here()?;
    Ok(nanoseconds(then)
        .iter()
        .zip(here)
        .any(|(then, now)| now < *then))
}

/// Puts the children that `remote`, of the process `pid`, forks from here on into a time namespace that
/// begins with the clocks `then`.
///
/// # Errors
/// Without CAP_SYS_ADMIN and CAP_SYS_TIME.
pub fn set_for_children(remote: &mut Remote, pid: Pid, then: &TimensEntry) -> Result<()> {
    let hint = "a time namespace needs CAP_SYS_ADMIN and CAP_SYS_TIME: run it as root";
    let args = [CLONE_NEWTIME];
    remote
        .call("making a time namespace", libc::SYS_unshare, &args)
        .map_err(|e| e.hint(hint))?;
    let (ours, here, then) = (offsets(Pid::this())?, here()?, nanoseconds(then));
    let line = |name: &str, n: usize| {
        let offset = timespec(then[n] - here[n] + ours[n]);
        let (seconds, rest) = (offset.tv_sec.cast_signed(), offset.tv_nsec);
        format!("{name} {seconds} {rest}\n")
    };
    let path = format!("/proc/{pid}/timens_offsets");
    fs::write(&path, line("monotonic", 0) + &line("boottime", 1))
        .map_err(|e| Error::path("write", &path, e).hint(hint))
}

/// The clocks as we see them.
fn here() -> Result<Clocks> {
    let read = |clock| {
        let now = clock_gettime(clock).map_err(|e| Error::os("Cannot read the clock", e))?;
        Ok(i128::from(now.tv_sec()) * SECOND + i128::from(now.tv_nsec()))
    };
    Ok([
        read(ClockId::CLOCK_MONOTONIC)?,
        read(ClockId::CLOCK_BOOTTIME)?,
    ])
}

/// How far the clocks of a process are ahead of the machine's (`/proc/PID/timens_offsets`).
fn offsets(pid: Pid) -> Result<Clocks> {
    let path = format!("/proc/{pid}/timens_offsets");
    match proc::line(pid, "timens_offsets") {
        // So it is when the process has just ended.
        Ok(text) if text.is_empty() => {
            let what = format!("Process {pid} has ended");
            Err(Error::new(Kind::TargetGone, what))
        }
        Ok(text) => parse(&text).ok_or_else(|| proc::unreadable(&path, "not two clocks")),
        // A kernel without time namespaces.
        Err(_) if !fs::exists("/proc/self/ns/time").unwrap_or(true) => Ok([0; 2]),
        Err(e) => Err(e),
    }
}

fn parse(text: &str) -> Option<Clocks> {
    let mut lines = text.lines();
    let mut clock = |name: &str| {
        let mut words = lines.next()?.split_whitespace();
        let known = words.next() == Some(name);
        let mut number = || words.next()?.parse::<i128>().ok();
        let offset = number()? * SECOND + number()?;
        known.then_some(offset)
    };
    Some([clock("monotonic")?, clock("boottime")?])
}

fn nanoseconds(entry: &TimensEntry) -> Clocks {
    [&entry.monotonic, &entry.boottime]
        .map(|t| i128::from(t.tv_sec.cast_signed()) * SECOND + i128::from(t.tv_nsec))
}

/// The nanoseconds are never negative, as the kernel wants them.
fn timespec(ns: i128) -> Timespec {
    let seconds = i64::try_from(ns.div_euclid(SECOND)).unwrap_or(0);
    Timespec {
        tv_sec: seconds.cast_unsigned(),
        tv_nsec: u64::try_from(ns.rem_euclid(SECOND)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_the_kernel_writes_them() {
        let text = "monotonic           5         7\nboottime           -1 500000000\n";
        assert_eq!(parse(text), Some([5 * SECOND + 7, -SECOND / 2]));
        assert_eq!(parse("monotonic 5\n"), None);
    }

    #[test]
    fn a_negative_offset_has_positive_nanoseconds() {
        let half = timespec(-SECOND / 2);
        assert_eq!((half.tv_sec.cast_signed(), half.tv_nsec), (-1, 500_000_000));
    }

    #[test]
    fn clocks_go_back_only_to_what_is_ahead() {
        let now = of(Pid::this()).unwrap();
        assert!(!would_go_back(&now).unwrap());
        let mut ahead = now;
        ahead.boottime.tv_sec += 1000;
        assert!(would_go_back(&ahead).unwrap());
    }
}
