//! epoll instances.
//!
//! CRIU: `eventpoll_file_entry` with one `eventpoll_tfd_entry` per watch. A watch belongs to a
//! descriptor number of a process, so the process itself enters it again, once it has all its
//! descriptors. Programs may close that number and keep the file at another one: the image has the one that is open,
//! as CRIU does, and in a field of our own the old one, under which the watch is entered again: one
//! file may be watched under several. An edge that was pending is reported once more. Sources: epoll(7),
//! proc_pid_fdinfo(5), kcmp(2).

use std::collections::HashMap;
use std::os::fd::RawFd;

use nix::errno::Errno;

use super::descriptor::{self, Descriptor};
use super::survey::obstacle;
use super::{Dumper, FileKind, Findings, Held, Opening, Place, Refusal, Reopened};
use crate::error::{Error, Result};
use crate::image::proto::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};
use crate::inject::{Call, Remote};
use crate::sys::{events, kcmp};
use crate::units::{Pid, Vaddr};

/// epoll_create1(2).
#[derive(Debug)]
pub(super) struct Epoll;

impl FileKind for Epoll {
    fn name(&self) -> &'static str {
        "epoll instance"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.is_anonymous("eventpoll")
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Eventpoll
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let tfd = watches(held.file, id)?;
        let flags = held.file.flags;
        dumper.push(FileEntry {
            r#type: FdTypes::Eventpoll.into(),
            id,
            epfd: Some(EventpollFileEntry {
                id,
                flags,
                fown: held.fown,
                tfd,
            }),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, _: &mut Findings<'_>) -> Result<()> {
        part(entry).map(drop)
    }

    fn open(&self, entry: &FileEntry, _: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let file = events::epoll()
            .map_err(|e| Error::os(format!("Cannot make epoll instance {}", entry.id), e))?;
        Ok(Some(Reopened {
            file,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }

    fn settle(&self, entry: &FileEntry, place: &mut Place<'_>) -> Result<bool> {
        let entry = part(entry)?;
        let has = |number| place.table.iter().any(|descriptor| descriptor.fd == number);
        if !entry.tfd.iter().all(|watch| has(watch.tfd)) {
            return Ok(false);
        }
        // struct epoll_event is packed: 4 bytes of events, 8 of data.
        let most = usize::try_from(place.remote.scratch().bytes() / EVENT).unwrap_or(1);
        let (fired, armed): (Vec<_>, Vec<_>) = entry.tfd.iter().partition(|watch| has_fired(watch));
        // Those go first: nothing else may be told meanwhile.
        for watch in fired {
            enter_fired(watch, place)?;
        }
        for watches in armed.chunks(most) {
            let mut events = Vec::new();
            for watch in watches {
                events.extend(watch.events.to_le_bytes());
                events.extend(watch.data.to_le_bytes());
            }
            let start = place.remote.put(0, &events)?;
            let (elsewhere, here): (Vec<_>, Vec<_>) = watches
                .iter()
                .zip((start..).step_by(EVENT as usize))
                .partition(|(watch, _)| watch.entered.is_some());
            let adds = here
                .iter()
                .map(|(watch, event)| add(place.number, watch.tfd, *event));
            let mut calls: Vec<Call> = adds.collect();
            place.remote.run(&mut calls)?;
            for (call, (watch, event)) in calls.iter().zip(here) {
                match call.value() {
                    Ok(_) => {}
                    // CRIU does not tell the number that a second watch of one file was entered with.
                    Err(Errno::EEXIST) => enter_anywhere(watch, event, place)?,
                    Err(e) => return Err(cannot_watch(place.remote, watch, e)),
                }
            }
            for (watch, event) in elsewhere {
                enter_elsewhere(watch, event, place)?;
            }
        }
        Ok(true)
    }
}

/// What is no event but how to tell of one; the kernel leaves only this of a watch that tells once
/// (`EPOLLONESHOT`), when it has (`EP_PRIVATE_BITS`).
const MANNER: u32 =
    (libc::EPOLLWAKEUP | libc::EPOLLONESHOT | libc::EPOLLET | libc::EPOLLEXCLUSIVE).cast_unsigned();

/// True of a watch that was to tell once, and has told.
fn has_fired(watch: &EventpollTfdEntry) -> bool {
    watch.events & libc::EPOLLONESHOT.cast_unsigned() != 0 && watch.events & !MANNER == 0
}

/// Enters a watch that has told what it was to tell once. The kernel would have it tell of errors and
/// hang-ups again, so it is entered for everything, and what it tells is taken. A file that nothing can
/// be told of now is left at errors and hang-ups.
fn enter_fired(watch: &EventpollTfdEntry, place: &mut Place<'_>) -> Result<()> {
    let anything = libc::POLLIN | libc::POLLOUT | libc::POLLPRI | libc::POLLRDHUP;
    let mut poll = watch.tfd.to_le_bytes().to_vec();
    poll.extend(anything.to_le_bytes());
    poll.extend([0; 2]);
    let asked = place.remote.put(0, &poll)?;
    let is_ready = one(place.remote, watch, libc::SYS_poll, &[asked, 1, 0])? > 0;
    // The numbers of these events are those of poll(2).
    let wanted = if is_ready {
        u32::from(anything.cast_unsigned())
    } else {
        0
    };
    let mut event = (watch.events | wanted).to_le_bytes().to_vec();
    event.extend(watch.data.to_le_bytes());
    let event = place.remote.put(0, &event)?;
    if watch.entered.is_some() {
        enter_elsewhere(watch, event, place)?;
    } else {
        let mut calls = [add(place.number, watch.tfd, event)];
        place.remote.run(&mut calls)?;
        match calls[0].value() {
            Ok(_) => {}
            Err(Errno::EEXIST) => enter_anywhere(watch, event, place)?,
            Err(e) => return Err(cannot_watch(place.remote, watch, e)),
        }
    }
    let epoll = u64::from(place.number.cast_unsigned());
    one(
        place.remote,
        watch,
        libc::SYS_epoll_wait,
        &[epoll, event, 1, 0],
    )
    .map(drop)
}

/// The call that enters descriptor `tfd`.
fn add(epoll: RawFd, tfd: u32, event: Vaddr) -> Call {
    let (epoll, add) = (epoll.cast_unsigned(), libc::EPOLL_CTL_ADD.cast_unsigned());
    Call::new(
        libc::SYS_epoll_ctl,
        &[epoll.into(), add.into(), tfd.into(), event],
    )
}

fn cannot_watch(remote: &Remote, watch: &EventpollTfdEntry, e: Errno) -> Error {
    let (tid, tfd) = (remote.tid(), watch.tfd);
    Error::os(
        format!("Process {tid} cannot watch its descriptor {tfd}"),
        e,
    )
}

/// Enters a watch under the number that it had, which is free or another file's now: that one steps aside. Locks
/// that a close would end are not there yet.
fn enter_elsewhere(watch: &EventpollTfdEntry, event: Vaddr, place: &mut Place<'_>) -> Result<()> {
    let Some(entered) = watch.entered else {
        return Ok(());
    };
    let mut run = |number, args: &[u64]| one(place.remote, watch, number, args);
    let (from, to) = (u64::from(watch.tfd), u64::from(entered));
    let there = place
        .table
        .iter()
        .find(|descriptor| descriptor.fd == entered);
    let Some(there) = there else {
        run(libc::SYS_dup3, &[from, to, 0])?;
        let entering = add(place.number, entered, event);
        run(entering.nr, &entering.args)?;
        return run(libc::SYS_close, &[to]).map(drop);
    };
    let closed_by_exec = u64::from(there.flags & libc::FD_CLOEXEC.cast_unsigned() != 0);
    let dup = u64::from(libc::F_DUPFD_CLOEXEC.cast_unsigned());
    let aside = run(libc::SYS_fcntl, &[to, dup, 0])?;
    run(libc::SYS_dup3, &[from, to, 0])?;
    let epoll = match place.number.cast_unsigned() == entered {
        true => RawFd::try_from(aside).unwrap_or(place.number),
        false => place.number,
    };
    let entering = add(epoll, entered, event);
    run(entering.nr, &entering.args)?;
    let cloexec = closed_by_exec * u64::from(libc::O_CLOEXEC.cast_unsigned());
    run(libc::SYS_dup3, &[aside, to, cloexec])?;
    run(libc::SYS_close, &[aside]).map(drop)
}

/// Enters a watch under a number that is free.
fn enter_anywhere(watch: &EventpollTfdEntry, event: Vaddr, place: &mut Place<'_>) -> Result<()> {
    let mut run = |number, args: &[u64]| one(place.remote, watch, number, args);
    let free = run(libc::SYS_dup, &[watch.tfd.into()])?;
    let entering = add(place.number, u32::try_from(free).unwrap_or(0), event);
    run(entering.nr, &entering.args)?;
    run(libc::SYS_close, &[free]).map(drop)
}

/// One call in the process, for a watch.
fn one(remote: &mut Remote, watch: &EventpollTfdEntry, number: i64, args: &[u64]) -> Result<u64> {
    let mut calls = [Call::new(number, args)];
    remote.run(&mut calls)?;
    calls[0].value().map_err(|e| cannot_watch(remote, watch, e))
}

/// Bytes of struct epoll_event.
const EVENT: u64 = 12;

fn part(entry: &FileEntry) -> Result<&EventpollFileEntry> {
    super::part(entry, entry.epfd.as_ref(), "an epoll instance")
}

/// The watches of an instance, each under a number at which its process has the file open.
fn watches(file: &Descriptor, id: u32) -> Result<Vec<EventpollTfdEntry>> {
    let mut nth: HashMap<u32, u32> = HashMap::new();
    let lines = file.details.iter().filter(|(name, _)| name == "tfd");
    let mut watches = Vec::new();
    for (_, line) in lines {
        let mut watch = parse(line).ok_or_else(|| {
            Error::corrupt(format!(
                "{} has a strange line: {line}",
                file.link.display()
            ))
        })?;
        let turn = nth.entry(watch.tfd).or_default();
        if let Some(epoll) = file.number {
            let entered = watch.tfd;
            watch.tfd = open_number(file, epoll, entered.cast_signed(), *turn)?.cast_unsigned();
            watch.entered = (watch.tfd != entered).then_some(entered);
        }
        *turn += 1;
        watch.id = id;
        watches.push(watch);
    }
    Ok(watches)
}

/// The number at which the process has the watched file: the one it was entered with, or that of a
/// duplicate when that one was closed or is another file now.
fn open_number(file: &Descriptor, epoll: RawFd, watched: RawFd, nth: u32) -> Result<RawFd> {
    let is = |number| kcmp::watches(file.pid, number, epoll, watched, nth).unwrap_or(false);
    if is(watched) {
        return Ok(watched);
    }
    let mut numbers = descriptor::numbers(file.pid)?.into_iter();
    numbers.find(|number| is(*number)).ok_or_else(|| {
        let what = format!("Cannot dump process {}", file.pid);
        Error::refused(what, vec![obstacle(file, closed(watched))])
    })
}

/// Instances that watch a file which the process has closed, and something else keeps open: of such a
/// watch nobody can say what it is of. The first process that has an instance speaks for it, as in the dump.
pub(super) fn unnamed(files: &[Descriptor]) -> Vec<(&Descriptor, Refusal)> {
    let instances = files.iter().filter(|file| Epoll.recognises(file));
    let mut known: Vec<(Pid, RawFd)> = Vec::new();
    let mut found = Vec::new();
    for (file, number) in instances.filter_map(|file| Some((file, file.number?))) {
        let here = (file.pid, number);
        let same = |there: &(Pid, RawFd)| {
            kcmp::compare_files(here, *there).is_ok_and(std::cmp::Ordering::is_eq)
        };
        if known.iter().any(same) {
            continue;
        }
        known.push(here);
        let mut nth: HashMap<u32, u32> = HashMap::new();
        let lines = file.details.iter().filter(|(name, _)| name == "tfd");
        for watch in lines.filter_map(|(_, line)| parse(line)) {
            let turn = nth.entry(watch.tfd).or_default();
            let (watched, turn_now) = (watch.tfd.cast_signed(), *turn);
            *turn += 1;
            // It runs: what is true twice is no accident.
            if (0..2).all(|_| is_unnamed(file.pid, number, watched, turn_now)) {
                found.push((file, closed(watched)));
            }
        }
    }
    found
}

fn closed(watched: RawFd) -> Refusal {
    Refusal {
        what: format!("an epoll instance that watches a file it has closed: {watched}"),
        hint: "another process, or a message of a unix socket under way, still holds the file: have it closed there, too".to_owned(),
    }
}

/// True of a watch that is still there, and of a file that the process has at no number.
fn is_unnamed(pid: Pid, epoll: RawFd, watched: RawFd, nth: u32) -> bool {
    let of = |number| kcmp::watches(pid, number, epoll, watched, nth);
    // Whatever is compared: a watch that is gone has nothing to be compared with.
    let there = of(epoll).is_ok();
    let named = || {
        let numbers = descriptor::numbers(pid).unwrap_or_default();
        numbers.into_iter().any(|number| of(number) == Ok(true))
    };
    there && of(watched) != Ok(true) && !named()
}

/// `5 events:       19 data:                5  pos:0 ino:3f sdev:15`
fn parse(line: &str) -> Option<EventpollTfdEntry> {
    let (tfd, rest) = line.split_once("events:")?;
    let (events, rest) = rest.split_once("data:")?;
    let mut words = rest.split_whitespace();
    let mut watch = EventpollTfdEntry {
        tfd: tfd.trim().parse().ok()?,
        events: u32::from_str_radix(events.trim(), 16).ok()?,
        data: u64::from_str_radix(words.next()?, 16).ok()?,
        ..EventpollTfdEntry::default()
    };
    for word in words {
        match word.split_once(':')? {
            ("pos", value) => watch.pos = value.parse().ok(),
            ("ino", value) => watch.inode = u64::from_str_radix(value, 16).ok(),
            ("sdev", value) => watch.dev = u32::from_str_radix(value, 16).ok(),
            _ => {}
        }
    }
    Some(watch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_was_to_tell_once_has_when_no_event_is_left() {
        let of = |events| {
            has_fired(&EventpollTfdEntry {
                events,
                ..EventpollTfdEntry::default()
            })
        };
        assert!(of(0x4000_0000) && of(0xc000_0000));
        assert!(!of(0x4000_0019) && !of(0x4000_0018) && !of(0x8000_0000));
    }

    #[test]
    fn a_watch_is_read_from_its_line() {
        let line = "5 events: 80000019 data: ffff00000005  pos:7 ino:3f sdev:15";
        let watch = parse(line).unwrap();
        assert_eq!(
            (watch.tfd, watch.events, watch.data),
            (5, 0x8000_0019, 0xffff_0000_0005)
        );
        assert_eq!(
            (watch.pos, watch.inode, watch.dev),
            (Some(7), Some(0x3f), Some(0x15))
        );
        assert_eq!(parse("nonsense"), None);
    }
}
