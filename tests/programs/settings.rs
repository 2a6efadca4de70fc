//! Settings that CRIU's images have no place for: affinity, slack, I/O priority, memory policy, core
//! dump filter, memory errors, merging, MDWE, CPUID faulting, locked future mappings; sealed and
//! droppable memory, policies and protection keys of single mappings, memory that is locked as it comes; packets in a pipe; a child with another signal at its
//! end.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::fcntl::OFlag;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, pipe2};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{Region, call, call_with, child_with, prctl, sleep_for_ever};

const MAP_DROPPABLE: i32 = 8;
const SYS_MSEAL: i64 = 462;
const MCL_FUTURE: u64 = 2;
const MS_INVALIDATE: u64 = 2;
const MPOL_PREFERRED: u64 = 1;
const MPOL_BIND: u64 = 2;
const MPOL_F_STATIC_NODES: u64 = 1 << 15;
const MPOL_F_ADDR: u64 = 2;
const ARCH_GET_CPUID: u64 = 0x1011;
const ARCH_SET_CPUID: u64 = 0x1012;

struct Settings {
    remembered: Vec<(String, String)>,
    sealed: Region,
    droppable: Option<Region>,
    bound: Region,
    reserved: Region,
    keyed: [Region; 2],
    child: Pid,
    packets: (File, File),
    packet: (File, File),
    thread: (Sender<()>, Receiver<String>),
}

/// A thread with settings of its own: it may not read the time stamp counter, its stores are not
/// bypassed, its addresses are not randomized.
fn thread() -> (Sender<()>, Receiver<String>) {
    let (ask, asked) = channel::<()>();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        prctl(libc::PR_SET_TSC, [2, 0, 0, 0]).unwrap();
        // PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE: not every CPU has it.
        let _no = prctl(53, [0, 4, 0, 0]);
        call(libc::SYS_personality, [0x004_0000, 0, 0, 0, 0, 0]).unwrap();
        while asked.recv().is_ok() {
            let mut counter = 0i32;
            call_with(libc::SYS_prctl, &[25], &mut counter, &[]).unwrap();
            let speculation = prctl(52, [0; 4]).ok();
            let all = u64::from(u32::MAX);
            let personality = call(libc::SYS_personality, [all, 0, 0, 0, 0, 0]).ok();
            let seen = format!("{counter} {speculation:?} {personality:?}");
            tell.send(seen).unwrap();
        }
    });
    (ask, told)
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let thread = thread();
    let me = Pid::from_raw(0);
    let mut cpus = CpuSet::new();
    let allowed = sched_getaffinity(me).unwrap();
    let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap());
    cpus.set(last.unwrap()).unwrap();
    sched_setaffinity(me, &cpus).unwrap();
    prctl(libc::PR_SET_TIMERSLACK, [123_456, 0, 0, 0]).unwrap();
    prctl(libc::PR_MCE_KILL, [1, 1, 0, 0]).unwrap();
    // IOPRIO_CLASS_BE, level 6.
    call(libc::SYS_ioprio_set, [1, 0, 2 << 13 | 6, 0, 0, 0]).unwrap();
    slice();
    // PR_SET_THP_DISABLE but for those who ask (Linux 6.18).
    let _old = prctl(41, [1, 2, 0, 0]);
    let mut nodes = 1u64;
    call_with(
        libc::SYS_set_mempolicy,
        &[MPOL_PREFERRED],
        &mut nodes,
        &[64],
    )
    .unwrap();
    fs::write("/proc/self/coredump_filter", "0x31").unwrap();
    // Not every kernel and CPU has these.
    let _old = prctl(67, [1, 0, 0, 0]);
    let _no = call(libc::SYS_arch_prctl, [ARCH_SET_CPUID, 0, 0, 0, 0, 0]);
    let sealed = Region::private(3);
    sealed.set_word(0, 77);
    let [at, len] = [sealed.addr() as u64, 3 * 4096];
    let _old = call(SYS_MSEAL, [at, len, 0, 0, 0, 0]);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let droppable = Region::map(3, prot, MAP_DROPPABLE, None, None).ok();
    let bound = Region::private(3);
    let place = [
        bound.addr() as u64,
        3 * 4096,
        MPOL_BIND | MPOL_F_STATIC_NODES,
    ];
    call_with(libc::SYS_mbind, &place, &mut nodes, &[64, 0]).unwrap();
    let reserved = Region::private(64);
    reserved.set_word(1, 5);
    let place = [reserved.addr() as u64, 64 * 4096, 1];
    call(libc::SYS_mlock2, [place[0], place[1], place[2], 0, 0, 0]).unwrap();
    let keyed = keyed();
    // Entry 2: a 32-bit data segment of 4 KiB at an odd base. Not every kernel has such tables.
    let mut segment = [2u32, 0x1234_5000, 0xfff, 0b100_0001];
    let _no = call_with(libc::SYS_modify_ldt, &[0x11], &mut segment, &[16]);
    let (reader, writer) = pipe2(OFlag::O_DIRECT | OFlag::O_CLOEXEC).unwrap();
    let mut packets = (File::from(reader), File::from(writer));
    packets.1.write_all(b"one").unwrap();
    packets.1.write_all(b"three").unwrap();
    let (reader, writer) = pipe2(OFlag::O_DIRECT | OFlag::O_CLOEXEC).unwrap();
    let mut packet = (File::from(reader), File::from(writer));
    packet.1.write_all(b"alone").unwrap();
    call(libc::SYS_mlockall, [MCL_FUTURE, 0, 0, 0, 0, 0]).unwrap();
    let _old = prctl(65, [1, 0, 0, 0]);
    let mut state = Settings {
        remembered: Vec::new(),
        sealed,
        droppable,
        bound,
        reserved,
        keyed,
        child: child_with(libc::SIGUSR1, || sleep_for_ever()),
        packets,
        packet,
        thread,
    };
    state.remembered = state.observed();
    desk.serve(&mut state);
}

