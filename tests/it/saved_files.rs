//! Files that a process writes: copied into its layers, and put back with them.

use std::fs;

use crate::support::{Need, Sandbox, Target, python, require, wait_until};

/// Adds a line to `notes` for each line that it is sent; keeps the number of lines in memory.
const WRITER: &str = r#"
import os
notes = open("notes", "w+")
asks = os.open("asks", os.O_RDWR)
count = 0
while True:
    os.read(asks, 1)
    count += 1
    notes.write(f"line {count}\n")
    notes.flush()
    with open("answer.new", "w") as answer:
        answer.write(str(count))
    os.rename("answer.new", "answer")
"#;

fn lines(count: usize) -> String {
    (1..=count).map(|n| format!("line {n}\n")).collect()
}

#[test]
fn files_that_a_process_writes_go_back_to_the_layer_with_it() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path("writer.py"), WRITER).unwrap();
    let asks = sandbox.path("asks");
    nix::unistd::mkfifo(&asks, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let python = python().unwrap();
    let dir = sandbox.path("");
    let pid = sandbox.start(
        "writer.log",
        &[
            "env",
            &format!("--chdir={}", dir.display()),
            python.to_str().unwrap(),
            "writer.py",
        ],
    );
    let target = Target::silent(pid, sandbox.proc(""));
    let ask = |expected: usize| {
        drop(fs::remove_file(sandbox.path("answer")));
        // Fails as long as nobody has it open for reading.
        wait_until("the writer listens", || {
            let mut options = fs::OpenOptions::new();
            options.write(true);
            std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NONBLOCK);
            let mut fifo = options.open(&asks).ok()?;
            std::io::Write::write_all(&mut fifo, b"x").ok()
        });
        wait_until(&format!("line {expected} is written"), || {
            let answer = fs::read_to_string(sandbox.path("answer")).ok()?;
            (answer == expected.to_string()).then_some(())
        });
    };
    for layer in 1..=3 {
        ask(layer);
        xattr::set(sandbox.path("notes"), "user.kind", b"diary").unwrap();
        let last = if layer == 3 { "" } else { "-R" };
        let parent = match layer {
            1 => String::new(),
            _ => format!("--prev-images-dir ../{}", layer - 1),
        };
        let words = format!("dump -t {pid} -D img/{layer} --track-mem {last} {parent}");
        let said = sandbox.icecore(&format!("{words} --snapshot-files")).ok();
        assert!(said.stdout.contains("2 files copied"), "{said:?}");
    }
    sandbox.wait_gone(&[pid]);
    let notes = || fs::read_to_string(sandbox.path("notes")).unwrap();
    let back = |layer: usize| {
        let words = format!("restore -D img/{layer} -d --with-files --yes");
        sandbox.icecore(&words).ok();
        assert_eq!(notes(), lines(layer));
        let kind = xattr::get(sandbox.path("notes"), "user.kind");
        assert_eq!(kind.unwrap().as_deref(), Some(&b"diary"[..]));
        // It writes on in the file that is there now.
        ask(layer + 1);
        assert_eq!(notes(), lines(layer + 1));
        sandbox.kill(&target);
    };
    sandbox.icecore("verify img").ok();
    let refused = sandbox.icecore("restore -D img/1 -d");
    assert!(refused.stderr.contains("--with-files"), "{refused:?}");
    sandbox.icecore("restore -D img/1 -d --with-files").fails(2);
    let plan = sandbox
        .icecore("restore -D img/1 --with-files --dry-run")
        .ok();
    assert!(plan.stdout.contains("notes is put back"), "{plan:?}");
    assert!(!plan.stdout.contains("hard link"), "{plan:?}");
    let other = sandbox.path("other name");
    fs::hard_link(sandbox.path("notes"), &other).unwrap();
    let plan = sandbox
        .icecore("restore -D img/1 --with-files --dry-run")
        .ok();
    assert!(plan.stdout.contains("hard link"), "{plan:?}");
    fs::remove_file(other).unwrap();
    assert_eq!(notes(), lines(3));
    for layer in [1, 3, 2] {
        back(layer);
    }
    fs::remove_file(sandbox.path("notes")).unwrap();
    back(2);
    // Layers keep their copies, whatever becomes of those below.
    sandbox.icecore("squash img/1 img/2 --yes").ok();
    sandbox.icecore("flatten img/3 --into img/3f").ok();
    sandbox.icecore("drop img/3 --yes").ok();
    sandbox.icecore("verify img").ok();
    back(2);
    let words = "restore -D img/3f -d --with-files --yes";
    sandbox.icecore(words).ok();
    assert_eq!(notes(), lines(3));
    let mut left = fs::read_dir(&dir).unwrap().flatten();
    assert!(!left.any(|entry| entry.file_name().to_string_lossy().starts_with('.')));
}

