//! Numbers for people.

use std::io::{self, Write};
use std::ops::Range;
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

/// The bytes of a line of a hexadecimal view.
const HEX_LINE: usize = 16;

/// `7f0000000010  68 65 6c … |hel…|`: one line of a hexadecimal view, for at most 16 bytes.
pub(crate) fn hex_line(addr: u64, bytes: &[u8]) -> String {
    marked_line(addr, bytes, &(0..0))
}

/// The same with a star before each byte whose address is in `marked`.
pub(crate) fn marked_line(addr: u64, bytes: &[u8], marked: &Range<u64>) -> String {
    let mut numbers = String::new();
    for (at, here) in (0..HEX_LINE).zip(addr..) {
        if at == HEX_LINE / 2 {
            numbers.push(' ');
        }
        let star = marked.contains(&here) && at < bytes.len();
        numbers.push(if star { '*' } else { ' ' });
        match bytes.get(at) {
            Some(byte) => numbers.push_str(&format!("{byte:02x}")),
            None => numbers.push_str("  "),
        }
    }
    let text: String = bytes
        .iter()
        .map(|byte| match byte {
            0x20..0x7f => char::from(*byte),
            _ => '.',
        })
        .collect();
    format!("{addr:012x} {numbers}  |{text}|")
}

/// Columns of such a line: of the star of a byte, with its two digits after that, and of its letter.
pub(crate) fn hex_columns(at: usize) -> (usize, usize) {
    let numbers = 13;
    let star = numbers + 3 * at + usize::from(at >= HEX_LINE / 2);
    (star, numbers + 3 * HEX_LINE + 1 + 3 + at)
}

/// Bytes as text without anything that a terminal would obey; what is no text is a dot.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let dot = |(c, shown): (char, char)| match (c, shown) {
        (c, _) if c.is_control() || c == char::REPLACEMENT_CHARACTER => '.',
        (c, '?') if c != '?' => '.',
        (_, shown) => shown,
    };
    text.chars().zip(plain(&text).chars()).map(dot).collect()
}

/// Turns bytes into a hexadecimal view.
#[derive(Debug)]
pub(crate) struct HexDump<W> {
    out: W,
    addr: u64,
    line: Vec<u8>,
}

impl<W: Write> HexDump<W> {
    /// The first byte has the address `addr`.
    pub(crate) fn new(out: W, addr: u64) -> Self {
        let line = Vec::with_capacity(HEX_LINE);
        Self { out, addr, line }
    }
}

impl<W: Write> Write for HexDump<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.line.push(*byte);
            if self.line.len() == HEX_LINE {
                self.flush()?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.line.is_empty() {
            return Ok(());
        }
        writeln!(self.out, "{}", hex_line(self.addr, &self.line))?;
        self.addr += self.line.len() as u64;
        self.line.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_of_others_never_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\u{9b}c\nd\u{202e}e"), "a?[2Jb?c d?e");
        let bytes = "a?\x1b[2J\n\u{202e}é".as_bytes();
        assert_eq!(readable(&[bytes, &[0xff, 0]].concat()), "a?.[2J..é..");
    }

    #[test]
    fn a_marked_byte_has_a_star_and_all_others_stay_where_they_are() {
        let bytes: Vec<u8> = (0x60..0x70).collect();
        let (plain, marked) = (
            hex_line(0x10, &bytes),
            marked_line(0x10, &bytes, &(0x17..0x19)),
        );
        assert_eq!(marked.replace('*', " "), plain);
        for (at, byte) in bytes.iter().enumerate() {
            let (star, letter) = hex_columns(at);
            let digits = format!("{byte:02x}");
            assert_eq!(marked.get(star + 1..star + 3), Some(digits.as_str()));
            assert_eq!(marked.as_bytes()[letter], *byte);
            let sign = if [7, 8].contains(&at) { "*" } else { " " };
            assert_eq!(marked.get(star..=star), Some(sign));
        }
    }
}
