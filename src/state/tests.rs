//! Live: state is restored into a child of our own and dumped again. What /proc shows of it is
//! checked as well, so that the two halves cannot agree on a mistake.

use std::process::{Child, Command, Stdio};

use super::*;
use crate::image::proto::{
    CredsEntry, ItimerEntry, PosixTimerEntry, RlimitEntry, SaEntry, SiginfoEntry, SignalQueueEntry,
    TaskTimersEntry, ThreadSasEntry,
};
use crate::inject::Infected;
use crate::task::Frozen;
use crate::task::proc;

/// A child that waits for input; killed on drop.
struct Cat(Child);

impl Cat {
    fn start() -> Self {
        let mut command = Command::new("cat");
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // What the C library does at start must be over: cat has nothing to do but wait then.
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        while !proc::line(pid, "syscall").unwrap().starts_with("0 ") {
            std::thread::yield_now();
        }
        Self(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Freezes and infects a new child, runs `work` in it, and kills it still frozen.
fn inside<T>(work: impl FnOnce(Pid, &mut Remote) -> T) -> T {
    let cat = Cat::start();
    let frozen = Frozen::freeze(cat.pid()).unwrap();
    let mut infected = Infected::new(cat.pid(), &[cat.pid()]).unwrap();
    let value = infected
        .with(cat.pid(), |remote| Ok(work(cat.pid(), remote)))
        .unwrap();
    // No handler of the made-up state may ever run.
    nix::sys::signal::kill(cat.pid(), nix::sys::signal::SIGKILL).unwrap();
    drop(infected);
    drop(frozen);
    value
}

fn dumped(pid: Pid, remote: &mut Remote) -> CoreEntry {
    let (core, warnings) = dumped_with_warnings(pid, remote);
    assert_eq!(warnings, []);
    core
}

fn dumped_with_warnings(pid: Pid, remote: &mut Remote) -> (CoreEntry, Vec<Obstacle>) {
    let mut core = CoreEntry::default();
    let sigmask = 0x40;
    let mut thread = DumpThread {
        pid,
        tid: pid,
        leader: true,
        remote,
        core: &mut core,
        sigmask,
        warnings: vec![],
    };
    dump(&mut thread).unwrap();
    let warnings = thread.warnings;
    // Recorded only, and changed by what the task does (PF_SUPERPRIV).
    core.tc.as_mut().unwrap().flags = 0;
    (core, warnings)
}

/// Restores `core` with a single resource and returns the warnings.
fn restored(pid: Pid, remote: &mut Remote, core: &CoreEntry, kind: &dyn Resource) -> Vec<Obstacle> {
    let mut thread = RestoreThread {
        pid,
        tid: pid,
        leader: true,
        remote,
        core,
        leader_core: core,
        warnings: vec![],
    };
    kind.restore(&mut thread).unwrap();
    thread.warnings
}

fn tc(core: &mut CoreEntry) -> &mut TaskCoreEntry {
    core.tc.as_mut().unwrap()
}

fn thread(core: &mut CoreEntry) -> &mut ThreadCoreEntry {
    core.thread_core.as_mut().unwrap()
}

/// A line of /proc/PID/status.
fn status_line(pid: Pid, name: &str) -> String {
    let text = proc::line(pid, "status").unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap().trim().to_owned()
}

#[test]
fn what_is_dumped_of_a_fresh_process_is_what_it_got_from_us() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        assert_eq!(tc(&mut core).comm, "cat");
        assert_eq!(tc(&mut core).blk_sigset, 0x40);
        assert_eq!(tc(&mut core).sigactions.len(), 62);
        assert_eq!(tc(&mut core).rlimits.as_ref().unwrap().rlimits.len(), 16);
        assert_eq!(tc(&mut core).child_subreaper, Some(false));
        assert_eq!(tc(&mut core).signals_s.as_ref().unwrap().signals, []);
        assert_eq!(thread(&mut core).comm.as_deref(), Some("cat"));
        assert_eq!(thread(&mut core).pdeath_sig, None);
        assert_eq!(thread(&mut core).futex_rla_len, 24);
        assert_eq!(thread(&mut core).sas.as_ref().unwrap().ss_flags, 2);
        assert_eq!(
            thread(&mut core).rseq_entry.as_ref().unwrap().signature,
            0x5305_3053
        );
        let creds = thread(&mut core).creds.clone().unwrap();
        assert_eq!(creds.uid, nix::unistd::getuid().as_raw());
        assert_eq!(creds.cap_bnd.len(), 2);
        assert_eq!(creds.no_new_privs, None);
    });
}

