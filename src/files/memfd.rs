//! memfds, and the unnamed files behind shared anonymous memory, which the kernel keeps alike.
//!
//! CRIU: `memfd_file_entry` per description, `memfd_inode_entry` per file in `memfd.img`; the
//! contents are pages of `pagemap-shmem-SHMID.img`, written by the memory module. Shared anonymous
//! mappings are entered in the same way under the name `/dev/zero`. Sources: memfd_create(2),
//! `mm/shmem.c`.

use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::descriptor::Descriptor;
use super::{FileKind, Outside, Refusal};

/// Start of the link's text.
const PREFIX: &str = "/memfd:";

/// Files of memory that have no path.
#[derive(Debug)]
pub(super) struct Memfd;

impl FileKind for Memfd {
    fn name(&self) -> &'static str {
        "memfd"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        file.stat.nlink == 0 && segment_name(&file.shown()).is_some() && in_memory(file)
    }

    fn asks_outside(&self) -> bool {
        true
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside) -> Option<Refusal> {
        if Some(file.stat.dev) != memory_device() {
            return Some(Refusal {
                what: format!("a memfd of huge pages ({})", file.shown()),
                hint: "run the program without huge pages".to_owned(),
            });
        }
        let Some(holder) = outside.holder(&file.stat) else {
            return super::regular::lock_refusal(file);
        };
        Some(Refusal {
            what: format!(
                "{} shared with {} (pid {}), not in the tree,",
                file.shown(),
                holder.comm,
                holder.pid
            ),
            hint: "end the other process, or dump from a common ancestor of both".to_owned(),
        })
    }
}

/// The name that was given to memfd_create, or `/dev/zero` for shared anonymous memory.
fn segment_name(text: &str) -> Option<&str> {
    let name = text.strip_suffix(" (deleted)")?;
    if name == "/dev/zero" {
        Some(name)
    } else {
        name.strip_prefix(PREFIX)
    }
}

/// True on the kernel's internal filesystems without a mount point; false for a deleted file that
/// happens to be called the same.
fn in_memory(file: &Descriptor) -> bool {
    Some(file.stat.dev) == memory_device() || huge_page_file(file)
}

/// Huge-page memfds live on a filesystem of their own; its block size is the page size.
fn huge_page_file(file: &Descriptor) -> bool {
    nix::sys::statfs::statfs(&file.link)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::HUGETLBFS_MAGIC)
}

/// The device number of the filesystem that holds all memfds.
fn memory_device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let probe = memfd_create(c"icecore-probe", MFdFlags::MFD_CLOEXEC).ok()?;
        Some(nix::sys::stat::fstat(&probe).ok()?.st_dev)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;
    use crate::units::Pid;

    #[test]
    fn a_memfd_is_recognised_and_a_deleted_file_of_that_name_is_not() {
        let memfd = memfd_create(c"seg", MFdFlags::MFD_CLOEXEC).unwrap();
        let mut file = Descriptor::read(Pid::this(), "x", memfd.as_raw_fd())
            .unwrap()
            .unwrap();
        assert!(Memfd.recognises(&file));
        file.stat.dev = u64::MAX;
        file.link = "/".into();
        assert!(!Memfd.recognises(&file));
    }

    #[test]
    fn names_are_taken_from_the_link() {
        assert_eq!(segment_name("/memfd:a b (deleted)"), Some("a b"));
        assert_eq!(segment_name("/memfd: (deleted)"), Some(""));
        assert_eq!(segment_name("/dev/zero (deleted)"), Some("/dev/zero"));
        assert_eq!(segment_name("/tmp/x (deleted)"), None);
    }
}
