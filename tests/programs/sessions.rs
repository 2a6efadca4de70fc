//! Sessions whose members are not children of who forked them: the leader has ended and is forgotten,
//! has ended and is a zombie, or lives elsewhere in the tree. The root adopts orphans. Each process
//! checks its place.

use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid, getppid, getsid, setpgid, setsid};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{child, exit, prctl};
use crate::tree::Place;

struct Root {
    place: Place,
    zombie: Pid,
}

/// Builds it and serves. Desks: `main`, `lost`, `child`, `job`, `late`, `leader`, `stray`.
pub fn run(mut desk: Desk, _: &[String]) {
    prctl(libc::PR_SET_CHILD_SUBREAPER, [1, 0, 0, 0]).unwrap();
    let root = getpid();
    // As daemons do: the leader forks and ends.
    let forgotten = child(|| {
        setsid().unwrap();
        child(|| {
            adopted_by(root);
            child(|| Place::new().serve(desk.beside("child")));
            child(|| {
                let here = Pid::from_raw(0);
                setpgid(here, here).unwrap();
                Place::new().serve(desk.beside("job"));
            });
            Place::new().serve(desk.beside("lost"));
        });
        exit(0);
    });
    waitpid(forgotten, None).unwrap();
    let zombie = child(|| {
        setsid().unwrap();
        child(|| {
            adopted_by(root);
            Place::new().serve(desk.beside("late"));
        });
        exit(4);
    });
    child(|| {
        setsid().unwrap();
        let between = child(|| {
            child(|| {
                adopted_by(root);
                Place::new().serve(desk.beside("stray"));
            });
            exit(0);
        });
        waitpid(between, None).unwrap();
        Place::new().serve(desk.beside("leader"));
    });
    for name in ["lost", "child", "job", "late", "leader", "stray"] {
        desk.wait_for(name);
    }
    let mut root = Root {
        place: Place::new(),
        zombie,
    };
    desk.serve(&mut root);
}

fn adopted_by(root: Pid) {
    while getppid() != root {
        std::thread::yield_now();
    }
}

impl Program for Root {
    fn check(&mut self) -> Answer {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        let should = WaitStatus::Exited(self.zombie, 4);
        let is = waitid(Id::Pid(self.zombie), flags);
        same("the zombie", &is, &Ok(should))?;
        same("its session", &getsid(Some(self.zombie)), &Ok(self.zombie))?;
        let mut adopts = 0i32;
        let option = libc::PR_GET_CHILD_SUBREAPER.unsigned_abs().into();
        crate::kernel::call_with(libc::SYS_prctl, &[option], &mut adopts, &[])
            .map_err(|e| e.to_string())?;
        same("adopts orphans", &adopts, &1)?;
        self.place.check_as_root()
    }
}