#[test]
fn restoring_what_is_already_there_changes_nothing_and_warns_of_nothing() {
    inside(|pid, remote| {
        let before = dumped(pid, remote);
        for resource in RESOURCES
            .iter()
            .filter(|r| r.name() != "restartable sequences")
        {
            assert_eq!(
                restored(pid, remote, &before, *resource),
                [],
                "{}",
                resource.name()
            );
        }
        assert_eq!(dumped(pid, remote), before);
    });
}

#[test]
fn signal_state_round_trips() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let handler = SaEntry {
            sigaction: 0x1234_5000,
            flags: 0x1c00_0004,
            restorer: 0x2345_6000,
            mask: 1 << 14 | 1 << 49,
            compat_sigaction: Some(false),
            ..SaEntry::default()
        };
        let actions = &mut tc(&mut core).sigactions;
        actions[8] = handler; // SIGUSR1, after SIGKILL was left out
        actions[12].sigaction = 1; // SIGALRM
        actions[61] = handler;
        thread(&mut core).sas = Some(ThreadSasEntry {
            ss_sp: 0x7000_0000,
            ss_size: 65536,
            ss_flags: 0,
        });
        thread(&mut core).pdeath_sig = Some(12);
        let info = |signal: u8, code: i32, value: u8| {
            let mut siginfo = vec![0u8; 128];
            siginfo[0] = signal;
            siginfo[8..12].copy_from_slice(&code.to_le_bytes());
            siginfo[16..20].copy_from_slice(&pid.as_raw().to_le_bytes());
            siginfo[24] = value;
            SiginfoEntry { siginfo }
        };
        // SI_QUEUE, SI_USER and SI_TIMER; a real-time signal queued more often than one batch holds.
        let mut shared = vec![info(12, 0, 0)];
        shared.extend((0..100).map(|n| info(40, -1, n)));
        let own = vec![info(12, -2, 7)];
        tc(&mut core).signals_s = Some(SignalQueueEntry { signals: shared });
        thread(&mut core).signals_p = Some(SignalQueueEntry { signals: own });
        for kind in [
            &sigactions::SignalActions as &dyn Resource,
            &altstack::AltStack,
        ] {
            assert_eq!(restored(pid, remote, &core, kind), []);
        }
        assert_eq!(restored(pid, remote, &core, &pending::PendingSignals), []);
        assert_eq!(restored(pid, remote, &core, &pdeath::ParentDeathSignal), []);
        assert_eq!(
            status_line(pid, "SigCgt"),
            format!("{:016x}", 1u64 << 9 | 1 << 63)
        );
        let ignored = u64::from_str_radix(&status_line(pid, "SigIgn"), 16).unwrap();
        assert_eq!(ignored & 1 << 13, 1 << 13);
        assert_eq!(
            status_line(pid, "ShdPnd"),
            format!("{:016x}", 1u64 << 11 | 1 << 39)
        );
        assert_eq!(status_line(pid, "SigPnd"), format!("{:016x}", 1u64 << 11));
        assert_eq!(dumped(pid, remote), core);
        assert_eq!(pending_signals(&core), 1 << 11 | 1 << 39);
    });
}

#[test]
fn signals_that_nobody_can_hold_back_are_not_sent_again_but_named() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let siginfo = [&[19u8][..], &[0; 127]].concat();
        tc(&mut core).signals_s = Some(SignalQueueEntry {
            signals: vec![SiginfoEntry { siginfo }],
        });
        let warnings = restored(pid, remote, &core, &pending::PendingSignals);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].what.starts_with("Signal 19"), "{warnings:?}");
    });
}

