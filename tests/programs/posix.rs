//! POSIX shared memory and semaphores, which are files in `/dev/shm` (shm_overview(7), sem_overview(7)):
//! named, and without a name by now; a child has them too, and a grandchild waits for a semaphore. The
//! names are in the file `names`.

use std::fs::{self, File};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{Region, Semaphore, child, open_shared};
use crate::pattern::{check, fill};

const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

struct Posix {
    named: Semaphore,
    unlinked: Semaphore,
    waited: Semaphore,
    /// Mapped, its descriptor closed.
    memory: Region,
    /// Without a name, its descriptor open.
    gone: (Region, File),
    /// Value of the semaphore without a name, and seed of the memory without one.
    number: u64,
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, _: &[String]) {
    let name = |what: &str| format!("/icecore-{}-{what}", desk.key());
    let (kept, memory) = (name("kept"), name("memory"));
    fs::write(
        desk.dir().join("names"),
        format!("sem.{} {}", &kept[1..], &memory[1..]),
    )
    .unwrap();
    let unlinked = |name: String, value| {
        let semaphore = Semaphore::open(&name, value);
        fs::remove_file(format!("/dev/shm/sem.{}", &name[1..])).unwrap();
        semaphore
    };
    let map = |file: &File, pages| {
        file.set_len(pages as u64 * 4096).unwrap();
        Region::map(pages, WRITE, libc::MAP_SHARED, Some((file, 0)), None).unwrap()
    };
    let gone = open_shared(&name("gone"));
    let mut state = Posix {
        named: Semaphore::open(&kept, 3),
        unlinked: unlinked(name("unlinked"), 1),
        waited: unlinked(name("waited"), 0),
        memory: map(&open_shared(&memory), 4),
        gone: (map(&gone, 4), gone),
        number: 1,
    };
    fs::remove_file(format!("/dev/shm{}", name("gone"))).unwrap();
    (0..4).for_each(|page| fill(&state.memory, page, 90 + page as u64));
    (0..4).for_each(|page| fill(&state.gone.0, page, 1 + page as u64));
    child(|| {
        child(|| {
            loop {
                state.waited.wait();
            }
        });
        desk.beside("child").serve(&mut state);
    });
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Program for Posix {
    fn check(&mut self) -> Answer {
        same("named", &self.named.value(), &3)?;
        same("unlinked", &self.unlinked.value(), &self.number)?;
        for page in 0..4 {
            check("named memory", &self.memory, page, 90 + page as u64)?;
            check("memory", &self.gone.0, page, self.number + page as u64)?;
        }
        same("size", &self.gone.1.metadata().unwrap().len(), &16384)?;
        Ok(format!("number {}", self.number))
    }

    /// `write N` and `expect N` as in `shared`; `post` lets the grandchild go on, twice.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["post"] => {
                for _ in 0..2 {
                    self.waited.post();
                    while self.waited.value() != 0 {
                        std::thread::yield_now();
                    }
                }
            }
            [verb, number] => {
                let number = number.parse().map_err(|_| "not a number")?;
                if *verb == "write" {
                    (self.number..number).for_each(|_| self.unlinked.post());
                    (number..self.number).for_each(|_| self.unlinked.wait());
                    (0..4).for_each(|page| fill(&self.gone.0, page, number + page as u64));
                }
                self.number = number;
            }
            _ => return Err("write N | expect N | post".into()),
        }
        Ok(String::new())
    }
}
