//! Instruction sets of this CPU, as the kernel names them (`flags` of `/proc/cpuinfo`).
//!
//! A program looks once at what its CPU can do and then calls the fastest routine it has (glibc's
//! `memcpy` for AVX-512, a JIT's code). On a CPU without those instructions it dies by SIGILL, so a
//! layer notes the sets of its CPU and a restore compares.

use procfs::Current as _;

use crate::error::{Error, Result};

/// Sets that a program may have built itself upon. Flags that only the kernel uses are not here,
/// nor those which every x86-64 CPU has.
const SETS: &[&str] = &[
    "pni",
    "ssse3",
    "sse4_1",
    "sse4_2",
    "sse4a",
    "popcnt",
    "abm",
    "cx16",
    "movbe",
    "lahf_lm",
    "aes",
    "pclmulqdq",
    "vaes",
    "vpclmulqdq",
    "gfni",
    "sha_ni",
    "sha512",
    "sm3",
    "sm4",
    "xsave",
    "xsavec",
    "xgetbv1",
    "avx",
    "avx2",
    "fma",
    "fma4",
    "xop",
    "f16c",
    "bmi1",
    "bmi2",
    "tbm",
    "adx",
    "avx_vnni",
    "avx_ifma",
    "avx_ne_convert",
    "avx_vnni_int8",
    "avx_vnni_int16",
    "avx512f",
    "avx512dq",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512ifma",
    "avx512vbmi",
    "avx512_vbmi2",
    "avx512_vnni",
    "avx512_bitalg",
    "avx512_vpopcntdq",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vp2intersect",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "amx_fp16",
    "rdrand",
    "rdseed",
    "rdpid",
    "rdtscp",
    "fsgsbase",
    "clflushopt",
    "clwb",
    "cldemote",
    "movdiri",
    "movdir64b",
    "serialize",
    "waitpkg",
    "ospke",
    "rtm",
    "user_shstk",
];

/// The sets of this CPU, in the order of our list.
///
/// # Errors
/// When `/proc/cpuinfo` cannot be read.
pub fn instruction_sets() -> Result<Vec<String>> {
    let cpus = procfs::CpuInfo::current().map_err(|e| {
        Error::path(
            "read",
            "/proc/cpuinfo",
            std::io::Error::other(e.to_string()),
        )
    })?;
    let flags: Vec<&str> = cpus
        .fields
        .get("flags")
        .or_else(|| cpus.cpus.first().and_then(|cpu| cpu.get("flags")))
        .map(|flags| flags.split_whitespace().collect())
        .unwrap_or_default();
    Ok(SETS
        .iter()
        .filter(|set| flags.contains(set))
        .map(|&set| set.to_owned())
        .collect())
}

/// Those of `wanted` that are not in `here`.
pub fn lacking<'a>(wanted: &'a [String], here: &[String]) -> Vec<&'a str> {
    wanted
        .iter()
        .filter(|set| !here.contains(set))
        .map(String::as_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_of_this_cpu_agree_with_what_it_says_of_itself() {
        let sets = instruction_sets().unwrap();
        for (name, has) in [
            ("avx2", std::arch::is_x86_feature_detected!("avx2")),
            ("popcnt", std::arch::is_x86_feature_detected!("popcnt")),
            ("sse4_2", std::arch::is_x86_feature_detected!("sse4.2")),
        ] {
            assert_eq!(sets.iter().any(|set| set == name), has, "{name}");
        }
    }

    #[test]
    fn only_sets_that_are_not_here_are_lacking() {
        let set = |words: &[&str]| words.iter().map(|&w| w.to_owned()).collect::<Vec<_>>();
        let wanted = set(&["avx", "avx512f"]);
        assert_eq!(lacking(&wanted, &set(&["avx", "adx"])), ["avx512f"]);
        assert!(lacking(&wanted, &wanted).is_empty());
        assert!(lacking(&[], &[]).is_empty());
    }
}
