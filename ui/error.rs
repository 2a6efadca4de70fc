//! How an error is shown: one line with its causes, the obstacles, the state of the target, and what
//! to try next.

use std::io::Write as _;

use icecore::{Error, TargetState};
use serde_json::json;

use crate::cli::schema::SCHEMA;

/// Writes the error to stderr, as text or as one JSON object.
pub(crate) fn print(error: &Error, json: bool) {
    let text = if json { as_json(error) } else { as_text(error) };
    // Nobody is left to tell when stderr is closed.
    let _gone = writeln!(std::io::stderr(), "{text}");
}

/// The error in lines.
pub(crate) fn as_text(error: &Error) -> String {
    let mut text = format!("icecore: {}", error.one_line());
    for obstacle in error.obstacles() {
        text.push_str(&format!(
            "\n  - {}\n    try: {}",
            obstacle.what, obstacle.hint
        ));
    }
    if error.target_state() != TargetState::Untouched {
        text.push_str(&format!("\n  target: {}", error.target_state()));
    }
    if let Some(hint) = error.next_step() {
        text.push_str(&format!("\n  try: {hint}"));
    }
    text
}

fn as_json(error: &Error) -> String {
    let obstacles: Vec<_> = error
        .obstacles()
        .iter()
        .map(|o| json!({ "what": o.what, "try": o.hint }))
        .collect();
    json!({
        "schema": SCHEMA,
        "error": error.one_line(),
        "code": error.kind().exit_code(),
        "target": error.target_state().to_string(),
        "obstacles": obstacles,
        "try": error.next_step(),
    })
    .to_string()
}
