//! Registers to and from the `core` image (CRIU `core-x86.proto`, `arch/x86`).
//!
//! The image holds the legacy FXSAVE part and each extended component by itself, so that it can be
//! laid out anew for the CPU that restores it.

use super::Regs;
use crate::image::proto::{
    CoreEntry, ThreadInfoX86, UserX86FpregsEntry, UserX86RegsEntry, UserX86XsaveEntry,
    core_entry::March,
};
use crate::sys::cpu::xsave_component;

const FXSAVE_LEN: usize = 512;
const XSTATE_BV: usize = 512;
const XSAVE_HEADER_END: usize = 576;

/// XSAVE components that the image has a place for (state-component numbers).
const YMM: u32 = 2;
/// Bounds of MPX: the kernel keeps them on CPUs that have them, though nothing uses them any more.
const BNDREGS: u32 = 3;
const BNDCSR: u32 = 4;
const OPMASK: u32 = 5;
const ZMM_UPPER: u32 = 6;
const HI16_ZMM: u32 = 7;
const PKRU: u32 = 9;
const CRIUS: u64 = 0b11
    | 1 << YMM
    | 1 << BNDREGS
    | 1 << BNDCSR
    | 1 << OPMASK
    | 1 << ZMM_UPPER
    | 1 << HI16_ZMM
    | 1 << PKRU;
/// AMX: in fields of our own, and not in `xstate_bv`, by which CRIU would look for them.
const TILE_CONFIG: u32 = 17;
const TILES: u32 = super::tiles::COMPONENT;
const IN_IMAGE: u64 = CRIUS | 1 << TILE_CONFIG | 1 << TILES;

/// XSAVE components in use in `area` for which the image has no place, as bits.
pub fn not_in_image(area: &[u8]) -> u64 {
    if area.len() < XSAVE_HEADER_END {
        0
    } else {
        word(area, XSTATE_BV) & !IN_IMAGE
    }
}

/// Parts of the CPU state in use in `core` that this CPU does not have: they would be lost.
pub fn missing_here(core: &CoreEntry) -> Vec<String> {
    missing(core, |component| xsave_component(component).is_some())
}

fn missing(core: &CoreEntry, has: impl Fn(u32) -> bool) -> Vec<String> {
    let xsave = core
        .thread_info
        .as_ref()
        .and_then(|info| info.fpregs.xsave.as_ref());
    let tiles = u64::from(has_tiles(core)) << TILES;
    let used = xsave.map_or(0, |xsave| xsave.xstate_bv) | tiles;
    // x87 and SSE are everywhere; bit 63 tells a layout, not a component.
    let mut missing: Vec<String> = (2..63)
        .filter(|&n| used & 1 << n != 0 && !has(n))
        .map(|n| match n {
            YMM => "AVX".to_owned(),
            BNDREGS | BNDCSR => "MPX".to_owned(),
            OPMASK | ZMM_UPPER | HI16_ZMM => "AVX-512".to_owned(),
            PKRU => "protection keys".to_owned(),
            TILES => "AMX".to_owned(),
            n => format!("XSAVE component {n}"),
        })
        .collect();
    missing.dedup();
    missing
}

/// True when AMX tiles are in use in `core`: [`from_image`] then needs a thread that was
/// [made ready](super::tiles) for them.
pub fn has_tiles(core: &CoreEntry) -> bool {
    let info = core.thread_info.as_ref();
    let xsave = info.and_then(|info| info.fpregs.xsave.as_ref());
    xsave.is_some_and(|xsave| xsave.tile_config.is_some() || xsave.tiles.is_some())
}

/// A core image that holds only registers: general ones and the XSAVE area as ptrace gives it.
pub fn to_image(regs: &Regs, area: &[u8]) -> CoreEntry {
    CoreEntry {
        mtype: March::X8664 as i32,
        thread_info: Some(ThreadInfoX86 {
            clear_tid_addr: 0,
            gpregs: regs_to_image(regs),
            fpregs: fpregs_to_image(area),
            tls: empty_tls(),
        }),
        ..CoreEntry::default()
    }
}

/// Three unused TLS slots: 64-bit programs have none.
fn empty_tls() -> Vec<crate::image::proto::UserDescT> {
    (12..15)
        .map(|entry_number| crate::image::proto::UserDescT {
            entry_number,
            read_exec_only: true,
            seg_not_present: true,
            ..Default::default()
        })
        .collect()
}

/// The registers and XSAVE area of `core`, for a thread whose own area is `fresh` (it gives size and
/// the components that this CPU has). `None` when the image has no registers of this architecture.
pub fn from_image(core: &CoreEntry, fresh: &[u8]) -> Option<(Regs, Vec<u8>)> {
    let info = core.thread_info.as_ref()?;
    let area = fpregs_from_image(&info.fpregs, fresh);
    Some((regs_from_image(&info.gpregs), area))
}

