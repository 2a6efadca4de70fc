//! epoll instances.
//!
//! CRIU: `eventpoll_file_entry` with one `eventpoll_tfd_entry` per watch. A watch belongs to a
//! descriptor number of a process, so the process itself enters it again, once it has all its
//! descriptors. An edge that was pending is reported once more. Sources: epoll(7),
//! proc_pid_fdinfo(5), kcmp(2).

use std::collections::HashMap;
use std::os::fd::RawFd;

use super::descriptor::{self, Descriptor};
use super::{Dumper, FileKind, Findings, Held, Opening, Place, Reopened};
use crate::error::{Error, Kind, Result};
use crate::image::proto::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};
use crate::inject::Call;
use crate::sys::{events, kcmp};

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
        for watches in entry.tfd.chunks(most) {
            let mut events = Vec::new();
            for watch in watches {
                events.extend(watch.events.to_le_bytes());
                events.extend(watch.data.to_le_bytes());
            }
            let start = place.remote.put(0, &events)?;
            let event = (start..).step_by(EVENT as usize);
            let add = |(watch, event): (&EventpollTfdEntry, u64)| {
                let epoll = u64::from(place.number.cast_unsigned());
                let add = u64::from(libc::EPOLL_CTL_ADD.cast_unsigned());
                Call::new(libc::SYS_epoll_ctl, &[epoll, add, watch.tfd.into(), event])
            };
            let mut calls: Vec<Call> = watches.iter().zip(event).map(add).collect();
            place.remote.run(&mut calls)?;
            for (call, watch) in calls.iter().zip(watches) {
                let (tid, tfd) = (place.remote.tid(), watch.tfd);
                call.value().map_err(|e| {
                    Error::os(
                        format!("Process {tid} cannot watch its descriptor {tfd}"),
                        e,
                    )
                })?;
            }
        }
        Ok(true)
    }
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
            watch.tfd = open_number(file, epoll, watch.tfd.cast_signed(), *turn)?.cast_unsigned();
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
    descriptor::numbers(file.pid)?.into_iter().find(|number| is(*number)).ok_or_else(|| {
        Error::new(
            Kind::Unsupported,
            format!(
                "{} (pid {}) watches (epoll, descriptor {epoll}) a file that it has closed: {watched}",
                file.comm, file.pid
            ),
        )
        .hint("another process still holds the file: have it closed there, too")
    })
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
