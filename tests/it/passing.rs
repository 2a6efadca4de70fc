//! What passes by itself is waited for: children that are just starting programs, files of other processes
//! that are looked at, ids of processes that have ended. And what a program only reserves costs nothing.

use std::fs;

use crate::support::{Need, Sandbox, Target, python, require, wait_until};

/// A program in Python in the sandbox that has made the file `ready`.
fn program(sandbox: &mut Sandbox, text: &str) -> Target {
    fs::write(sandbox.path("program.py"), text).unwrap();
    let chdir = format!("--chdir={}", sandbox.path("").display());
    let python = python().unwrap();
    let words = ["env", &chdir, python.to_str().unwrap(), "program.py"];
    let pid = sandbox.start("program.log", &words);
    wait_until("the program is ready", || {
        sandbox.path("ready").exists().then_some(())
    });
    Target::silent(pid, sandbox.proc(""))
}

/// Dumps it a number of times; each has to succeed.
fn dumped_each_time(text: &str) {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = program(&mut sandbox, text);
    for layer in 1..=12 {
        sandbox
            .icecore(&format!("dump -t {} -D {layer} -R", target.pid))
            .ok();
    }
    target.runs();
}

#[test]
fn a_program_that_starts_one_child_after_the_other_is_dumped_each_time() {
    dumped_each_time(
        r#"
import os
open("ready", "w").close()
while True:
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
"#,
    );
}

#[test]
fn a_program_that_looks_at_files_of_other_processes_is_dumped_each_time() {
    dumped_each_time(
        r#"
import os
open("ready", "w").close()
while True:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            open(f"/proc/{pid}/stat").read()
        except OSError:
            pass
"#,
    );
}

#[test]
fn memory_that_is_only_reserved_is_reserved_again_however_much_it_is() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    // PROT_NONE: the kernel counts none of it. With a page in the middle that has been written to.
    let target = program(
        &mut sandbox,
        r#"
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
size = 8 << 40
start = libc.mmap(None, ctypes.c_size_t(size), 0, 0x22, -1, ctypes.c_long(0))
page = start + size // 2
assert libc.mprotect(ctypes.c_void_p(page), 4096, 3) == 0
ctypes.memset(page, 7, 4096)
open("ready", "w").close()
while True:
    time.sleep(0.01)
    assert ctypes.string_at(page, 4096) == bytes([7]) * 4096
"#,
    );
    let maps = || fs::read_to_string(target.proc(target.pid, "maps")).unwrap();
    let before = maps();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&[target.pid]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.runs();
    let places = |maps: &str| -> Vec<String> {
        let words = |line: &str| {
            line.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        };
        maps.lines().map(words).collect()
    };
    assert_eq!(places(&maps()), places(&before));
}

#[test]
fn a_restore_waits_for_ended_processes_whose_parent_takes_its_time() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    // Its child is the target; it waits for it some time after it has ended.
    let parent = program(
        &mut sandbox,
        r#"
import os, time
child = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "1000"])
open("child", "w").write(str(child))
open("ready", "w").close()
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
time.sleep(0.7)
os.waitpid(child, 0)
time.sleep(1000)
"#,
    );
    let child = fs::read_to_string(sandbox.path("child")).unwrap();
    wait_until("it sleeps", || {
        let comm = fs::read_to_string(parent.proc(child.parse().unwrap(), "comm")).ok()?;
        (comm.trim() == "sleep").then_some(())
    });
    sandbox
        .icecore(&format!("dump -t {child} -D 1 --shell-job"))
        .ok();
    sandbox.icecore("restore -D 1 -d --shell-job").ok();
    assert!(sandbox.exists(child.parse().unwrap()));
}

#[test]
fn what_a_tree_left_in_its_session_is_named_and_in_the_way_of_its_ids_until_it_ends() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    // The go-between ends at once, so its child belongs to nobody of the tree.
    let target = program(
        &mut sandbox,
        r#"
import os, time
if os.fork() == 0:
    child = os.fork()
    if child:
        open("left.partial", "w").write(str(child))
        os.rename("left.partial", "left")
        os._exit(0)
    while True:
        time.sleep(1000)
os.wait()
open("ready", "w").close()
while True:
    time.sleep(1000)
"#,
    );
    let left = fs::read_to_string(sandbox.path("left")).unwrap();
    let told = format!("(pid {left})");
    for words in ["check", "dump -D 1 --dry-run", "dump -D 1"] {
        let run = sandbox.icecore(&format!("{words} -t {}", target.pid)).ok();
        let said = format!("{}{}", run.stdout, run.stderr);
        assert!(said.contains("warning"), "{words}: {said}");
        assert!(said.contains(&told), "{words}: {said}");
    }
    let run = sandbox.icecore("restore -D 1 -d").fails(7);
    assert!(run.stderr.contains(&told), "{run:?}");
    assert!(run.stderr.contains(&format!("kill {left}")), "{run:?}");
    sandbox.run("kill", &["-9", &left]).ok();
    sandbox.wait_gone(&[left.parse().unwrap()]);
    sandbox.icecore("restore -D 1 -d").ok();
    target.runs();
}
