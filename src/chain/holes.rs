//! Holes in pages files (`SEEK_HOLE`, lseek(2)): bytes that were punched away and read as zeros.
//!
//! A file system that cannot tell reports no holes at all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::Ranges;
use crate::image::PagesDigest;
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

/// The holes that pages were lost in: those of `file` that are neither noted as zeros in the
/// sidecar, nor part of blocks whose digest fits nevertheless (a copy may leave out zeros).
pub(crate) fn lost(file: &File, len: u64, known: Option<&PagesDigest>) -> io::Result<Ranges> {
    let holes = holes(file, len)?;
    let Some(known) = known else {
        return Ok(holes);
    };
    let lost = holes.minus(&known.zeros[..].into());
    if lost.is_empty() || !known.is_known() {
        return Ok(lost);
    }
    let freed = Ranges::from(&known.freed[..]);
    let gone = lost.intersect(&freed);
    let mut doubtful = lost.minus(&freed);
    let mut buffer = vec![0; usize::try_from(known.block_bytes()).unwrap_or(0)];
    let mut sound = Ranges::new();
    let size = known.block_bytes();
    for hole in doubtful.iter() {
        for index in hole.start / size..hole.end.div_ceil(size) {
            let (start, len) = known.block(index);
            let bytes = &mut buffer[..len];
            if file.read_exact_at(bytes, start).is_ok() && known.block_matches(index, bytes) {
                sound.push(PageRange::new(start, start + size));
            }
        }
    }
    doubtful = doubtful.minus(&sound);
    Ok(gone.union(&doubtful))
}

/// The holes in `bytes` of `file` that its sidecar does not explain: `criu dedup` makes such.
pub(super) fn unmarked(file: &File, bytes: PageRange, known: &PagesDigest) -> io::Result<Ranges> {
    let holes = holes(file, bytes.end)?.intersect(&bytes.into());
    let (zeros, freed) = (
        Ranges::from(&known.zeros[..]),
        Ranges::from(&known.freed[..]),
    );
    Ok(holes.minus(&zeros).minus(&freed))
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
