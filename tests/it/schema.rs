//! `--json` of every command: objects, one a line, that name the version of their words.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::golden::golden;

/// What each command is asked on a stack of CRIU's with the layers 1, 2 and 3, in this order. Commands that
/// need a process of ours, or root, are asked for something that is not there: errors are objects, too
/// (`commands::figures_come_as_json_too` has what they say when all is well).
const ASKED: &[&str] = &[
    "adopt .",
    "dump -t 999999999 -D x",
    "check -t 999999999",
    "snap 999999999",
    "restore -D nowhere",
    "ps",
    "stacks .",
    "show 1",
    "cat 3 218",
    "cat 3 218 403000+2000 -o bytes",
    "core 3 218 -o core",
    "diff 1 3",
    "search 3 rounds",
    "watch 999999999",
    "dedup -D 3 --dry-run",
    "dedup -D nowhere",
    "verify .",
    "owners 3",
    "owners 3 --pid 218",
    "label 3 night",
    "pin 3",
    "unpin 3",
    "branch 3 4",
    "flatten 4",
    "drop 4 --yes",
    "squash 2..3 --dry-run",
    "prune . --keep-last 9",
    "doctor",
    "config",
    "keeper --let-go",
];
/// Those that `cli::tests` has a reason for, and one that takes its time: `demo` prints all its lines in one
/// place.
const NOT_ASKED: &[&str] = &["completions", "man", "demo"];

#[test]
fn what_every_command_prints_as_json_names_its_schema() {
    let stack = golden();
    let icecore = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_icecore"));
        command.current_dir(stack.path());
        command.env("ICECORE_RUNTIME_DIR", stack.path());
        command.env("ICECORE_STORE", stack.path().join("store"));
        command.env("ICECORE_CONFIG", "/dev/null");
        command
    };
    let mut left: BTreeSet<String> = BTreeSet::new();
    assert!(
        icecore()
            .args(["man", "--dir", "man"])
            .status()
            .unwrap()
            .success()
    );
    for page in std::fs::read_dir(stack.path().join("man")).unwrap() {
        let page = page.unwrap().file_name().into_string().unwrap();
        let name = page
            .strip_prefix("icecore-")
            .and_then(|page| page.strip_suffix(".1"));
        left.extend(name.map(str::to_owned));
    }
    assert!(left.len() > 25, "{left:?}");
    for words in ASKED {
        let run = icecore()
            .args(words.split(' '))
            .arg("--json")
            .output()
            .unwrap();
        let ok = matches!(run.status.code(), Some(0 | 10));
        let said = String::from_utf8(if ok { run.stdout } else { run.stderr }).unwrap();
        assert!(
            ok || words.contains("999999999")
                || words.contains("nowhere")
                || words.starts_with("doctor"),
            "{words}: {said}"
        );
        assert!(!said.is_empty(), "{words}");
        for value in serde_json::Deserializer::from_str(&said).into_iter::<Value>() {
            let value = value.unwrap_or_else(|e| panic!("{words}: {e} in {said}"));
            assert_eq!(value["schema"], "icecore/v1", "{words}: {value}");
        }
        left.remove(words.split(' ').next().unwrap_or_default());
    }
    for name in NOT_ASKED {
        assert!(left.remove(*name), "{name}");
    }
    left.retain(|name| !["demo-target", "first-process", "help"].contains(&name.as_str()));
    assert!(left.is_empty(), "not asked: {left:?}");
}
