//! A restore in a new pid namespace, which another icecore makes: ours is not to be in it.

use std::path::Path;
use std::process::{Command, Stdio};

use icecore::{Error, Kind, Obstacle, Pid, Result};
use serde_json::Value;

use crate::cli::ourselves;
use crate::format;
use crate::tui::message::{Made, Manner, Report};

/// Does it; the tree is known by its id here.
pub(super) fn restore(dir: &Path, manner: Manner) -> Result<Report> {
    let program = ourselves()?;
    let mut command = Command::new(&program);
    command
        .args(["restore", "--new-pid-namespace", "-d", "--json", "-D"])
        .arg(dir);
    let switches = [
        (manner.with_files, "--with-files"),
        (manner.with_files, "--yes"),
        (manner.connected, "--tcp-established"),
        (manner.closed, "--tcp-close"),
    ];
    command.args(
        switches
            .iter()
            .filter_map(|(given, word)| given.then_some(word)),
    );
    let run = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::path("start", &program, e))?;
    let told: Option<Value> = serde_json::from_slice(&run.stdout).ok();
    let number = |name: &str| told.as_ref().and_then(|told| told[name].as_i64());
    let (Some(inside), true) = (number("root_inside"), run.status.success()) else {
        return Err(failure(&run.stderr));
    };
    let warnings = told.as_ref().and_then(|told| told["warnings"].as_array());
    let warnings = warnings.into_iter().flatten().filter_map(Value::as_str);
    let root = number("root").and_then(|root| i32::try_from(root).ok());
    let root = root.unwrap_or_default();
    Ok(Report {
        text: format!("process {root} runs in a pid namespace of its own, as {inside} there"),
        warnings: warnings.map(format::plain).collect(),
        result: Made::Tree(Pid::from_raw(root), None),
    })
}

/// The error that the other icecore told.
fn failure(stderr: &[u8]) -> Error {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().last().unwrap_or_default();
    let Ok(told) = serde_json::from_str::<Value>(last) else {
        return Error::new(Kind::Failed, text.trim());
    };
    let word = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let obstacles = told["obstacles"].as_array().into_iter().flatten();
    let obstacles: Vec<Obstacle> = obstacles
        .map(|o| Obstacle::new(Kind::Failed, word(o, "what"), word(o, "try")))
        .collect();
    let what = word(&told, "error");
    let error = match obstacles.is_empty() {
        true => Error::new(Kind::Failed, what),
        false => Error::refused(what, obstacles),
    };
    match told["try"].as_str() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_one_could_not_do_is_told_as_if_we_had_tried() {
        let told = br#"{"error":"No","obstacles":[{"what":"a port","try":"wait"}],"try":null}"#;
        let error = failure(told);
        assert_eq!(error.to_string(), "No");
        assert_eq!(error.obstacles()[0].to_string(), "a port: wait");
        assert_eq!(failure(b"killed\n").to_string(), "killed");
    }
}
