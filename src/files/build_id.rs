//! The build id of a program or library: says whether a file that is mapped is still the same one.
//!
//! CRIU: `reg_file_entry.build_id`, the bytes in little-endian words. Sources: elf(5).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// `PT_NOTE`.
const SEGMENT_NOTE: u32 = 4;
/// `NT_GNU_BUILD_ID`.
const NOTE_BUILD_ID: u32 = 3;
/// Segments of notes longer than this are not looked at.
const LONGEST_NOTES: u64 = 64 * 1024;

/// The build id of a 64-bit little-endian ELF file, in words as CRIU stores it; `None` for other
/// files and for those without one.
pub(super) fn build_id(file: &File) -> Option<Vec<u32>> {
    let header = bytes_at(file, 0, 64).ok()?;
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, size, count) = (
        u64_at(&header, 32)?,
        u16_at(&header, 54)?,
        u16_at(&header, 56)?,
    );
    for index in 0..u64::from(count) {
        let segment = bytes_at(file, table.checked_add(index * u64::from(size))?, 56).ok()?;
        if u32_at(&segment, 0)? != SEGMENT_NOTE {
            continue;
        }
        let (offset, length) = (u64_at(&segment, 8)?, u64_at(&segment, 32)?);
        if length > LONGEST_NOTES {
            continue;
        }
        let align = if u64_at(&segment, 48)? == 8 { 8 } else { 4 };
        let notes = bytes_at(file, offset, usize::try_from(length).ok()?).ok()?;
        if let Some(id) = in_notes(&notes, align) {
            return Some(words(id));
        }
    }
    None
}

/// The build id within a segment of notes.
fn in_notes(mut notes: &[u8], align: usize) -> Option<&[u8]> {
    while notes.len() >= 12 {
        let name_size = usize::try_from(u32_at(notes, 0)?).ok()?;
        let size = usize::try_from(u32_at(notes, 4)?).ok()?;
        let name_end = 12_usize.checked_add(name_size)?;
        let start = name_end.checked_next_multiple_of(align)?;
        let end = start.checked_add(size)?;
        if u32_at(notes, 8)? == NOTE_BUILD_ID && notes.get(12..name_end)? == b"GNU\0" {
            return notes.get(start..end).filter(|id| !id.is_empty());
        }
        notes = notes.get(end.checked_next_multiple_of(align)?..)?;
    }
    None
}

/// Bytes as little-endian words, the last one filled up with zeros.
fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |chunk: &[u8]| {
        chunk
            .iter()
            .rev()
            .fold(0, |all, byte| all << 8 | u32::from(*byte))
    };
    bytes.chunks(4).map(word).collect()
}

fn bytes_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn note(kind: u32, name: &[u8], body: &[u8], align: usize) -> Vec<u8> {
        let size = |part: &[u8]| u32::try_from(part.len()).unwrap().to_le_bytes();
        let mut out = [size(name), size(body), kind.to_le_bytes()].concat();
        for part in [name, body] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(align), 0);
        }
        out
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        for align in [4, 8] {
            let id = note(3, b"GNU\0", &[1, 2, 3, 4, 5], align);
            let notes = [
                note(1, b"GNU\0", &[9; 17], align),
                note(3, b"Go\0\0", b"x", align),
                id,
            ];
            assert_eq!(in_notes(&notes.concat(), align), Some(&[1, 2, 3, 4, 5][..]));
        }
    }

    #[test]
    fn a_file_that_is_no_program_has_none() {
        assert_eq!(build_id(&File::open("/dev/null").unwrap()), None);
        assert_eq!(build_id(&File::open("/proc/self/status").unwrap()), None);
    }

    #[test]
    fn words_are_little_endian() {
        assert_eq!(words(&[1, 2, 3, 4, 5]), [0x0403_0201, 5]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(notes in prop::collection::vec(any::<u8>(), 0..200)) {
            in_notes(&notes, 4);
            in_notes(&notes, 8);
        }
    }
}
