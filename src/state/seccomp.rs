//! Seccomp (seccomp(2); `thread_core.seccomp_mode` and `seccomp_filter`, `seccomp.img`). Filters are
//! inherited and can only be added, so the images have each once, with the one before it.
//!
//! While the engine traces a thread, its confinement is suspended (PTRACE_O_SUSPEND_SECCOMP, ptrace(2)):
//! the calls that it makes for us are not its own. Should the engine die, the kernel ends the
//! suspension; then a filter that forbids munmap(2), rt_sigprocmask(2) or tgkill(2) stops the thread's
//! way back as it would stop any such call of the program.

use std::collections::BTreeMap;

use super::{Answers, DumpThread, Resource, RestoreThread};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{CoreEntry, SeccompEntry, SeccompFilter, SeccompMode};
use crate::inject::Remote;
use crate::sys::ptrace;
use crate::task::{self, proc};
use crate::units::Pid;

const SECCOMP_SET_MODE_STRICT: u64 = 0;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
/// Bytes of an instruction of a filter (`struct sock_filter`).
const INSTRUCTION: usize = 8;
/// Instructions of the longest filter (BPF_MAXINSNS).
const MOST: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Seccomp;

impl Resource for Seccomp {
    fn name(&self) -> &'static str {
        "seccomp"
    }

    fn check(&self, pid: Pid) -> Result<Vec<Obstacle>> {
        let mut obstacles = Vec::new();
        for (tid, status) in proc::of_threads(pid, proc::status)? {
            if status.seccomp.unwrap_or(0) != 0 && !task::may_suspend_seccomp() {
                let what = format!("{} is confined by seccomp", super::who(pid, tid));
                obstacles.push(Obstacle::new(Kind::Permission, what, NO_RIGHT));
            }
        }
        Ok(obstacles)
    }

    fn check_image(&self, tid: Pid, core: &CoreEntry) -> Vec<Obstacle> {
        if mode(core) == SeccompMode::Disabled || task::may_suspend_seccomp() {
            return Vec::new();
        }
        let what = format!("Thread {tid} was confined by seccomp");
        vec![Obstacle::new(Kind::Permission, what, NO_RIGHT)]
    }

    fn dump(&self, _task: &mut DumpThread<'_>, _answers: &Answers<'_>) -> Result<()> {
        // Filters belong to the whole layer: `Filters::dump`.
        Ok(())
    }

    fn restore(&self, _task: &mut RestoreThread<'_>) -> Result<()> {
        Ok(())
    }
}

const NO_RIGHT: &str = "its confinement can be suspended with CAP_SYS_ADMIN only, by an icecore that is \
                        not confined itself";

fn mode(core: &CoreEntry) -> SeccompMode {
    let thread = core.thread_core.as_ref().and_then(|t| t.seccomp_mode);
    let old = core.tc.as_ref().and_then(|t| t.old_seccomp_mode);
    let mode = thread.or(old).unwrap_or(0);
    // A mode that nobody knows cannot be restored: then the record of it is missed.
    SeccompMode::try_from(mode).unwrap_or(SeccompMode::Filter)
}

/// The filters of all threads of a layer.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    all: Vec<SeccompFilter>,
    /// Numbers by the filter before, flags and program.
    known: BTreeMap<(Option<u32>, u32, Vec<u8>), u32>,
}

impl Filters {
    /// Those of a layer.
    pub fn of(image: Option<SeccompEntry>) -> Self {
        Self {
            all: image.map(|image| image.seccomp_filters).unwrap_or_default(),
            known: BTreeMap::new(),
        }
    }

    /// The record of all of them, when there are any.
    pub fn image(&self) -> Option<SeccompEntry> {
        (!self.all.is_empty()).then(|| SeccompEntry {
            seccomp_filters: self.all.clone(),
        })
    }

    /// Dump half: notes the confinement of the frozen thread `tid` in `core`.
    ///
    /// # Errors
    /// When the kernel does not tell, or a filter asks another process.
    pub fn dump(&mut self, pid: Pid, tid: Pid, core: &mut CoreEntry) -> Result<()> {
        let mode = proc::status(pid, tid)?.seccomp.unwrap_or(0);
        let thread = core.thread_core.get_or_insert_default();
        if mode != 0 {
            thread.seccomp_mode = Some(i32::try_from(mode).unwrap_or(0));
        }
        if mode != SeccompMode::Filter as u32 {
            return Ok(());
        }
        let cannot = |e| {
            Error::os(
                format!("Cannot read the seccomp filters of thread {tid}"),
                e,
            )
        };
        let mut last = None;
        // From the first one to the newest.
        for index in 0.. {
            let Some(filter) = ptrace::seccomp_filter(tid, index).map_err(cannot)? else {
                break;
            };
            let flags = ptrace::seccomp_flags(tid, index).map_err(cannot)?;
            if asks_others(&filter) {
                let what = format!("A seccomp filter of thread {tid} asks another process");
                return Err(Error::new(Kind::Unsupported, what)
                    .hint("such a filter cannot be saved: its supervisor would be lost"));
            }
            last = Some(self.add(last, flags, filter));
        }
        thread.seccomp_filter = last;
        Ok(())
    }

    fn add(&mut self, prev: Option<u32>, flags: u32, filter: Vec<u8>) -> u32 {
        let new = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let number = *self
            .known
            .entry((prev, flags, filter.clone()))
            .or_insert(new);
        if number == new {
            self.all.push(SeccompFilter {
                filter,
                prev,
                flags: Some(flags).filter(|flags| *flags != 0),
            });
        }
        number
    }

