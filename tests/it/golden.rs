//! A stack that CRIU made, on a kernel with soft-dirty bits: three layers, the upper two incremental
//! (`tests/golden/README.md`). Without root, and on any machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::unistd::{Whence, lseek};
use tempfile::TempDir;

/// Where the data of the process begin, and how many pages they are.
const DATA: u64 = 0x40_3000;
const PAGES: usize = 8;

/// A copy that may be changed.
pub fn golden() -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/criu-4.1-stack");
    let copy = tempfile::tempdir().unwrap();
    for layer in ["1", "2", "3"] {
        let to = copy.path().join(layer);
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(from.join(layer)).unwrap() {
            let file = file.unwrap();
            let to = to.join(file.file_name());
            if file.file_type().unwrap().is_symlink() {
                symlink(fs::read_link(file.path()).unwrap(), to).unwrap();
            } else {
                fs::copy(file.path(), to).unwrap();
            }
        }
    }
    copy
}

/// What a command says, in the directory of the stack; it must succeed (10 is `diff` that finds some).
fn icecore(stack: &TempDir, words: &str) -> Vec<u8> {
    let run = Command::new(env!("CARGO_BIN_EXE_icecore"))
        .args(words.split(' '))
        .current_dir(stack)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(matches!(run.status.code(), Some(0 | 10)), "{words}: {said}");
    run.stdout
}

fn text(stack: &TempDir, words: &str) -> String {
    String::from_utf8(icecore(stack, words)).unwrap()
}

/// The first bytes of a page of the data, as `rounds.c` had written them after so many rounds.
fn bytes(round: u8, page: u8) -> [u8; 2] {
    let first = if page == 0 && round > 0 {
        round
    } else {
        0x10 + page
    };
    let second = if page > 0 && page <= round { page } else { 0 };
    [first, second]
}

fn holds(stack: &TempDir, layer: u8) {
    let range = format!("{DATA:#x}-{:#x}", DATA + PAGES as u64 * 4096);
    let memory = icecore(stack, &format!("cat {layer} 218 {range}"));
    for (page, got) in memory.chunks(4096).enumerate() {
        let wanted = bytes(layer - 1, page.try_into().unwrap());
        assert_eq!(got[..2], wanted, "page {page} as of layer {layer}");
        assert!(got[2..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn every_layer_of_criu_reads_as_the_process_was() {
    let stack = golden();
    (1..=3).for_each(|layer| holds(&stack, layer));
    let shown = text(&stack, "stacks .");
    assert!(shown.contains("3 pages here, 9 in parent"), "{shown}");
    let verified = text(&stack, "verify .");
    assert!(verified.contains("no digests"), "{verified}");
    let different = text(&stack, "diff 1 2 --json");
    assert!(different.contains("\"from\""), "{different}");
    icecore(&stack, "adopt .");
    let verified = text(&stack, "verify .");
    assert!(!verified.contains("no digests"), "{verified}");
    (1..=3).for_each(|layer| holds(&stack, layer));
}

#[test]
fn dedup_punches_the_pages_that_criu_dedup_punches() {
    let stack = golden();
    icecore(&stack, "dedup -D 3 --yes");
    holds(&stack, 3);
    // What `criu dedup` made of the same stack, in pages of the file.
    for (layer, wanted) in [("1", vec![0, 1, 3]), ("2", vec![0, 1]), ("3", vec![])] {
        let file = fs::File::open(stack.path().join(layer).join("pages-1.img")).unwrap();
        let pages = i64::try_from(file.metadata().unwrap().len() / 4096).unwrap();
        let is_hole = |page: &i64| lseek(&file, page * 4096, Whence::SeekHole) == Ok(page * 4096);
        let holes: Vec<i64> = (0..pages).filter(is_hole).collect();
        assert_eq!(holes, wanted, "layer {layer}");
    }
}

#[test]
fn lossless_changes_of_a_stack_of_criu_leave_every_layer_as_it_was() {
    let stack = golden();
    icecore(&stack, "dedup -D 3 --strategy unchanged,zero --yes");
    (1..=3).for_each(|layer| holds(&stack, layer));
    icecore(&stack, "drop 2 --yes");
    [1, 3].into_iter().for_each(|layer| holds(&stack, layer));
    icecore(&stack, "flatten 3 --yes");
    icecore(&stack, "drop 1 --yes");
    holds(&stack, 3);
}