fn regs_to_image(r: &Regs) -> UserX86RegsEntry {
    UserX86RegsEntry {
        r15: r.r15,
        r14: r.r14,
        r13: r.r13,
        r12: r.r12,
        bp: r.rbp,
        bx: r.rbx,
        r11: r.r11,
        r10: r.r10,
        r9: r.r9,
        r8: r.r8,
        ax: r.rax,
        cx: r.rcx,
        dx: r.rdx,
        si: r.rsi,
        di: r.rdi,
        orig_ax: r.orig_rax,
        ip: r.rip,
        cs: r.cs,
        flags: r.eflags,
        sp: r.rsp,
        ss: r.ss,
        fs_base: r.fs_base,
        gs_base: r.gs_base,
        ds: r.ds,
        es: r.es,
        fs: r.fs,
        gs: r.gs,
        mode: Some(1),
    }
}

fn regs_from_image(i: &UserX86RegsEntry) -> Regs {
    Regs {
        r15: i.r15,
        r14: i.r14,
        r13: i.r13,
        r12: i.r12,
        rbp: i.bp,
        rbx: i.bx,
        r11: i.r11,
        r10: i.r10,
        r9: i.r9,
        r8: i.r8,
        rax: i.ax,
        rcx: i.cx,
        rdx: i.dx,
        rsi: i.si,
        rdi: i.di,
        // Restarts are arranged in `ax` and `ip`; the kernel must not do it again.
        orig_rax: u64::MAX,
        rip: i.ip,
        cs: i.cs,
        eflags: i.flags,
        rsp: i.sp,
        ss: i.ss,
        fs_base: i.fs_base,
        gs_base: i.gs_base,
        ds: i.ds,
        es: i.es,
        fs: i.fs,
        gs: i.gs,
    }
}

fn fpregs_to_image(area: &[u8]) -> UserX86FpregsEntry {
    let half = |at: usize| u32::from(u16::from_le_bytes([area[at], area[at + 1]]));
    let in_use = |n: u32| {
        let used = area.len() >= XSAVE_HEADER_END && word(area, XSTATE_BV) & 1 << n != 0;
        used.then(|| component(area, n).to_vec())
    };
    let xsave = (area.len() >= XSAVE_HEADER_END).then(|| UserX86XsaveEntry {
        xstate_bv: word(area, XSTATE_BV) & CRIUS,
        tile_config: in_use(TILE_CONFIG),
        tiles: in_use(TILES),
        ymmh_space: words32(component(area, YMM)),
        bndreg_state: words64(component(area, BNDREGS)),
        bndcsr_state: words64(component(area, BNDCSR)),
        opmask_reg: words64(component(area, OPMASK)),
        zmm_upper: words64(component(area, ZMM_UPPER)),
        hi16_zmm: words64(component(area, HI16_ZMM)),
        pkru: words32(component(area, PKRU)),
        ..Default::default()
    });
    UserX86FpregsEntry {
        cwd: half(0),
        swd: half(2),
        twd: half(4),
        fop: half(6),
        rip: word(area, 8),
        rdp: word(area, 16),
        mxcsr: word32(area, 24),
        mxcsr_mask: word32(area, 28),
        st_space: words32(&area[32..160]),
        xmm_space: words32(&area[160..416]),
        padding: words32(&area[416..FXSAVE_LEN]),
        xsave,
    }
}

fn fpregs_from_image(fp: &UserX86FpregsEntry, fresh: &[u8]) -> Vec<u8> {
    let mut area = vec![0; fresh.len()];
    put(&mut area, 0, &fp.cwd.to_le_bytes()[..2]);
    put(&mut area, 2, &fp.swd.to_le_bytes()[..2]);
    put(&mut area, 4, &fp.twd.to_le_bytes()[..2]);
    put(&mut area, 6, &fp.fop.to_le_bytes()[..2]);
    put(&mut area, 8, &fp.rip.to_le_bytes());
    put(&mut area, 16, &fp.rdp.to_le_bytes());
    put(&mut area, 24, &fp.mxcsr.to_le_bytes());
    put(&mut area, 28, &fp.mxcsr_mask.to_le_bytes());
    put32(&mut area, 32, 128, &fp.st_space);
    put32(&mut area, 160, 256, &fp.xmm_space);
    // Bytes 464..512 belong to signal frames; the image's padding stops before them.
    let mut present = 0b11;
    if let Some(xsave) = &fp.xsave {
        let mut place32 = |n: u32, words: &[u32]| {
            if let Some((at, len)) = xsave_component(n).filter(|_| !words.is_empty()) {
                put32(&mut area, at, len, words);
                present |= 1 << n;
            }
        };
        place32(YMM, &xsave.ymmh_space);
        place32(PKRU, &xsave.pkru);
        let mut place64 = |n: u32, words: &[u64]| {
            if let Some((at, len)) = xsave_component(n).filter(|_| !words.is_empty()) {
                put64(&mut area, at, len, words);
                present |= 1 << n;
            }
        };
        place64(BNDREGS, &xsave.bndreg_state);
        place64(BNDCSR, &xsave.bndcsr_state);
        place64(OPMASK, &xsave.opmask_reg);
        place64(ZMM_UPPER, &xsave.zmm_upper);
        place64(HI16_ZMM, &xsave.hi16_zmm);
        present &= xsave.xstate_bv;
        for (n, bytes) in [(TILE_CONFIG, &xsave.tile_config), (TILES, &xsave.tiles)] {
            let place = xsave_component(n).zip(bytes.as_ref());
            if let Some(((at, len), bytes)) = place.filter(|((_, len), b)| *len == b.len()) {
                put(&mut area, at, &bytes[..len]);
                present |= 1 << n;
            }
        }
    }
    put(&mut area, XSTATE_BV, &present.to_le_bytes());
    area
}

