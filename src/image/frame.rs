//! Framing: magic numbers, then records of a length and a protobuf message.

use prost::Message;

use crate::error::{Error, Result};

/// First word of a normal image.
pub const COMMON_MAGIC: u32 = 0x5456_4319;
/// First word of a service image (`stats-dump`).
pub const SERVICE_MAGIC: u32 = 0x5510_5940;

/// The type magic of an image by its file name, and the word before it if any.
pub fn magic(name: &str) -> Option<(Option<u32>, u32)> {
    let stem = name.strip_suffix(".img").unwrap_or(name);
    let kind = stem.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
    let magic = match kind {
        "inventory" => return Some((None, 0x5831_3116)),
        "stats-dump" | "stats-restore" => return Some((Some(SERVICE_MAGIC), 0x5709_3306)),
        "stats" => return Some((Some(SERVICE_MAGIC), 0x5709_3306)),
        "pstree" => 0x5027_3030,
        "fdinfo" => 0x5621_3732,
        "pagemap" | "pagemap-shmem" => 0x5608_4025,
        "core" => 0x5505_3847,
        "ids" => 0x5443_2030,
        "mm" => 0x5749_2820,
        "files" => 0x5630_3138,
        "fs" => 0x5140_3912,
        "pipes-data" => 0x5645_3709,
        "fifo-data" => 0x5933_3054,
        "memfd" => 0x4845_3499,
        "seccomp" => 0x6441_3049,
        "timens" => 0x4311_4433,
        "remap-fpath" => 0x5913_3954,
        "icecore" => 0x4943_4543,
        _ => return None,
    };
    Some((Some(COMMON_MAGIC), magic))
}

/// A record as it stands in the file, with the raw bytes that follow it for some kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The protobuf bytes.
    pub bytes: Vec<u8>,
    /// Raw bytes after the record.
    pub extra: Vec<u8>,
}

/// The first bytes of an image called `name`.
pub fn header(name: &str) -> Result<Vec<u8>> {
    let (first, second) =
        magic(name).ok_or_else(|| Error::corrupt(format!("{name} is no known image")))?;
    let mut out = Vec::new();
    if let Some(first) = first {
        out.extend(first.to_le_bytes());
    }
    out.extend(second.to_le_bytes());
    Ok(out)
}

/// A record of `message`.
pub fn record(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut out = u32::try_from(bytes.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
        .to_vec();
    out.extend(bytes);
    out
}

/// Splits an image into records. `extra` tells how many raw bytes follow a record.
pub fn split(name: &str, data: &[u8], extra: impl Fn(&[u8]) -> usize) -> Result<Vec<Record>> {
    let head = header(name)?;
    let mut rest = data
        .strip_prefix(&head[..])
        .ok_or_else(|| Error::corrupt(format!("{name} does not begin with its magic")))?;
    let mut out = Vec::new();
    let short = || Error::corrupt(format!("{name} ends in the middle of a record"));
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let len = u32::from_le_bytes(*len) as usize;
        let (bytes, after) = after.split_at_checked(len).ok_or_else(short)?;
        let (blob, after) = after.split_at_checked(extra(bytes)).ok_or_else(short)?;
        out.push(Record {
            bytes: bytes.to_vec(),
            extra: blob.to_vec(),
        });
        rest = after;
    }
    Ok(out)
}