#[test]
fn a_file_that_was_replaced_is_named_before_a_restore() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let data = sandbox.path("data");
    fs::write(&data, "content").unwrap();
    let pid = sleeper(&mut sandbox, "exec < data;").pid;
    sandbox.icecore(&format!("dump -t {pid} -D 1")).ok();
    sandbox.wait_gone(&[pid]);
    let plan = sandbox.icecore("restore -D 1 --dry-run").ok();
    assert!(!plan.stdout.contains("warning"), "{plan:?}");
    // The same size and an older date, as a package or a backup leaves it.
    sandbox.run("cp", &["-p", "data", "data.new"]).ok();
    sandbox.run("mv", &["data.new", "data"]).ok();
    let plan = sandbox.icecore("restore -D 1 --dry-run").ok();
    assert!(plan.stdout.contains("data is another one"), "{plan:?}");
    fs::write(&data, "changed").unwrap();
    sandbox.run("touch", &["-d", "2001-01-01", "data"]).ok();
    let plan = sandbox.icecore("restore -D 1 --dry-run").ok();
    assert!(plan.stdout.contains("data"), "{plan:?}");
}

/// Starts a program that sleeps with `script` before, in the sandbox's directory.
fn sleeper(sandbox: &mut Sandbox, script: &str) -> Target {
    let chdir = format!("--chdir={}", sandbox.path("").display());
    let script = format!("{script} exec sleep 1000");
    let pid = sandbox.start("sleep.log", &["env", &chdir, "sh", "-c", &script]);
    let target = Target::silent(pid, sandbox.proc(""));
    wait_until("it sleeps", || {
        let comm = fs::read_to_string(target.proc(pid, "comm")).ok()?;
        (comm.trim() == "sleep").then_some(())
    });
    target
}

#[test]
fn copies_of_files_share_their_blocks_where_the_file_system_can() {
    if !require(&[Need::Root, Need::Program("filefrag")]) {
        return;
    }
    for (kind, mkfs) in [("xfs", "mkfs.xfs"), ("btrfs", "mkfs.btrfs")] {
        if !require(&[Need::Program(mkfs)]) {
            continue;
        }
        let mut sandbox = Sandbox::new();
        fs::create_dir(sandbox.path("disk")).unwrap();
        let image = fs::File::create(sandbox.path("image")).unwrap();
        image.set_len(400 << 20).unwrap();
        let mounted = format!("{mkfs} -q image && mount -o loop image disk");
        sandbox.run("sh", &["-c", &mounted]).ok();
        // Of whole blocks and a bit more.
        let content = "head -c 3000100 /dev/urandom > disk/notes && sync disk/notes";
        sandbox.run("sh", &["-c", content]).ok();
        let target = sleeper(&mut sandbox, "exec 3>>disk/notes;");
        let words = format!("dump -t {} -D disk/img/1 --snapshot-files", target.pid);
        sandbox.icecore(&words).ok();
        sandbox.wait_gone(&[target.pid]);
        // The first one is of the standard output.
        let copy = "disk/img/1/saved-file-2.img";
        sandbox.run("cmp", &["disk/notes", copy]).ok();
        let extents = sandbox.run("filefrag", &["-v", copy]).ok();
        assert!(extents.stdout.contains("shared"), "{kind}: {extents:?}");
        sandbox.run("sh", &["-c", "echo more >> disk/notes"]).ok();
        sandbox
            .icecore("restore -D disk/img/1 -d --with-files --yes")
            .ok();
        sandbox.run("cmp", &["disk/notes", copy]).ok();
        let extents = sandbox.run("filefrag", &["-v", "disk/notes"]).ok();
        assert!(extents.stdout.contains("shared"), "{kind}: {extents:?}");
        sandbox.kill(&target);
    }
}

#[test]
fn a_program_of_another_build_is_in_the_way_of_a_restore_by_its_name() {
    if !require(&[Need::Root, Need::Program("g++")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    // Two builds of one size, which differ in a constant and so in their build id.
    for build in ["1", "2"] {
        let source = format!(
            "#include <unistd.h>\nint volatile build = {build};\nint main() {{ for (;;) pause(); }}\n"
        );
        fs::write(sandbox.path("program.cpp"), source).unwrap();
        let to = format!("build-{build}");
        let args = ["-Wl,--build-id", "-o", &to, "program.cpp"];
        sandbox.run("g++", &args).ok();
    }
    let install = |build: &str| fs::copy(sandbox.path(build), sandbox.path("program")).unwrap();
    let size = install("build-1");
    let program = sandbox.path("program");
    let pid = sandbox.start("log", &[program.to_str().unwrap()]);
    let target = Target::silent(pid, sandbox.proc(""));
    wait_until("it waits", || {
        let comm = fs::read_to_string(target.proc(pid, "comm")).ok()?;
        (comm.trim() == "program").then_some(())
    });
    sandbox.icecore(&format!("dump -t {pid} -D 1")).ok();
    sandbox.wait_gone(&[pid]);
    sandbox.icecore("restore -D 1 --dry-run").ok();
    let install = |build: &str| fs::copy(sandbox.path(build), sandbox.path("program")).unwrap();
    assert_eq!(install("build-2"), size);
    let told = format!("{} is another build", program.display());
    for words in ["restore -D 1 --dry-run", "restore -D 1 -d"] {
        let run = sandbox.icecore(words).fails(10);
        assert!(run.stderr.contains(&told), "{}", run.stderr);
    }
    install("build-1");
    sandbox.icecore("restore -D 1 -d").ok();
    sandbox.kill(&target);
}
