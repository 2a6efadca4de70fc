//! The open descriptors of a task, so that two layers can be compared.
//!
//! Numbers that only order the images (`id`) differ from dump to dump and are left out.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::view::View;
use crate::error::{Error, Kind, Result};
use crate::image::proto::{CoreEntry, FdTypes, FdinfoEntry, FileEntry, TaskKobjIdsEntry};

/// A descriptor: what is open behind it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Descriptor {
    /// In lower case, e.g. `reg`, `pipe`.
    pub(super) kind: String,
    /// Path, or what else tells one from another.
    pub(super) name: String,
    /// Position in a file.
    pub(super) pos: Option<u64>,
    /// Everything that is recorded, but for numbers of the images.
    pub(super) record: Value,
}

impl fmt::Display for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        match self.pos {
            Some(pos) => write!(f, " at {pos}"),
            None => Ok(()),
        }
    }
}

/// Descriptors by number.
pub(super) type Descriptors = BTreeMap<u32, Descriptor>;

/// The descriptors of process `pid`.
pub(super) fn of_task(view: &View, pid: u32) -> Result<Descriptors> {
    let images = view.images();
    let core: Option<CoreEntry> = images.optional(&format!("core-{pid}.img"))?;
    let ids = match core.and_then(|core| core.ids) {
        Some(ids) => Some(ids),
        None => images.optional::<TaskKobjIdsEntry>(&format!("ids-{pid}.img"))?,
    };
    let Some(ids) = ids else {
        return Ok(Descriptors::new());
    };
    let mut all = Descriptors::new();
    for entry in images.all::<FdinfoEntry>(&format!("fdinfo-{}.img", ids.files_id))? {
        let file = view.file(entry.id);
        all.insert(entry.fd, descriptor(&entry, file)?);
    }
    Ok(all)
}

fn descriptor(entry: &FdinfoEntry, file: Option<&FileEntry>) -> Result<Descriptor> {
    let kind = FdTypes::try_from(entry.r#type).map_or_else(
        |_unknown| format!("kind {}", entry.r#type),
        |kind| kind.as_str_name().to_lowercase(),
    );
    let mut record = serde_json::to_value(file)
        .map_err(|e| Error::new(Kind::Failed, "Cannot compare descriptors").because(e))?;
    forget_numbers(&mut record);
    if let Value::Object(fields) = &mut record {
        fields.insert("fd_flags".to_owned(), entry.flags.into());
    }
    let (name, pos) = file.map_or((String::new(), None), name);
    Ok(Descriptor {
        kind,
        name,
        pos,
        record,
    })
}

/// What people call it.
fn name(file: &FileEntry) -> (String, Option<u64>) {
    if let Some(reg) = &file.reg {
        (reg.name.clone(), Some(reg.pos))
    } else if let Some(pipe) = &file.pipe {
        (format!("[{}]", pipe.pipe_id), None)
    } else if let Some(fifo) = &file.fifo {
        (format!("[{}]", fifo.pipe_id), None)
    } else if let Some(memfd) = &file.memfd {
        (String::new(), Some(memfd.pos))
    } else if let Some(event) = &file.efd {
        (format!("counter {}", event.counter), None)
    } else {
        (String::new(), None)
    }
}

/// Takes out `id` and the like: the order in which a dump met things.
fn forget_numbers(value: &mut Value) {
    if let Value::Object(fields) = value {
        for name in ["id", "inode_id", "file_id"] {
            fields.remove(name);
        }
        fields.values_mut().for_each(forget_numbers);
    }
}
