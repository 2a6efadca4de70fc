//! Holes in pages files (`SEEK_HOLE`, lseek(2)): bytes that were punched away and read as zeros.
//!
//! A file system that cannot tell reports no holes at all.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::Ranges;
use crate::units::PageRange;

/// The holes of the first `len` bytes of `file`, as file offsets. Moves the file's position.
pub(crate) fn holes(file: &File, len: u64) -> io::Result<Ranges> {
    let mut holes = Ranges::new();
    let mut at = 0;
    while at < len {
        let hole = seek(file, at, Whence::SeekHole)?.unwrap_or(len).min(len);
        let data = if hole < len {
            seek(file, hole, Whence::SeekData)?.unwrap_or(len)
        } else {
            len
        };
        holes.push(PageRange::new(hole, data.min(len)));
        at = data;
    }
    Ok(holes)
}

/// Where the next hole (or data) begins; `None` when there is none before the end of the file.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(io::Error::other)?;
    match lseek(file, from, whence) {
        Ok(at) => u64::try_from(at).map(Some).map_err(io::Error::other),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom, Write as _};

    use super::*;

    #[test]
    fn holes_lie_where_nothing_was_written() {
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.seek(SeekFrom::Start(1 << 20)).unwrap();
        file.write_all(&[1; 8192]).unwrap();
        file.set_len(3 << 20).unwrap();
        let found: Vec<_> = holes(&file, 3 << 20).unwrap().iter().collect();
        assert_eq!(
            found,
            [
                PageRange::new(0, 1 << 20),
                PageRange::new((1 << 20) + 8192, 3 << 20)
            ]
        );
        assert!(holes(&tempfile::tempfile().unwrap(), 0).unwrap().is_empty());
    }
}
