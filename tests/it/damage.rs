//! Layers with a damaged bit and no digests: whatever reads them gives a value or an error, within a
//! second of computing and 256 MiB, and never panics.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use icecore::chain::{Catalog, Census, Depth, Stack, check_dir, verify};
use icecore::files::Allow;
use icecore::image::{Images, text};
use icecore::inspect::{self, Pattern, View};
use icecore::{Cancel, dedup, edit, restore};
use nix::sys::resource::{Resource, setrlimit};
use nix::time::{ClockId, clock_gettime};

use crate::golden::golden;

/// Set in the process that has these limits.
const LIMITED: &str = "ICECORE_TEST_DAMAGE";
const MEMORY: u64 = 256 << 20;
/// Of the processor, for everything that is done with one damaged layer.
const TIME: Duration = Duration::from_secs(1);
/// Of the processor, in all.
const PATIENCE: u64 = 2000;

#[test]
fn a_flipped_bit_gives_a_value_or_an_error_within_a_second_and_256_mib() {
    if std::env::var_os(LIMITED).is_some() {
        setrlimit(Resource::RLIMIT_CPU, PATIENCE, PATIENCE).unwrap();
        setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).unwrap();
        flip_every_bit();
        return;
    }
    let name = "damage::a_flipped_bit_gives_a_value_or_an_error_within_a_second_and_256_mib";
    let done = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads", "1"])
        .env(LIMITED, "1")
        // Each arena of glibc takes 64 MiB of addresses.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    let last: Vec<&str> = said.lines().rev().take(12).collect();
    assert!(done.status.success(), "{}: {last:#?}", done.status);
    eprintln!("{}", last.first().unwrap_or(&""));
}

fn flip_every_bit() {
    let stack = golden();
    let layer = stack.path().join("2");
    let mut slowest = Duration::ZERO;
    let mut flips = 0;
    // Else only some of them; the long run takes minutes.
    let all = std::env::var_os("ICECORE_TEST_ALL").is_some();
    for name in Images::open(&layer).unwrap().names().unwrap() {
        let path = layer.join(&name);
        if name.starts_with("pages-") || !path.is_file() {
            continue;
        }
        let good = fs::read(&path).unwrap();
        let step = if all { 1 } else { 5 + good.len() / 8 };
        for bit in (0..good.len() * 8).step_by(step) {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            let before = processor();
            read_all(stack.path());
            let took = processor() - before;
            assert!(took < TIME, "bit {bit} of {name} took {took:?}");
            slowest = slowest.max(took);
            flips += 1;
        }
        fs::write(&path, &good).unwrap();
    }
    eprintln!("{flips} bits, the slowest took {slowest:?}");
}

/// What this thread has computed.
fn processor() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

/// Everything that can be done with a stack without changing it.
fn read_all(root: &Path) {
    let cancel = Cancel::default();
    drop(Catalog::scan(root));
    drop(verify(root, Depth::Full, &(), &cancel));
    let dirs = ["1", "2", "3"].map(|name| root.join(name));
    for dir in &dirs[1..] {
        let _report = check_dir(dir);
        if let Ok(stack) = Stack::open(dir) {
            drop(Census::of(&stack, &cancel));
        }
        for strategy in dedup::STRATEGIES {
            drop(dedup::plan(dir, *strategy));
        }
        drop(edit::flatten(dir, None));
        drop(restore::plan(&restore::Options {
            apart: false,
            images_dir: dir.clone(),
            detach: true,
            keeper: "/nowhere".into(),
            pidfile: None,
            track: true,
            allow: Allow::default(),
            any_cpu: true,
        }));
    }
    drop(edit::drop_layers(&dirs[1..2]));
    drop(edit::squash(&dirs[1], &dirs[2]));
    let last = edit::Keep {
        last: 1,
        ..edit::Keep::default()
    };
    drop(edit::prune(root, &last));
    let images = Images::open(&dirs[1]).unwrap();
    drop(text::list_text(&images));
    for name in images.names().unwrap() {
        drop(text::text(&images, &name));
        drop(text::json(&images, &name));
    }
    let views = [View::open(&dirs[1]), View::open(&dirs[2])];
    for view in views.iter().flatten() {
        look(view);
    }
    if let [Ok(from), Ok(to)] = &views {
        drop(inspect::diff(from, to, &mut |_| ()));
    }
}

fn look(view: &View) {
    drop(inspect::search(
        view,
        &Pattern::text("round").unwrap(),
        &mut |_| Ok(true),
    ));
    for task in view.tasks() {
        drop(view.descriptors(task.pid));
        if let Ok(space) = view.space(task.pid) {
            let mut page = [0; 4096];
            for mapping in space.mappings() {
                for part in space.parts(mapping.range).iter().take(4) {
                    drop(space.read(part, part.range.start, &mut page));
                }
            }
        }
        let core = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        drop(inspect::core_file(view, task.pid, core));
    }
}
