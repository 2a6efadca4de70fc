//! Everything that /proc shows of a process tree and that a dump and a restore must not change.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::target::Target;

/// Lines of `status` that must stay.
const STATUS: &[&str] = &[
    "Name",
    "Umask",
    "Tgid",
    "NSpid",
    "NSpgid",
    "NSsid",
    "Uid",
    "Gid",
    "Groups",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed",
    "CoreDumping",
    "THP_enabled",
];

/// Fields of `stat` by their number in proc_pid_stat(5): group, session, terminal, priority, nice,
/// addresses of code, stack, data, heap, arguments and environment, policy.
const STAT: &[usize] = &[5, 6, 7, 18, 19, 26, 27, 28, 41, 45, 46, 47, 48, 49, 50, 51];

/// Flags of mappings that come and go by themselves: tracking, soft-dirty, accounting, mergeable.
const FLEETING: &[&str] = &["uw", "um", "ui", "sd", "ac"];

/// What is where, e.g. `7 limits` and its text.
pub type Portrait = BTreeMap<String, String>;

/// Looks at a tree.
pub fn portrait(target: &Target) -> Portrait {
    let mut all = BTreeMap::new();
    for pid in target.members() {
        let proc = target.proc(pid, "");
        let mut add = |name: &str, text: String| {
            all.insert(format!("{pid} {name}"), text);
        };
        if target.state(pid) == Some('Z') {
            add("zombie", field(&proc, 52));
            continue;
        }
        for name in [
            "cmdline",
            "environ",
            "limits",
            "oom_score_adj",
            "coredump_filter",
        ] {
            add(name, read(&proc.join(name)));
        }
        for name in ["personality", "timerslack_ns"] {
            add(name, read(&proc.join(name)));
        }
        for name in ["exe", "cwd", "root"] {
            let link = fs::read_link(proc.join(name));
            add(
                name,
                link.map(|l| l.display().to_string()).unwrap_or_default(),
            );
        }
        add(
            "auxv",
            format!("{:02x?}", fs::read(proc.join("auxv")).unwrap_or_default()),
        );
        for number in STAT {
            add(&format!("stat {number}"), field(&proc, *number));
        }
        add("mappings", mappings(&read(&proc.join("smaps"))).join("\n"));
        for (fd, text) in descriptors(&proc) {
            add(&format!("fd {fd}"), text);
        }
        for tid in target.threads(pid) {
            let task = proc.join(format!("task/{tid}"));
            add(
                &format!("thread {tid}"),
                status(&read(&task.join("status"))),
            );
        }
    }
    all
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Field `number` of `stat`; fields before 3 have odd characters.
fn field(proc: &Path, number: usize) -> String {
    let stat = read(&proc.join("stat"));
    let rest = stat.rsplit(") ").next().unwrap_or_default().to_owned();
    rest.split_whitespace()
        .nth(number - 3)
        .unwrap_or_default()
        .to_owned()
}

fn status(text: &str) -> String {
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default()
            .trim_matches([':', '\t'])
            .to_owned()
    };
    let set = |hex: &str| u64::from_str_radix(hex, 16).unwrap_or_default();
    // What waits for no more than to be delivered, such as that of a timer, will be gone in an instant.
    let lasting = match value("State").chars().next() {
        Some('T' | 't') => u64::MAX,
        _ => set(&value("SigBlk")),
    };
    let shown = |line: &str| {
        let (name, value) = line.split_once(":\t")?;
        let value = match name {
            "SigPnd" | "ShdPnd" => format!("{:016x}", set(value) & lasting),
            _ => value.to_owned(),
        };
        STATUS.contains(&name).then(|| format!("{name}: {value}"))
    };
    text.lines()
        .filter_map(shown)
        .collect::<Vec<_>>()
        .join("\n")
}

/// One mapping.
#[derive(Clone, Default)]
struct Mapping {
    start: u64,
    end: u64,
    /// Offset in its file; 0 when there is none.
    offset: u64,
    file: bool,
    text: String,
}

