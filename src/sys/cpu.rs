//! CPUID: where the CPU keeps each component of the XSAVE area (Intel SDM vol. 1, 13.5).
#![expect(
    unsafe_code,
    reason = "CPUID is an intrinsic; older compilers call it unsafe"
)]
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};

/// Offset and size in bytes of an XSAVE component in the standard format; `None` when this CPU does
/// not have it.
#[allow(unused_unsafe, reason = "safe since Rust 1.92")]
pub fn xsave_component(component: u32) -> Option<(usize, usize)> {
    // SAFETY: CPUID exists on every x86-64 CPU.
    let (max, _) = unsafe { __get_cpuid_max(0) };
    if max < 0xd {
        return None;
    }
    // SAFETY: leaf 0xd is within the maximum read above.
    let leaf = unsafe { __cpuid_count(0xd, component) };
    let size = usize::try_from(leaf.eax).ok()?;
    (size != 0).then_some((usize::try_from(leaf.ebx).ok()?, size))
}
