//! What surrounds a process: working directory, umask, name, limits, scheduling, and the small
//! settings of prctl(2).

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::prctl;

struct Surroundings {
    remembered: Vec<(String, String)>,
}

/// Builds it and serves. Argument `modest`: without things that CRIU forgets.
pub fn run(mut desk: Desk, args: &[String]) {
    let cwd = desk.dir().join("a place");
    fs::create_dir_all(&cwd).unwrap();
    std::env::set_current_dir(&cwd).unwrap();
    umask(Mode::from_bits_truncate(0o157));
    fs::write("/proc/self/comm", "renamed").unwrap();
    fs::write("/proc/self/oom_score_adj", "321").unwrap();
    for (resource, soft, hard) in [
        (Resource::RLIMIT_NOFILE, 77, 99),
        (Resource::RLIMIT_CORE, 0, 4096),
        (Resource::RLIMIT_STACK, 5 << 20, 64 << 20),
        (Resource::RLIMIT_NPROC, 1000, 2000),
        (Resource::RLIMIT_MSGQUEUE, 1 << 14, 1 << 15),
    ] {
        setrlimit(resource, soft, hard).unwrap();
    }
    // setpriority(2) of this process, and SCHED_BATCH.
    crate::kernel::call(libc::SYS_setpriority, [0, 0, 7, 0, 0, 0]).unwrap();
    let mut parameter = 0u32;
    crate::kernel::call_with(libc::SYS_sched_setscheduler, &[0, 3], &mut parameter, &[]).unwrap();
    prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0]).unwrap();
    // One that does no harm when whoever restored us ends.
    prctl(libc::PR_SET_PDEATHSIG, [28, 0, 0, 0]).unwrap();
    prctl(libc::PR_SET_THP_DISABLE, [1, 0, 0, 0]).unwrap();
    // MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED
    crate::kernel::call(libc::SYS_membarrier, [16, 0, 0, 0, 0, 0]).unwrap();
    if !args.iter().any(|a| a == "modest") {
        // ADDR_NO_RANDOMIZE
        crate::kernel::call(libc::SYS_personality, [0x004_0000, 0, 0, 0, 0, 0]).unwrap();
    }
    let mut state = Surroundings {
        remembered: observed(),
    };
    desk.serve(&mut state);
}

/// All of it, as the kernel tells it.
fn observed() -> Vec<(String, String)> {
    let text = |path: &str| fs::read_to_string(format!("/proc/self/{path}")).unwrap();
    let mut all: Vec<(String, String)> = [
        "comm",
        "limits",
        "oom_score_adj",
        "personality",
        "environ",
        "cmdline",
    ]
    .map(|name| (name.to_owned(), text(name)))
    .to_vec();
    all.push(("cwd".into(), format!("{:?}", std::env::current_dir())));
    all.push((
        "exe".into(),
        format!("{:?}", fs::read_link("/proc/self/exe")),
    ));
    let mask = umask(Mode::empty());
    umask(mask);
    all.push(("umask".into(), format!("{mask:?}")));
    all.push((
        "files".into(),
        format!("{:?}", getrlimit(Resource::RLIMIT_NOFILE)),
    ));
    let ask = |option| prctl(option, [0; 4]).ok();
    for (name, option) in [
        ("dumpable", libc::PR_GET_DUMPABLE),
        ("keep capabilities", libc::PR_GET_KEEPCAPS),
        ("huge pages disabled", libc::PR_GET_THP_DISABLE),
    ] {
        all.push((name.into(), format!("{:?}", ask(option))));
    }
    for (name, option) in [
        ("subreaper", libc::PR_GET_CHILD_SUBREAPER),
        ("parent-death signal", libc::PR_GET_PDEATHSIG),
    ] {
        let mut value = 0i32;
        let option = u64::try_from(option).unwrap();
        crate::kernel::call_with(libc::SYS_prctl, &[option], &mut value, &[]).unwrap();
        all.push((name.into(), value.to_string()));
    }
    // MEMBARRIER_CMD_GET_REGISTRATIONS
    let barriers = crate::kernel::call(libc::SYS_membarrier, [512, 0, 0, 0, 0, 0]).unwrap();
    all.push(("membarrier registrations".into(), barriers.to_string()));
    let priority = crate::kernel::call(libc::SYS_getpriority, [0; 6]).unwrap();
    let policy = crate::kernel::call(libc::SYS_sched_getscheduler, [0; 6]).unwrap();
    all.push(("priority and policy".into(), format!("{priority} {policy}")));
    all
}

impl Program for Surroundings {
    fn check(&mut self) -> Answer {
        for ((name, is), (_, should)) in observed().iter().zip(&self.remembered) {
            same(name, is, should)?;
        }
        Ok(format!("{} things", self.remembered.len()))
    }
}
