//! What goes wrong ends with a clear error and the right exit code, the target running as before,
//! and nothing half-made left behind.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::PathBuf;

use icecore::image::{Images, Sidecar};

use crate::support::{Need, Run, Sandbox, Target, require};

/// A sandbox with a small writer in it.
fn small() -> Option<(Sandbox, Target)> {
    require(&[Need::Root]).then(|| {
        let mut sandbox = Sandbox::new();
        let target = sandbox.specimen("writer", &["50"]);
        (sandbox, target)
    })
}

/// The same with layers `1` and `2` on disk, and no process any more.
fn dumped() -> Option<(Sandbox, Target)> {
    let (sandbox, target) = small()?;
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R --track-mem", target.pid))
        .ok();
    target.ask("dirty 0 5 3");
    let words = format!(
        "dump -t {} -D 2 --track-mem --prev-images-dir ../1",
        target.pid
    );
    sandbox.icecore(&words).ok();
    sandbox.wait_gone(&[target.pid]);
    Some((sandbox, target))
}

/// One line of what is wrong, and one of what to do.
#[track_caller]
fn explained(run: &Run) {
    assert!(run.stderr.starts_with("icecore: "), "{}", run.stderr);
    assert!(run.stderr.lines().count() >= 2, "no hint: {}", run.stderr);
    assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
}

/// The target is what it was, and `dirs` are not there.
#[track_caller]
fn as_before(sandbox: &Sandbox, target: &Target, dirs: &[&str]) {
    target.runs();
    target.check();
    for dir in dirs {
        assert!(!sandbox.path(dir).exists(), "{dir} was left behind");
        assert!(
            !sandbox.path(format!("{dir}.partial")).exists(),
            "{dir}.partial was left behind"
        );
    }
}

/// A restore fails with `code` and leaves no process.
#[track_caller]
fn no_restore(sandbox: &Sandbox, target: &Target, layer: &str, code: i32) -> Run {
    let run = sandbox
        .icecore(&format!("restore -D {layer} -d"))
        .fails(code);
    explained(&run);
    sandbox.wait_gone(&[target.pid]);
    run
}

/// The files of a layer whose names start with `prefix`.
fn files(sandbox: &Sandbox, layer: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(sandbox.path(layer)).unwrap().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|e| e.file_name().to_string_lossy().starts_with(prefix))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

#[test]
fn a_pid_that_nobody_has_is_not_found() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    let run = sandbox.icecore("dump -t 9999 -D 1").fails(3);
    explained(&run);
    assert!(run.stderr.contains("9999"));
    as_before(&sandbox, &target, &["1"]);
}

#[test]
fn a_process_of_another_user_needs_permission() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    let program = env!("CARGO_BIN_EXE_icecore");
    let dir = sandbox.path("open");
    fs::create_dir(&dir).unwrap();
    let everybody = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o777);
    fs::set_permissions(&dir, everybody.clone()).unwrap();
    fs::set_permissions(sandbox.path("."), everybody).unwrap();
    // Where the build directory cannot be reached by others, a copy can.
    let copy = dir.join("icecore");
    fs::copy(program, &copy).unwrap();
    let pid = target.pid.to_string();
    let layer = dir.join("1");
    let args = ["--reuid=12345", "--regid=12345", "--clear-groups", "--"];
    let mut args: Vec<&str> = args.to_vec();
    args.extend([
        copy.to_str().unwrap(),
        "dump",
        "-t",
        &pid,
        "-D",
        layer.to_str().unwrap(),
        "-R",
    ]);
    let run = sandbox.run("setpriv", &args).fails(6);
    explained(&run);
    as_before(&sandbox, &target, &["open/1"]);
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_as_json_where_that_is_asked_for() {
    let icecore = |words: &[&str]| {
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_icecore"))
            .args(words)
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(2));
        String::from_utf8(run.stderr).unwrap()
    };
    for words in [
        &["dump", "--no-such-option", "--json"][..],
        &["dump", "-t", "x", "--json"],
        &["dump", "--json"],
        &["nosuch", "--json"],
        // A word of CRIU's.
        &["pre-dump", "--json"],
    ] {
        let text = icecore(words);
        let told: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(
            (&told["schema"], &told["code"]),
            (&"icecore/v1".into(), &2.into())
        );
        assert!(
            told["error"].as_str().is_some_and(|e| !e.is_empty()),
            "{text}"
        );
        assert!(
            told["try"].as_str().is_some_and(|e| !e.is_empty()),
            "{text}"
        );
    }
    assert!(icecore(&["nosuch"]).starts_with("error: "));
}