impl Settings {
    fn observed(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut see = |name: &str, value: String| all.push((name.to_owned(), value));
        let affinity = sched_getaffinity(Pid::from_raw(0)).unwrap();
        see("affinity", format!("{affinity:?}"));
        for (name, option) in [
            ("slack", libc::PR_GET_TIMERSLACK),
            ("memory errors", libc::PR_MCE_KILL_GET),
            ("merging", 68),
            ("write or execute", 66),
        ] {
            see(name, format!("{:?}", prctl(option, [0; 4]).ok()));
        }
        let priority = call(libc::SYS_ioprio_get, [1, 0, 0, 0, 0, 0]);
        see("I/O priority", format!("{priority:?}"));
        let cpuid = call(libc::SYS_arch_prctl, [ARCH_GET_CPUID, 0, 0, 0, 0, 0]).ok();
        see("CPUID", format!("{cpuid:?}"));
        let mut nodes = [0u64; 16];
        let mut mode = 0i32;
        call_with(libc::SYS_get_mempolicy, &[], &mut mode, &[0, 0, 0, 0]).unwrap();
        call_with(libc::SYS_get_mempolicy, &[0], &mut nodes, &[1024, 0, 0]).unwrap();
        see("memory policy", format!("{mode} {nodes:?}"));
        for region in [&self.bound, &self.sealed] {
            let (mut mode, mut nodes) = (0i32, [0u64; 16]);
            let of = [region.addr() as u64, MPOL_F_ADDR];
            call_with(
                libc::SYS_get_mempolicy,
                &[],
                &mut mode,
                &[0, 0, of[0], of[1]],
            )
            .unwrap();
            call_with(
                libc::SYS_get_mempolicy,
                &[0],
                &mut nodes,
                &[1024, of[0], of[1]],
            )
            .unwrap();
            see("policy of a mapping", format!("{mode:#x} {nodes:?}"));
        }
        // The 38th field, the second being the name (proc_pid_stat(5)).
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child)).unwrap();
        let fields = stat.rsplit(") ").next().unwrap();
        see(
            "signal at the end",
            format!("{:?}", fields.split(' ').nth(35)),
        );
        let mut table = [0u64; 4];
        let _no = call_with(libc::SYS_modify_ldt, &[0], &mut table, &[32]);
        see("local descriptors", format!("{table:x?}"));
        self.thread.0.send(()).unwrap();
        see("a thread's own", self.thread.1.recv().unwrap());
        let filter = fs::read_to_string("/proc/self/coredump_filter").unwrap();
        see("core dump filter", filter);
        for (name, region) in [
            ("sealed", Some(&self.sealed)),
            ("droppable", self.droppable.as_ref()),
            ("reserved", Some(&self.reserved)),
        ] {
            see(name, region.map_or_else(String::new, flags));
        }
        see("resident", line(&self.reserved, "Rss:"));
        for region in &self.keyed {
            see("protection key", line(region, "ProtectionKey:"));
        }
        see(
            "allocated keys",
            format!("{:?}", (1..16).map(is_allocated).collect::<Vec<_>>()),
        );
        see("huge pages", format!("{:?}", prctl(42, [0; 4])));
        see("scheduling", format!("{:?}", scheduling()));
        see(
            "a new mapping is locked",
            format!("{:?}", locks_new_mappings()),
        );
        all
    }
}

