//! Images for people and programs: a list of the files of a layer, any file as text, and any file
//! as JSON in the form of CRIU's `crit decode`: `{"magic": "PAGEMAP", "entries": [...]}`.

use std::fmt::Write as _;
use std::fs;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Images, frame, json, kinds, values};
use crate::error::{Error, Kind, Result};
use crate::units::PAGE_SIZE;

/// One file of a layer.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// File name.
    pub name: String,
    /// The magic's name, e.g. `PAGEMAP`; `raw` for images without records, `link` for `parent`;
    /// none for a file that is not known.
    pub kind: Option<&'static str>,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of records; none when there are no records or they cannot be read.
    pub records: Option<usize>,
    /// Why the records cannot be read.
    pub error: Option<String>,
}

/// The files of a layer, in order of their names.
pub fn list(images: &Images) -> Result<Vec<Listed>> {
    images
        .names()?
        .into_iter()
        .map(|name| listed(images, name))
        .collect()
}

fn listed(images: &Images, name: String) -> Result<Listed> {
    let path = images.dir().join(&name);
    let meta = fs::symlink_metadata(&path).map_err(|e| Error::path("look at", &path, e))?;
    let mut listed = Listed {
        name,
        kind: None,
        bytes: meta.len(),
        records: None,
        error: None,
    };
    if meta.is_symlink() {
        listed.kind = Some("link");
    } else if kinds::is_raw(&listed.name) {
        listed.kind = Some("raw");
    } else if let Some(kind) = kinds::ImageKind::of(&listed.name).filter(|_| meta.is_file()) {
        listed.kind = Some(kind.name);
        match images.records(&listed.name) {
            Ok(records) => listed.records = Some(records.len()),
            Err(e) => listed.error = Some(e.one_line()),
        }
    }
    Ok(listed)
}

/// The list of the files of a layer as text.
pub fn list_text(images: &Images) -> Result<String> {
    let files = list(images)?;
    let width = files.iter().map(|f| f.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for file in files {
        let what = match (file.kind, file.records, &file.error) {
            (Some("link"), ..) => images.parent_link().ok().flatten().map_or_else(
                || "link".to_owned(),
                |target| format!("-> {}", target.display()),
            ),
            (Some("raw"), ..) if file.name.starts_with("pages-") => {
                format!("{} pages", file.bytes / PAGE_SIZE)
            }
            (_, _, Some(error)) => format!("damaged: {error}"),
            (Some(kind), Some(1), _) => format!("{kind}, 1 record"),
            (Some(kind), Some(n), _) => format!("{kind}, {n} records"),
            (Some(kind), None, _) => kind.to_owned(),
            (None, ..) => "not an image".to_owned(),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{:width$}  {:>12}  {what}", file.name, file.bytes);
    }
    Ok(out)
}

/// Kinds whose records `crit` shows with the bytes that follow them even when there are none.
const ALWAYS_FOLLOWED: &[&str] = &["PIPES_DATA", "FIFO_DATA", "SK_QUEUES"];

/// An image as CRIU's `crit decode` writes it.
///
/// # Errors
/// When it is not there, damaged, or has no records.
pub fn json(images: &Images, name: &str) -> Result<Value> {
    let data = present(images, name)?;
    let kind = frame::kind(name, &data)?;
    let mut entries = Vec::new();
    for (index, frame) in frame::frames(name, &data)?.enumerate() {
        let (bytes, extra) = frame?;
        let (mut value, _) = decode(kind, name, index, bytes)?;
        if let Value::Object(fields) = &mut value
            && (!extra.is_empty() || ALWAYS_FOLLOWED.contains(&kind.name))
        {
            fields.insert("extra".to_owned(), extra_json(kind.name, fields, extra));
        }
        entries.push(value);
    }
    Ok(json!({ "magic": kind.name, "entries": entries }))
}

/// An image as text.
///
/// # Errors
/// When it is not there, or damaged.
pub fn text(images: &Images, name: &str) -> Result<String> {
    if kinds::is_raw(name) {
        let Listed { bytes, .. } = listed(images, name.to_owned())?;
        let pages = bytes / PAGE_SIZE;
        return Ok(format!("{name}: raw, {bytes} bytes ({pages} pages)\n"));
    }
    let data = present(images, name)?;
    let kind = frame::kind(name, &data)?;
    let mut body = String::new();
    let mut records = 0;
    for (index, frame) in frame::frames(name, &data)?.enumerate() {
        let (bytes, extra) = frame?;
        let (value, known) = decode(kind, name, index, bytes)?;
        let _ = write!(body, "[{index}] ");
        values::entry(&mut body, &value, 4);
        let unknown = bytes.len().saturating_sub(known);
        if unknown > 0 {
            let _ = writeln!(
                body,
                "    and {unknown} bytes of fields that are not known here"
            );
        }
        if !extra.is_empty() {
            let _ = writeln!(body, "    followed by {}", values::blob(extra));
        }
        records += 1;
    }
    let plural = if records == 1 { "" } else { "s" };
    Ok(format!(
        "{name}: {}, {records} record{plural}\n{body}",
        kind.name
    ))
}

fn present(images: &Images, name: &str) -> Result<Vec<u8>> {
    images.bytes(name)?.ok_or_else(|| {
        let what = format!("Layer {} has no {name}", images.dir().display());
        Error::new(Kind::NotFound, what)
            .hint("list the files of the layer with: icecore show LAYER")
    })
}

fn decode(
    kind: &kinds::ImageKind,
    name: &str,
    index: usize,
    bytes: &[u8],
) -> Result<(Value, usize)> {
    kind.json(index, bytes)
        .map_err(|e| Error::corrupt(format!("Cannot decode record {index} of {name}")).because(e))
}

/// The bytes after a record: base64, or their parts where `crit` tells them apart.
fn extra_json(kind: &str, fields: &Map<String, Value>, extra: &[u8]) -> Value {
    let split = |first: &str, [one, two]: [&str; 2]| {
        let at = fields
            .get(first)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok());
        let (a, b) = extra
            .split_at_checked(at.unwrap_or(0))
            .unwrap_or((extra, &[]));
        json!({ one: json::base64(a), two: json::base64(b) })
    };
    match kind {
        "TCP_STREAM" => split("inq_len", ["inq", "outq"]),
        "BPFMAP_DATA" => split("keys_bytes", ["keys", "values"]),
        "IPCNS_SEM" => {
            let count = fields.get("nsems").and_then(Value::as_u64).unwrap_or(0);
            let count = usize::try_from(count).unwrap_or(0);
            extra
                .as_chunks()
                .0
                .iter()
                .take(count)
                .map(|&v| Value::from(u16::from_le_bytes(v)))
                .collect()
        }
        _ => json::base64(extra).into(),
    }
}
