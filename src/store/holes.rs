//! Copies of files that have holes: what was never written takes no room in the copy either.
//!
//! Source: lseek(2), `SEEK_DATA` and `SEEK_HOLE`.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// Writes the first `bytes` bytes of `source` into the new file `target`, with its holes; file systems that can
/// share blocks do.
///
/// # Errors
/// As read(2) and write(2).
pub fn copy_with_holes(source: &File, target: &File, bytes: u64) -> io::Result<()> {
    target.set_len(bytes)?;
    let mut at = 0;
    while at < bytes {
        let start = match seek(source, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(_no_holes) => at,
        };
        let end = seek(source, start, Whence::SeekHole);
        let end = end.unwrap_or(bytes).min(bytes);
        let (mut from, mut to) = (source, target);
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        // copy_file_range(2) where that works.
        io::copy(&mut from.take(end.saturating_sub(start)), &mut to)?;
        at = end.max(at + 1);
    }
    Ok(())
}

fn seek(file: &File, at: u64, whence: Whence) -> nix::Result<u64> {
    lseek(file, at.cast_signed(), whence).map(i64::cast_unsigned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    #[test]
    fn a_copy_has_the_bytes_and_the_holes_of_its_source() {
        let (source, target) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let size = 64 << 20;
        source.set_len(size).unwrap();
        for at in [0, 9 << 20, size - 3] {
            source.write_all_at(b"abc", at).unwrap();
        }
        copy_with_holes(&source, &target, size).unwrap();
        for at in [0, 9 << 20, size - 3] {
            let mut is = [0; 3];
            target.read_exact_at(&mut is, at).unwrap();
            assert_eq!(&is, b"abc");
        }
        let meta = target.metadata().unwrap();
        assert_eq!(meta.len(), size);
        assert!(meta.blocks() * 512 < size / 8, "{} blocks", meta.blocks());
    }
}
