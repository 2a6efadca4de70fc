//! The notes of a core file of x86-64: threads with their registers, the process, its auxiliary
//! vector, its files. Sources: elf(5), Linux `include/linux/elfcore.h`, Intel SDM vol. 1, 13.5.

use super::space::{Backing, Space};
use super::view::{Task, View};
use crate::error::{Error, Kind, Result};
use crate::image::proto::{CoreEntry, MmEntry, UserX86FpregsEntry, UserX86RegsEntry};
use crate::units::{PAGE_SIZE, PageRange};

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
const NT_X86_XSTATE: u32 = 0x202;

/// Longest command line in NT_PRPSINFO, with its end.
const ARGUMENTS: usize = 80;
/// Longest name, with its end.
const NAME: usize = 16;

/// All notes, the leader's registers first.
pub(super) fn all(view: &View, task: &Task, space: &Space<'_>) -> Result<Vec<u8>> {
    let mm: MmEntry = view.images().one(&format!("mm-{}.img", task.pid))?;
    let mut out = Vec::new();
    for (number, tid) in task.threads.iter().enumerate() {
        let core: CoreEntry = view.images().one(&format!("core-{tid}.img"))?;
        let info = core.thread_info.as_ref().ok_or_else(|| {
            let what = format!("Thread {tid} has no registers of x86-64");
            Error::new(Kind::Unsupported, what)
        })?;
        note(
            &mut out,
            b"CORE\0",
            NT_PRSTATUS,
            &status(task, *tid, &core, &info.gpregs),
        );
        if number == 0 {
            note(
                &mut out,
                b"CORE\0",
                NT_PRPSINFO,
                &process(task, &core, &mm, space)?,
            );
            note(&mut out, b"CORE\0", NT_AUXV, &auxv(&mm));
            note(&mut out, b"CORE\0", NT_FILE, &files(space));
        }
        let legacy = fxsave(&info.fpregs);
        note(&mut out, b"CORE\0", NT_PRFPREG, &legacy);
        note(
            &mut out,
            b"LINUX\0",
            NT_X86_XSTATE,
            &xsave(&info.fpregs, legacy),
        );
    }
    Ok(out)
}

