//! CPUID: where the CPU keeps each component of the XSAVE area (Intel SDM vol. 1, 13.5).
#![expect(
    unsafe_code,
    reason = "CPUID is an intrinsic; older compilers call it unsafe"
)]
#![cfg(target_arch = "x86_64")]

use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
use std::sync::OnceLock;

/// Components 0 to 62 are all that XSTATE_BV can name.
const COMPONENTS: usize = 63;

/// Offset and size in bytes of an XSAVE component in the standard format; `None` when this CPU does
/// not have it.
pub fn xsave_component(component: u32) -> Option<(usize, usize)> {
    // In a virtual machine each CPUID is a way to the hypervisor and back: some 10 µs.
    static LAYOUT: [OnceLock<Option<(usize, usize)>>; COMPONENTS] =
        [const { OnceLock::new() }; COMPONENTS];
    let place = LAYOUT.get(usize::try_from(component).ok()?)?;
    *place.get_or_init(|| ask(component))
}

#[allow(unused_unsafe, reason = "safe since Rust 1.92")]
fn ask(component: u32) -> Option<(usize, usize)> {
    static HIGHEST: OnceLock<u32> = OnceLock::new();
    // SAFETY: CPUID exists on every x86-64 CPU.
    let highest = *HIGHEST.get_or_init(|| unsafe { __get_cpuid_max(0) }.0);
    if highest < 0xd {
        return None;
    }
    // SAFETY: leaf 0xd is within the maximum read above.
    let leaf = unsafe { __cpuid_count(0xd, component) };
    let size = usize::try_from(leaf.eax).ok()?;
    (size != 0).then_some((usize::try_from(leaf.ebx).ok()?, size))
}
