//! Several commands on one stack at once, icecore's and CRIU's: each does its work, or is told to
//! wait; no layer is ever seen half, or lost.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::stack::{Made, STILL, drill, restore};
use crate::support::{
    Need, Run, Sandbox, Target, assert_same_memory, criu, digest, require, wait_until,
};

/// Runs a command until nobody is in its way.
fn patiently(sandbox: &Sandbox, words: &str) -> Run {
    wait_until(&format!("{words} is not in the way of others"), || {
        let run = sandbox.icecore(words);
        (run.code != 7).then_some(run)
    })
}

/// Runs commands until `done`; each must succeed or be told that the stack is in use.
fn hastily(sandbox: &Sandbox, commands: &[&str], done: &AtomicBool) -> (usize, usize) {
    let (mut did, mut waited) = (0, 0);
    for words in commands.iter().cycle() {
        if done.load(Ordering::SeqCst) {
            break;
        }
        match sandbox.icecore(words) {
            Run { code: 0, .. } => did += 1,
            Run { code: 7, .. } => waited += 1,
            run => panic!("{words}: {run:?}"),
        }
    }
    (did, waited)
}

fn dumps(sandbox: &Sandbox, target: &Target) -> Vec<Made> {
    let mut made: Vec<Made> = Vec::new();
    let mut parent = "5".to_owned();
    for layer in 6..12 {
        target.ask(&format!("dirty 0 30 {layer}"));
        target.ask(&format!("shared 5 {layer}"));
        let memory = digest(target);
        let pid = target.pid;
        let words =
            format!("dump -t {pid} -D img/{layer} -R --track-mem --prev-images-dir ../{parent}");
        patiently(sandbox, &words).ok();
        parent = layer.to_string();
        let name = format!("img/{layer}");
        made.push(Made { name, memory });
    }
    made
}

#[test]
fn commands_that_meet_on_one_stack_do_their_work_or_wait_and_no_layer_is_lost() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let mut made = drill(&sandbox, &target);
    restore(&sandbox, &target, &made[4]);
    let done = AtomicBool::new(false);
    let (shared, target_ref) = (&sandbox, &target);
    let editor = |name: &'static str| {
        let done = &done;
        move || {
            let (mut did, mut turn) = (0, 0);
            while turn < 4 || !done.load(Ordering::SeqCst) {
                turn += 1;
                let branch = format!("img/{name}{turn}");
                for words in [
                    format!("branch img/{} {branch}", 1 + turn % 5),
                    "dedup -D img/5 --strategy unchanged,zero --yes".to_owned(),
                    format!("flatten {branch} --yes"),
                    format!("label img/2 {name}{turn}"),
                    format!("drop {branch} --yes"),
                ] {
                    patiently(shared, &words).ok();
                    did += 1;
                }
            }
            did
        }
    };
    let reader = || hastily(shared, &["verify img", "stacks img", "show img/3"], &done);
    let later = thread::scope(|scope| {
        let (a, b) = (scope.spawn(editor("a")), scope.spawn(editor("b")));
        let reader = scope.spawn(reader);
        let dumper = scope.spawn(|| dumps(shared, target_ref));
        let later = dumper.join();
        done.store(true, Ordering::SeqCst);
        let (read, refused) = reader.join().unwrap();
        let changed = a.join().unwrap() + b.join().unwrap();
        eprintln!("{changed} changes, {read} looks, {refused} looks refused");
        later.unwrap()
    });
    made.extend(later);
    sandbox.icecore("verify img").ok();
    let mut names: Vec<String> = fs::read_dir(sandbox.path("img"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_by_key(|name| name.parse::<u32>().unwrap_or(0));
    let expected: Vec<String> = (1..12).map(|layer| layer.to_string()).collect();
    assert_eq!(names, expected);
    sandbox.kill(&target);
    for layer in &made {
        restore(&sandbox, &target, layer);
        sandbox.kill(&target);
    }
}

#[test]
fn a_restore_by_criu_beside_changes_of_its_stack_gives_the_memory_of_the_layer() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen_with(&[STILL], "writer", &["600"]);
    let mut made = drill(&sandbox, &target);
    restore(&sandbox, &target, &made[4]);
    made.extend(dumps(&sandbox, &target));
    sandbox.kill(&target);
    // A process is called what the file is called that was executed.
    let root = criu().unwrap();
    let called = sandbox.path("criu");
    std::os::unix::fs::symlink(root.join("lib64/ld-linux-x86-64.so.2"), &called).unwrap();
    let library = root.join("usr/lib/x86_64-linux-gnu");
    let program = root.join("usr/sbin/criu");
    let restore_it = || {
        let mut words = vec!["--library-path", library.to_str().unwrap()];
        words.push(program.to_str().unwrap());
        words.extend(["restore", "-D", "img/11", "-d", "-v0"]);
        sandbox.run(called.to_str().unwrap(), &words).ok();
        assert_same_memory("layer 11", &made[10].memory, &digest(&target));
        target.check();
        sandbox.kill(&target);
    };
    let done = AtomicBool::new(false);
    let (restores, refused) = thread::scope(|scope| {
        let criu = scope.spawn(|| {
            let mut restores = 0;
            while !done.load(Ordering::SeqCst) {
                restore_it();
                restores += 1;
            }
            restores
        });
        let mut refused = 0;
        for layer in (2..11).rev() {
            let words = format!("drop img/{layer} --yes");
            wait_until(&words, || {
                let run = sandbox.icecore(&words);
                assert!(matches!(run.code, 0 | 7), "{run:?}");
                refused += usize::from(run.code == 7);
                // Who was stopped halfway has nothing left to do when the layer is gone.
                let gone = !sandbox.path(format!("img/{layer}")).exists();
                (gone || criu.is_finished()).then_some(())
            });
        }
        done.store(true, Ordering::SeqCst);
        (criu.join().unwrap(), refused)
    });
    eprintln!("{restores} restores by CRIU, {refused} changes refused");
    restore_it();
    restore(&sandbox, &target, &made[10]);
    sandbox.kill(&target);
    restore(&sandbox, &target, &made[0]);
}
