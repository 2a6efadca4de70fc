//! epoll instances that watch what is hard to name: one another, files whose number was closed or is another
//! file's now, one file under several numbers, watches that tell once or are exclusive. With `modest`, no
//! file is watched under a closed number and under an open one, which CRIU cannot restore, and none of which was
//! told once is closed later, which CRIU has told again.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use crate::desk::{Answer, Desk, Program, same};
use crate::events::{READABLE, new, number, ready, watch};
use crate::kernel::{call, call_with};

/// Told once, then entered anew by the program (`EPOLLONESHOT`).
const ONE_SHOT: u32 = 1 << 30;
/// For one of those that wait (`EPOLLEXCLUSIVE`).
const EXCLUSIVE: u32 = 1 << 28;

struct Polls {
    outer: OwnedFd,
    inner: OwnedFd,
    /// At a number under which it watches another file.
    displaced: OwnedFd,
    /// Not ready yet, told once.
    quiet: OwnedFd,
    /// Entered at the number that `usurper` has.
    moved: OwnedFd,
    usurper: OwnedFd,
    /// The other end of a socket of which was told, once: nobody is told when it is closed.
    far: Option<UnixStream>,
    _others: Vec<OwnedFd>,
    modest: bool,
}

fn counter(value: u64) -> OwnedFd {
    new(libc::SYS_eventfd2, [value, 0, 0, 0, 0, 0])
}

/// The same file at another number.
fn copy(fd: &OwnedFd) -> OwnedFd {
    new(libc::SYS_dup, [number(fd), 0, 0, 0, 0, 0])
}

/// Puts the file of `fd` to the number of `to`, which loses its own.
fn put(fd: &OwnedFd, to: &OwnedFd) {
    call(libc::SYS_dup3, [number(fd), number(to), 0, 0, 0, 0]).unwrap();
}

/// Builds it and serves.
pub fn run(mut desk: Desk, args: &[String]) {
    let modest = args.iter().any(|arg| arg == "modest");
    let epoll = || new(libc::SYS_epoll_create1, [0; 6]);
    let (outer, inner) = (epoll(), epoll());
    let mut others = Vec::new();
    let ready_one = |name: u64, flags: u32, epoll: &OwnedFd| {
        let counter = counter(1);
        watch(epoll, &counter, name, flags);
        counter
    };
    others.push(ready_one(1, READABLE, &inner));
    watch(&outer, &inner, 2, READABLE);
    // The number is closed, the file stays.
    others.push(copy(&ready_one(3, READABLE, &outer)));
    // The number is another file's, which is watched, too.
    let usurper = ready_one(4, READABLE, &outer);
    let moved = copy(&usurper);
    put(&counter(1), &usurper);
    watch(&outer, &usurper, 5, READABLE);
    // One file under two numbers.
    let twice = ready_one(6, READABLE, &outer);
    let again = copy(&twice);
    watch(&outer, &again, 7, READABLE);
    // Of which one is closed.
    let closed = ready_one(8, READABLE, &outer);
    let left = copy(&closed);
    if !modest {
        watch(&outer, &left, 9, READABLE);
    }
    drop(closed);
    others.extend([twice, again, left]);
    others.push(ready_one(10, READABLE | ONE_SHOT, &outer));
    let quiet = counter(0);
    watch(&outer, &quiet, 11, READABLE | ONE_SHOT);
    others.push(ready_one(12, READABLE | EXCLUSIVE, &outer));
    let watching = epoll();
    let displaced = ready_one(13, READABLE, &watching);
    others.push(copy(&displaced));
    put(&watching, &displaced);
    drop(watching);
    let (near, mut far) = UnixStream::pair().unwrap();
    let near = OwnedFd::from(near);
    if !modest {
        far.write_all(b"news").unwrap();
        watch(&outer, &near, 14, READABLE | ONE_SHOT);
    }
    others.push(near);
    let told = ready(&outer);
    assert!(told.contains(&10) && (modest || told.contains(&14)));
    let mut polls = Polls {
        outer,
        inner,
        displaced,
        quiet,
        moved,
        usurper,
        far: Some(far),
        _others: others,
        modest,
    };
    desk.serve(&mut polls);
}

impl Polls {
    fn told(&self) -> Vec<u64> {
        let mut names = ready(&self.outer);
        names.sort_unstable();
        names
    }

    fn forget(&self, fd: &OwnedFd) -> Result<(), String> {
        let remove = [number(&self.outer), 2, number(fd), 0, 0, 0];
        let done = call(libc::SYS_epoll_ctl, remove);
        done.map(drop).map_err(|e| format!("cannot forget: {e}"))
    }
}

impl Program for Polls {
    fn check(&mut self) -> Answer {
        let mut all = vec![2, 3, 4, 5, 6, 7, 8, 9, 12];
        all.retain(|name| !(self.modest && *name == 9));
        same("outer", &self.told(), &all)?;
        same("inner", &ready(&self.inner), &vec![1])?;
        same("displaced", &ready(&self.displaced), &vec![13])?;
        Ok(String::new())
    }

    /// Uses it: what tells once tells, and a watch is taken back under the number that it was entered with.
    /// Then all is as it was.
    fn command(&mut self, _: &[&str]) -> Answer {
        drop(self.far.take());
        same("told of the end", &self.told().contains(&14), &false)?;
        let mut one = 1u64;
        call_with(libc::SYS_write, &[number(&self.quiet)], &mut one, &[8]).unwrap();
        same("quiet", &self.told().contains(&11), &true)?;
        same("told once", &self.told().contains(&11), &false)?;
        call_with(libc::SYS_read, &[number(&self.quiet)], &mut one, &[8]).unwrap();
        self.forget(&self.quiet)?;
        watch(&self.outer, &self.quiet, 11, READABLE | ONE_SHOT);

        self.forget(&self.usurper)?;
        same("usurper", &self.told().contains(&5), &false)?;
        put(&self.moved, &self.usurper);
        self.forget(&self.usurper)?;
        same("moved", &self.told().contains(&4), &false)?;
        watch(&self.outer, &self.usurper, 4, READABLE);
        put(&counter(1), &self.usurper);
        watch(&self.outer, &self.usurper, 5, READABLE);
        Ok(String::new())
    }
}
