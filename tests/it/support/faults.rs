//! Faults on purpose: a command is killed at a given system call, or the call fails. strace(1)
//! injects them; its counters are per system call and thread, so each call is a point `NAME, N`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Calls that change what is on the disk, or make it durable. Between two of them nothing changes,
/// so a kill at each of these is a kill at every call.
pub const CHANGES: &[&str] = &[
    "mkdir",
    "rmdir",
    "rename",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "write",
    "pwrite64",
    "writev",
    "ftruncate",
    "fallocate",
    "ioctl",
    "fsync",
    "fdatasync",
    "syncfs",
    "chmod",
    "fchmod",
    "fchmodat",
    "chown",
    "fchown",
    "lchown",
    "fchownat",
    "copy_file_range",
    "sendfile",
    "splice",
];

/// Calls that fail when a disk is full or broken.
pub const FALLIBLE: &[&str] = &[
    "mkdir",
    "rename",
    "renameat2",
    "linkat",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
    "rmdir",
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "ioctl",
    "fsync",
    "fdatasync",
    "syncfs",
    "copy_file_range",
    "sendfile",
];

/// One system call of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its name.
    pub call: String,
    /// Which of the calls with this name in its thread, from 1 on.
    pub number: usize,
}

/// Runs `program` with `args` undisturbed and lists its calls of the names in `set`; how it ended.
pub fn points(set: &[&str], log: &Path, program: &str, args: &[&str]) -> (Vec<Point>, i32) {
    let trace = known(set);
    let code = strace(
        &["-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace],
        program,
        args,
    );
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for line in fs::read_to_string(log).unwrap().lines() {
        let (thread, rest) = line.split_once(' ').unwrap_or_default();
        let Some((call, _)) = rest.trim_start().split_once('(') else {
            continue; // an exit, or the end of a call that was interrupted
        };
        if call
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        {
            let count = counts
                .entry((thread.to_owned(), call.to_owned()))
                .or_default();
            *count += 1;
            let most = most.entry(call.to_owned()).or_default();
            *most = (*most).max(*count);
        }
    }
    let all = most.into_iter().flat_map(|(call, most)| {
        (1..=most).map(move |number| Point {
            call: call.clone(),
            number,
        })
    });
    (all.collect(), code)
}

/// Runs `program` with `args` and kills it as it begins the call; its exit code (137 when killed).
pub fn killed_at(point: &Point, program: &str, args: &[&str]) -> i32 {
    inject(point, "signal=KILL", program, args)
}

/// Runs `program` with `args`, and the call fails with `errno` without having done anything.
pub fn failing_at(point: &Point, errno: &str, program: &str, args: &[&str]) -> i32 {
    inject(point, &format!("error={errno}"), program, args)
}

fn inject(point: &Point, how: &str, program: &str, args: &[&str]) -> i32 {
    let what = format!("inject={}:{how}:when={}", point.call, point.number);
    let trace = format!("trace={}", point.call);
    strace(
        &["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &what],
        program,
        args,
    )
}

/// A question mark lets strace pass over names that this architecture does not have.
fn known(set: &[&str]) -> String {
    let names: Vec<String> = set.iter().map(|name| format!("?{name}")).collect();
    format!("trace={}", names.join(","))
}

fn strace(options: &[&str], program: &str, args: &[&str]) -> i32 {
    let status = Command::new("strace")
        .args(options)
        .arg("--")
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    status.code().unwrap_or_else(|| 128 + signal.unwrap_or(0))
}