/// The bytes of a component, empty when the CPU or the area does not have it.
fn component(area: &[u8], n: u32) -> &[u8] {
    xsave_component(n)
        .and_then(|(at, len)| area.get(at..at + len))
        .unwrap_or(&[])
}

fn word(area: &[u8], at: usize) -> u64 {
    u64::from(word32(area, at)) | u64::from(word32(area, at + 4)) << 32
}

fn word32(area: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([area[at], area[at + 1], area[at + 2], area[at + 3]])
}

fn words32(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|c| word32(c, 0)).collect()
}

fn words64(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|c| word(c, 0)).collect()
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = area.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn put32(area: &mut [u8], at: usize, len: usize, words: &[u32]) {
    for (i, word) in words.iter().take(len / 4).enumerate() {
        put(area, at + 4 * i, &word.to_le_bytes());
    }
}

fn put64(area: &mut [u8], at: usize, len: usize, words: &[u64]) {
    for (i, word) in words.iter().take(len / 8).enumerate() {
        put(area, at + 8 * i, &word.to_le_bytes());
    }
}

#[cfg(test)]
pub(crate) fn blank_regs() -> Regs {
    regs_from_image(&UserX86RegsEntry::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_that_a_cpu_has_no_place_for_is_named() {
        let with = |bits: &[u32]| {
            let mut core = to_image(&blank_regs(), &[0u8; 4096]);
            let thread = core.thread_info.as_mut().unwrap();
            let xsave = thread.fpregs.xsave.as_mut().unwrap();
            xsave.xstate_bv = bits.iter().fold(0b11, |bv, n| bv | 1 << n);
            core
        };
        let core = with(&[YMM, OPMASK, ZMM_UPPER, PKRU, 40]);
        assert!(missing(&core, |_| true).is_empty());
        assert_eq!(missing(&core, |n| n == PKRU || n == 40), ["AVX", "AVX-512"]);
        assert_eq!(
            missing(&core, |n| n <= ZMM_UPPER),
            ["protection keys", "XSAVE component 40"]
        );
        assert!(
            missing(&with(&[]), |_| false).is_empty(),
            "x87 and SSE are everywhere"
        );
    }

    #[test]
    fn registers_survive_the_image() {
        let mut area = vec![0u8; 4096];
        for (i, byte) in area.iter_mut().enumerate().take(464) {
            *byte = i.to_le_bytes()[0];
        }
        let mut bv = 0b11u64;
        area.resize(16384, 0);
        let all = [YMM, BNDREGS, BNDCSR, OPMASK, ZMM_UPPER, HI16_ZMM, PKRU];
        for n in all.into_iter().chain([TILE_CONFIG, TILES]) {
            if let Some((at, len)) = xsave_component(n) {
                bv |= 1 << n;
                for i in 0..len {
                    area[at + i] = (i * 7 + 3).to_le_bytes()[0];
                }
            }
        }
        area[416..464].fill(0);
        put(&mut area, XSTATE_BV, &bv.to_le_bytes());
        let mut regs = blank_regs();
        regs.rip = 0x1234;
        regs.fs_base = 0x7f00;
        let core = to_image(&regs, &area);
        let (back, back_area) = from_image(&core, &area).unwrap();
        assert_eq!((back.rip, back.fs_base), (0x1234, 0x7f00));
        assert_eq!(back_area, area);
    }

    #[test]
    fn state_without_a_place_in_the_image_is_reported() {
        let mut area = vec![0u8; 1024];
        put(
            &mut area,
            XSTATE_BV,
            &(1u64 << 19 | 1 << 18 | 0b111).to_le_bytes(),
        );
        assert_eq!(not_in_image(&area), 1 << 19);
    }

    #[test]
    fn crius_part_of_the_image_does_not_tell_of_tiles() {
        let mut area = vec![0u8; 16384];
        put(
            &mut area,
            XSTATE_BV,
            &(1u64 << TILES | 1 << TILE_CONFIG | 0b11).to_le_bytes(),
        );
        let core = to_image(&blank_regs(), &area);
        assert!(has_tiles(&core));
        let xsave = core.thread_info.as_ref().unwrap().fpregs.xsave.as_ref();
        assert_eq!(xsave.unwrap().xstate_bv, 0b11);
        assert_eq!(missing(&core, |_| false), ["AMX"]);
        assert!(!has_tiles(&to_image(&blank_regs(), &[0; 4096])));
    }
}
