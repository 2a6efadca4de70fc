//! A restore in a new pid namespace, which another icecore makes: ours is not to be in it.

use std::path::Path;
use std::process::{Command, Stdio};

use icecore::{Error, Kind, Pid, Result};
use serde_json::Value;

use crate::cli::ourselves;
use crate::tui::message::{Made, Manner, Report};
use crate::{error, format};

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
        let text = String::from_utf8_lossy(&run.stderr);
        return Err(error::of_json(&text).unwrap_or_else(|| Error::new(Kind::Failed, text.trim())));
    };
    let warnings = told.as_ref().and_then(|told| told["warnings"].as_array());
    let warnings = warnings.into_iter().flatten().filter_map(Value::as_str);
    let root = number("root").and_then(|root| i32::try_from(root).ok());
    let root = root.unwrap_or_default();
    Ok(Report {
        text: format!("process {root} runs in a pid namespace of its own, as {inside} there"),
        warnings: warnings.map(format::plain).collect(),
        result: Made::Tree {
            root: Pid::from_raw(root),
            start_time: None,
            kept: None,
        },
    })
}