#[test]
fn timers_round_trip_with_their_ids_and_go_on_counting_down() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let off = ItimerEntry::default();
        let real = ItimerEntry {
            isec: 1000,
            iusec: 5,
            vsec: 500,
            vusec: 6,
        };
        let timer = PosixTimerEntry {
            it_id: 3,
            clock_id: 1,
            si_signo: 10,
            sival_ptr: 0x1234_5678_9abc,
            isec: 7,
            insec: 8,
            vsec: 900,
            vnsec: 10,
            ..PosixTimerEntry::default()
        };
        let mut to_thread = timer;
        (to_thread.it_id, to_thread.clock_id) = (90, (-6i32).cast_unsigned());
        (to_thread.it_sigev_notify, to_thread.notify_thread_id) = (4, Some(pid.as_raw()));
        let silent = PosixTimerEntry {
            it_id: 7,
            clock_id: 7,
            si_signo: 10,
            it_sigev_notify: 1,
            ..PosixTimerEntry::default()
        };
        tc(&mut core).timers = Some(TaskTimersEntry {
            real,
            virt: off,
            prof: ItimerEntry { vsec: 77, ..off },
            // In no order, as the kernel lists them.
            posix: vec![to_thread, timer, silent],
        });
        assert_eq!(restored(pid, remote, &core, &itimers::IntervalTimers), []);
        assert_eq!(restored(pid, remote, &core, &posix_timers::PosixTimers), []);
        let now = dumped(pid, remote).tc.unwrap().timers.unwrap();
        assert_eq!((now.real.isec, now.real.iusec), (1000, 5));
        assert!((490..=500).contains(&now.real.vsec), "{:?}", now.real);
        assert_eq!(now.prof.isec, 0);
        assert!((70..=77).contains(&now.prof.vsec), "{:?}", now.prof);
        assert_eq!(
            now.posix.iter().map(|t| t.it_id).collect::<Vec<_>>(),
            [3, 7, 90]
        );
        for (now, then) in now.posix.iter().zip([&timer, &silent, &to_thread]) {
            let mut same = *then;
            (same.vsec, same.vnsec) = (now.vsec, now.vnsec);
            assert_eq!(*now, same);
            assert!(then.vsec.saturating_sub(10) <= now.vsec && now.vsec <= then.vsec);
        }
    });
}

#[test]
fn timer_ids_can_be_had_by_counting_where_the_kernel_takes_no_wishes() {
    inside(|_, remote| {
        let timer = |it_id| PosixTimerEntry {
            it_id,
            si_signo: 10,
            ..PosixTimerEntry::default()
        };
        let wanted = [timer(2), timer(3), timer(9)];
        let wanted: Vec<_> = wanted.iter().collect();
        posix_timers::create_by_counting(remote, &wanted).unwrap();
        let ids = |remote: &Remote| {
            let text = proc::line(remote.tid(), "timers").unwrap();
            let mut ids: Vec<_> = posix_timers::parse(&text)
                .unwrap()
                .iter()
                .map(|t| t.id)
                .collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(remote), [2, 3, 9]);
        let error = posix_timers::create_by_counting(remote, &wanted[..1]).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Busy);
        assert_eq!(ids(remote), [2, 3, 9], "nothing is left behind");
    });
}

#[test]
fn switches_names_scheduling_and_limits_round_trip() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let task = tc(&mut core);
        task.personality = 0x0004_0000; // ADDR_NO_RANDOMIZE
        task.child_subreaper = Some(true);
        task.membarrier_registration_mask = Some(1 << 4);
        task.oom_score_adj = Some(333);
        let limits = &mut task.rlimits.as_mut().unwrap().rlimits;
        limits[7] = RlimitEntry { cur: 100, max: 200 };
        limits[4] = RlimitEntry { cur: 0, max: 4096 };
        thread(&mut core).comm = Some("frozen".to_owned());
        tc(&mut core).comm = "frozen".to_owned();
        thread(&mut core).sched_nice = Some(7);
        thread(&mut core).sched_policy = Some(3);
        for resource in RESOURCES
            .iter()
            .filter(|r| r.name() != "restartable sequences")
        {
            assert_eq!(
                restored(pid, remote, &core, *resource),
                [],
                "{}",
                resource.name()
            );
        }
        assert_eq!(proc::line(pid, "comm").unwrap(), "frozen");
        assert_eq!(dumped(pid, remote), core);
    });
}

#[test]
fn a_hard_limit_that_cannot_be_raised_is_a_warning_with_both_values() {
    inside(|pid, remote| {
        let mut low = dumped(pid, remote);
        tc(&mut low).rlimits.as_mut().unwrap().rlimits[7] = RlimitEntry { cur: 50, max: 100 };
        assert_eq!(restored(pid, remote, &low, &rlimits::Limits), []);
        // Not even CAP_SYS_RESOURCE raises it beyond the sysctl fs.nr_open.
        let mut high = low.clone();
        let limit = RlimitEntry {
            cur: 80,
            max: u64::MAX - 1,
        };
        tc(&mut high).rlimits.as_mut().unwrap().rlimits[7] = limit;
        let warnings = restored(pid, remote, &high, &rlimits::Limits);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0]
                .what
                .contains("becomes 80/100, not 80/18446744073709551614")
        );
        tc(&mut low).rlimits.as_mut().unwrap().rlimits[7] = RlimitEntry { cur: 80, max: 100 };
        assert_eq!(dumped(pid, remote), low);
    });
}

