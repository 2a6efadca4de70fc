//! A program whose memory changes on command, and that knows what should be in each page. Everything
//! that can happen between two layers: pages written, mappings new, gone, moved, grown, the heap and
//! the stack grown, threads, children, another program.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::{PAGE, Region, child, exit};
use crate::pattern::{check, fill};

/// A mapping and the seed of each page.
struct Piece {
    region: Region,
    seeds: Vec<u64>,
}

impl Piece {
    fn new(region: Region, seed: u64) -> Self {
        let seeds: Vec<u64> = (0..region.pages() as u64)
            .map(|n| seed * 100_000 + n + 1)
            .collect();
        seeds
            .iter()
            .enumerate()
            .for_each(|(page, seed)| fill(&region, page, *seed));
        Self { region, seeds }
    }

    fn check(&self, what: &str) -> Result<(), String> {
        let mut pages = self.seeds.iter().enumerate();
        pages.try_for_each(|(page, seed)| check(what, &self.region, page, *seed))
    }
}

struct Writer {
    pieces: Vec<Option<Piece>>,
    shared: Piece,
    heap: Vec<(u64, Box<[u64; 100]>)>,
    /// A random number generator of its own, so that every run writes the same pages.
    random: u64,
    children: u32,
    desk: Desk,
}

/// Number that tells the threads apart, and what they have counted.
static THREADS: AtomicU64 = AtomicU64::new(0);

/// Builds it and serves. Argument: pages of the first mapping (1024).
pub fn run(mut desk: Desk, args: &[String]) {
    let pages = args.first().and_then(|n| n.parse().ok()).unwrap_or(1024);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let shared = Region::map(200, prot, libc::MAP_SHARED, None, None).unwrap();
    let mut writer = Writer {
        pieces: vec![Some(Piece::new(Region::private(pages), 1))],
        shared: Piece::new(shared, 2),
        heap: Vec::new(),
        random: 88_172_645_463_325_252,
        children: 0,
        desk: desk.beside("unused"),
    };
    desk.serve(&mut writer);
}

impl Writer {
    fn random(&mut self, below: usize) -> usize {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % below as u64).unwrap()
    }

    fn piece(&mut self, number: usize) -> Result<&mut Piece, String> {
        let piece = self.pieces.get_mut(number).and_then(Option::as_mut);
        piece.ok_or_else(|| format!("there is no mapping {number}"))
    }

    /// Writes some pages of mapping `number` with contents of `seed`.
    fn dirty(&mut self, number: usize, count: usize, seed: u64) -> Answer {
        let pages = self.piece(number)?.seeds.len();
        for n in 0..count {
            let page = self.random(pages);
            let value = seed * 1_000_000 + n as u64 + 1;
            let piece = self.piece(number)?;
            fill(&piece.region, page, value);
            piece.seeds[page] = value;
        }
        Ok(String::new())
    }

    fn resize(&mut self, number: usize, pages: usize, elsewhere: bool) -> Answer {
        let piece = self.piece(number)?;
        piece
            .region
            .remap(pages, elsewhere)
            .map_err(|e| e.to_string())?;
        // What is new is zeros.
        piece.seeds.resize(pages, 0);
        Ok(format!("{:x}", piece.region.addr()))
    }

    fn fork(&mut self, writes: bool) -> Answer {
        self.children += 1;
        let name = format!("child{}", self.children);
        let dir = self.desk.dir().to_owned();
        let pid = child(|| {
            let mut desk = Desk::open(&dir, &name);
            if writes {
                drop(self.dirty(0, 50, 77));
            }
            desk.serve(self);
        });
        self.desk.wait_for(&name);
        Ok(pid.to_string())
    }

    /// Goes `deep` frames of a page each down the stack and serves there.
    fn deeper(&mut self, deep: u64, desk: Desk) -> Answer {
        let mut frame = [deep; PAGE / 8];
        std::hint::black_box(&mut frame);
        if deep == 0 {
            let mut desk = desk;
            desk.serve(&mut Deep { writer: self });
        }
        let answer = self.deeper(deep - 1, desk);
        same("a frame of the stack", &frame, &[deep; PAGE / 8])?;
        answer
    }
}

/// The writer, asked from the depth of its stack.
struct Deep<'a> {
    writer: &'a mut Writer,
}

impl Program for Deep<'_> {
    fn check(&mut self) -> Answer {
        self.writer.check()
    }

    fn command(&mut self, words: &[&str]) -> Answer {
        self.writer.command(words)
    }
}

impl Program for Writer {
    fn check(&mut self) -> Answer {
        for (number, piece) in self.pieces.iter().enumerate() {
            if let Some(piece) = piece {
                piece.check(&format!("mapping {number}"))?;
            }
        }
        self.shared.check("shared memory")?;
        for (seed, block) in &self.heap {
            same("a block of the heap", &**block, &[*seed; 100])?;
        }
        let pages: usize = self.pieces.iter().flatten().map(|p| p.seeds.len()).sum();
        Ok(format!("{pages} pages, {} blocks", self.heap.len()))
    }