/// Key 1, which nothing has, 2 of one region, 3 freed, 4 of another region. Not every CPU has such keys.
fn keyed() -> [Region; 2] {
    let regions = [Region::private(2), Region::private(2)];
    for _ in 1..=4 {
        let _no = call(libc::SYS_pkey_alloc, [0; 6]);
    }
    for (region, key) in regions.iter().zip([2, 4]) {
        region.set_word(0, key);
        let place = [region.addr() as u64, 2 * 4096, 3, key, 0, 0];
        let _no = call(libc::SYS_pkey_mprotect, place);
    }
    let _no = call(libc::SYS_pkey_free, [3, 0, 0, 0, 0, 0]);
    regions
}

/// Whether a protection key is allocated: the kernel looks at it before it looks for the mapping.
fn is_allocated(key: u64) -> bool {
    let nowhere = 0x7fff_ffff_f000;
    let result = call(libc::SYS_pkey_mprotect, [nowhere, 4096, 1, key, 0, 0]);
    result.is_err_and(|e| e.raw_os_error() == Some(libc::ENOMEM))
}

/// SCHED_BATCH that no child inherits, with a slice of 1.5 ms (Linux 6.12).
fn slice() {
    let mut attributes = [48u64 | 3 << 32, 1, 0, 1_500_000, 0, 0];
    call_with(libc::SYS_sched_setattr, &[0], &mut attributes, &[0]).unwrap();
}

/// What sched_getattr(2) gives.
fn scheduling() -> [u64; 6] {
    let mut attributes = [0u64; 6];
    call_with(libc::SYS_sched_getattr, &[0], &mut attributes, &[48, 0]).unwrap();
    attributes
}

/// A line that smaps has of a region.
fn line(region: &Region, name: &str) -> String {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{:x}-", region.addr());
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    let line = lines.find(|line| line.starts_with(name));
    line.unwrap_or_default().to_owned()
}

/// The kernel's flags of a region.
fn flags(region: &Region) -> String {
    let line = line(region, "VmFlags:");
    // Soft-dirty and write-protected come and go.
    let kept = line.split(' ').filter(|word| !matches!(*word, "sd" | "uw"));
    kept.collect::<Vec<_>>().join(" ")
}

/// Whether a mapping made now is locked (msync(2), EBUSY).
fn locks_new_mappings() -> bool {
    let page = Region::private(1);
    let args = [page.addr() as u64, 4096, MS_INVALIDATE, 0, 0, 0];
    let locked = call(libc::SYS_msync, args).is_err();
    page.unmap();
    locked
}

impl Program for Settings {
    fn check(&mut self) -> Answer {
        for ((name, is), (_, should)) in self.observed().iter().zip(&self.remembered) {
            same(name, is, should)?;
        }
        same("sealed contents", &self.sealed.word(0), &77)?;
        // Read and written again: the next check, or the next restore, finds the same.
        for packet in [&b"one"[..], b"three"] {
            let mut bytes = [0; 100];
            let count = self.packets.0.read(&mut bytes).map_err(|e| e.to_string())?;
            same("packet", &&bytes[..count], &packet)?;
            self.packets
                .1
                .write_all(packet)
                .map_err(|e| e.to_string())?;
        }
        // What is not read of a packet is gone.
        let mut bytes = [0; 2];
        let count = self.packet.0.read(&mut bytes).map_err(|e| e.to_string())?;
        same("part of a packet", &(count, bytes), &(2, *b"al"))?;
        same("the rest", &crate::kernel::unread(&self.packet.0), &0)?;
        self.packet
            .1
            .write_all(b"alone")
            .map_err(|e| e.to_string())?;
        Ok(format!("{} things", self.remembered.len()))
    }
}
