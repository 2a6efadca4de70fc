//! Pipes: both ends, contents, capacity, packet mode.
//!
//! CRIU: `pipe_entry` per description (`pipe_id` = inode; the flags tell the end), contents and
//! capacity once per pipe in `pipes-data.img`. An end that nobody holds stays away after a restore,
//! so the other end still sees end-of-file or SIGPIPE. Sources: pipe(7), tee(2), `fs/pipe.c`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use nix::unistd::pipe2;

use super::descriptor::Descriptor;
use super::{Allow, Dumper, FileKind, Findings, Held, Opening, Outside, Refusal, Reopened};
use crate::error::{Error, Kind, Result};
use crate::image::proto::{FdTypes, FileEntry, PipeDataEntry, PipeEntry};
use crate::sys::descriptor::{tee, unread};

/// Anonymous pipes.
#[derive(Debug)]
pub(super) struct Pipe;

impl FileKind for Pipe {
    fn name(&self) -> &'static str {
        "pipe"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.shown().starts_with("pipe:[") && file.stat.file_type() == libc::S_IFIFO
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, _: &Allow) -> Option<Refusal> {
        shared_outside(file, "a pipe", outside)
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Pipe
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let pipe_id = pipe_number(held.file)?;
        if let Some(copy) = &held.copy {
            dumper.pipes.take(pipe_id, held.file, copy)?;
        }
        let pipe = PipeEntry {
            id,
            pipe_id,
            flags: held.file.flags,
            fown: held.fown,
        };
        dumper.push(FileEntry {
            r#type: FdTypes::Pipe.into(),
            id,
            pipe: Some(pipe),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, _: &mut Findings<'_>) -> Result<()> {
        part(entry).map(drop)
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        let entry = part(entry)?;
        let mut ends = match opening.pipes.remove(&entry.pipe_id) {
            Some(ends) => ends,
            None => Ends::pipe(
                entry.pipe_id,
                opening.contents("pipes-data.img", entry.pipe_id)?,
            )?,
        };
        let file = ends.reopen(entry.flags);
        opening.pipes.insert(entry.pipe_id, ends);
        Ok(Some(Reopened {
            file: file?,
            flags: entry.flags,
            fown: entry.fown,
        }))
    }
}

fn part(entry: &FileEntry) -> Result<&PipeEntry> {
    let missing = || Error::corrupt(format!("files.img: entry {} is no pipe", entry.id));
    entry.pipe.as_ref().ok_or_else(missing)
}

/// The number of a pipe in the images: its inode.
fn pipe_number(file: &Descriptor) -> Result<u32> {
    u32::try_from(file.stat.ino).map_err(|e| {
        Error::new(
            Kind::Unsupported,
            format!("{} has too large a number", file.shown()),
        )
        .because(e)
    })
}

/// The refusal of a pipe or FIFO that a process outside of the target holds too.
pub(super) fn shared_outside(file: &Descriptor, what: &str, outside: &Outside) -> Option<Refusal> {
    let holder = outside.holder(&file.stat)?;
    let (pid, comm) = (holder.pid, &holder.comm);
    let hint = if file.number.is_some_and(|n| n <= 2) {
        "start the program with its input and output redirected to files (PROGRAM < /dev/null > \
         LOG 2>&1), or dump from a common ancestor of both processes"
    } else {
        "end the other process, or dump from a common ancestor of both processes"
    };
    Some(Refusal {
        what: format!(
            "{what} ({}) shared with {comm} (pid {pid}), not in the tree,",
            file.shown()
        ),
        hint: hint.to_owned(),
    })
}

/// Contents and capacities of pipes (or FIFOs), by number.
#[derive(Debug, Default)]
pub(super) struct Contents(BTreeMap<u32, Content>);

/// Those of one pipe.
#[derive(Debug)]
struct Content {
    data: PipeDataEntry,
    bytes: Vec<u8>,
    /// Somebody writes packets: only a writing end tells (pipe2(2), `O_DIRECT`).
    packet_mode: bool,
}

impl Contents {
    /// Takes over capacity and, from a reading end, the unread bytes; they stay in the pipe.
    pub(super) fn take(&mut self, number: u32, file: &Descriptor, copy: &OwnedFd) -> Result<()> {
        let cannot = |e| Error::os(format!("Cannot look into {}", file.shown()), e);
        let known = match self.0.get_mut(&number) {
            Some(known) => known,
            None => {
                let capacity = fcntl(copy, FcntlArg::F_GETPIPE_SZ).map_err(cannot)?;
                let size = Some(capacity.cast_unsigned());
                let data = PipeDataEntry {
                    pipe_id: number,
                    bytes: 0,
                    size,
                    packets: Vec::new(),
                };
                self.0.entry(number).or_insert(Content {
                    data,
                    bytes: Vec::new(),
                    packet_mode: false,
                })
            }
        };
        let reads = file.flags & libc::O_ACCMODE.cast_unsigned() != libc::O_WRONLY.cast_unsigned();
        if reads && known.bytes.is_empty() {
            let chunks = peek(copy, known.data.size.unwrap_or(0)).map_err(cannot)?;
            // Without packets there is one piece, however it was written.
            if chunks.len() > 1 {
                let length = |chunk: &Vec<u8>| u32::try_from(chunk.len()).unwrap_or(u32::MAX);
                known.data.packets = chunks.iter().map(length).collect();
            }
            known.bytes = chunks.concat();
            known.data.bytes = u32::try_from(known.bytes.len()).unwrap_or(u32::MAX);
        }
        known.packet_mode |= file.flags & libc::O_DIRECT.cast_unsigned() != 0;
        if known.packet_mode && known.data.packets.is_empty() && !known.bytes.is_empty() {
            known.data.packets = vec![known.data.bytes];
        }
        Ok(())
    }

    /// Records for the image.
    pub(super) fn records(&self) -> impl Iterator<Item = (&PipeDataEntry, &[u8])> {
        self.0.values().map(|known| (&known.data, &*known.bytes))
    }
}

/// Reads what is in the pipe without taking it out: all bytes in one piece, or one piece per packet
/// (pipe2(2), `O_DIRECT`).
fn peek(reader: &OwnedFd, capacity: u32) -> nix::Result<Vec<Vec<u8>>> {
    if unread(reader)? == 0 {
        return Ok(Vec::new());
    }
    let (ours, filled) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    fcntl(&filled, FcntlArg::F_SETPIPE_SZ(capacity.cast_signed()))?;
    let all = usize::try_from(capacity).unwrap_or(usize::MAX);
    let mut left = tee(reader, &filled, all)?;
    let mut ours = File::from(ours);
    let mut chunks = Vec::new();
    while left > 0 {
        let mut chunk = vec![0; left];
        let errno = |e: io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        let count = ours.read(&mut chunk).map_err(errno)?;
        if count == 0 {
            return Err(Errno::EIO);
        }
        chunk.truncate(count);
        left -= count;
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// A pipe or FIFO being restored: open for reading and writing, so that no open waits.
#[derive(Debug)]
pub(super) struct Ends {
    /// What to call it.
    name: String,
    read: OwnedFd,
    /// The writing end of a pipe; a FIFO has both in `read`.
    write: Option<OwnedFd>,
    /// Which ends of a pipe were handed out; further ones are opened anew.
    given: [bool; 2],
}

impl Ends {
    /// A new pipe with these contents.
    fn pipe(number: u32, contents: Option<(PipeDataEntry, Vec<u8>)>) -> Result<Self> {
        let name = format!("pipe {number}");
        let cannot = |e| Error::os(format!("Cannot make {name}"), e);
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(cannot)?;
        fill(&name, copy(&name, &write)?, contents)?;
        Ok(Self {
            name,
            read,
            write: Some(write),
            given: [false; 2],
        })
    }

    /// The FIFO behind `both`, open for reading and writing, with these contents.
    pub(super) fn fifo(
        name: &str,
        both: OwnedFd,
        contents: Option<(PipeDataEntry, Vec<u8>)>,
    ) -> Result<Self> {
        fill(name, copy(name, &both)?, contents)?;
        Ok(Self {
            name: name.to_owned(),
            read: both,
            write: None,
            given: [false; 2],
        })
    }

    /// A reading end of a FIFO that has no writer, opened when there is none: one that was opened before a
    /// writer left is told of a hang-up.
    pub(super) fn early(&mut self) -> Result<OwnedFd> {
        let cannot = |e| Error::os(format!("Cannot open {}", self.name), e);
        // Neither waits for a writer; the caller sets what the end had.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let again = |end: &OwnedFd| {
            let path = format!("/proc/self/fd/{}", end.as_raw_fd());
            open(&*path, flags, Mode::empty()).map_err(cannot)
        };
        // This keeps the contents, and ours no longer writes.
        self.read = again(&self.read)?;
        again(&self.read)
    }

    /// A description of its own with `flags`; the caller sets those that open does not take.
    pub(super) fn reopen(&mut self, flags: u32) -> Result<OwnedFd> {
        let flags = OFlag::from_bits_retain(flags.cast_signed());
        if let Some(write) = &self.write {
            let (end, given) = match flags & OFlag::O_ACCMODE {
                OFlag::O_RDONLY => (Some(&self.read), &mut self.given[0]),
                OFlag::O_WRONLY => (Some(write), &mut self.given[1]),
                _ => (None, &mut self.given[0]),
            };
            if let (Some(end), false) = (end, *given) {
                *given = true;
                return copy(&self.name, end);
            }
        }
        let kept = OFlag::O_ACCMODE | OFlag::O_NONBLOCK;
        let path = format!("/proc/self/fd/{}", self.read.as_raw_fd());
        open(&*path, flags & kept | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| Error::os(format!("Cannot open {}", self.name), e))
    }
}

fn copy(name: &str, end: &OwnedFd) -> Result<OwnedFd> {
    end.try_clone()
        .map_err(|e| Error::io(format!("Cannot copy {name}"), e))
}

/// Gives a pipe its capacity and contents.
fn fill(name: &str, write: OwnedFd, contents: Option<(PipeDataEntry, Vec<u8>)>) -> Result<()> {
    let Some((data, bytes)) = contents else {
        return Ok(());
    };
    let now = fcntl(&write, FcntlArg::F_GETPIPE_SZ).unwrap_or(0);
    if let Some(size) = data.size.map(u32::cast_signed).filter(|size| *size != now) {
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(size)).map_err(|e| {
            Error::os(
                format!("Cannot give {name} its capacity of {size} bytes"),
                e,
            )
            .hint(format!("raise it: sysctl fs.pipe-max-size={size}"))
        })?;
    }
    let cannot = || format!("Cannot fill {name} with its {} bytes", bytes.len());
    let mut write = File::from(write);
    // Not blocking: more bytes than the capacity are an error, not a wait without end.
    if data.packets.is_empty() {
        return write.write_all(&bytes).map_err(|e| Error::io(cannot(), e));
    }
    let mode = |flags| {
        let flags = OFlag::O_NONBLOCK | flags;
        fcntl(&write, FcntlArg::F_SETFL(flags)).map_err(|e| Error::os(cannot(), e))
    };
    mode(OFlag::O_DIRECT)?;
    let mut rest = &bytes[..];
    for length in &data.packets {
        let length = usize::try_from(*length).unwrap_or(usize::MAX);
        let Some((packet, after)) = rest.split_at_checked(length) else {
            return Err(Error::corrupt(format!(
                "{name} holds fewer bytes than its packets have"
            )));
        };
        (&write)
            .write_all(packet)
            .map_err(|e| Error::io(cannot(), e))?;
        rest = after;
    }
    mode(OFlag::empty()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes: &[u8], flags: OFlag) -> (OwnedFd, File) {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | flags).unwrap();
        let mut write = File::from(write);
        write.write_all(bytes).unwrap();
        (read, write)
    }

    #[test]
    fn contents_are_read_and_stay_in_the_pipe() {
        let (read, _write) = filled(b"hello", OFlag::empty());
        for _ in 0..2 {
            assert_eq!(peek(&read, 65536).unwrap(), [b"hello"]);
        }
        assert_eq!(unread(&read).unwrap(), 5);
    }

    #[test]
    fn a_full_pipe_of_many_small_writes_is_read_whole() {
        let (read, mut write) = filled(&[7; 5000], OFlag::O_NONBLOCK);
        let mut sent = 5000;
        while let Ok(count) = write.write(&[7; 999]) {
            sent += count;
        }
        assert_eq!(peek(&read, 65536).unwrap(), [vec![7; sent]]);
    }

    #[test]
    fn packets_come_one_by_one() {
        let (read, mut write) = filled(b"one", OFlag::O_DIRECT);
        write.write_all(b"two!").unwrap();
        assert_eq!(peek(&read, 65536).unwrap(), [&b"one"[..], b"two!"]);
    }

    #[test]
    fn an_empty_pipe_without_writer_is_empty() {
        let (read, write) = filled(b"", OFlag::empty());
        drop(write);
        assert!(peek(&read, 65536).unwrap().is_empty());
    }

    #[test]
    fn a_restored_pipe_has_contents_capacity_and_only_the_ends_that_were_opened() {
        let data = PipeDataEntry {
            pipe_id: 5,
            bytes: 3,
            size: Some(1 << 17),
            packets: Vec::new(),
        };
        let mut ends = Ends::pipe(5, Some((data, b"abc".to_vec()))).unwrap();
        let reader = ends.reopen(libc::O_RDONLY.cast_unsigned()).unwrap();
        drop(ends);
        assert_eq!(fcntl(&reader, FcntlArg::F_GETPIPE_SZ).unwrap(), 1 << 17);
        let mut all = Vec::new();
        File::from(reader).read_to_end(&mut all).unwrap();
        assert_eq!(all, b"abc");
    }

    #[test]
    fn packets_are_packets_again() {
        let data = PipeDataEntry {
            pipe_id: 5,
            bytes: 7,
            size: None,
            packets: vec![3, 4],
        };
        let mut ends = Ends::pipe(5, Some((data, b"onetwo!".to_vec()))).unwrap();
        let mut reader = File::from(ends.reopen(libc::O_RDONLY.cast_unsigned()).unwrap());
        let mut all = [0; 100];
        assert_eq!(reader.read(&mut all).unwrap(), 3);
        assert_eq!(reader.read(&mut all).unwrap(), 4);
        assert_eq!(&all[..4], b"two!");
    }

    #[test]
    fn packets_longer_than_the_contents_are_corrupt() {
        let data = PipeDataEntry {
            pipe_id: 5,
            bytes: 3,
            size: None,
            packets: vec![2, 2],
        };
        let error = Ends::pipe(5, Some((data, b"abc".to_vec()))).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }

    #[test]
    fn more_bytes_than_capacity_are_an_error() {
        let data = PipeDataEntry {
            pipe_id: 5,
            bytes: 5000,
            size: Some(4096),
            packets: Vec::new(),
        };
        assert!(Ends::pipe(5, Some((data, vec![0; 5000]))).is_err());
    }
}
