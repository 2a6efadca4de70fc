//! Features of the kernel that dumps and restores need, each tried on ourselves or on a child of our
//! own that does nothing. (Trackers are tried in `track`.)

use std::fs;
use std::io::{Read as _, Write as _};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};

use super::{Area, Finding, State};
use crate::sys::kcmp::{self, Resource};
use crate::sys::pagemap::{Category, Pagemap, Query};
use crate::sys::ptrace::{self, Stop};
use crate::sys::{clone, pidfd, prctl, vm};
use crate::units::{PAGE_SIZE, PageRange, Pid};

/// A feature and how to try it.
#[derive(Debug)]
struct Feature {
    what: &'static str,
    /// How bad it is without.
    without: State,
    /// What cannot be done without.
    consequence: &'static str,
    fix: &'static str,
    /// Tries it; the error says what happened.
    probe: fn() -> Result<(), String>,
}

const NO_CHECKPOINT_RESTORE: &str = "a kernel with CONFIG_CHECKPOINT_RESTORE=y";

/// All features, in the order in which a dump and then a restore meets them.
static FEATURES: &[Feature] = &[
    Feature {
        what: "stopping a process (PTRACE_SEIZE)",
        without: State::Missing,
        consequence: "nothing can be dumped",
        fix: "run icecore outside of the sandbox (seccomp filter, container) that forbids ptrace",
        probe: || Child::fork(None)?.stopped(|_| Ok(())),
    },
    Feature {
        what: "reading signal masks and queues (PTRACE_GETSIGMASK, PTRACE_PEEKSIGINFO)",
        without: State::Missing,
        consequence: "nothing can be dumped",
        fix: NO_CHECKPOINT_RESTORE,
        probe: || {
            Child::fork(None)?.stopped(|pid| {
                ptrace::sigmask(pid)?;
                ptrace::peek_siginfo(pid, true).map(drop)
            })
        },
    },
    Feature {
        what: "reading rseq registrations (PTRACE_GET_RSEQ_CONFIGURATION)",
        without: State::Limited,
        consequence: "restored threads lose their rseq registration",
        fix: "Linux 5.13 or newer with CONFIG_RSEQ=y",
        probe: || {
            Child::fork(None)?.stopped(|pid| match ptrace::rseq_configuration(pid)? {
                Some(_) => Ok(()),
                // The child has our registration; where even we have none, this says nothing.
                None if own_rseq() => Err(Errno::ENOSYS),
                None => Ok(()),
            })
        },
    },
    Feature {
        what: "reading the memory of a process (process_vm_readv)",
        without: State::Limited,
        consequence: "pages are read through /proc/PID/mem, which is slower",
        fix: "a kernel with CONFIG_CROSS_MEMORY_ATTACH=y",
        probe: || {
            let mut byte = [0];
            let own = b'x';
            vm::read_many(
                Pid::this(),
                &[((&raw const own).addr() as u64, 1)],
                &mut byte,
            )
            .map_err(text)?;
            if byte[0] == own {
                Ok(())
            } else {
                Err("it gives other bytes".into())
            }
        },
    },
    Feature {
        what: "choosing pages (PAGEMAP_SCAN)",
        without: State::Missing,
        consequence: "nothing can be dumped; layers can still be looked into",
        fix: "Linux 6.7 or newer with CONFIG_PROC_PAGE_MONITOR=y",
        probe: pagemap_scan,
    },
    Feature {
        what: "files behind mappings (/proc/PID/map_files)",
        without: State::Limited,
        consequence: "mapped files are found by their path: processes that map deleted or replaced files, or shared memory without a descriptor, cannot be dumped",
        fix: "run icecore as root of this machine (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in the first user namespace)",
        probe: map_files,
    },
    Feature {
        what: "telling shared descriptors apart (kcmp)",
        without: State::Missing,
        consequence: "nothing can be dumped",
        fix: "a kernel with CONFIG_KCMP=y, and no seccomp filter that forbids kcmp",
        probe: || match kcmp::same(Pid::this(), Pid::this(), Resource::Vm) {
            Ok(true) => Ok(()),
            Ok(false) => Err("a process is not itself".into()),
            Err(e) => Err(text(e)),
        },
    },
    Feature {
        what: "fetching descriptors (pidfd_getfd)",
        without: State::Missing,
        consequence: "pipes, eventfds and most other descriptors cannot be dumped, pages not be tracked",
        fix: "Linux 5.6 or newer, and no seccomp filter that forbids pidfd_getfd",
        probe: fetch_descriptor,
    },
    Feature {
        what: "listing POSIX timers (/proc/PID/timers)",
        without: State::Missing,
        consequence: "nothing can be dumped",
        fix: NO_CHECKPOINT_RESTORE,
        probe: || {
            fs::read("/proc/self/timers")
                .map(drop)
                .map_err(|e| e.to_string())
        },
    },
    Feature {
        what: "choosing pids (clone3 with set_tid)",
        without: State::Missing,
        consequence: "nothing can be restored",
        fix: "run icecore as root (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN over this pid namespace); Linux 5.5 or newer",
        probe: chosen_pid,
    },
    Feature {
        what: "giving a process its layout back (PR_SET_MM_MAP)",
        without: State::Missing,
        consequence: "nothing can be restored",
        fix: NO_CHECKPOINT_RESTORE,
        probe: || prctl::mm_map_size().map(drop).map_err(text),
    },
    Feature {
        what: "choosing timer ids (PR_TIMER_CREATE_RESTORE_IDS)",
        without: State::Limited,
        consequence: "POSIX timers get their ids back by counting up to them; only low ids can be restored",
        fix: "Linux 6.16 or newer",
        probe: || prctl::chooses_timer_ids().map(drop).map_err(text),
    },
];

