//! A small ext4 in a file, mounted by a loop device, so that its power can be cut: what the file
//! holds at an instant is what a disk would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes of the file system.
const SIZE: u64 = 24 << 20;

/// A mounted file system; unmounted on drop.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// That there are loop devices and ext4.
    pub fn try_out() -> Result<(), String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let image = dir.path().join("image");
        Self::format(&image)?;
        Self::mount(&image, &dir.path().join("at")).map(drop)
    }

    /// Makes an empty file system in the file `image`.
    pub fn format(image: &Path) -> Result<(), String> {
        let file = fs::File::create(image).map_err(|e| e.to_string())?;
        file.set_len(SIZE).map_err(|e| e.to_string())?;
        run(Command::new("mkfs.ext4").arg("-q").arg(image))
    }

    /// Mounts the file system in `image` at the directory `at`, replaying its journal.
    pub fn mount(image: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|e| e.to_string())?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(image)
            .arg(at))?;
        Ok(Self {
            image: image.to_owned(),
            at: at.to_owned(),
        })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }

    /// Makes all that was written durable. Unmounting alone does not: another test may have begun a sandbox
    /// with a copy of the mount, which keeps the file system.
    pub fn sync(&self) {
        nix::unistd::syncfs(fs::File::open(&self.at).unwrap()).unwrap();
    }

    /// Copies what the disk holds now, without what was never written to it, to `image`. A copy takes
    /// a while; only when a second one is equal has the disk been so at one instant.
    pub fn cut(&self, image: &Path) {
        let read = || fs::read(&self.image).unwrap();
        let (mut before, mut now) = (read(), read());
        while before != now {
            before = now;
            now = read();
        }
        fs::write(image, now).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Something may look at new mounts for a moment; then it goes when that has looked away.
        drop(
            run(Command::new("umount").arg(&self.at))
                .or_else(|_busy| run(Command::new("umount").arg("-l").arg(&self.at))),
        );
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{command:?}: {e}"))?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{command:?}: {error}"))
    }
}