#[test]
fn an_option_that_does_not_exist_is_a_usage_error() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    sandbox
        .icecore(&format!("dump -t {} -D 1 --no-such-option", target.pid))
        .fails(2);
    sandbox.icecore("dump -t many -D 1").fails(2);
    as_before(&sandbox, &target, &["1"]);
}

#[test]
fn a_directory_with_something_in_it_is_refused() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    fs::create_dir(sandbox.path("1")).unwrap();
    fs::write(sandbox.path("1/precious"), "keep me").unwrap();
    let run = sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .fails(1);
    explained(&run);
    assert_eq!(
        fs::read_to_string(sandbox.path("1/precious")).unwrap(),
        "keep me"
    );
    assert_eq!(files(&sandbox, "1", "").len(), 1);
    as_before(&sandbox, &target, &["1.partial"]);
}

#[test]
fn an_empty_directory_is_used() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    fs::create_dir(sandbox.path("1")).unwrap();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}

#[test]
fn a_parent_that_is_not_there_is_not_found() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    let words = format!("dump -t {} -D 2 -R --prev-images-dir ../1", target.pid);
    let run = sandbox.icecore(&words).fails(3);
    explained(&run);
    as_before(&sandbox, &target, &["2"]);
}

#[test]
fn a_layer_whose_parent_is_gone_is_not_restored() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    // Renamed beside its child, it would be found by its identity.
    fs::create_dir(sandbox.path("away")).unwrap();
    fs::rename(sandbox.path("1"), sandbox.path("away/1")).unwrap();
    let run = sandbox.icecore("restore -D 2 -d");
    assert!(matches!(run.code, 3 | 4), "{run:?}");
    explained(&run);
    sandbox.wait_gone(&[target.pid]);
    fs::rename(sandbox.path("away/1"), sandbox.path("beside")).unwrap();
    sandbox.icecore("restore -D 2 -d").ok();
    target.check();
}

#[test]
fn a_layer_of_a_cpu_that_could_more_is_not_restored_unless_that_is_wished() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    let images = Images::open(sandbox.path("2")).unwrap();
    Sidecar::update(&images, |sidecar| {
        sidecar.instruction_sets.push("avx1024".into());
        Ok(true)
    })
    .unwrap();
    let run = no_restore(&sandbox, &target, "2", 5);
    assert!(run.stderr.contains("avx1024"), "{}", run.stderr);
    assert!(run.stderr.contains("--cpu-cap none"), "{}", run.stderr);
    sandbox.icecore("restore -D 2 -d --cpu-cap none").ok();
    target.check();
}

#[test]
fn a_layer_with_another_parent_is_not_restored() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    // Same pid, same place, but not the layer that was below.
    fs::rename(sandbox.path("1"), sandbox.path("old")).unwrap();
    sandbox.icecore("restore -D old -d").ok();
    target.ask("dirty 0 9 4");
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    fs::create_dir(sandbox.path("away")).unwrap();
    fs::rename(sandbox.path("old"), sandbox.path("away/old")).unwrap();
    no_restore(&sandbox, &target, "2", 4);
}

#[test]
fn parents_in_a_circle_are_corrupt() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    symlink("../2", sandbox.path("1/parent")).unwrap();
    no_restore(&sandbox, &target, "1", 4);
    no_restore(&sandbox, &target, "2", 4);
    symlink("../1", sandbox.path("self")).unwrap();
    sandbox.icecore("stacks .").ok();
}

#[test]
fn a_truncated_image_is_corrupt_whichever_it_is() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    for path in files(&sandbox, "1", "") {
        // Sidecars of ours, logs and statistics are not needed for a restore.
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".img") || ["icecore.img", "stats-dump.img"].contains(&name.as_str()) {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for keep in [0, 6, whole.len() - 1] {
            fs::write(&path, &whole[..keep.min(whole.len())]).unwrap();
            let run = sandbox.icecore("restore -D 1 -d");
            assert!(run.code == 4, "{name} cut to {keep}: {run:?}");
            explained(&run);
            sandbox.wait_gone(&[target.pid]);
        }
        fs::write(&path, whole).unwrap();
    }
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}

