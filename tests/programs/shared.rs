//! Shared memory of a parent and a child: anonymous, `memfd` (mapped by both, and one that is only
//! an open descriptor). A write of one is seen by the other.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{PAGE, Region, child};
use crate::pattern::{check, fill, word};

const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

struct Shared {
    anonymous: Region,
    sparse: Region,
    mapped: Region,
    private: Region,
    memfd: File,
    unmapped: File,
    /// Seed of the anonymous pages at present, told by `write`.
    seed: u64,
}

/// Builds it and serves; the child at the desk `child`.
pub fn run(mut desk: Desk, _: &[String]) {
    let memfd = |name: &str, pages: u64| {
        let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(pages * PAGE as u64).unwrap();
        file
    };
    let file = memfd("mapped", 40);
    let shared = libc::MAP_SHARED;
    let mut state = Shared {
        anonymous: Region::map(50, WRITE, shared, None, None).unwrap(),
        sparse: Region::map(1 << 12, WRITE, shared, None, None).unwrap(),
        mapped: Region::map(40, WRITE, shared, Some((&file, 0)), None).unwrap(),
        private: Region::map(10, WRITE, libc::MAP_PRIVATE, Some((&file, 4096)), None).unwrap(),
        memfd: file,
        unmapped: memfd("unmapped", 20),
        seed: 1,
    };
    (0..50).for_each(|page| fill(&state.anonymous, page, 1 + page as u64));
    fill(&state.sparse, 4000, 4);
    (0..40).for_each(|page| fill(&state.mapped, page, 300 + page as u64));
    fill(&state.private, 3, 9);
    let bytes: Vec<u8> = (0..20 * 512)
        .flat_map(|n| word(8, n).to_le_bytes())
        .collect();
    state.unmapped.write_all_at(&bytes, 0).unwrap();
    child(|| desk.beside("child").serve(&mut state));
    desk.wait_for("child");
    desk.serve(&mut state);
}

impl Program for Shared {
    fn check(&mut self) -> Answer {
        for page in 0..50 {
            check("anonymous", &self.anonymous, page, self.seed + page as u64)?;
        }
        check("sparse", &self.sparse, 4000, 4)?;
        check("sparse, never written", &self.sparse, 3999, 0)?;
        for page in 0..40 {
            check("memfd", &self.mapped, page, 300 + page as u64)?;
            let mut bytes = [0; 8];
            self.memfd
                .read_exact_at(&mut bytes, page as u64 * 4096)
                .map_err(|e| e.to_string())?;
            same(
                "memfd by read",
                &u64::from_le_bytes(bytes),
                &word(300 + page as u64, 0),
            )?;
        }
        for page in 0..10 {
            let seed = if page == 3 { 9 } else { 301 + page as u64 };
            check("private memfd", &self.private, page, seed)?;
        }
        let mut bytes = vec![0; 20 * PAGE];
        self.unmapped
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| e.to_string())?;
        let should: Vec<u8> = (0..20 * 512)
            .flat_map(|n| word(8, n).to_le_bytes())
            .collect();
        same("unmapped memfd", &(bytes == should), &true)?;
        Ok(format!("seed {}", self.seed))
    }

    /// `write SEED` writes the anonymous pages, `expect SEED` says that the other one did.
    fn command(&mut self, words: &[&str]) -> Answer {
        let [verb, seed] = words else {
            return Err("write SEED | expect SEED".into());
        };
        self.seed = seed.parse().map_err(|_| "not a number")?;
        if *verb == "write" {
            (0..50).for_each(|page| fill(&self.anonymous, page, self.seed + page as u64));
        }
        Ok(String::new())
    }
}
