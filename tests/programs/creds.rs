//! Credentials: a process that was root and has given most of it away, in one of two ways: with
//! some capabilities kept and ambient (`keep`), or as a plain user (`drop`).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

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

/// Builds it and serves. Argument: `keep` or `drop`.
pub fn run(mut desk: Desk, args: &[String]) {
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
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let wanted = ["Uid:", "Gid:", "Groups:", "Cap", "NoNewPrivs:", "Seccomp:"];
    let mut all: Vec<String> = status
        .lines()
        .filter(|line| wanted.iter().any(|w| line.starts_with(w)))
        .map(str::to_owned)
        .collect();
    for option in [
        libc::PR_GET_SECUREBITS,
        libc::PR_GET_DUMPABLE,
        libc::PR_GET_KEEPCAPS,
    ] {
        all.push(format!("{option}: {:?}", prctl(option, [0; 4]).ok()));
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
