//! `--json`: every object that a command prints says which version of our words it is in.
//!
//! Within a version fields are only added. (`show --json LAYER FILE` prints what CRIU's `crit decode`
//! would, and nothing else.)

use icecore::{Error, Kind, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// The version.
pub(crate) const SCHEMA: &str = "icecore/v1";

/// The object with its version in front.
///
/// # Errors
/// When it is no object.
pub(crate) fn versioned(value: &impl Serialize) -> Result<Value> {
    let failed = || Error::new(Kind::Failed, "Cannot write JSON");
    let Value::Object(fields) = serde_json::to_value(value).map_err(|e| failed().because(e))?
    else {
        return Err(failed());
    };
    let mut object = Map::new();
    object.insert("schema".into(), SCHEMA.into());
    object.extend(fields);
    Ok(Value::Object(object))
}