/// Mappings with their flags; neighbours that differ in nothing are one.
fn mappings(smaps: &str) -> Vec<String> {
    let mut merged: Vec<Mapping> = Vec::new();
    let mut head = Mapping::default();
    for line in smaps.lines() {
        if let Some(mapping) = mapping(line) {
            head = mapping;
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let kept = flags.split_whitespace().filter(|f| !FLEETING.contains(f));
            let flags: Vec<&str> = kept.collect();
            head.text = format!("{} [{}]", head.text, flags.join(" "));
            match merged.last_mut() {
                Some(last)
                    if last.end == head.start
                        && last.text == head.text
                        && (!head.file || last.offset + (last.end - last.start) == head.offset) =>
                {
                    last.end = head.end;
                }
                _ => merged.push(head.clone()),
            }
        }
    }
    let say = |m: Mapping| format!("{:x}-{:x} {:x} {}", m.start, m.end, m.offset, m.text);
    merged.into_iter().map(say).collect()
}

/// The first line of an entry of smaps.
fn mapping(line: &str) -> Option<Mapping> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [range, perms, offset, device, inode, name @ ..] = words.as_slice() else {
        return None;
    };
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let file = *inode != "0";
    // Shared memory and rings of asynchronous I/O come back as another file of the kernel's own.
    let name = name.join(" ").replace("/memfd:/dev/zero", "/dev/zero");
    let name = name.replace("/memfd:/anon_hugepage", "/anon_hugepage");
    let nameless = ["/[aio]", "/memfd:", "/anon_hugepage"];
    let nameless = nameless.iter().any(|begin| name.starts_with(begin));
    let identity = if *device == "00:01" || nameless {
        String::new()
    } else {
        format!("{device} {inode}")
    };
    Some(Mapping {
        start: address(start)?,
        end: address(end)?,
        offset: if file { address(offset)? } else { 0 },
        file,
        text: format!("{perms} {identity} {name}"),
    })
}

/// Where each descriptor leads, and its offset and flags. Numbers of pipes and memory files are not
/// compared, but who shares them is.
fn descriptors(proc: &Path) -> Vec<(u32, String)> {
    let mut found: Vec<(u32, String, String)> = Vec::new();
    for entry in fs::read_dir(proc.join("fd"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let link = fs::read_link(entry.path())
            .unwrap_or_default()
            .display()
            .to_string();
        let info = read(&proc.join(format!("fdinfo/{number}")));
        let info: Vec<&str> = info
            .lines()
            .filter(|line| line.starts_with("pos") || line.starts_with("flags"))
            .collect();
        found.push((number, link, info.join(" ")));
    }
    found.sort();
    let links: Vec<String> = found.iter().map(|(_, link, _)| link.clone()).collect();
    let shown = |(number, link, info): (u32, String, String)| {
        let same = links.iter().position(|l| *l == link).unwrap_or(0);
        let kind = link.split(":[").next().unwrap_or_default();
        (number, format!("{kind} like number {same}; {info}"))
    };
    found.into_iter().map(shown).collect()
}

/// Fails with everything that is not the same.
#[track_caller]
pub fn assert_same_portrait(what: &str, before: &Portrait, after: &Portrait) {
    let mut names: Vec<&String> = before.keys().chain(after.keys()).collect();
    names.sort();
    names.dedup();
    names.retain(|name| before.get(*name) != after.get(*name));
    let say = |name: &String| {
        let lines = |portrait: &Portrait| -> Vec<String> {
            portrait
                .get(name)
                .map(|t| t.lines().map(str::to_owned).collect())
                .unwrap_or_default()
        };
        let (old, new) = (lines(before), lines(after));
        let lost: Vec<&String> = old.iter().filter(|l| !new.contains(l)).collect();
        let got: Vec<&String> = new.iter().filter(|l| !old.contains(l)).collect();
        format!("{name}:\n  was {lost:#?}\n  is  {got:#?}\n")
    };
    let different: Vec<String> = names.into_iter().map(say).collect();
    assert!(
        different.is_empty(),
        "{what}: not as it was:\n{}",
        different.concat()
    );
}
