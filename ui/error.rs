//! How an error is shown: one line with its causes, the obstacles, the state of the target, and what
//! to try next.

use std::io::Write as _;

use icecore::{Error, TargetState};
use serde_json::json;

use crate::cli::schema::SCHEMA;
use crate::rights;

/// Writes the error to stderr, as text or as one JSON object.
pub(crate) fn print(error: &Error, json: bool) {
    let text = if json { as_json(error) } else { as_text(error) };
    // Nobody is left to tell when stderr is closed.
    let _gone = writeln!(std::io::stderr(), "{text}");
}

/// The error in lines.
pub(crate) fn as_text(error: &Error) -> String {
    let mut text = format!("icecore: {}", error.one_line());
    let obstacles = error.obstacles().iter();
    for (what, hint) in once(obstacles.map(|o| (o.what.as_str(), o.hint.as_str()))) {
        text.push_str(&format!("\n  - {what}"));
        if let Some(hint) = hint {
            text.push_str(&format!("\n    try: {hint}"));
        }
    }
    if error.target_state() != TargetState::Untouched {
        text.push_str(&format!("\n  target: {}", error.target_state()));
    }
    if let Some(hint) = error.next_step() {
        text.push_str(&format!("\n  try: {hint}"));
    }
    if let Some(command) = rights::command(error) {
        text.push_str(&format!("\n  as root: {command}"));
    }
    text
}

/// What is in the way, each with the next thing to try; of several in a row with the same, only the last one
/// has it.
pub(crate) fn once<'a>(
    obstacles: impl Iterator<Item = (&'a str, &'a str)>,
) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    let mut obstacles = obstacles.peekable();
    std::iter::from_fn(move || {
        let (what, hint) = obstacles.next()?;
        let again = obstacles.peek().is_some_and(|(_, next)| *next == hint);
        Some((what, (!again).then_some(hint)))
    })
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
        "as_root": rights::command(error),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use icecore::{Kind, Obstacle};

    use super::*;

    #[test]
    fn what_to_try_is_said_once_for_several_in_a_row() {
        let obstacle = |what: &str, hint: &str| Obstacle::new(Kind::Unsupported, what, hint);
        let all = vec![
            obstacle("one", "restart it"),
            obstacle("two", "restart it"),
            obstacle("three", "wait"),
        ];
        assert_eq!(
            as_text(&Error::refused("No", all)),
            "icecore: No\n  - one\n  - two\n    try: restart it\n  - three\n    try: wait"
        );
    }
}
