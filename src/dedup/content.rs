//! Equal pages anywhere in the stack share their blocks on the disk, where the file system can.
//!
//! ioctl_fideduperange(2): the kernel compares the bytes itself, and nobody who reads the files can
//! tell. XFS and btrfs can; ext4 and tmpfs cannot. btrfs gives an extent back only when no page of it
//! is in use any more, so what it frees may be less than what is shared, or nothing.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::{self, FsType};

use super::apply::note;
use super::intact::{Intact, each};
use super::plan::{Share, stored};
use super::zero::{is_zero, pages};
use super::{Freed, Plan, Strategy};
use crate::chain::{self, Ranges, Stack};
use crate::error::{Error, Kind, Result};
use crate::event::{Cancel, Event, Reporter};
use crate::sys::extents::{self, Blocks, Shared};
use crate::units::{PAGE_SIZE, PageRange};

/// Lossless: equal pages share their blocks.
#[derive(Clone, Copy, Debug)]
pub struct Content;

/// The most that one request may share (btrfs does no more at once).
const MOST: u64 = 16 << 20;

/// Enough of a BLAKE3 digest: the kernel compares the bytes in any case.
type Print = [u8; 16];

/// A page in a pages file: number of the file, offset.
type Spot = (u32, u64);

impl Strategy for Content {
    fn name(&self) -> &'static str {
        "content"
    }

    fn summary(&self) -> &'static str {
        "lets equal pages share their blocks (xfs, btrfs); every layer stays what it is"
    }

    fn is_lossless(&self) -> bool {
        true
    }

    fn plan(&self, stack: &Stack, plan: &mut Plan, cancel: &Cancel) -> Result<()> {
        let mut intact = Intact::new(stack);
        let mut first: HashMap<Print, Spot> = HashMap::new();
        let mut files: Vec<(PathBuf, Vec<Blocks>)> = Vec::new();
        // From the oldest layer up: what is oldest is likeliest to stay.
        for (index, level) in stack.levels().iter().enumerate().rev() {
            for id in level.images().pagemaps()? {
                cancel.check()?;
                let Some(pagemap) = chain::pagemap(level.images(), id)? else {
                    continue;
                };
                let path = level.dir().join(format!("pages-{}.img", pagemap.pages_id));
                can_share(&path, plan)?; // where they cannot, it is still worth knowing
                let file = u32::try_from(files.len()).unwrap_or(u32::MAX);
                files.push((path.clone(), places(&path)?));
                let there = intact.stored(index, &pagemap)?;
                let runs = stored(&pagemap);
                let memory = stack.stored(index, &pagemap, id).checked();
                let (mut shared, mut run) = (Ranges::new(), 0);
                each(&memory, &there, |at, bytes| {
                    cancel.check()?;
                    for (at, page) in (at..).step_by(PAGE_SIZE as usize).zip(pages(bytes)) {
                        while runs.get(run).is_some_and(|(range, _)| range.end <= at) {
                            run += 1;
                        }
                        let Some((range, offset)) = runs.get(run) else {
                            break;
                        };
                        let offset = offset + (at - range.start);
                        if is_zero(page) {
                            continue; // a hole is cheaper
                        }
                        let mut print = Print::default();
                        print.copy_from_slice(&blake3::hash(page).as_bytes()[..16]);
                        let spot = *first.entry(print).or_insert((file, offset));
                        if spot != (file, offset) && !same_place(&files, spot, (file, offset)) {
                            shared.push(PageRange::of_pages(at, 1));
                            add(&mut plan.shares, &files, spot, (file, offset));
                        }
                    }
                    Ok(())
                })?;
                plan.cut(level, id, &pagemap, shared)?;
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        plan: &Plan,
        freed: &mut Freed,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<()> {
        let before = free_space(&plan.dir)?;
        let mut done = 0;
        for share in &plan.shares {
            cancel.check()?;
            done += one(share)? / PAGE_SIZE;
            let total = plan.pages;
            reporter.report(Event::Progress { done, total });
        }
        for cut in &plan.cuts {
            let file = File::open(cut.file());
            file.and_then(|file| file.sync_all())
                .map_err(|e| Error::path("sync", cut.file(), e))?;
            note(freed, &cut.dir, cut.pages, 0);
        }
        freed.pages = done;
        freed.bytes = free_space(&plan.dir)?.saturating_sub(before);
        Ok(())
    }
}

/// Shares the bytes of one request; returns how many are shared now.
fn one(share: &Share) -> Result<u64> {
    let cannot = |e| Error::path("share blocks of", &share.file, e);
    let from = File::open(&share.of).map_err(cannot)?;
    let to = File::options()
        .read(true)
        .write(true)
        .open(&share.file)
        .map_err(cannot)?;
    let mut done = 0;
    while done < share.bytes {
        let len = (share.bytes - done).min(MOST);
        let (there, here) = (share.of_offset + done, share.offset + done);
        match extents::share(&from, there, &to, here, len) {
            Ok(Shared::Bytes(bytes)) if bytes > 0 => done += bytes,
            Ok(_) => {
                let what = format!("{} changed meanwhile", share.file.display());
                return Err(Error::new(Kind::Busy, what).hint("Plan it again"));
            }
            Err(errno) => return Err(cannot(errno.into())),
        }
    }
    Ok(done)
}

/// Adds a page to the last request, if it continues that, or else a new request.
fn add(shares: &mut Vec<Share>, files: &[(PathBuf, Vec<Blocks>)], from: Spot, to: Spot) {
    let path = |spot: Spot| {
        let file = usize::try_from(spot.0).ok().and_then(|n| files.get(n));
        file.map(|(path, _)| path.clone()).unwrap_or_default()
    };
    if let Some(last) = shares.last_mut()
        && last.offset + last.bytes == to.1
        && last.of_offset + last.bytes == from.1
        && last.file == path(to)
        && last.of == path(from)
        // Within a file, the two ranges of a request may not overlap.
        && (last.file != last.of || last.of_offset.abs_diff(last.offset) > last.bytes)
    {
        last.bytes += PAGE_SIZE;
        return;
    }
    shares.push(Share {
        file: path(to),
        offset: to.1,
        of: path(from),
        of_offset: from.1,
        bytes: PAGE_SIZE,
    });
}

/// Whether two pages use the same blocks already.
fn same_place(files: &[(PathBuf, Vec<Blocks>)], a: Spot, b: Spot) -> bool {
    let place = |(file, offset): Spot| {
        let (_, blocks) = usize::try_from(file).ok().and_then(|n| files.get(n))?;
        let after = blocks.partition_point(|part| part.offset <= offset);
        let part = blocks.get(after.checked_sub(1)?)?;
        let inside = offset
            .checked_sub(part.offset)
            .filter(|i| *i < part.bytes)?;
        (part.place != u64::MAX).then_some(part.place + inside)
    };
    place(a).is_some_and(|a| place(b) == Some(a))
}

/// Where the blocks of a file are; nothing when the file system does not tell.
fn places(path: &Path) -> Result<Vec<Blocks>> {
    let cannot = |e| Error::path("read", path, e);
    let file = File::open(path).map_err(cannot)?;
    let len = file.metadata().map_err(cannot)?.len();
    let (mut all, mut at) = (Vec::new(), 0);
    while at < len {
        match extents::blocks(&file, at) {
            Ok(blocks) if blocks.is_empty() => break,
            Ok(blocks) => {
                at = blocks.last().map_or(len, |last| last.offset + last.bytes);
                all.extend(blocks);
            }
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::EINVAL) => break,
            Err(errno) => return Err(cannot(errno.into())),
        }
    }
    Ok(all)
}

/// Adds an obstacle when the file system is known not to be able to.
fn can_share(path: &Path, plan: &mut Plan) -> Result<()> {
    const XFS: FsType = statfs::XFS_SUPER_MAGIC;
    const BTRFS: FsType = statfs::BTRFS_SUPER_MAGIC;
    const BCACHEFS: FsType = FsType(0xca45_1a4e);
    const OVERLAY: FsType = statfs::OVERLAYFS_SUPER_MAGIC;
    let found = statfs::statfs(path)
        .map_err(|errno| Error::path("look at the file system of", path, errno.into()))?
        .filesystem_type();
    let can = [XFS, BTRFS, BCACHEFS, OVERLAY].contains(&found);
    if !can {
        let device = path.metadata().map_or(0, |meta| meta.dev());
        tracing::debug!("{} is on device {device}", path.display());
        let folder = path.parent().unwrap_or(path).display();
        plan.obstacle(
            Kind::Unsupported,
            format!("Files in {folder} cannot share blocks: the file system has no reflinks"),
            "Keep the stack on xfs or btrfs, or use the strategies unchanged and zero",
        );
    }
    Ok(())
}

/// Bytes that are free in the file system of the stack, everything written.
fn free_space(dir: &Path) -> Result<u64> {
    let cannot = |errno: Errno| Error::path("look at the file system of", dir, errno.into());
    let file = File::open(dir).map_err(|e| Error::path("open", dir, e))?;
    nix::unistd::syncfs(&file).map_err(cannot)?;
    let found = statfs::fstatfs(&file).map_err(cannot)?;
    Ok(found.blocks_free() * u64::try_from(found.block_size()).unwrap_or(0))
}