fn note(out: &mut Vec<u8>, name: &[u8], kind: u32, desc: &[u8]) {
    let size = |len: usize| u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    out.extend(size(name.len()));
    out.extend(size(desc.len()));
    out.extend(kind.to_le_bytes());
    for part in [name, desc] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// `struct elf_prstatus`.
fn status(task: &Task, tid: u32, core: &CoreEntry, regs: &UserX86RegsEntry) -> Vec<u8> {
    let mut out = vec![0; 16]; // no signal
    out.extend(0u64.to_le_bytes()); // pending
    let blocked = core
        .thread_core
        .as_ref()
        .and_then(|thread| thread.blk_sigset);
    out.extend(blocked.unwrap_or(0).to_le_bytes());
    for id in [tid, task.ppid, task.pgid, task.sid] {
        out.extend(id.to_le_bytes());
    }
    out.resize(out.len() + 4 * 16, 0); // times
    for word in words(regs) {
        out.extend(word.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes()); // there are floating-point registers
    out.extend(0u32.to_le_bytes());
    out
}

/// `struct user_regs_struct`.
fn words(r: &UserX86RegsEntry) -> [u64; 27] {
    [
        r.r15, r.r14, r.r13, r.r12, r.bp, r.bx, r.r11, r.r10, r.r9, r.r8, r.ax, r.cx, r.dx, r.si,
        r.di, r.orig_ax, r.ip, r.cs, r.flags, r.sp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs,
        r.gs,
    ]
}

/// `struct elf_prpsinfo`.
fn process(task: &Task, core: &CoreEntry, mm: &MmEntry, space: &Space<'_>) -> Result<Vec<u8>> {
    let mut out = vec![0, b'R', 0, 0, 0, 0, 0, 0];
    let flags = core.tc.as_ref().map_or(0, |tc| u64::from(tc.flags));
    out.extend(flags.to_le_bytes());
    let creds = core
        .thread_core
        .as_ref()
        .and_then(|thread| thread.creds.as_ref());
    let (uid, gid) = creds.map_or((0, 0), |creds| (creds.uid, creds.gid));
    for word in [uid, gid, task.pid, task.ppid, task.pgid, task.sid] {
        out.extend(word.to_le_bytes());
    }
    let mut text = |bytes: &[u8], len: usize| {
        let end = out.len() + len;
        out.extend(&bytes[..bytes.len().min(len - 1)]);
        out.resize(end, 0);
    };
    text(task.comm.as_bytes(), NAME);
    let end = mm.mm_arg_end.min(mm.mm_arg_start + ARGUMENTS as u64);
    let mut arguments = Vec::new();
    if mm.mm_arg_start < end {
        super::cat(space, PageRange::new(mm.mm_arg_start, end), &mut arguments)?;
    }
    arguments
        .iter_mut()
        .filter(|byte| **byte == 0)
        .for_each(|byte| *byte = b' ');
    text(arguments.trim_ascii_end(), ARGUMENTS);
    Ok(out)
}

/// The vector with its end.
fn auxv(mm: &MmEntry) -> Vec<u8> {
    let words = mm.mm_saved_auxv.iter().chain(&[0, 0]);
    words.flat_map(|word| word.to_le_bytes()).collect()
}

/// The mapped files: how many, the size of a page, then start, end and page of the file of each, then
/// the names.
fn files(space: &Space<'_>) -> Vec<u8> {
    let of_files: Vec<_> = space
        .mappings()
        .iter()
        .filter(|mapping| mapping.backing == Backing::File && !mapping.name.is_empty())
        .collect();
    let mut out = Vec::new();
    out.extend((of_files.len() as u64).to_le_bytes());
    out.extend(PAGE_SIZE.to_le_bytes());
    for mapping in &of_files {
        for word in [
            mapping.range.start,
            mapping.range.end,
            mapping.offset / PAGE_SIZE,
        ] {
            out.extend(word.to_le_bytes());
        }
    }
    for mapping in &of_files {
        out.extend(mapping.name.as_bytes());
        out.push(0);
    }
    out
}

/// `struct user_fpregs_struct`: what FXSAVE writes.
fn fxsave(fp: &UserX86FpregsEntry) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for word in [fp.cwd, fp.swd, fp.twd, fp.fop] {
        out.extend(&word.to_le_bytes()[..2]);
    }
    out.extend(fp.rip.to_le_bytes());
    out.extend(fp.rdp.to_le_bytes());
    out.extend(fp.mxcsr.to_le_bytes());
    out.extend(fp.mxcsr_mask.to_le_bytes());
    for (space, end) in [(&fp.st_space, 160), (&fp.xmm_space, 416)] {
        out.extend(space.iter().flat_map(|word| word.to_le_bytes()));
        out.resize(end, 0);
    }
    out.resize(512, 0);
    out
}

/// Where debuggers expect the components of a core file without NT_X86_XSAVE_LAYOUT: as on the first
/// CPUs that had them all. Component, offset, length.
const LAYOUT: [(u32, usize, usize); 5] = [
    (2, 576, 256),
    (5, 1088, 64),
    (6, 1152, 512),
    (7, 1664, 1024),
    (9, 2688, 8),
];
/// Where the kernel notes which components there are (`XCR0`).
const XCR0: usize = 464;

/// The XSAVE area in the standard format.
fn xsave(fp: &UserX86FpregsEntry, legacy: Vec<u8>) -> Vec<u8> {
    let mut area = legacy;
    let mut used = 0b11_u64;
    let mut components: Vec<(u32, Vec<u8>)> = Vec::new();
    if let Some(xsave) = &fp.xsave {
        used = xsave.xstate_bv;
        let small = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let large = |words: &[u64]| words.iter().flat_map(|w| w.to_le_bytes()).collect();
        components = vec![
            (2, small(&xsave.ymmh_space)),
            (5, large(&xsave.opmask_reg)),
            (6, large(&xsave.zmm_upper)),
            (7, large(&xsave.hi16_zmm)),
            (9, small(&xsave.pkru)),
        ];
        components.retain(|(_, bytes)| !bytes.is_empty());
    }
    // Three sizes that debuggers know: SSE, AVX, AVX-512 with protection keys.
    let (len, there) = match components.last() {
        None => (576, 0b11_u64),
        Some((2, _)) => (832, 0b111),
        Some(_) => (2696, 0x2e7),
    };
    area.resize(len, 0);
    put(&mut area, XCR0, &there.to_le_bytes());
    put(&mut area, 512, &(used & there).to_le_bytes());
    for (component, bytes) in components {
        if let Some((_, at, len)) = LAYOUT.iter().find(|(n, ..)| *n == component) {
            put(&mut area, *at, &bytes[..bytes.len().min(*len)]);
        }
    }
    area
}

fn put(area: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = area.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}