/// Tries all features.
pub fn findings() -> Vec<Finding> {
    FEATURES
        .iter()
        .map(|feature| match (feature.probe)() {
            Ok(()) => Finding::ok(Area::Kernel, feature.what, ""),
            Err(found) => Finding::ok(Area::Kernel, feature.what, found).but(
                feature.without,
                feature.consequence,
                feature.fix,
            ),
        })
        .collect()
}

/// A child of ours that does nothing; killed and reaped when dropped.
#[derive(Debug)]
struct Child(Pid);

impl Child {
    fn fork(pid: Option<Pid>) -> Result<Self, String> {
        clone::fork_idle(pid).map(Self).map_err(text)
    }

    /// Stops the child, asks, and lets it die.
    fn stopped(&self, ask: impl FnOnce(Pid) -> nix::Result<()>) -> Result<(), String> {
        ptrace::seize(self.0, libc::PTRACE_O_EXITKILL)
            .and_then(|()| ptrace::interrupt(self.0))
            .and_then(|()| ptrace::wait(self.0))
            .and_then(|stop| match stop {
                Stop::Interrupt => ask(self.0),
                _ => Err(Errno::ECHILD),
            })
            .map_err(text)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Ours and not reaped yet, so the pid is still its own.
        let _killed = kill(self.0, Signal::SIGKILL);
        while !matches!(
            waitpid(self.0, None),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
        ) {}
    }
}

fn text(errno: Errno) -> String {
    std::io::Error::from(errno).to_string()
}

/// Whether the C library registered rseq for this thread: then a fork has it too.
fn own_rseq() -> bool {
    // glibc does unless told not to; others do not. The auxiliary vector says whether the kernel can.
    const AT_RSEQ_FEATURE_SIZE: u64 = 27;
    fs::read("/proc/self/auxv").is_ok_and(|auxv| {
        auxv.chunks_exact(16).any(|pair| {
            let key = pair.first_chunk().map(|k| u64::from_le_bytes(*k));
            key == Some(AT_RSEQ_FEATURE_SIZE)
        })
    }) && cfg!(target_env = "gnu")
}

/// Finds a page of our own that is surely in memory.
fn pagemap_scan() -> Result<(), String> {
    let on_stack = std::hint::black_box(1_u8);
    let page = (&raw const on_stack).addr() as u64 / PAGE_SIZE * PAGE_SIZE;
    let query = Query {
        all: Category::PRESENT,
        any: Category::empty(),
        inverted: Category::empty(),
        report: Category::empty(),
        protect: false,
        tracked_only: false,
    };
    let mut found = 0;
    Pagemap::open(Pid::this())
        .map_err(|e| e.to_string())?
        .scan(PageRange::of_pages(page, 1), &query, |range, _| {
            found += range.pages();
        })
        .map_err(text)?;
    if found == 1 {
        Ok(())
    } else {
        Err("it does not find a page in use".into())
    }
}

/// Opens the file behind a mapping of our own: that, and not to read the link, is what needs a right.
fn map_files() -> Result<(), String> {
    let dir = "/proc/self/map_files";
    let mut links = fs::read_dir(dir).map_err(|e| e.to_string())?;
    let link = links
        .next()
        .ok_or("no file is mapped")?
        .map_err(|e| e.to_string())?;
    fs::metadata(link.path())
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Fetches a pipe's end from ourselves and looks whether it is the one.
fn fetch_descriptor() -> Result<(), String> {
    use std::os::fd::AsRawFd as _;
    let (mut read, write) = std::io::pipe().map_err(|e| e.to_string())?;
    let me = pidfd::open(Pid::this()).map_err(text)?;
    let fetched = pidfd::get_fd(me, write.as_raw_fd()).map_err(text)?;
    let mut byte = [0];
    fs::File::from(fetched)
        .write_all(b"x")
        .and_then(|()| read.read_exact(&mut byte))
        .map_err(|e| e.to_string())
}

/// Takes a pid that was free a moment ago. Another process may be given it in between.
fn chosen_pid() -> Result<(), String> {
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let free = Child::fork(None)?.0; // reaped at once
        match clone::fork_idle(Some(free)) {
            Ok(pid) => {
                let child = Child(pid);
                return if child.0 == free {
                    Ok(())
                } else {
                    Err("another pid came".into())
                };
            }
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(text(e)),
        }
    }
    Err("each pid was taken".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_that_is_not_ok_says_what_follows_and_what_to_do() {
        for finding in findings() {
            let explained = finding.consequence.is_some() && finding.fix.is_some();
            assert_eq!(explained, finding.state != State::Ok, "{finding:?}");
        }
    }

    #[test]
    fn probes_leave_no_child_behind() {
        // Other tests of this binary have children too, so look at one that is known.
        let child = Child::fork(None).unwrap();
        let pid = child.0;
        child.stopped(|_| Ok(())).unwrap();
        drop(child);
        assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    }

    #[test]
    fn with_all_rights_processes_can_be_dumped_and_restored() {
        let rights = crate::kernel::privileges::findings();
        if rights.iter().any(|f| f.state == State::Missing) {
            return;
        }
        let missing: Vec<_> = findings()
            .into_iter()
            .filter(|f| f.state == State::Missing)
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
