//! What the parts of a task's memory are called, as far as its images can be read.

use crate::image::proto::{FileEntry, MmEntry, VmaEntry};
use crate::image::{Images, PagemapId};
use crate::units::PageRange;

/// The mappings of a task with their names, ascending.
pub(crate) fn mappings(images: &Images, id: PagemapId) -> Vec<(PageRange, String)> {
    let PagemapId::Task(pid) = id else {
        return vec![(PageRange::new(0, u64::MAX), "shared segment".to_owned())];
    };
    let mm: Option<MmEntry> = images
        .optional(&format!("mm-{pid}.img"))
        .unwrap_or_default();
    let files: Vec<FileEntry> = images.all("files.img").unwrap_or_default();
    let vmas = mm.map(|mm| mm.vmas).unwrap_or_default();
    vmas.iter()
        .map(|vma| (PageRange::new(vma.start, vma.end), name(vma, &files)))
        .collect()
}

/// The parts of `range` with the names of the mappings that they are in.
pub fn named(mappings: &[(PageRange, String)], range: PageRange) -> Vec<(PageRange, String)> {
    let mut parts = Vec::new();
    let mut at = range.start;
    let first = mappings.partition_point(|(mapped, _)| mapped.end <= range.start);
    for (mapped, name) in &mappings[first..] {
        let part = mapped.intersect(PageRange::new(at, range.end));
        if part.is_empty() {
            break;
        }
        if part.start > at {
            parts.push((PageRange::new(at, part.start), "no mapping".to_owned()));
        }
        at = part.end;
        parts.push((part, name.clone()));
    }
    if at < range.end {
        parts.push((PageRange::new(at, range.end), "no mapping".to_owned()));
    }
    parts
}

/// As in `/proc/PID/maps` (proc_pid_maps(5)).
fn name(vma: &VmaEntry, files: &[FileEntry]) -> String {
    let has = |bit: u32| vma.status & (1 << bit) != 0;
    if has(6) || has(7) {
        let id = u32::try_from(vma.shmid).ok();
        let file = files.iter().find(|file| Some(file.id) == id);
        let path = file
            .and_then(|file| file.reg.as_ref())
            .map(|reg| reg.name.clone());
        return path.unwrap_or_else(|| "a file".to_owned());
    }
    match () {
        () if has(5) => "[heap]",
        () if has(1) => "[stack]",
        () if has(3) => "[vdso]",
        () if has(12) => "[vvar]",
        () => "anonymous memory",
    }
    .to_owned()
}
