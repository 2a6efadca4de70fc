//! A real program that none of us wrote: CPython with two threads, a child process, an open file and
//! a pipe, dumped three times, restored from any of the three.

use std::fs;

use crate::support::{Need, Sandbox, python, require, wait_until};

/// Counts in two threads, keeps a list that grows, writes to a file and talks to a child by a pipe.
/// Says `STEP SUM` in the file `said` at each step; a step begins when the file `go` says its number.
const PROGRAM: &str = r#"
import hashlib, os, sys, threading, time

place = sys.argv[1]
from_child, to_parent = os.pipe()
from_parent, to_child = os.pipe()

def child():
    seen = 0
    while True:
        seen += len(os.read(from_parent, 1))
        os.write(to_parent, b"%08d" % seen)

if os.fork() == 0:
    child()

ticks = [0, 0]
def count(number):
    while True:
        ticks[number] += 1
        time.sleep(0.001)

for number in range(2):
    threading.Thread(target=count, args=(number,), daemon=True).start()

log = open(os.path.join(place, "log"), "w+")
history = []

def say(name, text):
    partial = os.path.join(place, name + ".partial")
    with open(partial, "w") as file:
        file.write(text)
    os.rename(partial, os.path.join(place, name))

step = 0
while True:
    # Something in the heap, in the file, and in the pipe.
    history.append(hashlib.sha256(repr(history[-3:]).encode()).hexdigest() * 1000)
    log.write("step %d\n" % step)
    log.flush()
    os.write(to_child, b"x")
    answer = int(os.read(from_child, 8))
    assert answer == step + 1, (answer, step)
    log.seek(0)
    assert len(log.read().splitlines()) == step + 1
    before = list(ticks)
    while any(new <= old for new, old in zip(ticks, before)):
        time.sleep(0.001)
    digest = hashlib.sha256("".join(history).encode()).hexdigest()
    say("said", "%d %s" % (step, digest))
    step += 1
    while True:
        try:
            with open(os.path.join(place, "go")) as file:
                if int(file.read() or -1) == step:
                    break
        except OSError:
            pass
        time.sleep(0.001)
"#;

/// Lets it do a step; what it says.
fn step(sandbox: &Sandbox, number: u32) -> String {
    if number > 0 {
        fs::write(sandbox.path("go.partial"), number.to_string()).unwrap();
        fs::rename(sandbox.path("go.partial"), sandbox.path("go")).unwrap();
    }
    let begin = format!("{number} ");
    wait_until(&format!("step {number}"), || {
        let said = fs::read_to_string(sandbox.path("said")).ok()?;
        let log = fs::read_to_string(sandbox.path("python.log")).unwrap_or_default();
        assert!(!log.contains("Traceback"), "{log}");
        said.starts_with(&begin).then_some(said)
    })
}

#[test]
fn python_goes_on_from_any_of_three_layers() {
    if !require(&[Need::Root, Need::Python]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    fs::write(sandbox.path("program.py"), PROGRAM).unwrap();
    let (script, place) = (sandbox.path("program.py"), sandbox.path("."));
    let (interpreter, script) = (python().unwrap(), script.to_str().unwrap().to_owned());
    let pid = sandbox.start(
        "python.log",
        &[
            interpreter.to_str().unwrap(),
            &script,
            place.to_str().unwrap(),
        ],
    );
    // What it says when nobody disturbs it, step by step; the log it writes belongs to each layer.
    let mut said = vec![step(&sandbox, 0)];
    let log = |layer: u32| sandbox.path(format!("log.{layer}"));
    let mut at = 0;
    for layer in 1..=3 {
        at += 1;
        said.push(step(&sandbox, at));
        let parent = if layer == 1 {
            String::new()
        } else {
            format!("--prev-images-dir ../{}", layer - 1)
        };
        let mode = if layer == 3 {
            ""
        } else {
            "--leave-running --track-mem"
        };
        fs::copy(sandbox.path("log"), log(layer)).unwrap();
        let run = sandbox
            .icecore(&format!("dump -t {pid} -D img/{layer} {mode} {parent}"))
            .ok();
        eprintln!("{}", run.stdout.trim());
    }
    wait_until("it is gone", || (!sandbox.exists(pid)).then_some(()));
    for layer in [2, 1, 3] {
        // CRIU's rule, and ours: files are as they were, or the restore is refused.
        fs::write(sandbox.path("log"), fs::read(log(layer)).unwrap()).unwrap();
        fs::remove_file(sandbox.path("said")).unwrap();
        sandbox.icecore(&format!("restore -D img/{layer} -d")).ok();
        assert!(sandbox.exists(pid));
        let children = fs::read_to_string(sandbox.proc(&format!("{pid}/task/{pid}/children")));
        let child: i32 = children.unwrap().trim().parse().unwrap();
        for number in layer + 1..layer + 3 {
            let is = step(&sandbox, number);
            match said.get(number as usize) {
                Some(should) => assert_eq!(&is, should, "layer {layer}"),
                None => said.push(is),
            }
        }
        for process in [pid, child] {
            sandbox.run("kill", &["-KILL", &process.to_string()]).ok();
        }
        sandbox.wait_gone(&[pid, child]);
    }
}