#[test]
fn a_flipped_bit_never_panics_nor_leaves_a_process_that_failed() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    for path in files(&sandbox, "1", "") {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".img") || name.starts_with("pages-") {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        let step = (whole.len() / 12).max(1);
        for at in (0..whole.len()).step_by(step) {
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&[whole[at] ^ 0x10], at as u64).unwrap();
            let run = sandbox.icecore("restore -D 1 -d");
            assert!(
                !run.stderr.contains("panicked"),
                "{name} byte {at}: {run:?}"
            );
            assert!(run.code < 12, "{name} byte {at}: {run:?}");
            if run.code == 0 {
                // Not everything is a mistake that can be seen (a counter, a name).
                sandbox.kill(&target);
            } else {
                sandbox.wait_gone(&[target.pid]);
            }
            file.write_all_at(&whole[at..=at], at as u64).unwrap();
        }
    }
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}

#[test]
fn flipped_magic_numbers_are_corrupt() {
    let Some((sandbox, target)) = dumped() else {
        return;
    };
    for prefix in [
        "inventory",
        "pstree",
        "core-",
        "mm-",
        "pagemap-",
        "files",
        "ids-",
        "fdinfo-",
    ] {
        for path in files(&sandbox, "1", prefix) {
            let whole = fs::read(&path).unwrap();
            let mut bytes = whole.clone();
            bytes[5] ^= 0x40;
            fs::write(&path, bytes).unwrap();
            no_restore(&sandbox, &target, "1", 4);
            fs::write(&path, whole).unwrap();
        }
    }
}

#[test]
fn a_full_disk_leaves_the_target_running_and_no_layer() {
    let Some((mut sandbox, _)) = small() else {
        return;
    };
    let target = sandbox.specimen("memory", &[]);
    for (size, mode) in [("64k", "-R"), ("1m", "-R --track-mem"), ("8m", "")] {
        fs::create_dir(sandbox.path("disk")).unwrap();
        let disk = sandbox.path("disk");
        let disk_text = disk.to_str().unwrap();
        let option = format!("size={size}");
        sandbox
            .run("mount", &["-t", "tmpfs", "-o", &option, "tmpfs", disk_text])
            .ok();
        let run = sandbox
            .icecore(&format!("dump -t {} -D disk/1 {mode}", target.pid))
            .fails(9);
        explained(&run);
        target.runs();
        target.check();
        let left = sandbox.run("ls", &["-A", disk_text]).ok().stdout;
        assert_eq!(left, "", "left behind");
        sandbox.run("umount", &[disk_text]).ok();
        fs::remove_dir(disk).unwrap();
    }
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R", target.pid))
        .ok();
}

#[test]
fn a_pid_that_is_taken_is_busy() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    sandbox
        .icecore(&format!("dump -t {} -D 1 -R", target.pid))
        .ok();
    let run = sandbox.icecore("restore -D 1 -d").fails(7);
    explained(&run);
    assert!(run.stderr.contains(&target.pid.to_string()));
    as_before(&sandbox, &target, &[]);
}

#[test]
fn a_file_that_has_shrunk_is_an_obstacle() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("descriptors", &[]);
    let pids = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    let path = target.dir().join("plain");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..100]).unwrap();
    let run = sandbox.icecore("restore -D 1 -d");
    assert_ne!(run.code, 0);
    explained(&run);
    assert!(run.stderr.contains("plain"), "{}", run.stderr);
    sandbox.wait_gone(&[target.pid]);
    fs::remove_file(&path).unwrap();
    let run = sandbox.icecore("restore -D 1 -d");
    assert_ne!(run.code, 0);
    assert!(run.stderr.contains("plain"), "{}", run.stderr);
    fs::write(&path, &whole).unwrap();
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
}

#[test]
fn something_that_is_no_layer_is_refused() {
    let Some((sandbox, target)) = small() else {
        return;
    };
    fs::create_dir(sandbox.path("empty")).unwrap();
    for layer in ["empty", "nowhere"] {
        let run = sandbox.icecore(&format!("restore -D {layer} -d"));
        assert!(matches!(run.code, 3 | 4), "{run:?}");
        explained(&run);
    }
    as_before(&sandbox, &target, &[]);
}
