//! Targets that do not keep still: programs that fork and exec all the time, that end while they are
//! dumped, that somebody else holds.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::{Need, Sandbox, require, wait_until};

/// Counts in a file, with a new process for each number.
const CHURN: &str = "n=0; while :; do n=$((n + 1)); \
                     /bin/echo $n > count.partial; mv count.partial count; (true) | (true); done";

fn count(sandbox: &Sandbox) -> u32 {
    wait_until("the count", || {
        fs::read_to_string(sandbox.path("count"))
            .ok()?
            .trim()
            .parse()
            .ok()
    })
}

#[test]
fn a_shell_that_forks_all_the_time_is_dumped_and_counts_on() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let script = format!("cd {}; {CHURN}", sandbox.path("").display());
    let pid = sandbox.start("churn.log", &["sh", "-c", &script]);
    count(&sandbox);
    let mut made = 0;
    for layer in 0..20 {
        let run = sandbox.icecore(&format!("dump -t {pid} -D {layer} -R --track-mem"));
        // A process between fork and exec shares what cannot be shared, vanishes, or keeps its parent
        // from stopping: then it is said.
        assert!(matches!(run.code, 0 | 5 | 7 | 8), "{run:?}");
        assert!(!run.stderr.contains("panicked"), "{run:?}");
        made += u32::from(run.code == 0);
        let before = count(&sandbox);
        wait_until("it counts on", || {
            (count(&sandbox) > before + 1).then_some(())
        });
    }
    let log = fs::read_to_string(sandbox.path("churn.log")).unwrap();
    assert_eq!(log, "");
    assert!(made > 3, "only {made} of 20 dumps were made");
}

/// Counts in a file, with new threads for each number.
const SPAWN: &str = "import os, threading
n = 0
while True:
    n += 1
    threads = [threading.Thread(target=int) for _ in range(20)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    open('count.partial', 'w').write(f'{n}\\n')
    os.rename('count.partial', 'count')";

#[test]
fn a_program_whose_threads_come_and_go_is_checked_and_dumped_and_counts_on() {
    if !require(&[Need::Root, Need::Program("python3")]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path("spawn.py"), SPAWN).unwrap();
    let script = format!("cd {}; exec python3 spawn.py", sandbox.path("").display());
    let pid = sandbox.start("spawn.log", &["sh", "-c", &script]);
    count(&sandbox);
    for layer in 0..20 {
        sandbox.icecore(&format!("check -t {pid}")).ok();
        sandbox
            .icecore(&format!("dump -t {pid} -D {layer} -R --track-mem"))
            .ok();
        let before = count(&sandbox);
        wait_until("it counts on", || {
            (count(&sandbox) > before + 1).then_some(())
        });
    }
    let log = fs::read_to_string(sandbox.path("spawn.log")).unwrap();
    assert_eq!(log, "");
}

#[test]
fn a_target_that_ends_meanwhile_is_an_error_and_no_layer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    for n in 0..20 {
        // It ends by itself, some time during the dump.
        let time = format!("0.{:03}", n * 2);
        let pid = sandbox.start("sleep.log", &["sleep", &time]).to_string();
        let run = sandbox.icecore(&format!("dump -t {pid} -D {n}"));
        assert!(matches!(run.code, 0 | 3 | 8), "{run:?}");
        assert!(!run.stderr.contains("panicked"), "{run:?}");
        if run.stderr.contains("has ended meanwhile") {
            assert_eq!(run.code, 8, "{run:?}");
            assert!(run.stderr.contains("target: gone"), "{run:?}");
        }
        assert_eq!(
            run.code == 0,
            sandbox.path(n.to_string()).exists(),
            "{run:?}"
        );
        assert!(!sandbox.path(format!("{n}.partial")).exists(), "{run:?}");
    }
}

#[test]
fn a_process_that_a_debugger_holds_is_busy() {
    if !require(&[Need::Root]) {
        return;
    }
    if Command::new("strace")
        .arg("-V")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["20"]);
    let pid = target.pid.to_string();
    let output = sandbox.path("trace");
    let strace = sandbox.start(
        "strace.log",
        &["strace", "-o", output.to_str().unwrap(), "-p", &pid],
    );
    let status = target.proc(target.pid, "status");
    wait_until("it is traced", || {
        let traced = !fs::read_to_string(&status)
            .ok()?
            .contains("TracerPid:\t0\n");
        traced.then_some(())
    });
    let run = sandbox.icecore(&format!("dump -t {pid} -D 1 -R"));
    assert!(matches!(run.code, 6 | 7), "{run:?}");
    assert!(run.stderr.contains("try: "), "{run:?}");
    assert!(!sandbox.path("1").exists());
    target.check();
    sandbox.run("kill", &[&strace.to_string()]).ok();
    sandbox.wait_gone(&[strace]);
    sandbox.icecore(&format!("dump -t {pid} -D 1 -R")).ok();
    target.check();
}

#[test]
fn two_dumps_at_once_do_not_harm_the_target() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("threads", &[]);
    let icecore = env!("CARGO_BIN_EXE_icecore");
    let script = format!(
        "for n in 1 2 3 4; do {icecore} dump -t {} -R --track-mem -D $n & done; wait",
        target.pid
    );
    sandbox.run("sh", &["-c", &script]).ok();
    target.runs();
    target.check();
    let made: Vec<u32> = (1..=4)
        .filter(|n| sandbox.path(n.to_string()).exists())
        .collect();
    assert!(!made.is_empty());
    sandbox.kill(&target);
    for layer in made {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        target.check();
        sandbox.kill(&target);
    }
}

#[test]
fn many_threads_and_processes_come_back() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("writer", &["64"]);
    for _ in 0..12 {
        target.ask("fork");
    }
    for _ in 0..60 {
        target.ask("thread");
    }
    let pids = target.members();
    assert_eq!(pids.len(), 13);
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&pids);
    sandbox.icecore("restore -D 1 -d").ok();
    assert_eq!(target.members(), pids);
    assert_eq!(target.threads(target.pid).len(), 61);
    for child in 1..=12 {
        target.ask_at(&format!("child{child}"), "check");
    }
    target.check();
}

#[test]
fn a_process_in_a_session_of_others_joins_that_of_its_restorer() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let place = sandbox.path("").display().to_string();
    let script = format!("cd {place}; sleep 1000 > out & echo $! > child; wait");
    let shell = sandbox.start("shell.log", &["sh", "-c", &script]);
    let child: i32 = wait_until("the child's pid", || {
        fs::read_to_string(sandbox.path("child"))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    sandbox.icecore(&format!("dump -t {child} -D 1 -j")).ok();
    sandbox.wait_gone(&[child]);
    sandbox.run("kill", &["-KILL", &shell.to_string()]);
    sandbox.wait_gone(&[shell]);
    sandbox.icecore("restore -D 1 -d -j").ok();
    assert!(sandbox.exists(child));
}
