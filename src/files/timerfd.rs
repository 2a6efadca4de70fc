//! Timers behind descriptors.
//!
//! CRIU: `timerfd_entry`; the value is the time left, also for a timer that was set to a moment.
//! The clock of a timer stands still from the dump to the restore; but one that was set to a moment of the
//! wall clock goes off at that moment, or at once, which a field of our own tells. Sources:
//! timerfd_create(2), proc_pid_fdinfo(5), `fs/timerfd.c`.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::descriptor::Descriptor;
use super::{Dumper, FileKind, Findings, Held, Opening, Reopened};
use crate::error::{Error, Result};
use crate::image::proto::{FdTypes, FileEntry, TimerfdEntry};
use crate::sys::events::{self, Timing};

/// timerfd_create(2).
#[derive(Debug)]
pub(super) struct Timerfd;

impl FileKind for Timerfd {
    fn name(&self) -> &'static str {
        "timerfd"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.is_anonymous("timerfd")
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Timerfd
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let timer = parse(file).ok_or_else(|| {
            Error::corrupt(format!("{} does not tell its timer", file.link.display()))
        })?;
        let mut tfd = TimerfdEntry {
            id,
            flags: file.flags,
            fown: held.fown,
            ..timer
        };
        going_on(&mut tfd); // CRIU would not start it again
        tfd.moment = moment(&tfd);
        dumper.push(FileEntry {
            r#type: FdTypes::Timerfd.into(),
            id,
            tfd: Some(tfd),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, _: &mut Findings<'_>) -> Result<()> {
        part(entry).map(drop)
    }

    fn open(&self, entry: &FileEntry, _: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let file = events::timerfd(entry.clockid.cast_signed())
            .map_err(|e| Error::os(format!("Cannot make timerfd {}", entry.id), e))?;
        Ok(Some(Reopened {
            file,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }

    fn start(&self, entry: &FileEntry, file: &OwnedFd) -> Result<()> {
        let mut entry = *part(entry)?;
        going_on(&mut entry);
        let cannot = |e| Error::os(format!("Cannot set timerfd {}", entry.id), e);
        let mut timing = Timing {
            value: Duration::new(entry.vsec, subsec(entry.vnsec)),
            interval: Duration::new(entry.isec, subsec(entry.insec)),
        };
        if !timing.value.is_zero() {
            let flags = entry.settime_flags.cast_signed();
            if flags & libc::TFD_TIMER_ABSTIME != 0 {
                timing.value = match entry.moment {
                    Some(moment) => Duration::from_nanos(moment),
                    None => timing.value + now(entry.clockid).map_err(cannot)?,
                };
            }
            events::set_timer(file, flags, timing).map_err(cannot)?;
        }
        if entry.ticks > 0 {
            events::set_ticks(file, entry.ticks).map_err(cannot)?;
        }
        Ok(())
    }
}

fn part(entry: &FileEntry) -> Result<&TimerfdEntry> {
    super::part(entry, entry.tfd.as_ref(), "a timerfd")
}

/// The time of a timer's clock. Those that wake the machine go with ordinary ones, which can be read where
/// no clock of the hardware is (timerfd_create(2)).
fn now(clock: u32) -> nix::Result<Duration> {
    let clock = match clock.cast_signed() {
        libc::CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        libc::CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        clock => clock,
    };
    clock_gettime(ClockId::from_raw(clock)).map(Duration::from)
}

/// When a timer goes off that was set to a moment of the wall clock, and has not yet.
fn moment(timer: &TimerfdEntry) -> Option<u64> {
    let wall = [libc::CLOCK_REALTIME, libc::CLOCK_REALTIME_ALARM];
    let absolute = timer.settime_flags.cast_signed() & libc::TFD_TIMER_ABSTIME != 0;
    let left = Duration::new(timer.vsec, subsec(timer.vnsec));
    if !absolute || left.is_zero() || !wall.contains(&timer.clockid.cast_signed()) {
        return None;
    }
    let moment = now(timer.clockid).ok()? + left;
    u64::try_from(moment.as_nanos()).ok()
}

/// A periodic timer that has expired stands until it is read, and then goes on.
fn going_on(entry: &mut TimerfdEntry) {
    if (entry.vsec, entry.vnsec) == (0, 0) && entry.ticks > 0 {
        (entry.vsec, entry.vnsec) = (entry.isec, entry.insec);
    }
}

/// Nanoseconds below a second.
fn subsec(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds.min(999_999_999)).unwrap_or(0)
}

/// The timer as fdinfo tells it.
fn parse(file: &Descriptor) -> Option<TimerfdEntry> {
    let pair = |name| -> Option<(u64, u64)> {
        let (seconds, rest) = file
            .detail(name)?
            .trim_matches(['(', ')'])
            .split_once(", ")?;
        Some((seconds.parse().ok()?, rest.parse().ok()?))
    };
    let ((vsec, vnsec), (isec, insec)) = (pair("it_value")?, pair("it_interval")?);
    Some(TimerfdEntry {
        clockid: file.detail("clockid")?.parse().ok()?,
        ticks: file.detail("ticks")?.parse().ok()?,
        settime_flags: u32::from_str_radix(file.detail("settime flags")?, 8).ok()?,
        vsec,
        vnsec,
        isec,
        insec,
        ..TimerfdEntry::default()
    })
}
