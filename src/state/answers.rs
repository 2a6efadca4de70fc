//! One batch of questions to a frozen thread, put together by all resources, and what each of them
//! gets to know.

use std::ops::Range;

use procfs::process::{Stat, Status};

use super::words::to_words;
use crate::error::{Error, Result};
use crate::inject::{Call, Remote};
use crate::task::proc;
use crate::units::{Pid, Vaddr};

/// System calls that a thread will be made to run, with room for what they write.
#[derive(Debug)]
pub struct Questions {
    base: Vaddr,
    leader: bool,
    calls: Vec<Call>,
    used: u64,
    /// For each resource: its first call and its first byte of room.
    marks: Vec<(usize, u64)>,
}

impl Questions {
    pub(super) fn new(base: Vaddr, leader: bool) -> Self {
        Self {
            base,
            leader,
            calls: Vec::new(),
            used: 0,
            marks: Vec::new(),
        }
    }

    /// What follows belongs to the next resource.
    pub(super) fn begin(&mut self) {
        self.marks.push((self.calls.len(), self.used));
    }

    /// True when the parts of the whole process are due.
    pub fn leader(&self) -> bool {
        self.leader
    }

    /// Where the room begins.
    pub fn base(&self) -> Vaddr {
        self.base
    }

    /// The address in the task of `bytes` bytes of room, for the kernel to write to.
    pub fn room(&mut self, bytes: u64) -> Vaddr {
        let at = self.base + self.used;
        self.used += bytes.next_multiple_of(8);
        at
    }

    /// Adds a call.
    pub fn call(&mut self, nr: i64, args: &[u64]) {
        self.calls.push(Call::new(nr, args));
    }

    /// Runs all calls and reads what else is known of the thread.
    pub(super) fn put_to(mut self, pid: Pid, remote: &mut Remote) -> Result<Asked> {
        // An int leaves the other half of its word alone: nothing old may stand there.
        let mut bytes = vec![0; usize::try_from(self.used).unwrap_or(usize::MAX)];
        remote.put(0, &bytes)?;
        remote.run(&mut self.calls)?;
        remote.get(0, &mut bytes)?;
        let tid = remote.tid();
        Ok(Asked {
            tid,
            status: proc::status(pid, tid)?,
            stat: proc::stat(pid, tid)?,
            calls: self.calls,
            words: to_words(&bytes),
            marks: self.marks,
        })
    }
}

/// All questions with their answers.
#[derive(Debug)]
pub(super) struct Asked {
    tid: Pid,
    status: Status,
    stat: Stat,
    calls: Vec<Call>,
    words: Vec<u64>,
    marks: Vec<(usize, u64)>,
}

impl Asked {
    /// What the resource with this index asked.
    pub(super) fn answers(&self, index: usize) -> Answers<'_> {
        let end = (self.calls.len(), self.words.len() as u64 * 8);
        let from = self.marks.get(index).copied().unwrap_or(end);
        let to = self.marks.get(index + 1).copied().unwrap_or(end);
        let word = |bytes: u64| usize::try_from(bytes / 8).unwrap_or(usize::MAX);
        Answers {
            tid: self.tid,
            status: &self.status,
            stat: &self.stat,
            calls: slice(&self.calls, from.0..to.0),
            words: slice(&self.words, word(from.1)..word(to.1)),
        }
    }
}

fn slice<T>(all: &[T], range: Range<usize>) -> &[T] {
    all.get(range).unwrap_or_default()
}

/// What one resource gets to know of a frozen thread.
#[derive(Debug)]
pub struct Answers<'a> {
    tid: Pid,
    /// `/proc/PID/task/TID/status`.
    pub status: &'a Status,
    /// `/proc/PID/task/TID/stat`.
    pub stat: &'a Stat,
    /// The calls that it asked for, with their results.
    pub calls: &'a [Call],
    /// The room that it asked for, in words.
    pub words: &'a [u64],
}

impl Answers<'_> {
    /// The result of its call number `index`, which is named `what` in the error.
    ///
    /// # Errors
    /// When the call failed.
    pub fn value(&self, index: usize, what: &str) -> Result<u64> {
        let call = self.calls.get(index).copied().unwrap_or_default();
        call.value()
            .map_err(|e| Error::os(format!("{what} failed in thread {}", self.tid), e))
    }

    /// Word `index` of its room.
    pub fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or(0)
    }
}