#[test]
fn credentials_of_another_user_round_trip() {
    if !nix::unistd::geteuid().is_root() {
        return; // needs the right to become somebody else
    }
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let own = thread(&mut core).creds.clone().unwrap();
        let sets = |low: u32| vec![low, 0];
        let creds = CredsEntry {
            uid: 20,
            euid: 21,
            suid: 22,
            fsuid: 23,
            gid: 10,
            egid: 11,
            sgid: 12,
            fsgid: 13,
            groups: vec![5, 7, 2_000_000],
            cap_inh: sets(0x80),
            cap_prm: sets(0xc0),
            cap_eff: sets(0x40),
            cap_bnd: vec![own.cap_bnd[0] & !0x20, own.cap_bnd[1]],
            cap_amb: sets(0x80),
            secbits: 0x10,
            no_new_privs: Some(1),
            ..CredsEntry::default()
        };
        thread(&mut core).creds = Some(creds);
        thread(&mut core).pdeath_sig = Some(1);
        assert_eq!(restored(pid, remote, &core, &creds::Credentials), []);
        assert_eq!(restored(pid, remote, &core, &pdeath::ParentDeathSignal), []);
        assert_eq!(status_line(pid, "Uid"), "20\t21\t22\t23");
        assert_eq!(status_line(pid, "Gid"), "10\t11\t12\t13");
        assert_eq!(status_line(pid, "CapEff"), "0000000000000040");
        assert_eq!(status_line(pid, "CapAmb"), "0000000000000080");
        assert_eq!(dumped(pid, remote), core);
    });
}

#[test]
fn capabilities_that_nobody_has_are_named_when_they_are_wanted() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let all = vec![u32::MAX, u32::MAX];
        thread(&mut core).creds.as_mut().unwrap().cap_bnd = all;
        let warnings = restored(pid, remote, &core, &creds::Credentials);
        assert_eq!(warnings.len(), 1);
        assert!(
            warnings[0].what.starts_with("The bounding set of process"),
            "{warnings:?}"
        );
        assert!(warnings[0].what.contains("capability 63"), "{warnings:?}");
    });
}

#[test]
fn rseq_can_be_registered_again_once_it_is_free() {
    inside(|pid, remote| {
        let mut core = dumped(pid, remote);
        let rseq = thread(&mut core).rseq_entry.unwrap();
        let size = u64::from(rseq.rseq_abi_size);
        let args = [rseq.rseq_abi_pointer, size, 1, u64::from(rseq.signature)];
        remote.call("rseq", libc::SYS_rseq, &args).unwrap();
        assert_eq!(thread(&mut dumped(pid, remote)).rseq_entry, None);
        assert_eq!(restored(pid, remote, &core, &rseq::Rseq), []);
        assert_eq!(dumped(pid, remote), core);
    });
}

#[test]
fn the_address_space_is_described_as_proc_shows_it_and_the_description_is_accepted_back() {
    inside(|pid, remote| {
        let mut mm = mm::dump(pid, remote, 5).unwrap();
        assert_eq!(mm.exe_file_id, 5);
        assert_eq!(mm.dumpable, Some(1));
        assert_eq!(mm.mm_saved_auxv.len() % 2, 0);
        assert_eq!(mm.mm_saved_auxv[0], 33, "AT_SYSINFO_EHDR comes first");
        assert!(mm.mm_saved_auxv.len() <= 44);
        let maps = proc::line(pid, "maps").unwrap();
        let heap = maps.lines().find(|l| l.ends_with("[heap]")).unwrap();
        assert!(
            heap.starts_with(&format!("{:08x}-", mm.mm_start_brk)),
            "{heap}"
        );
        assert!(heap.contains(&format!("-{:08x} ", mm.mm_brk)), "{heap}");
        // Another name on the command line; the executable stays (descriptor -1).
        mm.mm_arg_start += 1;
        mm.thp_disabled = Some(true);
        // But for those who ask (Linux 6.18).
        let told = remote.call("prctl", libc::SYS_prctl, &[41, 1, 2]).is_ok();
        mm.thp_disable_flags = told.then_some(3);
        assert_eq!(mm::restore(remote, &mm, -1).unwrap(), None);
        assert_eq!(proc::line(pid, "cmdline").unwrap(), "at\0");
        assert_eq!(mm::dump(pid, remote, 5).unwrap(), mm);
        mm.dumpable = Some(0);
        assert_eq!(mm::restore_dumpable(remote, &mm).unwrap(), None);
        assert_eq!(mm::dump(pid, remote, 5).unwrap(), mm);
        mm.dumpable = Some(2);
        assert!(mm::restore_dumpable(remote, &mm).unwrap().is_some());
    });
}

