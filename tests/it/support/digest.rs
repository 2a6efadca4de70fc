//! Digests of all memory of a process tree, page by page, read from outside.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use super::target::Target;
use super::wait::wait_until;

/// Mappings whose contents are the kernel's.
const KERNELS: &[&str] = &["[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]"];

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Digest of each page of each process that is not all zeros, by pid and address. The processes must
/// not be writing. Whether a page of zeros is there or not makes no difference to the process.
pub type Digest = BTreeMap<(i32, u64), [u8; 16]>;

/// System calls in which a specimen does nothing: read, poll, pause, nanosleep, wait4, rt_sigtimedwait,
/// futex, epoll_wait, clock_nanosleep, waitid, ppoll, epoll_pwait.
const WAITS: &[&str] = &[
    "0", "7", "34", "35", "61", "128", "202", "230", "232", "247", "271", "281",
];

/// Waits until no thread of the tree runs: an answer is there to be read before whoever gave it has
/// cleared his desk and waits for the next question.
fn await_rest(target: &Target) {
    let rests = |pid: i32, tid: i32| {
        let text = |name: &str| {
            let path = target.proc(pid, &format!("task/{tid}/{name}"));
            fs::read_to_string(path).unwrap_or_default()
        };
        let stat = text("stat");
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        let waits = || {
            let call = text("syscall");
            call.split_whitespace()
                .next()
                .is_some_and(|n| WAITS.contains(&n))
        };
        matches!(state, Some('T' | 'Z' | 'X')) || state == Some('S') && waits()
    };
    wait_until("the tree is at rest", || {
        let all = target.members().into_iter();
        let mut threads =
            all.flat_map(|pid| target.threads(pid).into_iter().map(move |tid| (pid, tid)));
        threads.all(|(pid, tid)| rests(pid, tid)).then_some(())
    });
}

/// Reads all memory of a tree, when it is at rest.
pub fn digest(target: &Target) -> Digest {
    await_rest(target);
    let mut all = BTreeMap::new();
    for pid in target.members() {
        // A zombie has no mappings.
        let maps = fs::read_to_string(target.proc(pid, "maps")).unwrap_or_default();
        let (memory, pagemap) = (target.proc(pid, "mem"), target.proc(pid, "pagemap"));
        let (Ok(memory), Ok(pagemap)) = (File::open(memory), File::open(pagemap)) else {
            continue;
        };
        for line in maps.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.get(5).is_some_and(|name| KERNELS.contains(name)) {
                continue;
            }
            let (start, end) = words[0].split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            // Of what has no file, a page that is not there is zeros; to read it would make it.
            let sparse = words[4] == "0";
            for page in (address(start)..address(end)).step_by(PAGE as usize) {
                if sparse && !is_there(&pagemap, page) {
                    continue;
                }
                let mut bytes = [0; PAGE as usize];
                // Guards, and pages beyond the end of a file, cannot be read.
                if memory.read_exact_at(&mut bytes, page).is_ok() && bytes.iter().any(|b| *b != 0) {
                    let hash = blake3::hash(&bytes);
                    all.insert((pid, page), *hash.as_bytes().first_chunk().unwrap());
                }
            }
        }
    }
    all
}

/// Present or swapped, by proc_pid_pagemap(5).
fn is_there(pagemap: &File, page: u64) -> bool {
    let mut entry = [0; 8];
    let read = pagemap.read_exact_at(&mut entry, page / PAGE * 8);
    read.is_err() || entry[7] & 0xc0 != 0
}

/// Fails with the first pages that differ.
#[track_caller]
pub fn assert_same_memory(what: &str, before: &Digest, after: &Digest) {
    let mut pages: Vec<&(i32, u64)> = before.keys().chain(after.keys()).collect();
    pages.sort_unstable();
    pages.dedup();
    pages.retain(|page| before.get(page) != after.get(page));
    let say = |(pid, page): &&(i32, u64)| {
        let there = |digest: &Digest| digest.contains_key(&(*pid, *page));
        format!(
            "{pid}:{page:x} (was {}, is {})",
            there(before),
            there(after)
        )
    };
    let first: Vec<String> = pages.iter().take(8).map(say).collect();
    assert!(
        pages.is_empty(),
        "{what}: {} pages differ: {first:?}",
        pages.len()
    );
}
