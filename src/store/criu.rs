//! Whether CRIU works on layers in a folder.
//!
//! It takes no lock, but holds the directory of its images open from beginning to end (it opens every
//! image relative to it), and reaches the layers below through `parent`. If one of these were taken
//! away from under a restore, it would not fail: what has no `parent` looks like a full layer to it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use procfs::process::{FDTarget, all_processes};

use crate::error::{Error, Kind};

/// What the kernel calls the process (proc_pid_comm(5)).
const NAME: &str = "criu";

/// The pid of a CRIU that uses the directory `folder` or one in it, as far as we may see that.
fn at_work(folder: &Path) -> Option<i32> {
    let mut layers = BTreeSet::new();
    for path in fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(meta) = path.path().metadata()
            && meta.is_dir()
        {
            layers.insert((meta.dev(), meta.ino()));
        }
    }
    let mut named = all_processes()
        .into_iter()
        .flatten()
        .flatten()
        .filter(|process| process.stat().is_ok_and(|stat| stat.comm == NAME));
    let uses = |process: &procfs::process::Process| {
        let open = process.fd().into_iter().flatten().flatten();
        open.filter(|fd| matches!(fd.target, FDTarget::Path(_)))
            .any(|fd| {
                let link = format!("/proc/{}/fd/{}", process.pid, fd.fd);
                fs::metadata(link).is_ok_and(|meta| layers.contains(&(meta.dev(), meta.ino())))
            })
    };
    named.find(uses).map(|process| process.pid)
}

/// An error, when CRIU uses layers in `folder`.
pub(super) fn refuse(folder: &Path) -> Option<Error> {
    let pid = at_work(folder)?;
    let what = format!(
        "The layers in {} are used by criu (pid {pid})",
        folder.display()
    );
    Some(Error::new(Kind::Busy, what).hint("Wait until it has finished, then try again"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_a_criu_that_holds_a_layer_open_is_in_the_way() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("img");
        fs::create_dir_all(folder.join("1")).unwrap();
        for name in ["criu", "other"] {
            symlink("/bin/sleep", root.path().join(name)).unwrap();
        }
        // The shell opens a directory and becomes the program; it says so first.
        let start = |program: &str, dir: &Path| {
            let script = "exec 9< \"$0\"; echo ready; exec \"$1\" 1000 > /dev/null";
            let mut child = Command::new("sh")
                .args(["-c", script])
                .arg(dir)
                .arg(root.path().join(program))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            // End of file: the program has taken over.
            std::io::read_to_string(child.stdout.take().unwrap()).unwrap();
            let pid = i32::try_from(child.id()).unwrap();
            while !fs::read_to_string(format!("/proc/{pid}/comm"))
                .unwrap()
                .starts_with(program)
            {
                std::thread::yield_now();
            }
            child
        };
        let mut elsewhere = start("criu", root.path());
        let mut other = start("other", &folder.join("1"));
        assert_eq!(at_work(&folder), None);
        let mut criu = start("criu", &folder.join("1"));
        assert_eq!(at_work(&folder), Some(i32::try_from(criu.id()).unwrap()));
        for child in [&mut elsewhere, &mut other, &mut criu] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(at_work(&folder), None);
    }
}
