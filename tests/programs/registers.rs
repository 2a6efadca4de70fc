//! Loops that keep a pattern in every register the CPU has and see whether it stays there: general,
//! x87, MXCSR, and the vector registers (AVX-512 with its masks where there is one).
#![expect(unsafe_code, reason = "registers are out of reach of safe code")]

use std::arch::asm;

/// Rounds of the empty loop in which an interruption would be noticed: some 10 ms.
const ROUNDS: u64 = 10_000_000;

/// Nearest, then downwards: all exceptions masked, rounding down.
const MXCSR: u32 = 0x3f80;

/// Fills all registers, waits, and compares.
pub fn hold(seed: u64) -> Result<(), String> {
    let pattern: Vec<u64> = (0..256 + 8)
        .map(|n| seed.wrapping_mul(n + 3) ^ (n << 40))
        .collect();
    let mut after = vec![0u64; 256 + 8];
    let wide = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
    let words = if wide {
        avx512(&pattern, &mut after);
        256 + 8
    } else {
        avx(&pattern, &mut after);
        64
    };
    // Mask register 0 is not writable in all uses; 1 to 7 are compared.
    for n in (0..words).filter(|n| *n != 256) {
        if after[n] != pattern[n] {
            return Err(format!(
                "vector register {} word {} is {:#x}, should be {:#x}",
                n / 8,
                n % 8,
                after[n],
                pattern[n]
            ));
        }
    }
    general(seed)?;
    x87()
}

/// zmm0 to zmm31 and k1 to k7.
fn avx512(pattern: &[u64], after: &mut [u64]) {
    assert!(pattern.len() >= 264 && after.len() >= 264);
    // SAFETY: reads and writes 264 words of the slices; the CPU has AVX-512; all registers that the
    // compiler may use are declared as lost.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "vmovdqu64 zmm\\n, [rsi + 64*\\n]",
            ".endr",
            ".irp n, 1,2,3,4,5,6,7",
            "kmovq k\\n, [rsi + 2048 + 8*\\n]",
            ".endr",
            "2:",
            "dec rcx",
            "jnz 2b",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "vmovdqu64 [rdi + 64*\\n], zmm\\n",
            ".endr",
            ".irp n, 1,2,3,4,5,6,7",
            "kmovq [rdi + 2048 + 8*\\n], k\\n",
            ".endr",
            "vzeroupper",
            in("rsi") pattern.as_ptr(),
            in("rdi") after.as_mut_ptr(),
            inout("rcx") ROUNDS => _,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
}

/// ymm0 to ymm15.
fn avx(pattern: &[u64], after: &mut [u64]) {
    assert!(pattern.len() >= 64 && after.len() >= 64);
    // SAFETY: as above, 64 words; every CPU of interest has AVX.
    unsafe {
        asm!(
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "vmovdqu ymm\\n, [rsi + 32*\\n]",
            ".endr",
            "2:",
            "dec rcx",
            "jnz 2b",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "vmovdqu [rdi + 32*\\n], ymm\\n",
            ".endr",
            "vzeroupper",
            in("rsi") pattern.as_ptr(),
            in("rdi") after.as_mut_ptr(),
            inout("rcx") ROUNDS => _,
            clobber_abi("sysv64"),
            options(nostack),
        );
    }
}

/// General registers and flags (carry and direction stay set).
fn general(seed: u64) -> Result<(), String> {
    let (a, b, c, d): (u64, u64, u64, u64);
    let flags: u64;
    // SAFETY: registers only; the direction flag is cleared again; the stack is used by pushfq.
    unsafe {
        asm!(
            "std",
            "2:",
            "dec rcx",
            "stc",
            "jnz 2b",
            "pushfq",
            "pop {flags}",
            "cld",
            flags = out(reg) flags,
            inout("rcx") ROUNDS / 4 => _,
            inout("r8") seed => a,
            inout("r11") seed ^ 1 => b,
            inout("r12") seed ^ 2 => c,
            inout("r15") seed ^ 3 => d,
        );
    }
    if [a, b ^ 1, c ^ 2, d ^ 3] != [seed; 4] {
        return Err(format!("general registers are {a:#x} {b:#x} {c:#x} {d:#x}"));
    }
    if flags & 0x401 != 0x401 {
        return Err(format!("flags are {flags:#x}"));
    }
    Ok(())
}

/// A value on the x87 stack, its control word, and MXCSR.
fn x87() -> Result<(), String> {
    let mut value = 0f64;
    let mut word = 0u16;
    let control: u16 = 0x0f7f;
    let mut mxcsr = 0u32;
    let default: u32 = 0x1f80;
    // SAFETY: the locals outlive the block; the state of the calling convention is put back.
    unsafe {
        asm!(
            "fninit",
            "fldcw [{control}]",
            "fldpi",
            "ldmxcsr [{set}]",
            "2:",
            "dec {rounds}",
            "jnz 2b",
            "fnstcw [{word}]",
            "fstp qword ptr [{value}]",
            "stmxcsr [{mxcsr}]",
            "ldmxcsr [{default}]",
            "fninit",
            control = in(reg) &raw const control,
            set = in(reg) &raw const MXCSR_VALUE,
            word = in(reg) &raw mut word,
            value = in(reg) &raw mut value,
            mxcsr = in(reg) &raw mut mxcsr,
            default = in(reg) &raw const default,
            rounds = inout(reg) ROUNDS / 4 => _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    if (value - std::f64::consts::PI).abs() > 1e-15 || word & 0xf7f != control {
        return Err(format!("x87 holds {value}, control word {word:#x}"));
    }
    // Exception flags may have been set by what was computed before.
    if mxcsr & 0xffc0 != MXCSR {
        return Err(format!("MXCSR is {mxcsr:#x}"));
    }
    Ok(())
}

/// In memory, for ldmxcsr.
static MXCSR_VALUE: u32 = MXCSR;
