//! Private memory of every kind, each page with a pattern of its own.

use std::fs::File;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{PAGE, Region};
use crate::pattern::{check, fill};

const NONE: i32 = libc::PROT_NONE;
const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const ALL: i32 = WRITE | libc::PROT_EXEC;
const PRIVATE: i32 = libc::MAP_PRIVATE;

/// A mapping and what is in it: a seed for each page (0: zeros).
struct Piece {
    name: &'static str,
    region: Region,
    prot: i32,
    seeds: Vec<u64>,
}

/// Everything.
#[expect(clippy::vec_box, reason = "small blocks of the heap are wanted")]
struct Memory {
    pieces: Vec<Piece>,
    code: Region,
    heap: Vec<Box<[u64; 40]>>,
    large: Vec<u64>,
}

/// Builds it and serves.
pub fn run(mut desk: Desk, _: &[String]) {
    let mut memory = Memory {
        pieces: Vec::new(),
        code: Region::map(1, ALL, PRIVATE, None, None).unwrap(),
        heap: (0..4000).map(|n| Box::new([n * 3 + 1; 40])).collect(),
        large: (0..400_000).map(|n| n * 7 + 5).collect(),
    };
    memory.code.set_function(0x1234_5678);
    memory.plain();
    memory.files(&desk);
    memory.stack();
    memory.advised();
    desk.serve(&mut memory);
}

impl Memory {
    /// Maps, fills the pages whose seed is not 0, and protects.
    fn add(&mut self, name: &'static str, region: Region, prot: i32, seeds: Vec<u64>) {
        for (page, seed) in seeds.iter().enumerate().filter(|(_, seed)| **seed != 0) {
            fill(&region, page, *seed);
        }
        if prot != WRITE {
            region.protect(prot);
        }
        self.pieces.push(Piece {
            name,
            region,
            prot,
            seeds,
        });
    }

    fn plain(&mut self) {
        self.add(
            "anonymous",
            Region::private(300),
            WRITE,
            (1000..1300).collect(),
        );
        self.add("read only", Region::private(5), READ, (10..15).collect());
        self.add(
            "PROT_NONE with contents",
            Region::private(5),
            NONE,
            (20..25).collect(),
        );
        self.add(
            "rwx",
            Region::map(3, ALL, PRIVATE, None, None).unwrap(),
            ALL,
            vec![31, 0, 33],
        );
        let never = Region::map(64, NONE, PRIVATE, None, None).unwrap();
        self.add("never touched", never, NONE, Vec::new());

        // One page in sixteen; the others were never there.
        let sparse = (0..256)
            .map(|n| if n % 16 == 3 { n + 1 } else { 0 })
            .collect();
        let flags = PRIVATE | libc::MAP_NORESERVE;
        let region = Region::map(1 << 18, WRITE, flags, None, None).unwrap();
        self.add("sparse", region, WRITE, sparse);

        // Written, then given back: zeros again.
        let region = Region::private(64);
        (0..64).for_each(|page| fill(&region, page, 77));
        region.part(16, 32).advise(libc::MADV_DONTNEED).unwrap();
        let seeds = (0..64)
            .map(|n| if (16..48).contains(&n) { 0 } else { 77 })
            .collect();
        self.add("holes", region, WRITE, seeds);

        // Only ever read: the shared page of zeros.
        let region = Region::private(16);
        (0..16).for_each(|page| same("zero", &region.word(page * 512), &0).unwrap());
        self.add("zero pages", region, WRITE, vec![0; 16]);
    }

    /// Private file mappings: pages of the file and pages of our own.
    fn files(&mut self, desk: &Desk) {
        let path = desk.dir().join("mapped");
        let bytes: Vec<u8> = (0..32u64)
            .flat_map(|page| (0..512).map(move |i| crate::pattern::word(500 + page, i)))
            .flat_map(u64::to_le_bytes)
            .collect();
        std::fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        let map = |prot, pages, first: i64| {
            let offset = first * 4096;
            Region::map(pages, prot, PRIVATE, Some((&file, offset)), None).unwrap()
        };
        let whole = map(WRITE, 32, 0);
        for page in [0, 7, 8, 31] {
            fill(&whole, page, 900 + page as u64);
        }
        let seeds = (0..32).map(|n| {
            if [0, 7, 8, 31].contains(&n) {
                900 + n
            } else {
                500 + n
            }
        });
        let seeds = seeds.collect();
        self.pieces.push(Piece {
            name: "file",
            region: whole,
            prot: WRITE,
            seeds,
        });
        let seeds = (510..520).collect();
        let region = map(READ, 10, 10);
        self.pieces.push(Piece {
            name: "file, read only",
            region,
            prot: READ,
            seeds,
        });

        // Shared with the file itself: its bytes are the file's.
        let path = desk.dir().join("shared");
        std::fs::write(&path, vec![0; 8 * PAGE]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let region = Region::map(8, WRITE, libc::MAP_SHARED, Some((&file, 0)), None).unwrap();
        self.add("shared file", region, WRITE, (600..608).collect());
    }

    /// A mapping that grows downwards, and has grown.
    fn stack(&mut self) {
        let room = Region::map(2048, NONE, PRIVATE, None, None).unwrap();
        let top = room.addr() + 2032 * PAGE;
        room.unmap();
        let flags = PRIVATE | libc::MAP_GROWSDOWN;
        let region = Region::map(16, WRITE, flags, None, Some(top))
            .unwrap()
            .with_below(3);
        // Downwards, or it would not grow.
        for page in (0..19).rev() {
            fill(&region, page, 40 + page as u64);
        }
        let seeds = (40..59).collect();
        self.pieces.push(Piece {
            name: "growing down",
            region,
            prot: WRITE,
            seeds,
        });
    }

    /// Flags of mappings; the test compares them from outside.
    fn advised(&mut self) {
        for (name, advice) in [
            ("not forked", libc::MADV_DONTFORK),
            ("not dumped", libc::MADV_DONTDUMP),
            ("wiped on fork", libc::MADV_WIPEONFORK),
            ("mergeable", libc::MADV_MERGEABLE),
            ("without huge pages", libc::MADV_NOHUGEPAGE),
            ("random", libc::MADV_RANDOM),
        ] {
            let region = Region::private(4);
            // A kernel without the feature refuses; the contents are tested all the same.
            drop(region.advise(advice));
            self.add(name, region, WRITE, vec![61, 62, 63, 64]);
        }
        let region = Region::private(2048);
        drop(region.advise(libc::MADV_HUGEPAGE));
        self.add("huge pages", region, WRITE, (5000..7048).collect());
        let region = Region::private(4);
        region.lock().unwrap();
        self.add("locked", region, WRITE, vec![71, 72, 73, 74]);
    }
}

impl Program for Memory {
    fn check(&mut self) -> Answer {
        for piece in &self.pieces {
            if piece.prot & READ == 0 && !piece.seeds.is_empty() {
                piece.region.protect(READ);
            }
            for (page, seed) in piece.seeds.iter().enumerate() {
                check(piece.name, &piece.region, page, *seed)?;
            }
            if piece.prot & READ == 0 {
                piece.region.protect(piece.prot);
            }
        }
        same("generated code", &self.code.call(), &0x1234_5678)?;
        for (n, small) in self.heap.iter().enumerate() {
            same("small heap block", &**small, &[n as u64 * 3 + 1; 40])?;
        }
        for (n, word) in self.large.iter().enumerate() {
            same("large heap block", word, &(n as u64 * 7 + 5))?;
        }
        Ok(format!("{} mappings", self.pieces.len()))
    }
}
