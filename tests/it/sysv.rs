//! POSIX shared memory and semaphores, which are files in `/dev/shm`, come back. So do
//! System V shared memory, semaphores and message queues in the namespace that the tree shares with
//! the machine: they are the layer's after a restore, whether they are still there or not; what is somebody else's is left alone.

use std::fs;
use std::process::Command;

use crate::support::{Need, Sandbox, Target, assert_same_portrait, portrait, require};

/// Objects of a specimen, and the option of ipcrm for them; they go when it is dropped, since nobody
/// else ends them.
struct Objects(&'static str, Vec<String>);

impl Objects {
    fn of(target: &Target, option: &'static str, file: &str) -> Self {
        let text = fs::read_to_string(target.dir().join(file)).unwrap();
        Self(option, text.split_whitespace().map(str::to_owned).collect())
    }

    fn remove(&self) {
        for id in &self.1 {
            // Some are gone with their last process.
            drop(Command::new("ipcrm").args([self.0, id]).output());
        }
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Three layers of a specimen with the seeds 1, 100 and 200, set by `verb`; the tree has ended.
fn three_layers(sandbox: &Sandbox, target: &Target, verb: &str) {
    for layer in 1..=3 {
        if layer > 1 {
            let seed = (layer - 1) * 100;
            target.ask(&format!("{verb} {seed}"));
            target.ask_at("child", &format!("expect {seed}"));
        }
        target.check();
        let mode = match layer {
            1 => "-R --track-mem",
            2 => "-R --track-mem --prev-images-dir ../1",
            _ => "--prev-images-dir ../2",
        };
        let pids = target.members();
        sandbox
            .icecore(&format!("dump -t {} -D {layer} {mode}", target.pid))
            .ok();
        if layer == 3 {
            sandbox.wait_gone(&pids);
        }
    }
}

#[test]
fn shared_memory_of_system_v_comes_back_from_each_layer_whether_it_is_still_there_or_not() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sysv", &[]);
    let segments = Objects::of(&target, "-m", "segments");
    let before = portrait(&target);
    three_layers(&sandbox, &target, "write");
    for layer in [2, 3, 1] {
        for there in [true, false] {
            if !there {
                segments.remove();
            }
            sandbox.icecore(&format!("restore -D {layer} -d")).ok();
            assert_same_portrait(&format!("{layer}, {there}"), &before, &portrait(&target));
            let seed = [1, 100, 200][layer - 1];
            for desk in ["main", "child"] {
                target.ask_at(desk, &format!("expect {seed}"));
                target.ask_at(desk, "check");
            }
            target.ask("write 7");
            target.ask_at("child", "expect 7");
            target.ask_at("child", "check");
            target.ask("detach");
            target.check();
            sandbox.kill(&target);
        }
    }
}

#[test]
fn a_restored_segment_is_compared_with_its_layer_and_pages_that_are_equal_are_not_stored() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sysv", &[]);
    let segments = Objects::of(&target, "-m", "segments");
    three_layers(&sandbox, &target, "write");
    segments.remove();
    sandbox.icecore("restore -D 2 -d").ok();
    sandbox
        .icecore(&format!(
            "dump -t {} -D 4 -R --prev-images-dir ../2",
            target.pid
        ))
        .ok();
    for id in &segments.1 {
        let pagemap = sandbox
            .icecore(&format!("show 4 pagemap-shmem-{id}.img --json"))
            .ok()
            .stdout;
        assert!(!pagemap.contains("PE_PRESENT"), "{pagemap}");
    }
    sandbox.kill(&target);
}

#[test]
fn segments_that_others_use_or_that_are_others_are_obstacles() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("sysv", &[]);
    let segments = Objects::of(&target, "-m", "segments");
    // The child alone: its parent has the segments attached, too.
    let child = target.members()[1];
    let run = sandbox
        .icecore(&format!("dump -t {child} -D child"))
        .fails(5);
    assert!(run.stderr.contains("also attached by"), "{}", run.stderr);
    three_layers(&sandbox, &target, "write");
    // Others take the place and the key of the first.
    segments.remove();
    fs::write("/proc/sys/kernel/shm_next_id", &segments.1[0]).unwrap();
    let made = Command::new("ipcmk").args(["-M", "100"]).output().unwrap();
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let id = said.split_whitespace().last().unwrap().to_owned();
    let other = Objects("-m", vec![id.clone()]);
    let run = sandbox.icecore("restore -D 2 -d");
    let words = [
        format!("ipcrm -m {id}"),
        format!("Segment {}", segments.1[0]),
    ];
    assert!(
        run.code != 0 && words.iter().all(|w| run.stderr.contains(w)),
        "{}",
        run.stderr
    );
    let all = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    assert!(
        all.split_whitespace().any(|word| word == id),
        "it was removed"
    );
    other.remove();
    sandbox.icecore("restore -D 2 -d").ok();
    target.ask("expect 100");
    target.check();
    sandbox.kill(&target);
}

