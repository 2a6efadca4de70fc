//! Huge pages (hugetlbfs) come back from each layer.

use std::fs;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::support::{Need, Sandbox, assert_same_portrait, portrait, require};

const NUMBER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// The tests share the pages of the machine: one after the other.
static ONE: Mutex<()> = Mutex::new(());

/// Huge pages of the machine, as many more as the test needs; given back on drop.
struct Pages(
    u64,
    #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>,
);

impl Pages {
    fn more(more: u64) -> Option<Self> {
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = || fs::read_to_string(NUMBER).ok()?.trim().parse::<u64>().ok();
        let before = number()?;
        let pages = Self(before, turn);
        fs::write(NUMBER, (before + more).to_string()).ok()?;
        // The kernel finds fewer when memory is short.
        (number()? >= before + more).then_some(pages)
    }
}

impl Pages {
    /// What the specimen needs and its dumps, or a word why not.
    fn or_say() -> Option<Self> {
        let pages = Self::more(44);
        if pages.is_none() {
            let line = "skipped huge: the machine gives no 44 huge pages of 2 MiB\n";
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        }
        pages
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        drop(fs::write(NUMBER, self.0.to_string()));
    }
}

#[test]
fn huge_pages_come_back_from_each_layer_and_what_is_missing_is_named() {
    if !require(&[Need::Root]) {
        return;
    }
    let Some(pages) = Pages::or_say() else {
        return;
    };
    let mut sandbox = Sandbox::new();
    let mount = sandbox.path("mount");
    fs::create_dir(&mount).unwrap();
    let mount = mount.to_str().unwrap();
    sandbox
        .run("mount", &["-t", "hugetlbfs", "none", mount])
        .ok();
    let target = sandbox.specimen("huge", &[mount]);
    let before = portrait(&target);
    for layer in 1..=3 {
        let seed = layer * 100;
        target.ask(&format!("write {seed}"));
        target.ask_at("child", &format!("expect {seed}"));
        target.check();
        let mode = match layer {
            1 => "-R --track-mem",
            2 => "-R --track-mem --prev-images-dir ../1",
            _ => "--prev-images-dir ../2",
        };
        let members = target.members();
        sandbox
            .icecore(&format!("dump -t {} -D {layer} {mode}", target.pid))
            .ok();
        if layer == 3 {
            sandbox.wait_gone(&members);
        }
    }
    for layer in [2, 3, 1] {
        sandbox.icecore(&format!("restore -D {layer} -d")).ok();
        assert_same_portrait(&format!("{layer}"), &before, &portrait(&target));
        target.ask(&format!("private {}", layer * 100));
        target.ask_at("child", "private 1");
        target.ask_at("child", "child 99");
        target.ask("child 0");
        for desk in ["main", "child"] {
            target.ask_at(desk, &format!("expect {}", layer * 100));
            target.ask_at(desk, "check");
        }
        target.ask("write 7");
        target.ask_at("child", "expect 7");
        target.ask_at("child", "check");
        sandbox.kill(&target);
    }
    drop(pages);
    let free = fs::read_to_string(NUMBER).unwrap();
    if free.trim() == "0" {
        let run = sandbox.icecore("restore -D 1 -d").fails(7);
        assert!(run.stderr.contains("nr_hugepages"), "{}", run.stderr);
    }
}

#[test]
fn criu_restores_huge_pages_of_ours() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let Some(_pages) = Pages::or_say() else {
        return;
    };
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("huge", &["modest"]);
    target.ask("write 100");
    let members = target.members();
    sandbox
        .icecore(&format!("dump -t {} -D 1", target.pid))
        .ok();
    sandbox.wait_gone(&members);
    sandbox.criu("restore -D 1 -d -v2").ok();
    target.check();
    target.ask("private 100");
    target.ask_at("child", "child 99");
}

#[test]
fn huge_pages_of_criu_come_back() {
    if !require(&[Need::Root, Need::Criu]) {
        return;
    }
    let Some(_pages) = Pages::or_say() else {
        return;
    };
    let mut sandbox = Sandbox::new();
    let target = sandbox.specimen("huge", &["modest"]);
    target.ask("write 100");
    let members = target.members();
    fs::create_dir(sandbox.path("1")).unwrap();
    sandbox
        .criu(&format!("dump -t {} -D 1 -v2", target.pid))
        .ok();
    sandbox.wait_gone(&members);
    sandbox.icecore("restore -D 1 -d").ok();
    target.check();
    target.ask("private 100");
    target.ask_at("child", "child 99");
}
