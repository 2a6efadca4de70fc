//! The shape of the source: which module may know which, how long a file may be, where `unsafe` is.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `src/` in layers: each may import those of the layers before it, and itself. The live
/// side and the stored side do not know each other.
const FOUNDATION: &[&str] = &["units", "error", "event"];
const LIVE: &[&[&str]] = &[&["sys"], &["arch", "kernel"], &["task"], &["inject"]];
const STORED: &[&[&str]] = &[
    &["store"],
    &["image"],
    &["chain"],
    &["dedup", "edit", "inspect"],
];
const BOTH: &[&str] = &["track", "memory", "files", "state"];
const PHASES: &[&str] = &["dump", "restore"];

/// Longest file, in lines.
const LONGEST: usize = 700;

/// Exceptions: module, what it imports. Which registers there are, only `arch` knows; how they look in
/// an image is the other half of the same knowledge. Two calls on files need `unsafe`: directories
/// that change places, and files that share extents.
const EXCEPTIONS: &[(&str, &str)] = &[("arch", "image"), ("store", "sys"), ("dedup", "sys")];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All `.rs` files under a directory, with paths relative to the package.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((name, fs::read_to_string(path).unwrap()));
        }
    }
    found.sort();
    found
}

/// The modules that `module` may import besides itself.
fn allowed(module: &str) -> Vec<&'static str> {
    let mut allowed = FOUNDATION.to_vec();
    for side in [LIVE, STORED] {
        for (at, layer) in side.iter().enumerate() {
            if layer.contains(&module) {
                allowed.extend(side[..at].iter().copied().flatten());
                return allowed;
            }
        }
    }
    if FOUNDATION.contains(&module) {
        return allowed;
    }
    allowed.extend(LIVE.iter().chain(STORED).copied().flatten());
    if BOTH.contains(&module) || PHASES.contains(&module) {
        allowed.extend(BOTH);
    }
    if PHASES.contains(&module) {
        allowed.extend(PHASES);
    }
    allowed
}

/// Names after `crate::` in the code of a file, comments and tests left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for line in code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
    {
        for rest in line.split("crate::").skip(1) {
            let name = |text: &str| -> String {
                text.chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect()
            };
            if let Some(group) = rest.strip_prefix('{') {
                // `use crate::{a, b::c}`: names at the first level.
                let mut depth = 0;
                for part in group.split_inclusive([',', '{', '}']) {
                    if depth == 0 {
                        found.push(name(part.trim_start()));
                    }
                    depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
                }
            } else {
                found.push(name(rest));
            }
        }
    }
    found.retain(|name| {
        root().join(format!("src/{name}")).exists() || FOUNDATION.contains(&name.as_str())
    });
    found
}

#[test]
fn imports_run_one_way() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let module = path
            .split('/')
            .nth(1)
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let is_test = path.ends_with("tests.rs")
            || path.ends_with("testing.rs")
            || path.ends_with("model.rs");
        if module == "lib" || is_test {
            continue;
        }
        let allowed = allowed(&module);
        for name in imports(&text) {
            let excepted = EXCEPTIONS.contains(&(module.as_str(), name.as_str()));
            if name != module && !allowed.contains(&name.as_str()) && !excepted {
                wrong.push(format!("{path} imports {name}"));
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_of_the_engine_has_its_place_in_the_order() {
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_owned();
        let known = LIVE.iter().chain(STORED).copied().flatten();
        let known = known
            .chain(FOUNDATION)
            .chain(BOTH)
            .chain(PHASES)
            .any(|n| *n == name);
        assert!(
            known || name == "lib",
            "{name} is not in the order of tests/it/architecture.rs"
        );
    }
}

#[test]
fn every_file_begins_with_what_it_is_for_and_is_short() {
    let mut wrong = Vec::new();
    for dir in ["src", "ui", "tests", "xtask"] {
        for (path, text) in sources(dir) {
            if !text.starts_with("//! ") {
                wrong.push(format!("{path} has no header"));
            }
            let length = text.lines().count();
            if length > LONGEST {
                wrong.push(format!("{path} has {length} lines"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn unsafe_code_is_in_one_place() {
    for (path, text) in sources("src").into_iter().chain(sources("ui")) {
        let dense: String = text.split_whitespace().collect();
        let here = dense.contains("expect(unsafe_code") || dense.contains("allow(unsafe_code");
        if path.starts_with("src/sys/") {
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let uses = code
                .flat_map(|line| line.split_whitespace())
                .any(|word| word == "unsafe");
            // `expect` itself complains where it is not needed.
            assert!(here || !uses, "{path} uses unsafe code without saying why");
        } else {
            assert!(!here, "{path} allows itself unsafe code");
        }
    }
}

#[test]
fn every_test_file_is_declared() {
    for dir in ["tests/it", "tests/it/support", "tests/programs"] {
        let root = root().join(dir);
        let entry = ["main.rs", "mod.rs"].map(|name| root.join(name));
        let declared = entry
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap();
        for name in modules(&root) {
            assert!(
                declared.contains(&format!("mod {name};")),
                "{dir}/{name}.rs is not declared"
            );
        }
    }
}

fn modules(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
    let names = entries.filter_map(|n| n.to_str()?.strip_suffix(".rs").map(str::to_owned));
    names
        .filter(|name| name != "main" && name != "mod")
        .collect()
}
