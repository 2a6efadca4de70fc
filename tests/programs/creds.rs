//! Credentials: a process that was root and has given most of it away, in one of two ways: with
//! some capabilities kept and ambient (`keep`), or as a plain user (`drop`); or threads that differ
//! (`threads`).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{call, prctl};

/// `CAP_NET_BIND_SERVICE`, `CAP_CHOWN`, `CAP_SYS_TIME`.
const NET_BIND: u64 = 10;
const CHOWN: u64 = 0;
const SYS_TIME: u64 = 25;

struct Creds {
    remembered: Vec<String>,
}

/// Builds it and serves. Argument: `keep`, `drop` or `threads`.
pub fn run(mut desk: Desk, args: &[String]) {
    if args.iter().any(|a| a == "threads") {
        return run_threads(desk);
    }
    // Answers are written by whoever the process is then.
    fs::set_permissions(desk.dir(), Permissions::from_mode(0o777)).unwrap();
    let keep = args.iter().any(|a| a == "keep");
    prctl(libc::PR_CAPBSET_DROP, [SYS_TIME, 0, 0, 0]).unwrap();
    if keep {
        prctl(libc::PR_SET_KEEPCAPS, [1, 0, 0, 0]).unwrap();
    }
    setgroups(&[20, 1234, 70_000].map(Gid::from_raw)).unwrap();
    let gid = Gid::from_raw;
    setresgid(gid(2001), gid(2002), gid(2003)).unwrap();
    let uid = Uid::from_raw;
    setresuid(uid(1001), uid(1002), uid(1003)).unwrap();
    if keep {
        let bits = 1u32 << NET_BIND | 1 << CHOWN;
        let inheritable = 1u32 << NET_BIND;
        // capset(2), version 3: effective, permitted, inheritable of each half.
        let header: [u32; 2] = [0x2008_0522, 0];
        let address = (&raw const header).expose_provenance() as u64;
        let mut data = [1 << NET_BIND, bits, inheritable, 0, 0, 0];
        crate::kernel::call_with(libc::SYS_capset, &[address], &mut data, &[]).unwrap();
        prctl(libc::PR_CAP_AMBIENT, [2, NET_BIND, 0, 0]).unwrap();
    }
    prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
    // The kernel made it not dumpable when the ids changed; /proc/self would be root's.
    prctl(libc::PR_SET_DUMPABLE, [1, 0, 0, 0]).unwrap();
    let mut state = Creds {
        remembered: observed(),
    };
    desk.serve(&mut state);
}

fn observed() -> Vec<String> {
    let mut all = observed_here();
    for option in [libc::PR_GET_DUMPABLE, libc::PR_GET_KEEPCAPS] {
        all.push(format!("{option}: {:?}", prctl(option, [0; 4]).ok()));
    }
    all
}

/// Of the calling thread.
fn observed_here() -> Vec<String> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:"];
    let mut all: Vec<String> = status
        .lines()
        .filter(|line| wanted.iter().any(|w| line.starts_with(w)))
        .map(str::to_owned)
        .collect();
    for option in [libc::PR_GET_SECUREBITS, libc::PR_GET_PDEATHSIG] {
        let mut signal = 0u64;
        let address = (&raw mut signal).expose_provenance() as u64;
        let got = prctl(option, [address, 0, 0, 0]).ok();
        all.push(format!("{option}: {got:?} {signal}"));
    }
    all.push(format!("uid {:?}", call(libc::SYS_geteuid, [0; 6]).ok()));
    all
}

impl Program for Creds {
    fn check(&mut self) -> Answer {
        for (is, should) in observed().iter().zip(&self.remembered) {
            same("credentials", is, should)?;
        }
        // What the effective ids may not do.
        same(
            "can become root",
            &setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok(),
            &false,
        )?;
        Ok(self.remembered.join("; "))
    }
}

/// Threads that differ: one is a plain user, one keeps capabilities by securebits, one has a smaller
/// bounding set and may gain nothing; the first one is root.
pub fn run_threads(mut desk: Desk) {
    let make: [fn(); 3] = [plain, fixed, bounded];
    let mut threads = Vec::new();
    for make in make {
        let (ask, asked) = channel::<()>();
        let (tell, told) = channel();
        thread::spawn(move || {
            make();
            let remembered = observed_here();
            tell.send(Ok(remembered.join("; "))).unwrap();
            while asked.recv().is_ok() {
                let mut looked = observed_here().into_iter().zip(&remembered);
                let wrong = looked.find_map(|(is, should)| same("credentials", &is, should).err());
                let answer = wrong.map_or_else(|| Ok(String::new()), Err);
                tell.send(answer).unwrap();
            }
        });
        told.recv().unwrap().unwrap();
        threads.push((ask, told));
    }
    let remembered = observed_here();
    desk.serve(&mut Threads {
        threads,
        remembered,
    });
}

/// Without the C library, which would change all threads.
fn raw(number: i64, args: [u64; 3]) {
    let [a, b, c] = args;
    call(number, [a, b, c, 0, 0, 0]).unwrap();
}

fn plain() {
    let groups = [77u32, 4000];
    let address = (&raw const groups).expose_provenance() as u64;
    raw(libc::SYS_setgroups, [2, address, 0]);
    raw(libc::SYS_setresgid, [3001, 3002, 3003]);
    raw(libc::SYS_setresuid, [1001, 1002, 1003]);
}

fn fixed() {
    // SECBIT_NO_SETUID_FIXUP and SECBIT_NOROOT: it stays capable as another user.
    prctl(libc::PR_SET_SECUREBITS, [1 << 2 | 1, 0, 0, 0]).unwrap();
    raw(libc::SYS_setresuid, [1005, 1005, 0]);
    let header: [u32; 2] = [0x2008_0522, 0];
    let address = (&raw const header).expose_provenance() as u64;
    let mut data = [
        1u32 << CHOWN,
        1 << NET_BIND | 1 << CHOWN,
        1 << NET_BIND,
        0,
        0,
        0,
    ];
    crate::kernel::call_with(libc::SYS_capset, &[address], &mut data, &[]).unwrap();
    prctl(libc::PR_CAP_AMBIENT, [2, NET_BIND, 0, 0]).unwrap();
}

fn bounded() {
    prctl(libc::PR_CAPBSET_DROP, [SYS_TIME, 0, 0, 0]).unwrap();
    prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0]).unwrap();
    call(libc::SYS_setfsuid, [1007, 0, 0, 0, 0, 0]).unwrap();
    // Its own, too; one that does no harm when whoever restored us ends.
    prctl(libc::PR_SET_PDEATHSIG, [28, 0, 0, 0]).unwrap();
}

struct Threads {
    threads: Vec<(Sender<()>, Receiver<Answer>)>,
    remembered: Vec<String>,
}

impl Program for Threads {
    fn check(&mut self) -> Answer {
        for (is, should) in observed_here().iter().zip(&self.remembered) {
            same("credentials", is, should)?;
        }
        for (ask, told) in &self.threads {
            ask.send(()).map_err(|e| e.to_string())?;
            told.recv().map_err(|e| e.to_string())??;
        }
        Ok(self.remembered.join("; "))
    }
}
