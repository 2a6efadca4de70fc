//! Operations on stacks that are cut off at every system call, or meet a disk that is full or broken
//! at every system call: every layer is bit for bit what it was, or the operation has done its work;
//! and the same command finishes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use icecore::chain::{Stack, check_dir};
use tempfile::TempDir;

use crate::support::faults::{CHANGES, FALLIBLE, Point, failing_at, killed_at, points};
use crate::support::{Need, Sandbox, require};

pub const ICECORE: &str = env!("CARGO_BIN_EXE_icecore");

/// Digest of the memory of each task and segment as of a layer, and of the files that never change.
type Contents = BTreeMap<String, blake3::Hash>;

fn contents(dir: &Path) -> Contents {
    let report = check_dir(dir);
    assert_eq!(report.obstacles, vec![], "{}", dir.display());
    let stack = Stack::open(dir).unwrap();
    let images = stack.tip().images();
    let mut all = Contents::new();
    for id in images.pagemaps().unwrap() {
        let memory = stack.resolved(id).unwrap().checked();
        let mut hasher = blake3::Hasher::new();
        for run in memory.runs() {
            let mut bytes = vec![0; usize::try_from(run.range.bytes()).unwrap()];
            memory.read_at(run.range.start, &mut bytes).unwrap();
            for (page, addr) in bytes.chunks(4096).zip((run.range.start..).step_by(4096)) {
                hasher.update(&addr.to_le_bytes()).update(page);
            }
        }
        all.insert(id.file_name(), hasher.finalize());
    }
    for name in images.names().unwrap() {
        let pages = name.starts_with("pages-") || name.starts_with("pagemap-");
        if !pages && name.ends_with(".img") && name != "icecore.img" {
            all.insert(
                name.clone(),
                blake3::hash(&fs::read(dir.join(&name)).unwrap()),
            );
        }
    }
    all
}

/// A stack `1` … `5` of a real process, with a branch `2b` on `2`.
pub struct Template {
    dir: TempDir,
    contents: BTreeMap<String, Contents>,
}

impl Template {
    pub fn new() -> Self {
        let dir = Self::scratch();
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen("writer", &["8"]);
        let mut contents = BTreeMap::new();
        let img = dir.path().join("img");
        for layer in 1..=5 {
            let (pid, place) = (target.pid, img.join(layer.to_string()));
            let parent = match layer {
                1 => String::new(),
                _ => format!("--prev-images-dir ../{}", layer - 1),
            };
            let place = place.display();
            let words = format!("dump -t {pid} -D {place} -R --track-mem {parent}");
            sandbox.icecore(&words).ok();
            target.ask(&format!("dirty 0 3 {layer}"));
            target.ask(&format!("shared 2 {layer}"));
        }
        let branch = img.join("2b");
        let words = format!("branch {} {}", img.join("2").display(), branch.display());
        sandbox.icecore(&words).ok();
        for name in ["1", "2", "3", "4", "5", "2b"] {
            contents.insert(name.to_owned(), self::contents(&img.join(name)));
        }
        Self { dir, contents }
    }

    /// Where syncing is quick.
    pub fn scratch() -> TempDir {
        tempfile::Builder::new()
            .prefix("icecore-test-")
            .tempdir_in("/dev/shm")
            .unwrap()
    }

    /// A copy to be worked on; its folder of layers.
    fn copy(&self) -> (TempDir, PathBuf) {
        let dir = Self::scratch();
        let img = dir.path().join("img");
        let from = self.dir.path().join("img");
        let status = Command::new("cp")
            .arg("-a")
            .arg(&from)
            .arg(&img)
            .status()
            .unwrap();
        assert!(status.success());
        (dir, img)
    }

    /// A copy for an operation.
    pub fn copy_for(&self, operation: &Operation) -> (TempDir, PathBuf) {
        let (dir, img) = self.copy();
        for name in operation.without {
            fs::remove_dir_all(img.join(name)).unwrap();
        }
        (dir, img)
    }

    /// Every layer in `img` is what it was, but for those that the operation may take or consume.
    pub fn check(&self, what: &str, img: &Path, operation: &Operation) {
        for (name, expected) in &self.contents {
            let dir = img.join(name);
            let goes = operation.gone.contains(&name.as_str());
            if operation.without.contains(&name.as_str()) || (goes && !dir.exists()) {
                continue;
            }
            assert!(dir.exists(), "{what}: layer {name} is lost");
            let report = check_dir(&dir);
            if operation.consumed.contains(&name.as_str()) && !report.is_sound() {
                assert!(
                    report.obstacles[0].what.contains("consumed"),
                    "{what}: {report:?}"
                );
                continue;
            }
            assert_eq!(&contents(&dir), expected, "{what}: layer {name}");
        }
    }

    /// The command finishes what was begun, and leaves nothing else behind.
    pub fn finish(&self, what: &str, img: &Path, operation: &Operation) {
        let words = placed(img, operation.command);
        let output = Command::new(ICECORE).args(&words).output().unwrap();
        let done = operation.gone.iter().all(|name| !img.join(name).exists());
        let done = done && !operation.gone.is_empty();
        assert!(output.status.success() || done, "{what}: {output:?}");
        // A look at the stack clears what the dead left.
        let last = img.join("5");
        let words = ["label", last.to_str().unwrap(), "x"];
        let output = Command::new(ICECORE).args(words).output().unwrap();
        assert!(output.status.success(), "{what}: {output:?}");
        self.check(what, img, operation);
        let mut names: Vec<String> = fs::read_dir(img)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let mut expected: Vec<String> = self.contents.keys().cloned().collect();
        let left =
            |name: &str| !operation.gone.contains(&name) && !operation.without.contains(&name);
        expected.retain(|name| left(name));
        assert_eq!(names, expected, "{what}");
    }
}

