//! A mount namespace (mount_namespaces(7)) that is a copy of ours, but for `/proc`.

use std::fs::File;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use procfs::process::{MountInfo, Process as Proc};

use crate::error::{Error, Result};
use crate::inject::{Call, Remote};
use crate::task::proc;
use crate::units::Pid;

/// How many instances of proc a process has mounted on the mounts that we have; as an error, the
/// first place where something else differs (a mount on another one is seen as both).
///
/// # Errors
/// When the mounts cannot be read.
pub(super) fn compare(pid: Pid) -> Result<std::result::Result<u32, String>> {
    let read = |pid: Pid| {
        let mounts = Proc::new(pid.as_raw()).and_then(|p| p.mountinfo());
        mounts.map_err(|e| proc::unreadable(&format!("/proc/{pid}/mountinfo"), e))
    };
    Ok(extra(read(Pid::this())?.0, read(pid)?.0))
}

/// How many of `theirs` are proc on `/proc` beyond `ours`, when nothing else differs.
fn extra(ours: Vec<MountInfo>, theirs: Vec<MountInfo>) -> std::result::Result<u32, String> {
    let mut missing = ours;
    let mut procs = 0;
    for mount in theirs {
        let same = |other: &MountInfo| {
            (
                &mount.majmin,
                &mount.root,
                &mount.mount_point,
                &mount.fs_type,
            ) == (
                &other.majmin,
                &other.root,
                &other.mount_point,
                &other.fs_type,
            )
        };
        let on_proc = mount.fs_type == "proc" && mount.mount_point.as_os_str() == "/proc";
        if let Some(at) = missing.iter().position(same) {
            missing.swap_remove(at);
        } else if on_proc && mount.root == "/" {
            procs += 1;
        } else {
            return Err(mount.mount_point.display().to_string());
        }
    }
    match missing.first() {
        None => Ok(procs),
        Some(mount) => Err(mount.mount_point.display().to_string()),
    }
}

/// This thread in a mount namespace of its own, a copy of the one it comes from and goes back to.
/// What it opens and forks meanwhile belongs there.
#[derive(Debug)]
pub struct Aside {
    home: File,
    directory: File,
}

impl Aside {
    /// Goes there.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter() -> Result<Self> {
        let open = |path: &str| File::open(path).map_err(|e| Error::path("open", path, e));
        let aside = Self {
            home: open("/proc/thread-self/ns/mnt")?,
            directory: open(".")?,
        };
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)
            .map_err(|e| Error::os("Cannot make a mount namespace", e))?;
        let none: Option<&str> = None;
        let apart = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, apart, none)
            .map_err(|e| Error::os("Cannot keep mounts to a new namespace", e))?;
        Ok(aside)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        let back = setns(&self.home, CloneFlags::CLONE_NEWNS)
            .and_then(|()| nix::unistd::fchdir(&self.directory));
        if let Err(errno) = back {
            tracing::warn!("cannot go back into our mount namespace: {errno}");
        }
    }
}

/// Lets the first process of a new tree mount proc.
///
/// # Errors
/// When the kernel refuses.
pub fn mount_procs(root: &mut Remote, times: u32) -> Result<()> {
    let name = root.put(0, b"proc\0")?;
    let place = root.put(8, b"/proc\0")?;
    let flags = (MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC).bits();
    let mut calls =
        vec![Call::new(libc::SYS_mount, &[name, place, name, flags, 0]); times as usize];
    root.run(&mut calls)?;
    for call in calls {
        call.value()
            .map_err(|e| Error::os("Cannot mount proc in a new namespace", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(lines: &[&str]) -> Vec<MountInfo> {
        let line = |text: &&str| MountInfo::from_line(text).unwrap();
        lines.iter().map(line).collect()
    }

    const ROOT: &str = "24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw";
    const PROC: &str = "25 24 0:22 / /proc rw,relatime shared:2 - proc proc rw";
    const COPIES: [&str; 2] = [
        "94 93 254:0 / / rw,relatime - ext4 /dev/vda rw",
        "95 94 0:22 / /proc rw,relatime - proc proc rw",
    ];
    const FRESH: &str = "96 95 0:55 / /proc rw,relatime - proc proc rw";
    const OTHER: &str = "97 94 0:56 / /tmp rw,relatime - tmpfs none rw";

    #[test]
    fn a_copy_with_a_fresh_proc_is_one() {
        let [root, proc] = COPIES;
        let of = |theirs: &[&str]| extra(mounts(&[ROOT, PROC]), mounts(theirs));
        assert_eq!(of(&[root, proc]), Ok(0));
        assert_eq!(of(&[root, proc, FRESH]), Ok(1));
        assert_eq!(of(&[root, proc, FRESH, OTHER]), Err("/tmp".to_owned()));
        assert_eq!(of(&[root, FRESH]), Err("/proc".to_owned()));
        assert_eq!(of(&[proc, FRESH]), Err("/".to_owned()));
    }

    #[test]
    fn what_is_opened_aside_can_be_used_at_home() {
        // A thread of its own: it has to leave what the threads of a process share.
        let there = std::thread::spawn(|| {
            let before = std::env::current_dir().unwrap();
            let Ok(aside) = Aside::enter() else { return };
            let file = File::open("/proc/self/stat").unwrap();
            drop(aside);
            assert_eq!(std::env::current_dir().unwrap(), before);
            assert!(std::io::read_to_string(file).is_ok());
        });
        there.join().unwrap();
    }
}
