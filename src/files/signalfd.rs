//! Descriptors that deliver signals.
//!
//! CRIU: `signalfd_entry`. Sources: signalfd(2), proc_pid_fdinfo(5).

use super::descriptor::Descriptor;
use super::{Dumper, FileKind, Findings, Held, Opening, Reopened};
use crate::error::{Error, Result};
use crate::image::proto::{FdTypes, FileEntry, SignalfdEntry};
use crate::sys::events;

/// signalfd(2).
#[derive(Debug)]
pub(super) struct Signalfd;

impl FileKind for Signalfd {
    fn name(&self) -> &'static str {
        "signalfd"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.is_anonymous("signalfd")
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Signalfd
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let mask = file
            .detail("sigmask")
            .and_then(|mask| u64::from_str_radix(mask, 16).ok());
        let sigmask = mask.ok_or_else(|| {
            Error::corrupt(format!("{} does not tell its signals", file.link.display()))
        })?;
        dumper.push(FileEntry {
            r#type: FdTypes::Signalfd.into(),
            id,
            sgfd: Some(SignalfdEntry {
                id,
                flags: file.flags,
                fown: held.fown,
                sigmask,
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
        let file = events::signalfd(entry.sigmask)
            .map_err(|e| Error::os(format!("Cannot make signalfd {}", entry.id), e))?;
        Ok(Some(Reopened {
            file,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

fn part(entry: &FileEntry) -> Result<&SignalfdEntry> {
    super::part(entry, entry.sgfd.as_ref(), "a signalfd")
}
