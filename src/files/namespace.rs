//! Descriptors of namespaces (`/proc/PID/ns/net`): of those in which the tree lives, shared with the
//! dumper or its own.
//!
//! CRIU: `ns_file_entry`, which has the number of the namespace in `ids-PID.img`. No number tells which
//! namespace that is on a machine: it is the one in which the new root is, so there is nothing to open
//! before that. What is only held by its descriptor, or by a mount, could not be made again.
//! Sources: namespaces(7), `fs/nsfs.c`.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::descriptor::{Descriptor, Stat};
use super::{
    Allow, Dumper, FileKind, Findings, Held, Newcomers, Opening, Outside, Refusal, Reopened,
};
use crate::error::{Error, Kind, Obstacle, Result};
use crate::image::proto::{FdTypes, FileEntry, FownEntry, NsFileEntry, TaskKobjIdsEntry};
use crate::units::Pid;

/// The name in `/proc/PID/ns`, the flag of clone(2), and where the images have the number. Where the
/// next child will be (`pid_for_children`, `time_for_children`) is one of these, too.
type Sort = (&'static str, i32, fn(&TaskKobjIdsEntry) -> Option<u32>);
const SORTS: [Sort; 8] = [
    ("cgroup", libc::CLONE_NEWCGROUP, |ids| ids.cgroup_ns_id),
    ("ipc", libc::CLONE_NEWIPC, |ids| ids.ipc_ns_id),
    ("mnt", libc::CLONE_NEWNS, |ids| ids.mnt_ns_id),
    ("net", libc::CLONE_NEWNET, |ids| ids.net_ns_id),
    ("pid", libc::CLONE_NEWPID, |ids| ids.pid_ns_id),
    ("time", libc::CLONE_NEWTIME, |ids| ids.time_ns_id),
    ("user", libc::CLONE_NEWUSER, |ids| ids.user_ns_id),
    ("uts", libc::CLONE_NEWUTS, |ids| ids.uts_ns_id),
];

/// namespaces(7).
#[derive(Debug)]
pub(super) struct Namespace;

impl FileKind for Namespace {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn recognises(&self, file: &Descriptor) -> bool {
        // By a mount (`ip netns`) it has a path, which may lead to another one by the time of a restore.
        Some(file.stat.dev) == device()
    }

    fn refusal(&self, file: &Descriptor, outside: &Outside, _: &Allow) -> Option<Refusal> {
        // All processes of a tree are in the same ones.
        sort(&file.stat, outside.root?).is_none().then(|| Refusal {
            what: stranger(file),
            hint: CLOSE.to_owned(),
        })
    }

    fn is_found_without_path(&self) -> bool {
        true
    }

    fn image_type(&self) -> FdTypes {
        FdTypes::Ns
    }

    fn dump(&self, held: Held<'_>, id: u32, dumper: &mut Dumper) -> Result<()> {
        let file = held.file;
        let found = dumper.root.and_then(|root| sort(&file.stat, root));
        let number = found.and_then(|(_, flag, number)| Some((flag, number(&dumper.namespaces)?)));
        let (flag, number) = number.ok_or_else(|| {
            let what = format!("{} is {}", file.link.display(), stranger(file));
            Error::new(Kind::Unsupported, what).hint(CLOSE)
        })?;
        dumper.push(FileEntry {
            r#type: FdTypes::Ns.into(),
            id,
            nsf: Some(NsFileEntry {
                id,
                ns_id: number,
                ns_cflag: flag.cast_unsigned(),
                flags: file.flags,
            }),
            ..FileEntry::default()
        });
        Ok(())
    }

    fn check(&self, entry: &FileEntry, findings: &mut Findings<'_>) -> Result<()> {
        let own = part(entry)?;
        let there = |(name, _, number): Sort| {
            let known = number(&findings.namespaces) == Some(own.ns_id);
            (!known).then(|| format!("a {name} namespace in which none of its processes was"))
        };
        let kind = SORTS.into_iter().find(|sort| is_of(sort, own));
        let refused = kind.map_or_else(
            || Some(format!("a namespace of unknown kind ({:#x})", own.ns_cflag)),
            there,
        );
        if let Some(what) = refused {
            findings.obstacle(Obstacle::unsupported(
                format!("File {} of the layer is {what}", entry.id),
                "restore another layer",
            ));
        }
        Ok(())
    }

    fn open(&self, entry: &FileEntry, opening: &mut Opening<'_>) -> Result<Option<Reopened>> {
        opening.late.wait(entry)?;
        Ok(None)
    }

    fn open_late(&self, entry: &FileEntry, there: &Newcomers<'_>) -> Result<Reopened> {
        let entry = part(entry)?;
        let unknown = || Error::corrupt(format!("files.img: entry {} of no namespace", entry.id));
        let (name, ..) = SORTS
            .into_iter()
            .find(|sort| is_of(sort, entry))
            .ok_or_else(unknown)?;
        let link = link(there.root(), name);
        // The way to it is a link.
        let flags = OFlag::from_bits_retain(entry.flags.cast_signed()) - OFlag::O_NOFOLLOW;
        let file = open(&link, flags | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(|e| Error::path("open", &link, e.into()))?;
        Ok(Reopened {
            file,
            flags: entry.flags,
            fown: FownEntry::default(),
        })
    }
}

/// What to try where it is of no use to the tree.
const CLOSE: &str = "have the program close it before the dump, or dump the tree that lives in it";

/// A namespace in which no process of the tree is.
fn stranger(file: &Descriptor) -> String {
    let shown = file.shown();
    let kind = shown.split_once(":[").map_or("", |(kind, _)| kind);
    let space = if kind.is_empty() { "" } else { " " };
    format!("a {kind}{space}namespace ({shown}) in which no process of the tree is")
}

fn part(entry: &FileEntry) -> Result<&NsFileEntry> {
    super::part(entry, entry.nsf.as_ref(), "a namespace")
}

fn is_of((_, flag, _): &Sort, entry: &NsFileEntry) -> bool {
    flag.cast_unsigned() == entry.ns_cflag
}

fn link(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/{name}"))
}

/// The namespaces of a process: which one this is.
fn sort(file: &Stat, pid: Pid) -> Option<Sort> {
    let same = |(name, ..): &Sort| {
        let there = fs::metadata(link(pid, name));
        there.is_ok_and(|there| Stat::from(&there).same_file(file))
    };
    SORTS.into_iter().find(same)
}

/// The filesystem of all namespaces.
fn device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let own = fs::metadata(link(Pid::this(), "mnt")).ok()?;
        Some(Stat::from(&own).dev)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[test]
    fn ours_are_told_apart_by_kind_and_a_file_is_none() {
        let me = Pid::this();
        let outside = Outside::of(Some(me));
        for (name, flag, _) in SORTS {
            let Ok(file) = File::open(link(me, name)) else {
                continue;
            };
            let seen = Descriptor::read(me, "x", file.as_raw_fd()).unwrap();
            let seen = seen.unwrap();
            assert_eq!(super::super::kind_of(&seen).unwrap().name(), "namespace");
            assert_eq!(Namespace.refusal(&seen, &outside, &Allow::default()), None);
            assert_eq!(sort(&seen.stat, me).unwrap().1, flag, "{name}");
        }
        let file = File::open("/proc/self/stat").unwrap();
        let seen = Descriptor::read(me, "x", file.as_raw_fd()).unwrap();
        assert!(!Namespace.recognises(&seen.unwrap()));
    }

    #[test]
    fn one_in_which_nobody_is_is_named_with_its_kind_or_its_path() {
        let named = |text| {
            let file = super::super::testing::descriptor(text, Stat::default());
            let outside = Outside::of(Some(Pid::this()));
            let refused = Namespace.refusal(&file, &outside, &Allow::default());
            refused.unwrap().what
        };
        let end = "in which no process of the tree is";
        assert_eq!(
            named("net:[77]"),
            format!("a net namespace (net:[77]) {end}")
        );
        assert_eq!(
            named("/run/netns/x"),
            format!("a namespace (/run/netns/x) {end}")
        );
    }
}
