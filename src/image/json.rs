//! How fields of images look in JSON: as CRIU's `crit decode` prints them. The generated messages
//! (`proto/gen`) name these functions in their serde attributes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serializer;

/// An enum of the format; its values have the names of the .proto files.
pub(crate) trait Named: TryFrom<i32> {
    /// The name of this value.
    fn name(&self) -> &'static str;
}

/// An enum field: its name, or the number that no name is known for.
pub(crate) fn name<E: Named, S: Serializer>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match E::try_from(*value) {
        Ok(known) => serializer.serialize_str(known.name()),
        Err(_) => serializer.serialize_i32(*value),
    }
}

/// An enum field that may be absent.
pub(crate) fn optional_name<E: Named, S: Serializer>(
    value: &Option<i32>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => name::<E, S>(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// A field of bytes, in base64.
pub(crate) fn bytes<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&base64(value))
}

/// A field of bytes that may be absent.
pub(crate) fn optional_bytes<S: Serializer>(
    value: &Option<Vec<u8>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => bytes(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Bytes as `crit` writes them.
pub(super) fn base64(value: &[u8]) -> String {
    STANDARD.encode(value)
}