/// The words of a command, with paths for `@NAME`.
pub fn placed(img: &Path, command: &[&str]) -> Vec<String> {
    let place = |word: &&str| match word.strip_prefix('@') {
        Some(name) => img.join(name).display().to_string(),
        None => (*word).to_owned(),
    };
    command.iter().map(place).collect()
}

/// A command that changes a stack.
#[derive(Debug)]
pub struct Operation {
    /// Its words; `@NAME` is a layer.
    pub command: &'static [&'static str],
    /// Layers that are not there from the start.
    without: &'static [&'static str],
    /// Layers that go.
    pub gone: &'static [&'static str],
    /// Layers that may become unrestorable, if they say so.
    consumed: &'static [&'static str],
}

pub const DROP: Operation = Operation {
    command: &["drop", "@2", "--yes"],
    without: &[],
    gone: &["2"],
    consumed: &[],
};
pub const SQUASH: Operation = Operation {
    command: &["squash", "@2", "@4", "--yes"],
    without: &[],
    gone: &["2", "3"],
    consumed: &[],
};
pub const PRUNE: Operation = Operation {
    command: &["prune", "@", "--keep-last", "2", "--yes"],
    without: &["2b"],
    gone: &["1", "2", "3"],
    consumed: &[],
};
pub const FLATTEN: Operation = Operation {
    command: &["flatten", "@4", "--yes"],
    without: &[],
    gone: &[],
    consumed: &[],
};
pub const UNCHANGED: Operation = Operation {
    command: &["dedup", "-D", "@5", "--strategy", "unchanged", "--yes"],
    without: &[],
    gone: &[],
    consumed: &[],
};
const ZERO: Operation = Operation {
    command: &["dedup", "-D", "@5", "--strategy", "zero", "--yes"],
    without: &[],
    gone: &[],
    consumed: &[],
};
pub const SUPERSEDED: Operation = Operation {
    command: &["dedup", "-D", "@5", "--strategy", "superseded", "--yes"],
    without: &["2b"],
    gone: &[],
    consumed: &["1", "2", "3", "4"],
};

type Fault = dyn Fn(&Point, &[&str]) -> i32;

/// Runs the operation with a fault at each call of `set`.
fn everywhere(operation: &Operation, set: &[&str], fault: &Fault) {
    if !require(&[Need::Root, Need::Strace]) {
        return;
    }
    let template = Template::new();
    let (_dir, img) = template.copy_for(operation);
    let log = template.dir.path().join("calls");
    let words = placed(&img, operation.command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (points, code) = points(set, &log, ICECORE, &words);
    assert_eq!(code, 0, "{operation:?}");
    template.finish("undisturbed", &img, operation);
    let mut hit = 0;
    for point in &points {
        let what = format!("{:?} at {} {}", operation.command, point.call, point.number);
        let (_dir, img) = template.copy_for(operation);
        let words = placed(&img, operation.command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let code = fault(point, &words);
        hit += usize::from(code != 0);
        template.check(&what, &img, operation);
        template.finish(&what, &img, operation);
    }
    eprintln!(
        "{:?}: {} points, {hit} of them ended it",
        operation.command,
        points.len()
    );
    // How many depends on what could be done otherwise; none would mean that nothing was tested.
    assert!(hit > 0, "{hit} of {}", points.len());
}

fn kill(operation: &Operation) {
    everywhere(operation, CHANGES, &|point, words| {
        killed_at(point, ICECORE, words)
    });
}

fn fail(operation: &Operation) {
    for errno in ["ENOSPC", "EIO"] {
        everywhere(operation, FALLIBLE, &|point, words| {
            failing_at(point, errno, ICECORE, words)
        });
    }
}

#[test]
fn a_drop_killed_at_any_call_leaves_every_layer_as_it_was_or_as_it_should_be() {
    kill(&DROP);
}

#[test]
fn a_squash_killed_at_any_call_leaves_every_layer_as_it_was_or_as_it_should_be() {
    kill(&SQUASH);
}

#[test]
fn a_prune_killed_at_any_call_leaves_every_layer_as_it_was_or_as_it_should_be() {
    kill(&PRUNE);
}

#[test]
fn a_flatten_killed_at_any_call_leaves_every_layer_as_it_was_or_as_it_should_be() {
    kill(&FLATTEN);
}

#[test]
fn a_dedup_killed_at_any_call_leaves_every_layer_exact_or_marked() {
    for operation in [&UNCHANGED, &ZERO, &SUPERSEDED] {
        kill(operation);
    }
}

#[test]
fn a_drop_on_a_full_or_broken_disk_changes_nothing_or_is_done() {
    fail(&DROP);
}

#[test]
fn a_squash_on_a_full_or_broken_disk_changes_nothing_or_is_done() {
    fail(&SQUASH);
}

#[test]
fn a_prune_on_a_full_or_broken_disk_changes_nothing_or_is_done() {
    fail(&PRUNE);
}

#[test]
fn a_flatten_on_a_full_or_broken_disk_changes_nothing_or_is_done() {
    fail(&FLATTEN);
}

#[test]
fn a_dedup_on_a_full_or_broken_disk_leaves_every_layer_exact_or_marked() {
    for operation in [&UNCHANGED, &ZERO, &SUPERSEDED] {
        fail(operation);
    }
}
