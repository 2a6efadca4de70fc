//! AMX tiles in two threads, each with contents of its own; a third thread may use them and does not
//! yet. Where there is no AMX, there is nothing to lose.
#![expect(unsafe_code, reason = "registers are out of reach of safe code")]

use std::arch::asm;

use crate::desk::{Answer, Desk, Program, same};
use crate::kernel::call;

const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
const TILE_DATA: u64 = 18;
/// Bytes of the eight tiles.
const BYTES: usize = 8 * 1024;
/// Bytes of a row.
const ROW: u64 = 64;

struct Tiles {
    there: bool,
    /// What the tiles hold, once they do.
    held: Option<Vec<u8>>,
}

/// Builds it and serves. Desks: `main`, `thread`, `later`.
pub fn run(mut desk: Desk, _: &[String]) {
    let there = call(
        libc::SYS_arch_prctl,
        [ARCH_REQ_XCOMP_PERM, TILE_DATA, 0, 0, 0, 0],
    )
    .is_ok();
    for (name, seed) in [("thread", Some(5)), ("later", None)] {
        let mut beside = desk.beside(name);
        std::thread::spawn(move || beside.serve(&mut Tiles::new(there, seed)));
        desk.wait_for(name);
    }
    desk.serve(&mut Tiles::new(there, Some(3)));
}

impl Tiles {
    fn new(there: bool, seed: Option<usize>) -> Self {
        let mut tiles = Self { there, held: None };
        if let Some(seed) = seed {
            tiles.load(seed);
        }
        tiles
    }

    fn load(&mut self, seed: usize) {
        if self.there {
            let contents: Vec<u8> = (0..BYTES).map(|n| (n * seed % 251) as u8).collect();
            load(&contents);
            self.held = Some(contents);
        }
    }
}

impl Program for Tiles {
    fn check(&mut self) -> Answer {
        let Some(held) = &self.held else {
            return Ok("no tiles".into());
        };
        let mut now = vec![0; BYTES];
        store(&mut now);
        same("tiles", &(now == *held), &true)?;
        Ok("8 tiles".into())
    }

    /// `load`: uses tiles from now on.
    fn command(&mut self, _: &[&str]) -> Answer {
        self.load(7);
        Ok(String::new())
    }
}

/// Palette 1: eight tiles of 16 rows.
fn configuration() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for tile in 0..8 {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = 16;
    }
    bytes
}

fn load(contents: &[u8]) {
    assert!(contents.len() == BYTES);
    let configuration = configuration();
    // SAFETY: reads the configuration and the contents; the process has the permission for AMX.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            ".irp n, 0,1,2,3,4,5,6,7",
            "tileloadd tmm\\n, [{contents} + {row}*1]",
            "add {contents}, 1024",
            ".endr",
            configuration = in(reg) configuration.as_ptr(),
            contents = inout(reg) contents.as_ptr() => _,
            row = in(reg) ROW,
            options(nostack),
        );
    }
}

fn store(now: &mut [u8]) {
    assert!(now.len() == BYTES);
    // SAFETY: writes as many bytes as the tiles have, which `load` has configured.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7",
            "tilestored [{now} + {row}*1], tmm\\n",
            "add {now}, 1024",
            ".endr",
            now = inout(reg) now.as_mut_ptr() => _,
            row = in(reg) ROW,
            options(nostack),
        );
    }
}