#[test]
fn semaphores_and_message_queues_come_back_from_each_layer_whether_they_are_still_there_or_not() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("queues", &[]);
    let sets = Objects::of(&target, "-s", "sets");
    let queues = Objects::of(&target, "-q", "queues");
    three_layers(&sandbox, &target, "put");
    for layer in [2, 3, 1] {
        for there in [true, false] {
            if !there {
                sets.remove();
                queues.remove();
            }
            sandbox.icecore(&format!("restore -D {layer} -d")).ok();
            let number = [1, 100, 200][layer - 1];
            for desk in ["main", "child"] {
                target.ask_at(desk, &format!("expect {number}"));
                target.ask_at(desk, "check");
            }
            for words in ["messages", "post", "put 7"] {
                target.ask(words);
                target.check();
            }
            sandbox.kill(&target);
        }
    }
}

#[test]
fn semaphores_and_message_queues_that_others_use_are_obstacles() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("queues", &[]);
    let _sets = Objects::of(&target, "-s", "sets");
    let queues = Objects::of(&target, "-q", "queues");
    // The child alone: its parent uses them, too.
    let child = target.members()[1];
    let run = sandbox
        .icecore(&format!("dump -t {child} -D child"))
        .fails(5);
    for what in ["Set of semaphores", "Message queue"] {
        assert!(run.stderr.contains(what), "{}", run.stderr);
    }
    assert!(run.stderr.contains("is also used by"), "{}", run.stderr);
    three_layers(&sandbox, &target, "put");
    queues.remove();
    fs::write("/proc/sys/kernel/msg_next_id", &queues.1[0]).unwrap();
    let made = Command::new("ipcmk").arg("-Q").output().unwrap();
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let id = said.split_whitespace().last().unwrap().to_owned();
    let other = Objects("-q", vec![id.clone()]);
    let run = sandbox.icecore("restore -D 2 -d");
    let next = format!("ipcrm -q {id}");
    assert!(
        run.code != 0 && run.stderr.contains(&next),
        "{}",
        run.stderr
    );
    other.remove();
    sandbox.icecore("restore -D 2 -d").ok();
    target.ask("expect 100");
    target.check();
    sandbox.kill(&target);
}

/// Files in `/dev/shm` that nobody else removes.
struct Files(Vec<String>);

impl Drop for Files {
    fn drop(&mut self) {
        for name in &self.0 {
            drop(fs::remove_file(format!("/dev/shm/{name}")));
        }
    }
}

#[test]
fn posix_shared_memory_and_semaphores_come_back_from_each_layer_with_a_name_or_without() {
    if !require(&[Need::Root]) {
        return;
    }
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("posix", &[]);
    let names = fs::read_to_string(target.dir().join("names")).unwrap();
    let _files = Files(names.split_whitespace().map(str::to_owned).collect());
    for (words, warned) in [("", true), ("--snapshot-files", false)] {
        let plan = format!("dump -t {} -D 9 --dry-run {words}", target.pid);
        let said = sandbox.icecore(&plan).ok().stdout;
        assert_eq!(said.contains("shares memory by name"), warned, "{said}");
    }
    three_layers(&sandbox, &target, "write");
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        for desk in ["main", "child"] {
            target.ask_at(desk, &format!("expect {}", [1, 100, 200][layer - 1]));
            target.ask_at(desk, "check");
        }
        target.ask_at("child", "post");
        target.ask("write 7");
        target.ask_at("child", "expect 7");
        target.ask_at("child", "check");
        sandbox.kill(&target);
    }
}
