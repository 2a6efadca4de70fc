//! System V shared memory of a parent and a child: a segment with a key that both have attached (the
//! child read-only), one that is marked for removal, one of odd size and another owner, one that is
//! attached in parts, one that nobody has attached. Their ids are in the file `segments`.

use std::fs;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{PAGE, Region, call, child};
use crate::pattern::{check, fill, word};

const ANY: u64 = 0;
const CREATE: u64 = (libc::IPC_CREAT | libc::IPC_EXCL) as u64;

struct Segments {
    key: u64,
    /// Keyed, removed, odd, parts, alone.
    ids: [u64; 5],
    keyed: Region,
    removed: Region,
    odd: Region,
    parts: Region,
    /// Seed of the pages that both see.
    seed: u64,
    reads_only: bool,
    /// Without what CRIU cannot do: parts, removal, and who made the segments.
    modest: bool,
}

fn segment(key: u64, bytes: usize, mode: u64) -> u64 {
    let args = [key, bytes as u64, CREATE | mode, 0, 0, 0];
    call(libc::SYS_shmget, args).unwrap().cast_unsigned()
}

fn attach(id: u64, pages: usize, flags: i32) -> Region {
    let args = [id, 0, flags.cast_unsigned().into(), 0, 0, 0];
    Region::at(call(libc::SYS_shmat, args).unwrap().cast_unsigned(), pages)
}

fn control(id: u64, command: i32) {
    call(
        libc::SYS_shmctl,
        [id, command.cast_unsigned().into(), 0, 0, 0, 0],
    )
    .unwrap();
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, args: &[String]) {
    let key = desk.key();
    let ids = [
        segment(key, 40 * PAGE, 0o640),
        segment(ANY, 8 * PAGE, 0o600),
        segment(ANY, 56, 0o600),
        segment(ANY, 16 * PAGE, 0o600),
        segment(ANY, 3 * PAGE, 0o600),
    ];
    let list: Vec<String> = ids.iter().map(u64::to_string).collect();
    fs::write(desk.dir().join("segments"), list.join(" ")).unwrap();
    let keyed = attach(ids[0], 40, 0);
    let removed = attach(ids[1], 8, 0);
    let odd = attach(ids[2], 1, 0);
    let parts = attach(ids[3], 16, 0);
    for page in 0..40 {
        fill(&keyed, page, 1 + page as u64);
    }
    fill(&removed, 5, 55);
    odd.set_word(0, word(7, 0));
    for page in 0..16 {
        fill(&parts, page, 200 + page as u64);
    }
    let modest = args.iter().any(|arg| arg == "modest");
    // It goes with its last attachment. The middle of another is gone, and a part of the rest may not be
    // written. CRIU cannot do that.
    if !modest {
        control(ids[1], libc::IPC_RMID);
        parts.part(4, 6).unmap();
        parts.part(12, 2).protect(libc::PROT_READ);
    }
    let alone = attach(ids[4], 3, 0);
    fill(&alone, 2, 77);
    detach(&alone);
    let mut state = Segments {
        key,
        ids,
        keyed,
        removed,
        odd,
        parts,
        seed: 1,
        reads_only: false,
        modest,
    };
    child(|| {
        detach(&state.keyed);
        detach(&state.odd);
        state.keyed = attach(ids[0], 40, libc::SHM_RDONLY);
        state.reads_only = true;
        desk.beside("child").serve(&mut state);
    });
    desk.wait_for("child");
    desk.serve(&mut state);
}

fn detach(region: &Region) {
    call(libc::SYS_shmdt, [region.addr() as u64, 0, 0, 0, 0, 0]).unwrap();
}

impl Segments {
    /// Row of a segment in the table of the kernel: key, id, permissions, size, creator, …
    fn row(&self, index: usize) -> Result<Vec<u64>, String> {
        let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
        let rows = table.lines().skip(1).map(|line| {
            let number = |word: &str| word.parse::<i64>().unwrap().cast_unsigned();
            line.split_whitespace().map(number).collect::<Vec<u64>>()
        });
        let mut rows = rows.filter(|row| row[1] == self.ids[index]);
        rows.next().ok_or(format!("segment {index} is gone"))
    }
}

impl Program for Segments {
    fn check(&mut self) -> Answer {
        for page in 0..40 {
            check("keyed", &self.keyed, page, self.seed + page as u64)?;
        }
        for page in 0..8 {
            check(
                "removed",
                &self.removed,
                page,
                if page == 5 { 55 } else { 0 },
            )?;
        }
        for page in (0..4).chain(10..16) {
            check("parts", &self.parts, page, 200 + page as u64)?;
        }
        let parts = match self.reads_only {
            true => std::os::unix::process::parent_id(),
            false => std::process::id(),
        };
        for (index, key, mode, size, attached) in [
            (0, self.key, 640, 40 * PAGE, 2),
            (1, 0, if self.modest { 600 } else { 1600 }, 8 * PAGE, 2),
            (2, 0, 600, 56, 1),
            (3, 0, 600, 16 * PAGE, if self.modest { 2 } else { 8 }),
            (4, 0, 600, 3 * PAGE, 0),
        ] {
            let mut row = self.row(index)?;
            if self.modest {
                row[4] = parts.into();
            }
            let is = [row[0], row[2], row[3], row[4], row[6]];
            let should = [key, mode, size as u64, parts.into(), attached];
            same(&format!("segment {index}"), &is, &should)?;
        }
        if self.reads_only {
            let opened = call(
                libc::SYS_mprotect,
                [
                    self.keyed.addr() as u64,
                    PAGE as u64,
                    (libc::PROT_READ | libc::PROT_WRITE) as u64,
                    0,
                    0,
                    0,
                ],
            );
            same(
                "a read-only attachment may be written",
                &opened.is_ok(),
                &false,
            )?;
        } else {
            same("odd", &self.odd.word(0), &word(7, 0))?;
            let alone = attach(self.ids[4], 3, 0);
            let result = check("alone", &alone, 2, 77);
            detach(&alone);
            result?;
        }
        Ok(format!("seed {}", self.seed))
    }

    /// `write SEED` writes what both see, `expect SEED` says that the other one did, `detach` ends the
    /// attachment in parts and makes it anew.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["detach"] => {
                detach(&self.parts);
                same("attachments", &self.row(3)?[6], &4)?;
                self.parts = attach(self.ids[3], 16, 0);
                self.parts.part(4, 6).unmap();
                self.parts.part(12, 2).protect(libc::PROT_READ);
            }
            [verb, seed] => {
                self.seed = seed.parse().map_err(|_| "not a number")?;
                if *verb == "write" {
                    (0..40).for_each(|page| fill(&self.keyed, page, self.seed + page as u64));
                }
            }
            _ => return Err("write SEED | expect SEED | detach".into()),
        }
        Ok(String::new())
    }
}
