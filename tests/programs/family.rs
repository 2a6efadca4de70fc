//! Pages that a parent, a child and a grandchild share since fork(2), of which each has changed some,
//! given some back, or mapped something else in their place.

use crate::desk::{Answer, Desk, Program};
use crate::kernel::{PAGE, Region, child};
use crate::pattern::{check, fill};

/// 32 MiB.
const PAGES: usize = 8192;

struct Family {
    /// Seeds of its pages.
    large: (Region, Vec<u64>),
    /// Where the child has a shorter mapping.
    cut: (Region, Vec<u64>),
    /// Where the grandchild has a longer one.
    grown: (Region, Vec<u64>),
    /// Where the child has a mapping of its own.
    other: (Region, Vec<u64>),
    /// Before and after a hole that the child has in it.
    holed: [(Region, Vec<u64>); 2],
    /// Read-only in the grandchild.
    protected: (Region, Vec<u64>),
}

fn piece(pages: usize, first: u64) -> (Region, Vec<u64>) {
    filled(Region::private(pages), first)
}

fn filled(region: Region, first: u64) -> (Region, Vec<u64>) {
    let pages = region.pages();
    let seeds: Vec<u64> = (first..).take(pages).collect();
    for (page, seed) in seeds.iter().enumerate() {
        fill(&region, page, *seed);
    }
    (region, seeds)
}

/// Builds it and serves; at the desks `child` and `grandchild` too.
pub fn run(mut desk: Desk, _: &[String]) {
    let room = Region::map(128, libc::PROT_NONE, libc::MAP_PRIVATE, None, None).unwrap();
    let write = libc::PROT_READ | libc::PROT_WRITE;
    // Read-write from here on at first; the kernel makes one mapping of it when all is.
    let wide = Region::map(64 + PAGES, libc::PROT_NONE, libc::MAP_PRIVATE, None, None).unwrap();
    wide.part(64, PAGES).protect(write);
    let holed = Region::private(64);
    let mut family = Family {
        large: filled(wide.part(64, PAGES), 1),
        holed: [
            filled(holed.part(0, 20), 300),
            filled(holed.part(40, 24), 340),
        ],
        cut: piece(64, 20_000),
        grown: (room.part(0, 32), vec![0; 32]),
        other: piece(64, 40_000),
        protected: piece(64, 50_000),
    };
    family.grown.0.protect(write);
    change(&mut family.grown, 3, 30_003);
    child(|| {
        for page in 0..512 {
            change(&mut family.large, page, 60_000 + page as u64);
        }
        family
            .large
            .0
            .part(2000, 100)
            .advise(libc::MADV_DONTNEED)
            .unwrap();
        family.large.1[2000..2100].fill(0);
        family.cut.0.part(32, 32).unmap();
        family.cut = (family.cut.0.part(0, 32), family.cut.1[..32].to_vec());
        holed.part(20, 20).unmap();
        let place = family.other.0.addr();
        family.other.0.part(0, 64).unmap();
        let flags = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
        let region = Region::map(64, write, flags, None, Some(place)).unwrap();
        family.other = (region, vec![0; 64]);
        change(&mut family.other, 9, 9);
        child(|| {
            change(&mut family.large, 8000, 70_000);
            room.part(32, 96).unmap();
            family.grown.0.remap(128, false).unwrap();
            family.grown.1.resize(128, 0);
            change(&mut family.grown, 100, 30_100);
            family.protected.0.protect(libc::PROT_READ);
            desk.beside("grandchild").serve(&mut family);
        });
        desk.wait_for("grandchild");
        desk.beside("child").serve(&mut family);
    });
    desk.wait_for("child");
    wide.part(0, 64).protect(write);
    desk.serve(&mut family);
}

fn change((region, seeds): &mut (Region, Vec<u64>), page: usize, seed: u64) {
    fill(region, page, seed);
    seeds[page] = seed;
}

impl Program for Family {
    fn check(&mut self) -> Answer {
        for (name, (region, seeds)) in [
            ("large", &self.large),
            ("cut", &self.cut),
            ("grown", &self.grown),
            ("other", &self.other),
            ("before the hole", &self.holed[0]),
            ("after the hole", &self.holed[1]),
            ("protected", &self.protected),
        ] {
            for (page, seed) in seeds.iter().enumerate() {
                check(name, region, page, *seed)?;
            }
        }
        Ok(format!("{} bytes", PAGES * PAGE))
    }

    /// `write PAGE` writes a page of the large region anew.
    fn command(&mut self, words: &[&str]) -> Answer {
        match words {
            ["write", page] => {
                let page: usize = page.parse().map_err(|_| "not a number")?;
                change(&mut self.large, page, 80_000 + page as u64);
            }
            _ => return Err("write PAGE".into()),
        }
        Ok(String::new())
    }
}
