//! System V shared memory in the namespace that the tree shares with the machine: it is the layer's
//! after a restore, whether the segments are still there or not; what is somebody else's is left alone.

use std::fs;
use std::process::Command;

use crate::support::{Need, Sandbox, Target, assert_same_portrait, portrait, require};

/// The segments of a specimen; they go when it is dropped, since nobody else ends them.
struct Segments(Vec<String>);

impl Segments {
    fn of(target: &Target) -> Self {
        let text = fs::read_to_string(target.dir().join("segments")).unwrap();
        Self(text.split_whitespace().map(str::to_owned).collect())
    }

    fn remove(&self) {
        for id in &self.0 {
            // Some are gone with their last process.
            drop(Command::new("ipcrm").args(["-m", id]).output());
        }
    }
}

impl Drop for Segments {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Three layers of a specimen with the seeds 1, 100 and 200; the tree has ended.
fn three_layers(sandbox: &Sandbox, target: &Target) {
    for layer in 1..=3 {
        if layer > 1 {
            let seed = (layer - 1) * 100;
            target.ask(&format!("write {seed}"));
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
    let segments = Segments::of(&target);
    let before = portrait(&target);
    three_layers(&sandbox, &target);
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
    let segments = Segments::of(&target);
    three_layers(&sandbox, &target);
    segments.remove();
    sandbox.icecore("restore -D 2 -d").ok();
    sandbox
        .icecore(&format!(
            "dump -t {} -D 4 -R --prev-images-dir ../2",
            target.pid
        ))
        .ok();
    for id in &segments.0 {
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
    let segments = Segments::of(&target);
    // The child alone: its parent has the segments attached, too.
    let child = target.members()[1];
    let run = sandbox
        .icecore(&format!("dump -t {child} -D child"))
        .fails(5);
    assert!(run.stderr.contains("also attached by"), "{}", run.stderr);
    three_layers(&sandbox, &target);
    // Others take the place and the key of the first.
    segments.remove();
    fs::write("/proc/sys/kernel/shm_next_id", &segments.0[0]).unwrap();
    let made = Command::new("ipcmk").args(["-M", "100"]).output().unwrap();
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let id = said.split_whitespace().last().unwrap().to_owned();
    let other = Segments(vec![id.clone()]);
    let run = sandbox.icecore("restore -D 2 -d");
    let words = [
        format!("ipcrm -m {id}"),
        format!("Segment {}", segments.0[0]),
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
