//! Framing: magic numbers, then records: a length, a protobuf message, for some kinds raw bytes.
//!
//! Reading never allocates more than the file has bytes, whatever its lengths say. Records are
//! kept as they are, so [`join`] after [`split`] gives the same file, unknown fields included.

use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};

use super::kinds::{ImageKind, is_raw};
use crate::error::{Error, Kind, Result};

/// First word of a normal image.
pub(super) const COMMON_MAGIC: u32 = 0x5456_4319;
/// First word of a service image (`stats-dump`).
pub(super) const SERVICE_MAGIC: u32 = 0x5510_5940;

/// A record as it stands in the file, with the raw bytes that follow it for some kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The protobuf bytes.
    pub bytes: Vec<u8>,
    /// Raw bytes after the record.
    pub extra: Vec<u8>,
}

/// The kind of an image, by its name or else by its content.
pub(super) fn kind(name: &str, data: &[u8]) -> Result<&'static ImageKind> {
    if let Some(kind) = ImageKind::of(name) {
        return Ok(kind);
    }
    if is_raw(name) {
        return Err(Error::new(
            Kind::Usage,
            format!("{name} holds raw bytes, no records"),
        ));
    }
    ImageKind::of_content(data)
        .ok_or_else(|| Error::new(Kind::Unsupported, format!("{name} is no known image")))
}

/// The first bytes of an image called `name`.
pub(super) fn header(name: &str) -> Result<Vec<u8>> {
    kind(name, &[]).map(ImageKind::header)
}

/// Appends a record of `message`.
pub(super) fn put(out: &mut Vec<u8>, message: &impl Message) -> Result<()> {
    put_raw(out, &message.encode_to_vec())
}

/// Appends a record of `bytes`.
pub(super) fn put_raw(out: &mut Vec<u8>, bytes: &[u8]) -> Result<()> {
    let len = u32::try_from(bytes.len())
        .map_err(|e| Error::new(Kind::Unsupported, "A record has more than 4 GiB").because(e))?;
    out.extend(len.to_le_bytes());
    out.extend(bytes);
    Ok(())
}

/// An image of these records.
pub(super) fn join(name: &str, records: &[Record]) -> Result<Vec<u8>> {
    let mut out = header(name)?;
    for record in records {
        put_raw(&mut out, &record.bytes)?;
        out.extend(&record.extra);
    }
    Ok(out)
}

/// Splits an image into records.
pub(super) fn split(name: &str, data: &[u8]) -> Result<Vec<Record>> {
    let own = |(bytes, extra): (&[u8], &[u8])| Record {
        bytes: bytes.into(),
        extra: extra.into(),
    };
    frames(name, data)?.map(|frame| frame.map(own)).collect()
}

/// The records of an image without copying them: protobuf bytes and raw bytes of each.
pub(super) fn frames<'a>(name: &'a str, data: &'a [u8]) -> Result<Frames<'a>> {
    let kind = kind(name, data)?;
    let rest = data.strip_prefix(&kind.header()[..]).ok_or_else(|| {
        Error::corrupt(format!(
            "{name} does not begin with the magic of {}",
            kind.name
        ))
    })?;
    Ok(Frames {
        name,
        kind,
        rest,
        index: 0,
    })
}

/// Iterator of [`frames`].
#[derive(Debug)]
pub(super) struct Frames<'a> {
    name: &'a str,
    kind: &'static ImageKind,
    rest: &'a [u8],
    index: usize,
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<(&'a [u8], &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.cut();
        if frame.is_none() {
            self.rest = &[]; // nothing after a damaged record can be found
        }
        self.index += 1;
        let (name, index) = (self.name, self.index);
        Some(frame.ok_or_else(|| {
            Error::corrupt(format!(
                "{name} is damaged or ends too early in record {index}"
            ))
        }))
    }
}

impl<'a> Frames<'a> {
    fn cut(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let (len, after) = self.rest.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (bytes, after) = after.split_at_checked(len)?;
        let extra = self.kind.extra(self.index, bytes, after)?;
        let (extra, after) = after.split_at_checked(extra)?;
        self.rest = after;
        Some((bytes, extra))
    }
}

/// The number of the first field of a message that is not among `known`.
pub(super) fn unknown_field(mut bytes: &[u8], known: &[u32]) -> Option<u32> {
    while !bytes.is_empty() {
        let (tag, wire) = decode_key(&mut bytes).ok()?;
        if !known.contains(&tag) {
            return Some(tag);
        }
        skip_field(wire, tag, &mut bytes, DecodeContext::default()).ok()?;
    }
    None
}

/// The fields of a message that are not among `known`, as they stand there.
pub(super) fn unknown_fields(mut bytes: &[u8], known: &[u32]) -> Vec<u8> {
    let mut unknown = Vec::new();
    while !bytes.is_empty() {
        let field = bytes;
        let Ok((tag, wire)) = decode_key(&mut bytes) else {
            break;
        };
        if skip_field(wire, tag, &mut bytes, DecodeContext::default()).is_err() {
            break;
        }
        if !known.contains(&tag) {
            unknown.extend(&field[..field.len() - bytes.len()]);
        }
    }
    unknown
}
