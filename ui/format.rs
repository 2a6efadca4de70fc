//! Numbers for people.

use std::time::Duration;

use humansize::{BINARY, format_size};

/// `1.50 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    format_size(n, BINARY)
}

/// `12.3 ms`, `4.56 s`.
pub(crate) fn duration(d: Duration) -> String {
    let ms = d.as_secs_f64() * 1000.0;
    if ms < 1000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

/// `1 page`, `2 pages`.
pub(crate) fn count(n: u64, one: &str) -> String {
    if n == 1 {
        format!("1 {one}")
    } else {
        format!("{n} {one}s")
    }
}
