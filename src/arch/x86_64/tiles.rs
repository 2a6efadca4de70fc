//! AMX: registers too large for every thread to have. A process asks for the right to use them
//! (arch_prctl(2), ARCH_REQ_XCOMP_PERM), and a thread gets the memory for them at the first instruction
//! that touches one; only then can ptrace set them.
//!
//! Sources: `Documentation/arch/x86/xstate.rst`, Intel SDM vol. 1, chapter 18.

/// The XSAVE component that the right is for: the contents of the tiles.
pub const COMPONENT: u32 = 18;

/// Touches a tile, wherever it stands; what follows [`TOUCH`] in memory is run next. The registers of
/// the thread are unchanged but for the tiles.
#[rustfmt::skip]
pub const TOUCH: [u8; 88] = {
    let mut code = [0; 88];
    let begin: [u8; 16] = [
        0xc4, 0xe2, 0x78, 0x49, 0x05, 0x07, 0x00, 0x00, 0x00, // ldtilecfg [rip + 7]: at 16
        0xc4, 0xe2, 0x7b, 0x49, 0xc0, // tilezero tmm0
        0xeb, 64, // jmp over the configuration
    ];
    let mut at = 0;
    while at < begin.len() {
        code[at] = begin[at];
        at += 1;
    }
    // The configuration: palette 1; tile 0 has one row (byte 48) of 64 bytes (word 16).
    code[16] = 1;
    code[16 + 16] = 64;
    code[16 + 48] = 1;
    // 8 bytes that do nothing, to keep what follows aligned.
    while at < code.len() {
        if at >= 80 {
            code[at] = 0x90;
        }
        at += 1;
    }
    code
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lies_behind_the_jump() {
        assert_eq!(TOUCH[14..16], [0xeb, 64]);
        assert_eq!(TOUCH[16], 1);
        assert_eq!(TOUCH[80..], [0x90; 8]);
    }
}