#[test]
fn working_directory_root_and_umask_are_restored_from_descriptors() {
    if !nix::unistd::geteuid().is_root() {
        return; // chroot needs the right
    }
    let dir = tempfile::tempdir().unwrap();
    inside(|pid, remote| {
        let entry = crate::image::proto::FsEntry {
            umask: Some(0o027),
            ..fs::dump(pid, 1, 2).unwrap()
        };
        let mut open = |path: &str| {
            let place = remote.put(0, format!("{path}\0").as_bytes()).unwrap();
            let flags = u64::from(libc::O_PATH.cast_unsigned());
            let args = [libc::AT_FDCWD.cast_unsigned().into(), place, flags];
            i32::try_from(remote.call("openat", libc::SYS_openat, &args).unwrap()).unwrap()
        };
        let root = open(dir.path().to_str().unwrap());
        let cwd = open("/proc");
        fs::restore(remote, &entry, cwd, Some(root)).unwrap();
        assert_eq!(
            std::fs::read_link(format!("/proc/{pid}/root")).unwrap(),
            dir.path()
        );
        assert_eq!(
            std::fs::read_link(format!("/proc/{pid}/cwd"))
                .unwrap()
                .to_str(),
            Some("/proc")
        );
        assert_eq!(fs::dump(pid, 1, 2).unwrap(), entry);
    });
}

#[test]
fn each_resource_of_the_slice_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = RESOURCES.iter().map(|r| r.name()).collect();
    assert_eq!(names.len(), RESOURCES.len());
}

#[test]
fn nothing_is_in_the_way_of_an_ordinary_process() {
    let cat = Cat::start();
    assert_eq!(check(cat.pid()).unwrap(), []);
}

#[test]
fn what_criu_has_no_place_for_is_in_fields_of_our_own() {
    inside(|pid, remote| {
        let mask = remote.put(0, &1u64.to_le_bytes()).unwrap();
        let reset_on_fork = 0x4000_0000;
        let calls = [
            (libc::SYS_sched_setaffinity, [0, 8, mask]),
            (libc::SYS_prctl, [29, 1234, 0]),
            (libc::SYS_ioprio_set, [1, 0, 3 << 13]),
            (libc::SYS_sched_setscheduler, [0, reset_on_fork, mask + 8]),
        ];
        for (nr, args) in calls {
            remote.call("set", nr, &args).unwrap();
        }
        let (core, warnings) = dumped_with_warnings(pid, remote);
        let thread = core.thread_core.unwrap();
        assert_eq!(thread.timer_slack, Some(1234));
        assert_eq!(thread.io_priority, Some(3 << 13));
        // On a machine with one CPU there is nothing to lose.
        let me = nix::unistd::getpid();
        let alone = status_line(me, "Cpus_allowed_list") == "0";
        assert_eq!(thread.cpus == [0], !alone);
        assert_eq!(thread.sched_reset_on_fork, Some(true));
        assert_eq!(warnings, []);
    });
}

#[test]
fn what_is_usual_is_recorded_and_a_new_task_loses_what_its_maker_had_instead() {
    let usual = inside(dumped);
    inside(|pid, remote| {
        let mask = remote.put(0, &1u64.to_le_bytes()).unwrap();
        let calls = [
            (libc::SYS_sched_setaffinity, [0, 8, mask]),
            (libc::SYS_prctl, [29, 1234, 0]),
            (libc::SYS_prctl, [33, 1, 1]),
            (libc::SYS_ioprio_set, [1, 0, 3 << 13]),
        ];
        for (nr, args) in calls {
            remote.call("set", nr, &args).unwrap();
        }
        for kind in [&placement::Placement as &dyn Resource, &switches::Switches] {
            assert_eq!(restored(pid, remote, &usual, kind), []);
        }
        let of = |core: &CoreEntry| {
            let thread = core.thread_core.clone().unwrap_or_default();
            (
                (thread.any_cpu, thread.cpus),
                (thread.timer_slack, thread.io_priority),
                (thread.memory_errors, thread.speculation),
            )
        };
        assert!(of(&usual).1.0.is_some_and(|slack| slack != 1234));
        assert_eq!(of(&dumped(pid, remote)), of(&usual));
    });
}
