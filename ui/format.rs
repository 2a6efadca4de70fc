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

/// Text of others without anything that a terminal would obey: control characters (escape codes
/// among them) and characters that reverse the direction of writing become `?`.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' | '\n' => ' ',
            c if c.is_control() => '?',
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_of_others_never_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{9b}c\nd\u{202e}e"), "a?[2Jb?c d?e");
    }
}