    /// The filters of a thread, from the first one to the newest.
    ///
    /// # Errors
    /// When the images contradict each other.
    pub fn chain(&self, core: &CoreEntry) -> Result<Vec<&SeccompFilter>> {
        if mode(core) != SeccompMode::Filter {
            return Ok(Vec::new());
        }
        let broken = || Error::corrupt("seccomp.img: a filter of a thread is missing");
        let thread = core.thread_core.as_ref().and_then(|t| t.seccomp_filter);
        let old = core.tc.as_ref().and_then(|t| t.old_seccomp_filter);
        let mut next = Some(thread.or(old).ok_or_else(broken)?);
        let mut chain = Vec::new();
        while let Some(number) = next {
            let at = usize::try_from(number).unwrap_or(usize::MAX);
            let filter = self.all.get(at).ok_or_else(broken)?;
            let sound = filter.filter.len().is_multiple_of(INSTRUCTION)
                && filter.filter.len() <= MOST * INSTRUCTION;
            // One that comes before itself would go round for ever.
            if !sound || chain.len() > self.all.len() {
                return Err(broken());
            }
            chain.push(filter);
            next = filter.prev;
        }
        chain.reverse();
        Ok(chain)
    }

    /// Restore half, inside the new thread, while it has all rights: they may be needed, and its
    /// confinement is suspended as long as we trace it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(&self, remote: &mut Remote, core: &CoreEntry) -> Result<()> {
        let confined = mode(core);
        let creds = core.thread_core.as_ref().and_then(|t| t.creds.as_ref());
        let no_new_privs = creds.and_then(|c| c.no_new_privs).unwrap_or(0) != 0;
        if confined != SeccompMode::Disabled && no_new_privs {
            let args = [libc::PR_SET_NO_NEW_PRIVS.cast_unsigned().into(), 1, 0, 0, 0];
            remote.call("prctl(PR_SET_NO_NEW_PRIVS)", libc::SYS_prctl, &args)?;
        }
        if confined == SeccompMode::Strict {
            let args = [SECCOMP_SET_MODE_STRICT, 0, 0];
            remote.call("seccomp", libc::SYS_seccomp, &args)?;
        }
        for filter in self.chain(core)? {
            // struct sock_fprog: number of instructions, padding, their address.
            let length = filter.filter.len() / INSTRUCTION;
            let address = remote.put(16, &filter.filter)?;
            let program = [length as u64, address].map(u64::to_le_bytes).concat();
            let program = remote.put(0, &program)?;
            let args = [
                SECCOMP_SET_MODE_FILTER,
                filter.flags.unwrap_or(0).into(),
                program,
            ];
            remote.call("seccomp", libc::SYS_seccomp, &args)?;
        }
        Ok(())
    }
}

/// True when an instruction of the filter returns SECCOMP_RET_USER_NOTIF.
fn asks_others(filter: &[u8]) -> bool {
    const RET_K: u16 = 0x06;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    const ACTION: u32 = 0xffff_0000;
    filter.chunks_exact(INSTRUCTION).any(|i| {
        let code = u16::from_le_bytes([i[0], i[1]]);
        let k = u32::from_le_bytes([i[4], i[5], i[6], i[7]]);
        code == RET_K && k & ACTION == USER_NOTIF
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core(filter: Option<u32>) -> CoreEntry {
        let mut core = CoreEntry::default();
        let thread = core.thread_core.get_or_insert_default();
        thread.seccomp_mode = filter.map(|_| SeccompMode::Filter as i32);
        thread.seccomp_filter = filter;
        core
    }

    #[test]
    fn what_threads_have_in_common_is_there_once() {
        let mut filters = Filters::default();
        let [a, b] = [vec![1; 8], vec![2; 8]];
        let first = filters.add(None, 0, a.clone());
        let one = filters.add(Some(first), 0, b.clone());
        assert_eq!(filters.add(None, 0, a.clone()), first);
        assert_eq!(filters.add(Some(first), 0, b.clone()), one);
        let logged = filters.add(Some(first), 2, b.clone());
        assert_eq!(filters.image().unwrap().seccomp_filters.len(), 3);
        let read = Filters::of(filters.image());
        let chain = |n| {
            let chain = read.chain(&core(n)).unwrap();
            chain
                .iter()
                .map(|f| (f.filter.clone(), f.flags))
                .collect::<Vec<_>>()
        };
        assert_eq!(chain(Some(one)), [(a.clone(), None), (b.clone(), None)]);
        assert_eq!(chain(Some(logged)), [(a, None), (b, Some(2))]);
        assert_eq!(chain(None), []);
    }

    #[test]
    fn filters_that_are_missing_or_go_round_are_corrupt() {
        let filter = |prev, bytes: usize| SeccompFilter {
            filter: vec![0; bytes],
            prev,
            flags: None,
        };
        for all in [
            vec![],
            vec![filter(Some(0), 8)],
            vec![filter(Some(1), 8), filter(Some(0), 8)],
            vec![filter(Some(7), 8)],
            vec![filter(None, 7)],
        ] {
            let image = SeccompEntry {
                seccomp_filters: all,
            };
            let error = Filters::of(Some(image)).chain(&core(Some(0))).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn filters_with_a_supervisor_are_recognised() {
        let ret = |k: u32| [&[6, 0, 0, 0][..], &k.to_le_bytes()].concat();
        assert!(asks_others(&[ret(0x7fff_0000), ret(0x7fc0_0001)].concat()));
        assert!(!asks_others(&ret(0x7fff_0000)));
    }
}
