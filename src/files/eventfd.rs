//! Event counters.
//!
//! CRIU: `eventfd_file_entry`; the semaphore mode is bit 0 of the flags. Sources: eventfd(2),
//! proc_pid_fdinfo(5).

use std::fs::File;
use std::io::Write as _;

use super::descriptor::Descriptor;
use super::{Dumper, FileKind, Findings, Held, Opening, Reopened};
use crate::error::{Error, Result};
use crate::image::proto::{EventfdFileEntry, FdTypes, FileEntry};
use crate::sys::events;

/// eventfd(2).
#[derive(Debug)]
pub(super) struct Eventfd;

impl FileKind for Eventfd {
    fn name(&self) -> &'static str {
        "eventfd"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.is_anonymous("eventfd")
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Eventfd
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let count = file
            .detail("eventfd-count")
            .and_then(|n| u64::from_str_radix(n, 16).ok());
        let counter = count.ok_or_else(|| {
            Error::corrupt(format!("{} does not tell its count", file.link.display()))
        })?;
        let semaphore = u32::from(file.detail("eventfd-semaphore") == Some("1"));
        let flags = file.flags | semaphore;
        dumper.push(FileEntry {
            r#type: FdTypes::Eventfd.into(),
            id,
            efd: Some(EventfdFileEntry {
                id,
                flags,
                fown: held.fown,
                counter,
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
        let flags = entry.flags.cast_signed() & libc::EFD_SEMAPHORE | libc::EFD_NONBLOCK;
        let file = events::eventfd(flags).map_err(|e| Error::os("Cannot make an eventfd", e))?;
        let mut file = File::from(file);
        if entry.counter != 0 {
            let set = file.write_all(&entry.counter.to_le_bytes());
            set.map_err(|e| Error::io(format!("Cannot set eventfd {}", entry.id), e))?;
        }
        Ok(Some(Reopened {
            file: file.into(),
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

fn part(entry: &FileEntry) -> Result<&EventfdFileEntry> {
    super::part(entry, entry.efd.as_ref(), "an eventfd")
}
