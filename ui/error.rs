//! How an error is shown: one line with its causes, the obstacles, the state of the target, and what
//! to try next.

use std::collections::BTreeMap;
use std::io::Write as _;

use icecore::{Error, Kind, Obstacle, TargetState};
use serde_json::{Value, json};

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
    let obstacles = gathered(error.obstacles());
    let obstacles = obstacles.iter();
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

/// So many that differ in their numbers only are told one by one.
const ALIKE: usize = 4;

/// Of many that differ in their numbers only (those of threads, descriptors, addresses) the first one, with how
/// many more there are.
pub(crate) fn gathered(all: &[Obstacle]) -> Vec<Obstacle> {
    let key = |o: &Obstacle| (o.kind.exit_code(), numberless(&o.what), numberless(&o.hint));
    let mut counts = BTreeMap::new();
    for obstacle in all {
        *counts.entry(key(obstacle)).or_insert(0) += 1;
    }
    let told = all.iter().filter_map(|obstacle| {
        let count = counts.get_mut(&key(obstacle))?;
        match std::mem::replace(count, if *count > ALIKE { 0 } else { *count }) {
            0 => None,
            1..=ALIKE => Some(obstacle.clone()),
            n => Some(Obstacle {
                what: format!("{} ({} more like this one)", obstacle.what, n - 1),
                ..obstacle.clone()
            }),
        }
    });
    told.collect()
}

/// A text without what its numbers are, hexadecimal ones too.
fn numberless(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let number = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_hexdigit())
            || word.len() > 7 && word.chars().all(|c| c.is_ascii_hexdigit())
    };
    let words: Vec<&str> = words
        .map(|word| if number(word) { "#" } else { word })
        .collect();
    words.join(" ")
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

/// Every kind and every state of a target.
const KINDS: [Kind; 12] = [
    Kind::Failed,
    Kind::Usage,
    Kind::NotFound,
    Kind::Corrupt,
    Kind::Unsupported,
    Kind::Permission,
    Kind::Busy,
    Kind::TargetGone,
    Kind::NoSpace,
    Kind::Differs,
    Kind::FreezeBudget,
    Kind::Cancelled,
];
const STATES: [TargetState; 6] = [
    TargetState::Untouched,
    TargetState::Running,
    TargetState::Stopped,
    TargetState::Killed,
    TargetState::Gone,
    TargetState::Unknown,
];

/// The error that another icecore told with `--json`: the last line of what it wrote.
pub(crate) fn of_json(text: &str) -> Option<Error> {
    let told: Value = serde_json::from_str(text.lines().last()?).ok()?;
    let what = told["error"].as_str()?;
    let code = told["code"].as_u64();
    let kind = KINDS
        .into_iter()
        .find(|kind| Some(kind.exit_code().into()) == code);
    let kind = kind.unwrap_or(Kind::Failed);
    let word = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let obstacles = told["obstacles"].as_array().into_iter().flatten();
    let obstacles: Vec<Obstacle> = obstacles
        .map(|o| Obstacle::new(kind, word(o, "what"), word(o, "try")))
        .collect();
    let state = STATES
        .into_iter()
        .find(|state| told["target"] == state.to_string());
    let error = match obstacles.is_empty() {
        true => Error::new(kind, what),
        false => Error::refused(what, obstacles),
    };
    let error = error.target(state.unwrap_or(TargetState::Unknown));
    Some(match told["try"].as_str() {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_icecore_told_is_the_same_error() {
        let there = Error::new(Kind::Busy, "it").because(std::io::Error::other("no"));
        let errors = [
            there.hint("wait").target(TargetState::Killed),
            Error::refused(
                "No",
                vec![Obstacle::new(Kind::Permission, "a port", "wait")],
            ),
            Error::new(Kind::Cancelled, "stopped"),
        ];
        for error in errors {
            let again = of_json(&format!("a line\n{}\n", as_json(&error))).unwrap();
            assert_eq!(as_json(&again), as_json(&error));
        }
        assert!(of_json("killed\n").is_none() && of_json("").is_none());
    }

    #[test]
    fn what_differs_in_numbers_only_is_told_once_when_there_is_much_of_it() {
        let thread = |n: usize| {
            let what = format!("Thread {n} of process 5 maps 7f{n:06x}000-7fffffffffff");
            Obstacle::new(Kind::Differs, what, format!("end thread {n}"))
        };
        let told = |count: usize| -> Vec<String> {
            let all: Vec<_> = (10..10 + count).map(thread).collect();
            let all = [all, vec![Obstacle::new(Kind::Busy, "thread", "wait")]].concat();
            gathered(&all).into_iter().map(|o| o.what).collect()
        };
        assert_eq!(told(ALIKE).len(), ALIKE + 1);
        let first = thread(10).what;
        assert_eq!(
            told(200),
            [
                format!("{first} (199 more like this one)"),
                "thread".to_owned()
            ]
        );
    }

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