    fn command(&mut self, words: &[&str]) -> Answer {
        let number = |n: usize| -> Result<u64, String> {
            let word = words.get(n).ok_or("an argument is missing")?;
            word.parse().map_err(|_| format!("{word} is not a number"))
        };
        let size = |n: usize| number(n).map(|value| usize::try_from(value).unwrap());
        match words[0] {
            // dirty MAPPING PAGES SEED
            "dirty" => self.dirty(size(1)?, size(2)?, number(3)?),
            // shared PAGES SEED
            "shared" => {
                for n in 0..size(1)? {
                    let page = self.random(200);
                    let value = number(2)? * 1_000_000 + n as u64 + 1;
                    fill(&self.shared.region, page, value);
                    self.shared.seeds[page] = value;
                }
                Ok(String::new())
            }
            // heap BLOCKS SEED: grows by 800 bytes each
            "heap" => {
                let (count, seed) = (size(1)?, number(2)?);
                self.heap
                    .extend((0..count).map(|_| (seed, Box::new([seed; 100]))));
                Ok(String::new())
            }
            // map PAGES SEED
            "map" => {
                let piece = Piece::new(Region::private(size(1)?), number(2)?);
                self.pieces.push(Some(piece));
                Ok((self.pieces.len() - 1).to_string())
            }
            // unmap MAPPING
            "unmap" => {
                let piece = self.pieces.get_mut(size(1)?).and_then(Option::take);
                piece.ok_or("no such mapping")?.region.unmap();
                Ok(String::new())
            }
            // grow MAPPING PAGES; move MAPPING PAGES
            "grow" => self.resize(size(1)?, size(2)?, false),
            "move" => self.resize(size(1)?, size(2)?, true),
            // drop MAPPING FIRST PAGES: MADV_DONTNEED
            "drop" => {
                let (first, pages) = (size(2)?, size(3)?);
                let piece = self.piece(size(1)?)?;
                let part = piece.region.part(first, pages);
                part.advise(libc::MADV_DONTNEED)
                    .map_err(|e| e.to_string())?;
                piece.seeds[first..first + pages].fill(0);
                Ok(String::new())
            }
            // protect MAPPING, unprotect MAPPING
            "protect" => {
                self.piece(size(1)?)?.region.protect(libc::PROT_READ);
                Ok(String::new())
            }
            "unprotect" => {
                self.piece(size(1)?)?
                    .region
                    .protect(libc::PROT_READ | libc::PROT_WRITE);
                Ok(String::new())
            }
            // file PAGES SEED: a private mapping of a new file, half of it written
            "file" => {
                let (pages, seed) = (size(1)?, number(2)?);
                let path = self.desk.dir().join(format!("file{seed}"));
                std::fs::write(&path, vec![0; pages * PAGE]).map_err(|e| e.to_string())?;
                let file = std::fs::File::open(&path).map_err(|e| e.to_string())?;
                let prot = libc::PROT_READ | libc::PROT_WRITE;
                let region = Region::map(pages, prot, libc::MAP_PRIVATE, Some((&file, 0)), None);
                let region = region.map_err(|e| e.to_string())?;
                let mut seeds = vec![0; pages];
                for page in (0..pages).step_by(2) {
                    seeds[page] = seed + 1;
                    fill(&region, page, seed + 1);
                }
                self.pieces.push(Some(Piece { region, seeds }));
                Ok((self.pieces.len() - 1).to_string())
            }
            // stack PAGES: answers at the desk `deep` from now on
            "stack" => {
                let desk = self.desk.beside("deep");
                self.deeper(number(1)?, desk)
            }
            "thread" => {
                let count = THREADS.fetch_add(1, Ordering::SeqCst) + 1;
                std::thread::spawn(|| {
                    loop {
                        std::thread::park();
                    }
                });
                Ok(count.to_string())
            }
            // fork: a child that shares all pages; fork-write: one that has written some
            "fork" => self.fork(false),
            "fork-write" => self.fork(true),
            // exec: the same program anew, at the same desk
            "exec" => {
                use std::os::unix::process::CommandExt as _;
                let dir = self.desk.dir().to_owned();
                let error = Command::new("/proc/self/exe")
                    .arg("writer")
                    .arg(dir)
                    .arg("300")
                    .exec();
                Err(error.to_string())
            }
            "exit" => exit(0),
            // reap: waits for a child that has exited
            "reap" => nix::sys::wait::wait()
                .map(|s| format!("{s:?}"))
                .map_err(|e| e.to_string()),
            other => Err(format!("unknown command {other}")),
        }
    }
}
